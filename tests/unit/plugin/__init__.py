"""The units of nbdfork/plugin."""
