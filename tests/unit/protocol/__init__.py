"""The units of nbdfork/protocol."""
