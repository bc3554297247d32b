"""The units of nbdfork/speedups."""
