"""What is told of a far end that lies, in whatever protocol."""


def check_told(error: OSError, begin: str, number: int) -> None:
    """Check that *error* has the errno *number*, and a text that names the far end, by its *begin*,
    and is fit for a log: one line, not long, and nothing in it that a terminal would obey.
    """
    shown = str(error.strerror)
    assert error.errno == number
    assert shown.startswith(begin)
    assert len(shown) < 400
    assert shown.isprintable()
