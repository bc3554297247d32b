"""The units of nbdfork/server."""
