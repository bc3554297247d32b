"""The errors that a plugin raises."""

import errno

from nbdfork.plugin import NOT_SUPPORTED, PartialError


def test_a_part_that_is_good() -> None:
    error = PartialError(errno.EIO, "broken", 7)
    assert (error.errno, error.strerror, error.done) == (errno.EIO, "broken", 7)


def test_either_errno_says_that_there_is_no_better_way() -> None:
    assert {errno.EOPNOTSUPP, errno.ENOTSUP} <= NOT_SUPPORTED
