"""Which requests may be begun, and which are left to the gate."""

import threading
from collections.abc import Mapping

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.backend.pipelined import CheckedPipeline, pipeline_of
from nbdfork.plugin import FUA, BlockSize, Ended, Export, FilterExport, Pipeline, Support
from nbdfork.types import Buffer

SIZE = 8192


class Noted(Pipeline):
    """Notes what is begun."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int, int]] = []

    def read(self, count: int, offset: int, ended: Ended) -> bool:
        self.begun.append(("read", count, offset, 0))
        return True

    def write(self, data: memoryview, offset: int, flags: int, ended: Ended) -> bool:
        self.begun.append(("write", len(data), offset, flags))
        return True

    def awaits(self) -> Mapping[int, int]:
        return {}

    def proceed(self, ready: Mapping[int, int]) -> None:
        pass

    def close(self) -> None:
        pass


class Disk(Export):
    def __init__(self, *, writable: bool = True, fua: Support = Support.NATIVE) -> None:
        self.noted = Noted()
        self.writable = writable
        self.fua = fua

    def get_size(self) -> int:
        return SIZE

    def block_size(self) -> BlockSize:
        return BlockSize(512, 4096, 1 << 20)

    def can_write(self) -> bool:
        return self.writable

    def can_fua(self) -> Support:
        return self.fua

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(count)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def pipeline(self) -> Pipeline:
        return self.noted


def checked(disk: Export) -> CheckedPipeline:
    pipeline = pipeline_of(Gate(disk, read_only=False))
    assert pipeline is not None
    return pipeline


def ended(result: Buffer | Exception | None) -> None:
    raise AssertionError("nothing ends here")


@pytest.mark.parametrize(
    ("count", "offset", "begins"),
    [
        (512, 0, True),
        (SIZE, 0, True),
        (0, 0, False),
        (512, SIZE, False),
        (SIZE + 512, 0, False),
        (100, 0, False),
        (512, 100, False),
    ],
)
def test_only_what_is_within_the_disk_and_whole_blocks(
    count: int, offset: int, begins: bool
) -> None:
    disk = Disk()
    pipeline = checked(disk)
    assert pipeline.read(count, offset, ended) is begins
    assert pipeline.write(memoryview(bytes(count)), offset, False, ended) is begins
    assert disk.noted.begun == [("read", count, offset, 0), ("write", count, offset, 0)] * begins


@pytest.mark.parametrize(
    ("fua", "begins"),
    [(Support.NATIVE, True), (Support.EMULATE, False), (Support.NONE, False)],
)
def test_a_write_with_fua_that_has_to_be_emulated_is_not_begun(fua: Support, begins: bool) -> None:
    disk = Disk(fua=fua)
    assert checked(disk).write(memoryview(bytes(512)), 0, True, ended) is begins
    assert disk.noted.begun == [("write", 512, 0, FUA)] * begins


def test_nothing_is_written_to_what_is_read_only() -> None:
    disk = Disk(writable=False)
    assert not checked(disk).write(memoryview(bytes(512)), 0, False, ended)
    assert disk.noted.begun == []


def test_requests_that_need_a_lock_have_no_pipeline() -> None:
    assert pipeline_of(Gate(Disk(), read_only=False, lock=threading.Lock())) is None


class Watching(FilterExport):
    """Looks at writes."""

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.next.pwrite(data, offset, flags)


class Renaming(FilterExport):
    """Lets all requests through."""

    def description(self) -> str:
        return "another"


def test_a_filter_that_has_reads_or_writes_of_its_own_hides_it() -> None:
    assert pipeline_of(Gate(Watching(Disk()), read_only=False)) is None
    assert pipeline_of(Gate(Renaming(Disk()), read_only=False)) is not None
