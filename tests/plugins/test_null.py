"""The null plugin: it takes all, and keeps nothing."""

from collections.abc import Callable

from nbdfork.plugin import FAST_ZERO, FUA, Support
from tests.support.plugins import plugin


def test_null() -> None:
    export = plugin("null", "1M").open("", False)
    operations: list[Callable[[], object]] = [
        lambda: export.pwrite(memoryview(b"x"), 0, FUA),
        lambda: export.trim(1, 0, FUA),
        lambda: export.zero(1, 0, FAST_ZERO),
        lambda: export.cache(1, 0),
        export.flush,
    ]
    for operation in operations:
        operation()
    assert export.pread(3, 0) == bytes(3)
    assert export.can_fua() is Support.NATIVE
    assert plugin("null").open("", False).get_size() == 0
