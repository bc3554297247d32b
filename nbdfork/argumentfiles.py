"""Parameters that are in files: `@PATH` on the command line stands for the lines of one.

A path has a slash in it: a parameter may begin with @ itself.
"""

import os
from collections.abc import Iterable, Iterator

DEEPEST = 20
"""Files may name files; one that names itself is found out by this."""


class BadArgumentFile(Exception):
    """A file cannot be read, or is none of parameters; the message says which and why."""


def expanded(words: Iterable[str], directory: str = "", depth: int = 0) -> Iterator[str]:
    """Yield *words*, and in the place of each that names a file, relative to *directory*, its
    lines; but not those that are blank or begin with "#".  Raises `BadArgumentFile`.
    """
    for word in words:
        if word.startswith("@") and "/" in word:
            yield from _lines(os.path.join(directory, word[1:]), depth + 1)
        else:
            yield word


def _lines(path: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        raise BadArgumentFile(f"@{path}: files that name files are nested too deep")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise BadArgumentFile(f"@{path}: cannot read it: {error.strerror}") from error
    wanted = (line for line in lines if line.strip() and not line.startswith("#"))
    yield from expanded(wanted, os.path.dirname(path), depth)
