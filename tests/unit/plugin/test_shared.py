"""State that all workers share."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nbdfork.backend import kept
from nbdfork.plugin import ConfigError, ScratchFile, SharedBuffer, SharedCounter, SharedLock


def in_child(function: Callable[[], object]) -> int:
    """Run *function* in a forked process; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def test_a_buffer_is_one_for_all() -> None:
    buffer = SharedBuffer(1 << 30)
    os.waitpid(in_child(lambda: buffer.__setitem__(slice(5, 10), b"child")), 0)
    assert buffer[4:11] == b"\0child\0"
    assert len(buffer) == 1 << 30
    assert os.fstat(buffer.fd).st_blocks * 512 <= 1 << 20  # sparse
    assert os.pread(buffer.fd, 5, 5) == b"child"


def test_a_counter_loses_nothing() -> None:
    counter = SharedCounter(7)
    pids = [in_child(lambda: [counter.add() for _ in range(2000)]) for _ in range(4)]
    for pid in pids:
        os.waitpid(pid, 0)
    assert counter.value == 7 + 4 * 2000


def test_a_lock_is_released_by_the_death_of_its_holder() -> None:
    lock = SharedLock()
    reader, writer = os.pipe()

    def hold() -> None:
        lock.__enter__()
        os.write(writer, b"held")
        signal.pause()

    pid = in_child(hold)
    assert os.read(reader, 4) == b"held"
    os.kill(pid, signal.SIGKILL)
    with lock:
        pass
    os.waitpid(pid, 0)


def test_a_lock_excludes() -> None:
    lock = SharedLock()
    buffer = SharedBuffer(8)

    def work() -> None:
        for _ in range(500):
            with lock:
                value = int.from_bytes(buffer[0:8], "big")
                os.sched_yield()
                buffer[0:8] = (value + 1).to_bytes(8, "big")

    for pid in [in_child(work) for _ in range(4)]:
        os.waitpid(pid, 0)
    assert int.from_bytes(buffer[0:8], "big") == 2000


def test_a_scratch_file_has_no_name() -> None:
    scratch = ScratchFile(1 << 20)
    assert os.fstat(scratch.fd).st_nlink == 0
    os.waitpid(in_child(lambda: os.pwrite(scratch.fd, b"child", 100)), 0)
    assert os.pread(scratch.fd, 5, 100) == b"child"
    os.close(scratch.fd)


def test_a_temporary_file_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"no temporary file can be made: No such.*TMPDIR"):
        ScratchFile()


@pytest.fixture
def _fresh() -> Iterator[None]:
    """No state of another program, before and after."""
    yield
    kept.inherit([])
    kept.end()


def made_by(configuration: str, size: int = 8) -> SharedBuffer:
    kept.begin("disk/0", "some", configuration)
    return SharedBuffer(size, name="state")


@pytest.mark.usefixtures("_fresh")
def test_what_has_a_name_goes_on_in_another_program() -> None:
    old = made_by("one")
    old[0:1] = b"x"
    counter = SharedCounter(5, name="counter")
    kept.inherit(kept.made())
    new = made_by("one")
    assert (new[0:1], new.is_new, old.is_new) == (b"x", False, True)
    counter.add()
    assert SharedCounter(5, name="counter").value == 6
    assert SharedBuffer(8, name="other").is_new
    assert SharedBuffer(8).is_new
    kept.begin("another/0", "some", "one")
    assert SharedBuffer(8, name="state").is_new


@pytest.mark.usefixtures("_fresh")
def test_state_is_of_one_configuration() -> None:
    made_by("one")
    SharedBuffer(8, name="any", bound=False)
    SharedLock(name="lock")
    kept.inherit(kept.made())
    for configuration, size in (("two", 8), ("one", 9)):
        with pytest.raises(ConfigError, match="some: its state in memory, 'state', is that of"):
            made_by(configuration, size)
    assert not SharedBuffer(8, name="any", bound=False).is_new
    SharedLock(name="lock")  # there is nothing in it


@pytest.mark.usefixtures("_fresh")
def test_state_without_a_name_cannot_go_on() -> None:
    kept.begin("disk/0", "some", "")
    SharedBuffer(8)
    with pytest.raises(ConfigError, match="it has shared state without a name"):
        kept.demand_names()
