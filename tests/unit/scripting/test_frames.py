"""The numbers of the helper protocol are those of its page."""

import re

from nbdfork.scripting import frames
from tests.support.manual import source

PAGE = source("nbdfork-host-plugin.3")


def test_the_sizes_of_headers() -> None:
    assert (frames.REQUEST.size, frames.REPLY.size) == (32, 16)
    assert (frames.BLOCK_SIZE.size, frames.EXTENT.size) == (24, 20)


def test_every_operation_has_a_number_of_its_own() -> None:
    assert sorted(frames.OPERATIONS.values()) == list(range(1, len(frames.OPERATIONS) + 1))


def test_the_page_tells_of_every_operation() -> None:
    for name in frames.OPERATIONS:
        assert re.search(rf"\b{name}\b", PAGE), name
