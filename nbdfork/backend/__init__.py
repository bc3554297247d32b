"""The server's side of plugins: finding them, their layers and life, and the gate before them.

This wing knows the contract (`nbdfork.plugin`), and neither processes nor the protocol.
"""
