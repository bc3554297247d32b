"""What the tests use: the server under test, other servers, clients, and files of the tree."""
