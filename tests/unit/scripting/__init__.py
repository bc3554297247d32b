"""The units of nbdfork/scripting."""
