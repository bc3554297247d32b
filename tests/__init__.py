"""The tests: real clients against real servers, and the codec without sockets."""
