"""What an error says, for the log."""

import errno

import pytest

from nbdfork.plugin.errors import PartialError, cause


class Telling(OSError):
    def __str__(self) -> str:
        return "more than the client hears"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EIO, "broken"), "broken"),
        (OSError(errno.ENOENT, "No such file", "/disk"), "/disk: No such file"),
        (OSError("only a text"), "only a text"),
        (Telling(errno.EIO, "broken"), "more than the client hears"),
        (PartialError(errno.EIO, "broken", 7), "broken"),
        (ValueError("wrong"), "wrong"),
    ],
    ids=repr,
)
def test_a_cause_is_without_the_number_and_with_the_file(error: Exception, text: str) -> None:
    assert cause(error) == text


def test_a_part_that_is_good() -> None:
    error = PartialError(errno.EIO, "broken", 7)
    assert (error.errno, error.strerror, error.done) == (errno.EIO, "broken", 7)
