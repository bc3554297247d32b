"""Which blocks of a disk were written since when, in a directory: for the bitmap filter.

The file "blocks" has, for each block of the disk, the number of the *generation* in which it was
last written.  A checkpoint is where a generation begins: what was written since then has its number
or a later one.  So any number of checkpoints costs nothing, and to make one is to count up.  The
file "checkpoints" has their names.

A block is marked before it is written: what is killed in between has marked one too many, never one
too few.  Marks that were written are lost only with the system itself; if it has been started anew
while the marks were in use, all blocks count as written.

A generation is over when all writes that began in it have ended: until then, a new checkpoint is
not given out.  Writers hold a lock on one of two bytes, by turns from generation to generation; the
system releases it when they are killed.
"""

import errno
import fcntl
import json
import os
import re
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

MARK = 4
"""The size of a mark and of a generation's number in the file, in bytes."""

_FIRST_MARK = 4096  # before that, there is the number of the generation that is now

_MOST_GENERATIONS = 2**32 - 1
_AT_ONCE = 64 * 1024
"""How many marks are read or written at a time."""

_LOCKS = 2**62  # where the bytes are that are only there to be locked
_MARKER = _LOCKS + 2
_MAKER = _LOCKS + 3

_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class Disk(NamedTuple):
    """What is marked: an export's name, its size, and that of a block, in bytes."""

    export: str
    size: int
    block: int


class Checkpoint(NamedTuple):
    """*made* is in seconds since 1970."""

    generation: int
    made: int


