"""One client's view of an image.

Requests go to librbd as they come, and are answered when all copies of the object are on stable
storage, unless the cluster's configuration or cache=true says that librbd may keep what is written.
Several threads may call the methods at the same time.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nbdfork.plugin import (
    HOLE,
    MAY_TRIM,
    REQ_ONE,
    ZERO,
    BlockSize,
    Export,
    Extent,
    Support,
)

from .cluster import Cluster

_OBJECTS_AT_ONCE = 64
"""The objects that are asked for at a time which parts of them are there."""

_MOST_AT_ONCE = 1 << 30
"""How much is trimmed or zeroed by one call, in bytes."""

_PREFERRED = 64 * 1024
"""What is no multiple of it is trimmed in part only (rbd_discard_granularity_bytes)."""


class Image(Export):
    """The image, or snapshot, that librbd's *image* is; it is closed with this."""

    def __init__(
        self, cluster: Cluster, image: Any, *, writable: bool, resizable: bool, shown: str
    ) -> None:
        self._rbd = cluster.rbd
        self._errors = cluster.errors
        self._image = image
        self._writable = writable
        self._resizable = resizable
        self._shown = shown
        with self._errors():
            self._object_size: int = image.stat()["obj_size"]
            self._is_locked_to_write = bool(
                image.features() & cluster.rbd.RBD_FEATURE_EXCLUSIVE_LOCK
            )
            # The image itself, or the cluster for all images, may have other settings.
            settings = {one["name"]: str(one["value"]) for one in image.config_list()}
        self._keeps_writes = settings.get("rbd_cache") == "true" or "pwl_cache" in settings.get(
            "rbd_plugins", ""
        )

    def lock(self) -> None:
        """Keep all others from writing the image for as long as it is open.  Raises OSError."""
        if not self._is_locked_to_write:
            raise OSError(
                errno.EOPNOTSUPP,
                f"{self._shown} has not the feature exclusive-lock, which exclusive=true needs",
            )
        try:
            with self._errors():
                self._image.lock_acquire(self._rbd.RBD_LOCK_MODE_EXCLUSIVE)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            raise OSError(errno.EBUSY, f"{self._shown} is locked by another client") from error

    def snapshots(self) -> list[str]:
        """Return the names of the snapshots that users have made."""
        with self._errors():
            user = 0  # RBD_SNAP_NAMESPACE_TYPE_USER; the module has no name for it
            return [one["name"] for one in self._image.list_snaps() if one["namespace"] == user]

    def close(self) -> None:
        with self._errors():
            self._image.close()

    # -- facts --------------------------------------------------------------------------

    def get_size(self) -> int:
        with self._errors():
            size: int = self._image.size()
        return size

    def description(self) -> str:
        return f"RBD image {self._shown}"

    def can_write(self) -> bool:
        return self._writable

    def can_fua(self) -> Support:
        return Support.EMULATE if self._keeps_writes else Support.NATIVE

    def can_fast_zero(self) -> bool:
        return True  # the cluster does it, whatever the way

    def can_multi_conn(self) -> bool:
        """All clients see what one has written.

        But if only one may write at a time, writing by turns hands the lock over with each request.
        """
        return not (self._writable and (self._keeps_writes or self._is_locked_to_write))

    def can_resize(self) -> bool:
        return self._resizable and self._writable

    def block_size(self) -> BlockSize:
        return BlockSize(preferred=_PREFERRED)

    @contextmanager
    def _request(self) -> Iterator[None]:
        """Carry out a request, of which the size was right when the client came."""
        try:
            with self._errors():
                yield
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise self._cut_off() from error
            raise

    def _cut_off(self) -> OSError:
        return OSError(errno.EIO, f"{self._shown} has become smaller")

    # -- reading ------------------------------------------------------------------------

    def pread(self, count: int, offset: int) -> bytes:
        with self._request():
            data: bytes = self._image.read(offset, count)
        if len(data) != count:
            raise self._cut_off()
        return data

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        end = offset + count
        step = _OBJECTS_AT_ONCE * self._object_size
        while offset < end:
            stop = min(end, offset - offset % step + step)
            for extent in self._extents(offset, stop):
                yield extent
                if flags & REQ_ONE:
                    return
            offset = stop

    def _extents(self, offset: int, end: int) -> Iterator[Extent]:
        found: list[tuple[int, int]] = []

        def note(start: int, length: int, is_there: bool) -> None:
            if is_there:
                found.append((start, start + length))

        with self._request():
            self._image.diff_iterate(offset, end - offset, None, note)
        for start, stop in sorted(found):
            if start > offset:
                yield Extent(offset, start - offset, HOLE | ZERO)
            yield Extent(start, stop - start, 0)
            offset = stop
        if offset < end:
            yield Extent(offset, end - offset, HOLE | ZERO)

    # -- writing ------------------------------------------------------------------------

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        with self._request():
            self._image.write(bytes(data), offset)

    def flush(self) -> None:
        with self._request():
            self._image.flush()

    def trim(self, count: int, offset: int, flags: int) -> None:
        with self._request():
            for start, length in _pieces(offset, count):
                self._image.discard(start, length)

    def zero(self, count: int, offset: int, flags: int) -> None:
        thick = 0 if flags & MAY_TRIM else self._rbd.RBD_WRITE_ZEROES_FLAG_THICK_PROVISION
        with self._request():
            for start, length in _pieces(offset, count):
                self._image.write_zeroes(start, length, thick)

    def resize(self, size: int) -> None:
        with self._errors():
            self._image.resize(size)


def _pieces(offset: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield offsets and lengths of parts of a range that one call of librbd can do in time."""
    end = offset + count
    while offset < end:
        length = min(_MOST_AT_ONCE - offset % _MOST_AT_ONCE, end - offset)
        yield offset, length
        offset += length
