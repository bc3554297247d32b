"""Requests that are drawn, and a model of the disk that they are compared with."""

import errno
from itertools import pairwise

from hypothesis import strategies as st

from nbdfork.backend.gate import Gate
from nbdfork.plugin import (
    REQ_ONE,
    ZERO,
)
from tests.support.disks import BLOCK

OPERATIONS = ("read", "write", "zero", "zero-may-trim", "zero-fast", "trim", "cache", "extents")


@st.composite
def requests(draw: st.DrawFn, size: int) -> tuple[str, int, int, int]:
    """Draw (operation, count, offset, byte); ranges like to begin and end with a block."""
    edges = st.sampled_from(sorted({*range(0, size + 1, BLOCK), size}))
    ends = draw(st.lists(edges | st.integers(0, size), min_size=2, max_size=2, unique=True))
    start, end = sorted(ends)
    return draw(st.sampled_from(OPERATIONS)), end - start, start, draw(st.integers(0, 255))


def check_extents(gate: Gate, model: bytearray, count: int, offset: int) -> None:
    """What is said to be zeroes must be, and all of the range must be told of in the end."""
    found = gate.extents(count, offset, 0)
    assert found[0].offset == offset
    assert all(one.offset + one.length == two.offset for one, two in pairwise(found))
    assert found[-1].offset + found[-1].length == offset + count
    for start, length, kind in found:
        assert not (kind & ZERO and any(model[start : start + length]))
    [first] = gate.extents(count, offset, REQ_ONE)
    assert (first.offset, first.type) == (offset, found[0].type)
    assert 0 < first.length <= found[0].length


def carry_out(gate: Gate, model: bytearray, request: tuple[str, int, int, int]) -> None:
    """Let *gate* and *model* do the same, and compare."""
    operation, count, offset, byte = request
    part = slice(offset, offset + count)
    if operation == "read":
        assert gate.pread(count, offset) == model[part]
    elif operation == "write":
        data = bytes([byte]) * count
        gate.pwrite(memoryview(data), offset, fua=bool(byte & 1))
        model[part] = data
    elif operation == "cache":
        gate.cache(count, offset)
    elif operation == "extents":
        check_extents(gate, model, count, offset)
    elif operation == "trim":
        gate.trim(count, offset, fua=False)
        model[part] = bytes(count)  # the disks of these tests do zero what is trimmed
    else:
        may_trim, fast = operation == "zero-may-trim", operation == "zero-fast"
        if fast and not gate.can_fast_zero:
            return
        try:
            gate.zero(count, offset, may_trim, fast, fua=bool(byte & 1))
        except OSError as error:
            if not fast or error.errno != errno.EOPNOTSUPP:
                raise
        else:
            model[part] = bytes(count)
