"""Texts that a far end has chosen: they are shown, but not trusted."""

MOST_SHOWN = 200
"""How many characters of one are shown; what is longer is not meant for people."""


def shown(text: str | bytes) -> str:
    """Return *text* in one line, with what cannot be printed escaped, and cut if it is long.

    Bytes are taken as UTF-8.
    """
    if isinstance(text, bytes):
        text = text[: 4 * MOST_SHOWN].decode("utf-8", "backslashreplace")
    is_long = len(text) > MOST_SHOWN
    cut = " ".join(text[:MOST_SHOWN].split())
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return f"{escaped}..." if is_long else escaped
