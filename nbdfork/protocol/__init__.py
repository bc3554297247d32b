"""One client's bytes: the NBD protocol.

This wing knows no process and starts none; of plugins it knows only the gate
(`nbdfork.backend.gate`).  From the inside out: `wire` holds the numbers, `channel` moves
bytes, `handshake` and `transmission` are the two phases, `connection` is one client's life.
"""
