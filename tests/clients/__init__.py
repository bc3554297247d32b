"""Real clients against a running server."""