class Marks:
    """The marks in *directory*; unless *make*, they must be there.

    Several processes may have them at a time, also by a fork, and all threads of a process use the
    same ones.  All methods raise OSError.
    """

    def __init__(self, directory: str, *, make: bool = True) -> None:
        self._directory = Path(directory)
        # What root makes here belongs to the directory's owner: the server may not be root later.
        self._owner = os.stat(directory)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        self._fd = os.open(self._directory / "blocks", flags, 0o600)
        self._give_away(self._fd)
        self._making = threading.Lock()  # the system's locks are those of a process,
        self._marking = threading.Lock()  # so that its threads need others
        self._counting = threading.Lock()
        self._writers = [0, 0]

    def close(self) -> None:
        """Close the file: what locks of it this process has are released."""
        os.close(self._fd)

    # -- who uses them ------------------------------------------------------------------

    def begin(self) -> bool:
        """Use the marks, alone of all servers; return False if they were lost with the system.

        Then all blocks are marked.
        """
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes to children, and ends last
        except BlockingIOError:
            raise OSError(errno.EBUSY, f"{self._directory} is used by another server") from None
        with self._making, self._locked(_MAKER):
            known = self._load()
            was_lost = known["in_use_since"] not in (None, _boot())
            if was_lost:
                self._mark(self.generation(), 0, _count(_disk(known)))
            self._save(known | {"in_use_since": _boot()})
        return not was_lost

    def end(self) -> None:
        """All that use them have ended: the marks are safe."""
        os.fsync(self._fd)
        with self._making, self._locked(_MAKER):
            self._save(self._load() | {"in_use_since": None})

    def settle(self, disk: Disk) -> None:
        """Raise OSError unless *disk* is the one that is marked here, if there is one.

        Where it has changed its size, it counts as written.
        """
        with self._making, self._locked(_MAKER):
            known = self._load()
            before = _disk(known)
            if before == disk:
                return
            if before is not None and before._replace(size=disk.size) != disk:
                raise OSError(
                    errno.EINVAL,
                    f"{self._directory} is for the export {before.export!r} and blocks of"
                    f" {before.block} bytes, not for {disk.export!r} and {disk.block}",
                )
            if before is not None:
                first = min(before.size, disk.size) // disk.block
                self._mark(self.generation(), first, _count(disk) - first)
            self._save(known | {"disk": disk})

    # -- checkpoints --------------------------------------------------------------------

    def checkpoints(self) -> dict[str, Checkpoint]:
        """Return all of them, by their names."""
        return {name: Checkpoint(*one) for name, one in self._load()["checkpoints"].items()}

    def add(self, name: str) -> None:
        """Make the checkpoint *name*: what is answered from now on is written after it.

        It must be another process than those that write.
        """
        if not _NAME.fullmatch(name):
            raise OSError(
                errno.EINVAL, f"{name!r} is no name of a checkpoint: letters, digits, and . _ + -"
            )
        with self._making, self._locked(_MAKER):
            known = self._load()
            if name in known["checkpoints"]:
                raise OSError(errno.EEXIST, f"there is a checkpoint {name!r} already")
            generation = self.generation()
            if generation == _MOST_GENERATIONS:
                raise OSError(errno.ENOSPC, f"{self._directory} has had too many checkpoints")
            self._pwrite((generation + 1).to_bytes(MARK, sys.byteorder), 0)
            os.fdatasync(self._fd)
            with self._locked(_turn(generation)):
                pass  # all that began in it has ended
            made = Checkpoint(generation + 1, int(time.time()))
            self._save(known | {"checkpoints": {**known["checkpoints"], name: made}})

    def remove(self, name: str) -> None:
        """Forget the checkpoint *name*."""
        with self._making, self._locked(_MAKER):
            known = self._load()
            if known["checkpoints"].pop(name, None) is None:
                raise OSError(errno.ENOENT, f"there is no checkpoint {name!r}")
            self._save(known)

    # -- marks --------------------------------------------------------------------------

    def generation(self) -> int:
        """Return the number of the one that is now."""
        return int.from_bytes(os.pread(self._fd, MARK, 0), sys.byteorder) or 1

    @contextmanager
    def writing(self, first: int, count: int) -> Iterator[None]:
        """Mark *count* blocks from the block *first* on, which are written while this is held."""
        generation = self._enter()
        try:
            if not self._are_marked(generation, first, count):
                self._mark(generation, first, count)
            yield
        finally:
            self._leave(generation)

    def runs(self, since: int, first: int, count: int) -> Iterator[tuple[int, bool]]:
        """Yield how many blocks, from the block *first* on, were written *since* a generation or
        not, and whether.
        """
        end = first + count
        while first < end:
            marks = self._marks(first, min(_AT_ONCE, end - first))
            if max(marks) < since or min(marks) >= since:  # far quicker than to look at each
                yield len(marks), marks[0] >= since
            else:
                for is_written, run in groupby(marks, since.__le__):
                    yield len(list(run)), is_written
            first += len(marks)

    def _enter(self) -> int:
        """Hold the generation that is now open, and return its number."""
        while True:
            generation = self.generation()
            with self._counting:
                if not self._writers[generation % 2]:
                    fcntl.lockf(self._fd, fcntl.LOCK_SH, 1, _turn(generation))
                self._writers[generation % 2] += 1
            if self.generation() == generation:
                return generation
            self._leave(generation)

    def _leave(self, generation: int) -> None:
        with self._counting:
            self._writers[generation % 2] -= 1
            if not self._writers[generation % 2]:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _turn(generation))

    def _are_marked(self, generation: int, first: int, count: int) -> bool:
        if count == 1:
            at = _FIRST_MARK + first * MARK
            return int.from_bytes(os.pread(self._fd, MARK, at), sys.byteorder) >= generation
        return count <= _AT_ONCE and min(self._marks(first, count)) >= generation

    def _mark(self, generation: int, first: int, count: int) -> None:
        """Mark blocks, unless they are written later than in this *generation*."""
        while count > 0:
            some = min(count, _AT_ONCE)
            with self._marking, self._locked(_MARKER):
                marks = self._marks(first, some)
                if max(marks) <= generation:
                    marks = array("I", [generation]) * some
                else:
                    marks = array("I", (max(mark, generation) for mark in marks))
                self._pwrite(marks.tobytes(), _FIRST_MARK + first * MARK)
            first, count = first + some, count - some

    def _marks(self, first: int, count: int) -> "array[int]":
        found = os.pread(self._fd, count * MARK, _FIRST_MARK + first * MARK)
        return array("I", found.ljust(count * MARK, b"\0"))  # those that are not there yet are 0

    def _pwrite(self, data: bytes, at: int) -> None:
        while data:
            written = os.pwrite(self._fd, data, at)
            data, at = data[written:], at + written

    # -- files and locks ----------------------------------------------------------------

    @contextmanager
    def _locked(self, byte: int) -> Iterator[None]:
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, byte)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, byte)

    def _load(self) -> dict[str, Any]:
        path = self._directory / "checkpoints"
        try:
            known: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return {"version": _VERSION, "disk": None, "in_use_since": None, "checkpoints": {}}
        except ValueError:
            raise OSError(errno.EINVAL, f"{path} is damaged") from None
        if known.get("version") != _VERSION:
            raise OSError(errno.EINVAL, f"{path} is of another version of nbdfork")
        return known

    def _save(self, known: dict[str, Any]) -> None:
        """Replace the file "checkpoints" in one step."""
        new = self._directory / "checkpoints.new"
        with new.open("w") as file:
            self._give_away(file.fileno())
            json.dump(known, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._directory / "checkpoints")
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _give_away(self, fd: int) -> None:
        if os.geteuid() == 0:
            os.fchown(fd, self._owner.st_uid, self._owner.st_gid)


def _disk(known: dict[str, Any]) -> Disk | None:
    return None if known["disk"] is None else Disk(*known["disk"])


def _count(disk: Disk | None) -> int:
    return 0 if disk is None else -(-disk.size // disk.block)


def _turn(generation: int) -> int:
    return _LOCKS + generation % 2


def _boot() -> str:
    """Return what tells this start of the system from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
