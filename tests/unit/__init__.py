"""One file for each module of nbdfork, without a server, a daemon or a network."""
