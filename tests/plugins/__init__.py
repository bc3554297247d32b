"""One file for each plugin."""
