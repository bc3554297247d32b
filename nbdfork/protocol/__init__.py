"""One client's bytes: the NBD protocol.

This wing knows no process and starts none; of disks it knows `nbdfork.backend` only, and nothing of
plugins.  From the inside out: `wire` holds the numbers, `channel` moves bytes, `handshake` and
`transmission` are the two phases, `connection` is one client's life.
"""
