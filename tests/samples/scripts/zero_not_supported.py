# mypy: ignore-errors
# ruff: noqa: A001
"""A zero that asks for zeroes to be written: with an exception, or (quiet=1) without one."""

import errno

import nbdkit

API_VERSION = 2

disk = bytearray(b"x" * 65536)
quiet = False


def config(key, value):
    global quiet
    quiet = bool(int(value))


def open(readonly):
    return ()


def get_size(h):
    return len(disk)


def pread(h, buf, offset, flags):
    buf[:] = disk[offset : offset + len(buf)]


def pwrite(h, buf, offset, flags):
    disk[offset : offset + len(buf)] = buf


def zero(h, count, offset, flags):
    nbdkit.set_error(errno.EOPNOTSUPP)
    if not quiet:
        raise RuntimeError("not supported")
