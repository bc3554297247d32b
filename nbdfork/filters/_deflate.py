"""Decoding of gzip data by zlib, and the points from which it can be taken up again.

Python's own module cannot stop between two blocks of deflated data nor begin there, so zlib's
shared library is called itself, in the way of zran.c, one of zlib's examples.  Nothing here knows
what is done with what comes out.
"""

import ctypes
import zlib
from functools import cache
from typing import Any, NamedTuple

WINDOW = 32 * 1024
"""The most that deflated data refer back (bytes), which is to be known where decoding begins."""

GZIP = 16 + 15  # inflateInit2: a member with its header and trailer, and the largest window
RAW = -15  # deflated data without these

_BUFFER = 1024 * 1024

# zlib.h
_NO_FLUSH, _BLOCK = 0, 5
_OK, _STREAM_END, _BUF_ERROR, _MEM_ERROR = 0, 1, -5, -4
_UNUSED_BITS, _LAST_BLOCK, _AFTER_BLOCK = 7, 64, 128  # of data_type


class _Stream(ctypes.Structure):
    """z_stream of zlib.h."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


@cache
def library() -> Any:
    """Return zlib.  Raises OSError if it is not installed."""
    libz = ctypes.CDLL("libz.so.1")
    stream, number = ctypes.POINTER(_Stream), ctypes.c_int
    size = ctypes.POINTER(ctypes.c_uint)
    libz.zlibVersion.restype = ctypes.c_char_p
    libz.inflateInit2_.argtypes = [stream, number, ctypes.c_char_p, number]
    libz.inflateReset2.argtypes = [stream, number]
    libz.inflate.argtypes = [stream, number]
    libz.inflateEnd.argtypes = [stream]
    libz.inflatePrime.argtypes = [stream, number, number]
    libz.inflateSetDictionary.argtypes = [stream, ctypes.c_char_p, ctypes.c_uint]
    libz.inflateGetDictionary.argtypes = [stream, ctypes.c_void_p, size]
    return libz


class Point(NamedTuple):
    """Where decoding can be taken up: *offset* is how many bytes have come out before it, *place*
    how many have gone in, and *bits* of the last of these are still to be decoded.
    """

    offset: int
    place: int
    bits: int
    window: bytes


class Inflater:
    """Decodes a member, or deflated data without header and trailer if the *format* is `RAW`.

    It has the interface of decompressors in the standard library.
    """

    def __init__(self, format: int = GZIP) -> None:
        self._library = library()
        self._stream = _Stream()
        self._begun = False
        version = self._library.zlibVersion()
        self._check(
            self._library.inflateInit2_(self._stream, format, version, ctypes.sizeof(_Stream))
        )
        self._begun = True
        self._buffer = ctypes.create_string_buffer(_BUFFER)
        self._input = b""
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self.taken = 0  # bytes that have gone in
        self.given = 0  # bytes that have come out

    def __del__(self) -> None:
        if self._begun:
            self._library.inflateEnd(self._stream)

    def reset(self, format: int = GZIP) -> None:
        """Begin with another member."""
        self._check(self._library.inflateReset2(self._stream, format))
        self._input = self.unused_data = b""
        self.eof, self.needs_input = False, True
        self.taken = self.given = 0

    def resume(self, point: Point, before: bytes) -> None:
        """Go on from a *point*, the byte before which is *before*, as new `RAW` data."""
        if point.bits:
            value = before[0] >> (8 - point.bits)
            self._check(self._library.inflatePrime(self._stream, point.bits, value))
        if point.window:
            size = len(point.window)
            self._check(self._library.inflateSetDictionary(self._stream, point.window, size))

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return up to *max_length* bytes, but never more than a megabyte.  Raises zlib.error."""
        return self._run(data, max_length, _NO_FLUSH)

    def to_next_point(self, data: bytes, max_length: int = -1) -> bytes:
        """Do the same, but stop where there can be a `point`."""
        return self._run(data, max_length, _BLOCK)

    def _run(self, data: bytes, max_length: int, flush: int) -> bytes:
        data = self._input + data if self._input else data
        stream = self._stream
        room = _BUFFER if max_length < 0 else min(max_length, _BUFFER)
        pointer = ctypes.c_char_p(data)  # ctypes.cast would leave garbage in circles
        stream.next_in = ctypes.c_void_p.from_buffer(pointer).value
        stream.avail_in = len(data)
        stream.next_out = ctypes.addressof(self._buffer)
        stream.avail_out = room
        code = self._library.inflate(stream, flush)
        given = room - stream.avail_out
        failed = code not in (_OK, _STREAM_END, _BUF_ERROR)  # the last: there is nothing to be done
        if failed and not given:  # otherwise what is good comes first, and it will fail again
            self._check(code)
        self._input = data[len(data) - stream.avail_in :] if stream.avail_in else b""
        self.taken += len(data) - stream.avail_in
        self.given += given
        self.eof = code == _STREAM_END
        self.needs_input = not (self._input or failed) and stream.avail_out > 0
        if self.eof:
            self.unused_data, self._input = self._input, b""
        return memoryview(self._buffer)[:given].tobytes()

    def is_at_point(self) -> bool:
        """Return whether what follows is a block of deflated data."""
        kind = self._stream.data_type
        return bool(kind & _AFTER_BLOCK) and not kind & _LAST_BLOCK and not self.eof

    def point(self, offset: int, place: int) -> Point:
        """Return the point where it is, with *offset* and *place* as those of the beginning."""
        window = ctypes.create_string_buffer(WINDOW)
        size = ctypes.c_uint()
        self._check(self._library.inflateGetDictionary(self._stream, window, size))
        return Point(
            offset + self.given,
            place + self.taken,
            self._stream.data_type & _UNUSED_BITS,
            window.raw[: size.value],
        )

    def _check(self, code: int) -> None:
        if code == _MEM_ERROR:
            raise MemoryError
        if code not in (_OK, _STREAM_END):
            text = (self._stream.msg or b"").decode(errors="replace")
            raise zlib.error(f"Error {code} while decompressing data: {text}")
