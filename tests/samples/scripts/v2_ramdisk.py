# mypy: ignore-errors
# ruff: noqa: A001
"""A RAM disk for API version 2, in a global variable."""

import nbdkit

API_VERSION = 2

disk = bytearray(1024 * 1024)


def config(key, value):
    global disk
    if key == "size":
        disk = bytearray(nbdkit.parse_size(value))
    else:
        raise RuntimeError(f"unknown parameter: {key}")


def open(readonly):
    return 1


def get_size(h):
    return len(disk)


def pread(h, buf, offset, flags):
    end = offset + len(buf)
    buf[:] = disk[offset:end]


def pwrite(h, buf, offset, flags):
    end = offset + len(buf)
    disk[offset:end] = buf


def flush(h, flags):
    pass
