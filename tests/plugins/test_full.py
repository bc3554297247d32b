"""The full plugin: nothing can be written to it."""

import errno
from collections.abc import Callable

import pytest

from nbdfork.plugin import (
    HOLE,
    MAY_TRIM,
    ZERO,
)
from tests.support.harness import Server, need, run
from tests.support.plugins import Sides, opened


def test_full(sides: Sides) -> None:
    theirs, ours = sides.images("full", "1000001")
    assert theirs == ours == bytes(1_000_001)
    their_facts, facts = sides.facts("full", "1M")
    for key in ("is_read_only", "can_flush", "can_trim", "can_fast_zero", "can_multi_conn"):
        assert their_facts[key] == facts[key], key
    export = opened("full", "1M")
    changes: list[Callable[[], object]] = [
        lambda: export.pwrite(memoryview(b"x"), 0, 0),
        lambda: export.trim(1, 0, 0),
        lambda: export.zero(1, 0, MAY_TRIM),
    ]
    for change in changes:
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.ENOSPC
    assert list(export.extents(100, 50, 0)) == [(50, 100, HOLE | ZERO)]


@pytest.mark.parametrize("command", ["write 0 512", "write -z 0 512", "discard 0 512"])
def test_full_as_a_client_sees_it(command: str) -> None:
    need("qemu-io")
    with Server("full", "1M") as server:
        done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
    assert "No space left on device" in done.stdout + done.stderr
