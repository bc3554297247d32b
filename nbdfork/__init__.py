"""nbdfork: a toolkit for NBD servers, and the server itself."""

__version__ = "0.1.0"
