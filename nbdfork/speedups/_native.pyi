"""The extension module, which `module.c` puts together from the other C files."""

from mmap import mmap

from nbdfork.types import Buffer

class Exchange:
    """Plain requests of one client, carried out where they were received.

    They are received into *buffer*, which is pinned, up to *most_received* bytes at once; there are
    *room* bytes for replies.  *dialect*: 0 is simple, 1 structured, 2 extended.  The disk is at
    *start* of the file *fd*; what is longer than *most_read* and *most_written* bytes, or has one
    of the bits of *misaligned*, is left; and a READ of *least_sparse* bytes, unless it is known
    that there are data.  Raises ValueError for numbers that are out of range.
    """

    def __init__(
        self,
        buffer: Buffer | mmap,
        room: int,
        most_received: int,
        dialect: int,
        fd: int,
        start: int,
        most_read: int,
        most_written: int,
        misaligned: int,
        least_sparse: int,
        writable: bool,
        /,
    ) -> None: ...
    def run(
        self,
        start: int,
        end: int,
        size: int,
        data: int,
        data_end: int,
        socket: int,
        spin: int,
        spin_most: int,
        moved: int,
        time: int,
        /,
    ) -> tuple[int, int, int, int, int, int, int, int, int, bool, memoryview | None]:
        """Carry out what is at `buffer[start:end]`, and what comes next, as long as it is plain.

        *size* is that of the disk, which has no holes from *data* to *data_end*.  If *socket* is
        not -1, it is answered and received there for at most *time* nanoseconds; it is looked for
        requests for *spin* of them without going to sleep if no more than *spin_most* bytes have
        *moved* since the last receive.

        Returns what are start and end now; how many requests were carried out, and the bytes that
        they read and wrote; how many bytes have moved; the nanoseconds spent waiting for requests;
        whether looking for them was in vain; the errno that a receive has failed with, or 0;
        whether the disk failed when a reply had begun to leave; and what is to be sent next, in
        memory that is good until the next call.

        Raises ValueError for numbers that are out of range, RuntimeError if it is running already.
        """

    def stop(self) -> None:
        """Leave all requests from now on.  May be called while another thread is in `run`."""
