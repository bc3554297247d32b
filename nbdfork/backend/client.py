"""The client that each thread serves: told here by the protocol, asked for by plugins.

Everything about the connection stays with the protocol; what a plugin may want of it is the
function that a `Client` is made with.
"""

from nbdfork.plugin._serving import Client, Protection, serving, set_serving

__all__ = ["Client", "Protection", "serving", "set_serving"]
