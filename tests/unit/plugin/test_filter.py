"""A filter: what it does not override is what is below it."""

from nbdfork.backend.gate import Gate
from nbdfork.plugin import (
    ZERO,
    FilterExport,
)
from tests.support.exports import Filling, Mapped


class Shift(FilterExport):
    def pread(self, count: int, offset: int) -> bytes:
        return bytes(self.next.pread(count, offset + 1))


def test_a_filter_binds_what_it_does_not_implement() -> None:
    below = Mapped((0, 4096, ZERO))
    above = Shift(Shift(below))
    assert above.get_size == below.get_size  # the very same bound method
    assert above.extents == below.extents
    gate = Gate(above, True)
    assert gate.pread(2, 5) == b"\7\7"
    assert gate.extents(4096, 0, 0) == [(0, 4096, ZERO)]
    assert not gate.can_write


def test_a_filter_may_fill_a_buffer_too() -> None:
    class Fill(FilterExport):
        def pread_into(self, data: memoryview, offset: int) -> None:
            data[:] = b"f" * len(data)

    assert Gate(Fill(Filling()), True).pread(2, 0) == b"ff"
