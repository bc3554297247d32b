# mypy: ignore-errors
# ruff: noqa: A001
"""A RAM disk for API version 1, as scripts were written for the first nbdkit."""

import errno

import nbdkit

disk = bytearray(1024 * 1024)


def config(key, value):
    global disk
    if key == "size":
        disk = bytearray(nbdkit.parse_size(value))
    else:
        raise RuntimeError(f"unknown parameter: {key}")


def open(readonly):
    nbdkit.debug(f"open: readonly={readonly}")
    return {"readonly": readonly}


def get_size(h):
    return len(disk)


def pread(h, count, offset):
    return disk[offset : offset + count]


def pwrite(h, buf, offset):
    disk[offset : offset + len(buf)] = buf


def flush(h):
    pass


def trim(h, count, offset):
    disk[offset : offset + count] = b"T" * count


def zero(h, count, offset, may_trim):
    if not may_trim:
        nbdkit.set_error(errno.EOPNOTSUPP)
        raise RuntimeError("write them, please")
    disk[offset : offset + count] = bytearray(count)
