"""Tests of what is in nbdfork/server/sandbox."""
