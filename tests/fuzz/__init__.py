"""Programs that look for input which breaks a parser, and the input that did."""
