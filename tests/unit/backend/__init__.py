"""The units of nbdfork/backend."""
