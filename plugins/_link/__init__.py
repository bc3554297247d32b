"""A connection to a far end: made anew when it is lost, and used by several threads at once."""
