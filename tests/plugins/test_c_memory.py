"""What the extension module for C plugins allocates is freed again, whatever it was called with.

In general the sums are looked at; with `make sanitize` the last test finds each piece of memory
that is lost, and where it was allocated.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbdfork.plugins.c.library import CallbackError, _log, native

from tests.support.c_plugins import Build, builder
from tests.support.harness import output
from tests.support.paths import ROOT

ROUNDS = 1000


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return builder(tmp_path_factory.mktemp("plugins"))


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """What pytest has captured of the log would be counted as memory that is left."""
    native().set_hooks(lambda *message: None, CallbackError)
    yield
    native().set_hooks(_log, CallbackError)


class _Statistics(ctypes.Structure):
    """The struct mallinfo2 of the C library."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    )]  # fmt: skip


def allocated_in_c() -> int:
    """Return how many bytes are allocated with malloc; Python allocates its objects elsewhere."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Statistics
    statistics = library.mallinfo2()
    return int(statistics.uordblks + statistics.hblkhd)


def growth(work: Callable[[], None]) -> tuple[float, float]:
    """Return how many bytes and objects of Python are left of one *work*, on average."""
    if not sys.getallocatedblocks():
        pytest.skip("PYTHONMALLOC=malloc: what Python and what C allocates is not told apart")
    for _ in range(20):  # caches are filled
        work()
    gc.collect()
    counts = allocated_in_c(), sys.getallocatedblocks()
    for _ in range(ROUNDS):
        work()
    gc.collect()
    after = allocated_in_c(), sys.getallocatedblocks()
    return (after[0] - counts[0]) / ROUNDS, (after[1] - counts[1]) / ROUNDS


def refused(kind: type[BaseException], function: Callable[..., Any], *arguments: object) -> None:
    try:
        function(*arguments)
    except kind:
        return
    raise AssertionError(f"{function} takes {arguments}")


def everything(path: Path) -> Callable[[], None]:
    """Return what loads the sample `handles` and calls all that there is, rightly and wrongly."""

    def work() -> None:
        library = native().Library(str(path))
        library.callbacks()
        for name in ("config_complete", "thread_model", "get_ready", "after_fork", "cleanup"):
            library.run(name)
        assert library.list_exports(False) == [("one of 1", "the only one")]
        assert library.default_export(True) == "default"
        library.preconnect(False)
        library.get_variable("handles_debug_flag")
        refused(KeyError, library.run, "nothing")
        refused(TypeError, library.open, None, False)
        refused(ValueError, library.open, "a\0b", False)
        client = library.open("some name", False)
        client.ask("can_write")
        client.get_size()
        client.block_size()
        assert client.export_description() == "described: some name"
        client.pread(8192, 0)
        client.pread(512, 1024)
        client.pwrite(b"data" * 1000, 0, 0)
        client.flush()
        client.trim(512, 0, 0)
        client.zero(512, 0, 0)
        client.cache(512, 0)
        assert len(client.extents(65536, 0, 0)) == 128
        refused(TypeError, client.pread, "x", 0)
        refused(OverflowError, client.pread, 1, 1 << 63)
        refused(TypeError, client.pwrite, "text", 0, 0)
        refused(OverflowError, client.pwrite, b"x", -1, 0)
        refused(KeyError, client.ask, "nothing")
        client.close()
        client.close()
        refused(ValueError, client.pread, 512, 0)
        library.run("unload")
        refused(ValueError, library.open, "", False)

    return work


def failures(path: Path) -> Callable[[], None]:
    """Return what makes callbacks of the sample `life` fail, after messages."""
    library = native().Library(str(path))

    def work() -> None:
        refused(OSError, library.open, "refused", False)
        client = library.open("one", False)
        for offset in (4096, 8192):
            refused(OSError, client.pread, 512, offset)
        client.pread(512, 12288)  # it has a message and does not fail
        client.export_description()
        client.close()

    return work


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_is_left_of_all_that_can_be_called(version: int, build: Build) -> None:
    bytes_left, objects_left = growth(everything(build("handles", f"-DAPI={version}")))
    assert bytes_left < 8
    assert objects_left < 0.5


def test_nothing_is_left_of_failures(build: Build, tmp_path: Path) -> None:
    path = build("life")
    native().Library(str(path)).config("log", str(tmp_path / "diary"))
    bytes_left, objects_left = growth(failures(path))
    assert bytes_left < 8
    assert objects_left < 0.5


def test_what_is_left_is_counted(build: Build) -> None:
    """Strings of the configuration are kept for ever, as plugins expect."""
    library = native().Library(str(build("handles")))
    bytes_left, objects_left = growth(lambda: library.config("inside", "0" * 1000))
    assert bytes_left > 1000
    assert objects_left < 0.5
    kept: list[object] = []
    assert growth(lambda: kept.append(object()))[1] > 0.5


def lose_nothing(handles: str, life: str, diary: str) -> None:
    """Call everything; then LeakSanitizer reports, to its log, memory that nothing points to."""
    native().Library(life).config("log", diary)
    everything(Path(handles))()
    failures(Path(life))()
    gc.collect()
    ctypes.CDLL(None).__lsan_do_recoverable_leak_check()


def test_no_memory_is_lost(build: Build, tmp_path: Path) -> None:
    """`make sanitize` reads the report; other tests lose handles, so this has its own process."""
    if not hasattr(ctypes.CDLL(None), "__lsan_do_recoverable_leak_check"):
        pytest.skip("this Python has no LeakSanitizer: make sanitize")
    script = f"import sys; from {__name__} import lose_nothing; lose_nothing(*sys.argv[1:])"
    output(
        sys.executable, "-c", script, build("handles"), build("life"), tmp_path / "diary", cwd=ROOT
    )  # fmt: skip
