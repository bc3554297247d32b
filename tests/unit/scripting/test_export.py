"""A client's view of a script's disk: each fact is a request, and what is answered is checked."""

import logging
import struct
from typing import Unpack

import pytest

from nbdfork.plugin import FUA, REQ_ONE, BlockSize, Extent, ThreadModel
from nbdfork.scripting import CallbackFailed
from nbdfork.scripting.export import ScriptExport
from nbdfork.scripting.script import RequestFields, Script

Answer = tuple[int, bytes] | CallbackFailed


class Scripted:
    """Answers as it was told to, and notes what it is asked."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[tuple[str, bytes, dict[str, int]]] = []

    def call(
        self, operation: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        numbers = {name: value for name, value in fields.items() if isinstance(value, int)}
        self.asked.append((operation, bytes(payload), numbers))
        answer = self.answers.get(operation, (0, b""))
        if isinstance(answer, CallbackFailed):
            raise answer
        return answer

    def pread(self, handle: int, count: int, offset: int) -> bytes:
        return struct.pack(">III", handle, count, offset)


def export(**answers: Answer) -> tuple[ScriptExport, Scripted]:
    caller = Scripted(**answers)
    script = Script(caller, "/disk.lua", frozenset(answers))
    return ScriptExport(script, 9, ThreadModel.PARALLEL), caller


def test_operations_carry_their_numbers() -> None:
    disk, caller = export()
    disk.pwrite(memoryview(b"data"), 512, FUA)
    disk.trim(10, 20, FUA)
    disk.zero(30, 40, 0)
    disk.cache(50, 60)
    disk.flush()
    assert bytes(disk.pread(7, 8)) == struct.pack(">III", 9, 7, 8)
    assert caller.asked == [
        ("pwrite", b"data", {"handle": 9, "flags": FUA, "offset": 512}),
        ("trim", b"", {"handle": 9, "flags": FUA, "count": 10, "offset": 20}),
        ("zero", b"", {"handle": 9, "flags": 0, "count": 30, "offset": 40}),
        ("cache", b"", {"handle": 9, "flags": 0, "count": 50, "offset": 60}),
        ("flush", b"", {"handle": 9}),
    ]


@pytest.mark.parametrize("size", [-1, 2**63])
def test_a_size_that_cannot_be(size: int) -> None:
    disk, _ = export(get_size=(size, b""))
    with pytest.raises(OSError, match=f"returned {size}; return 0 to"):
        disk.get_size()
    disk, _ = export(get_size=(2**63 - 1, b""))
    assert disk.get_size() == 2**63 - 1


def test_block_sizes() -> None:
    assert export()[0].block_size() == BlockSize()
    told = struct.pack(">QQQ", 512, 4096, 65536)
    assert export(block_size=(0, told))[0].block_size() == (512, 4096, 65536)
    assert export(block_size=(0, bytes(24)))[0].block_size() == BlockSize()
    with pytest.raises(OSError, match="the answer is not three numbers"):
        export(block_size=(0, b"odd"))[0].block_size()


def test_extents() -> None:
    told = struct.pack(">QQIQQI", 0, 512, 3, 512, 1024, 0)
    disk, caller = export(extents=(0, told))
    assert list(disk.extents(1536, 0, REQ_ONE)) == [Extent(0, 512, 3), Extent(512, 1024, 0)]
    assert caller.asked[0][2]["flags"] == REQ_ONE
    with pytest.raises(OSError, match="the answer is not a list of extents"):
        list(export(extents=(0, b"odd"))[0].extents(512, 0, 0))


@pytest.mark.parametrize("offset", [0, 1, 511, 512, 999 * 512, 1000 * 512 - 1])
def test_of_extents_of_the_whole_disk_those_before_the_range_are_left_out(offset: int) -> None:
    whole = [Extent(number * 512, 512, number % 4) for number in range(1000)]
    told = b"".join(struct.pack(">QQI", *extent) for extent in whole)
    disk, _ = export(extents=(0, told))
    assert list(disk.extents(1, offset, 0)) == whole[offset // 512 :]


def test_a_description_that_fails_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert export()[0].description() == ""
    assert export(export_description=(0, b"a disk \xff"))[0].description() == "a disk \ufffd"
    assert export(export_description=CallbackFailed(5, "broken"))[0].description() == ""
    assert caplog.messages == ["/disk.lua: export_description: broken"]


def test_an_answer_about_support_that_has_no_meaning() -> None:
    with pytest.raises(OSError, match=r"can_fua: returned 5; return 0 \(none\), 1"):
        export(can_fua=(5, b""))[0].can_fua()


def test_closing_is_told_unless_nobody_is_there(caplog: pytest.LogCaptureFixture) -> None:
    disk, caller = export(close=CallbackFailed(5, "stuck"))
    with caplog.at_level(logging.ERROR):
        disk.close()
    assert caller.asked == [("close", b"", {"handle": 9})]
    assert "stuck" in caplog.text
    disk._script.is_gone = True
    disk.close()
    assert len(caller.asked) == 1
