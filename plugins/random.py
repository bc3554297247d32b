"""The random plugin: a disk of random bytes, the same for every client.

The bytes are computed and not stored: each block of the disk is the output of a hash of the seed
and the number of the block.  So every worker, and every run with the same seed, has the same disk,
of any size.  Anybody who knows the seed knows the content: this is no source of secrets.
"""

import errno
import hashlib
import secrets

from nbdfork.plugin import Needs, Parameter, Plugin, parse

BLOCK = 4096
MAX_SEED = 2**32 - 1


class Random(Plugin):
    """a disk of random bytes, which can be computed again from the seed"""

    size = Parameter(
        parse.size, required=True, magic=True, metavar="SIZE", help="the size of the disk"
    )
    seed = Parameter(
        parse.whole(0, MAX_SEED), metavar="SEED", help="a number; the same one, the same disk"
    )

    def needs(self) -> Needs:
        return Needs()

    def get_ready(self) -> None:
        # Chosen before the fork, so that all workers have the same seed.
        self._seed = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed

    def get_size(self) -> int:
        return self.size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> memoryview:
        first, last = offset // BLOCK, (offset + count - 1) // BLOCK
        data = b"".join(map(self._block, range(first, last + 1)))
        start = offset - first * BLOCK
        return memoryview(data)[start : start + count]

    def _block(self, number: int) -> bytes:
        return hashlib.shake_128(b"%d/%d" % (self._seed, number)).digest(BLOCK)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        """Succeed if nothing changes: a client that copies the disk to itself is tested."""
        if data != self.pread(len(data), offset):
            raise OSError(errno.EIO, "what is written is not what is read at this offset")

    def cache(self, count: int, offset: int) -> None:
        """Do nothing: the content is computed."""
