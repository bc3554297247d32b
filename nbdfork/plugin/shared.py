"""State that all workers share: memory, a lock, a counter, a scratch file.

Workers are forked, so a variable set before the fork is copied into each of them and a change
is seen by nobody else.  What is made here is shared by its nature.  Make it in
`Plugin.get_ready`, before there are workers.

What has a name survives a reload: the plugin of the new program, if it is configured as the old
one was, gets the same again.
"""

import fcntl
import mmap
import os
import threading
from types import TracebackType

from nbdfork.plugin import _kept


class SharedBuffer:
    """*size* bytes of memory, all zero at first, that all workers see.

    It is read and written by slices, like a bytearray of fixed size.  It takes no memory where
    it has not been touched; mind that reading touches, too.  `fd` is its descriptor (a memfd).
    With a *name*, one of each for a plugin, it survives a reload; `is_new` is false if it has.
    It is *bound* to what the plugin is configured to be, unless it is of use to others, too.
    Without *mapped* it takes no room in the address space before `view` or a slice is used: there
    can be far more of it than there is memory.  Raises OSError or ValueError if there is not that
    much.
    """

    def __init__(
        self, size: int, *, name: str | None = None, mapped: bool = True, bound: bool = True
    ) -> None:
        def make() -> int:
            fd = os.memfd_create("nbdfork-shared", os.MFD_CLOEXEC)
            try:
                os.ftruncate(fd, size)
            except OSError:
                os.close(fd)
                raise
            return fd

        self.fd, self.is_new = _kept.take("buffer", name, size, make, bound=bound)
        self._size = size
        self._view: memoryview | None = None
        if mapped:
            self.view()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self.view()[part])

    def __setitem__(self, part: slice, data: bytes | bytearray | memoryview) -> None:
        self.view()[part] = data

    def view(self) -> memoryview:
        """Return the memory itself, for reading and writing without a copy."""
        if self._view is None:
            memory = mmap.mmap(self.fd, self._size) if self._size else bytearray()
            self._view = memoryview(memory)
        return self._view


class SharedLock:
    """A lock between workers, and between the threads of one; use it with `with`.

    If a worker dies while it holds the lock, the kernel releases it.  That is why it is a lock
    on a file and not a semaphore.  What the dead worker left half done is for the next holder to
    see to.  *name*: see `SharedBuffer`.
    """

    def __init__(self, *, name: str | None = None) -> None:
        def make() -> int:
            return os.memfd_create("nbdfork-lock", os.MFD_CLOEXEC)

        self._fd, _ = _kept.take("lock", name, 0, make)
        self._threads = threading.Lock()  # a file lock belongs to the whole process
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._threads = threading.Lock()  # another thread may have held it during the fork

    def __enter__(self) -> "SharedLock":
        self._threads.acquire()
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX)
        except BaseException:
            self._threads.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
        finally:
            self._threads.release()


class SharedCounter:
    """A whole number (64 bits, signed) that all workers see and add to.

    *name*, *bound* and `is_new`: see `SharedBuffer`; *value* is what it begins with.
    """

    def __init__(self, value: int = 0, *, name: str | None = None, bound: bool = True) -> None:
        buffer = SharedBuffer(8, name=name, bound=bound)
        self._numbers = buffer.view().cast("q")
        self.is_new = buffer.is_new
        if self.is_new:
            self._numbers[0] = value
        self._lock = SharedLock(name=name)

    @property
    def value(self) -> int:
        """The number."""
        return self._numbers[0]

    def add(self, amount: int = 1) -> int:
        """Add *amount* and return the new number."""
        with self._lock:
            self._numbers[0] += amount
            return self._numbers[0]


class ScratchFile:
    """A temporary file for the life of the server, without a name; sparse and empty at first.

    Use its `fd` with calls that take an offset (`os.pread`, `os.pwrite`), because the workers
    share the descriptor's position, too.  It is in `directory`, which TMPDIR names, or /var/tmp.
    Making one raises OSError if that is not possible there.  *name* and `is_new`: see
    `SharedBuffer`.
    """

    def __init__(self, size: int = 0, *, name: str | None = None) -> None:
        self.directory = os.environ.get("TMPDIR", "/var/tmp")

        def make() -> int:
            import tempfile  # and all that it imports

            try:
                fd, path = tempfile.mkstemp(prefix="nbdfork-", dir=self.directory)
            except OSError as error:
                text = f"no temporary file can be made: {error.strerror}; TMPDIR says where to"
                raise OSError(error.errno, text, self.directory) from error
            os.unlink(path)
            os.ftruncate(fd, size)
            return fd

        self.fd, self.is_new = _kept.take("file", name, max(size, 1), make)
