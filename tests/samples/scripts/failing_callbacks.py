# mypy: ignore-errors
# ruff: noqa: A001
"""Every operation fails, in the way that the parameter how= says."""

import errno

import nbdkit

API_VERSION = 2

how = ""


def config(key, value):
    global how
    how = value


def fail():
    if how == "exception":
        raise RuntimeError("as asked for")
    if how == "oserror":
        raise OSError(errno.ENOSPC, "no space")
    if how == "exit":
        raise SystemExit(3)
    if how == "oserror_set":
        nbdkit.set_error(errno.EPERM)
        raise OSError(errno.ENOSPC, "no space")
    nbdkit.set_error(int(how))
    raise RuntimeError("after set_error")


def open(readonly):
    return None


def get_size(h):
    return 1024 * 1024


def pread(h, buf, offset, flags):
    fail()


def pwrite(h, buf, offset, flags):
    fail()


def flush(h, flags):
    fail()


def trim(h, count, offset, flags):
    fail()


def zero(h, count, offset, flags):
    fail()


def cache(h, count, offset, flags):
    fail()


def extents(h, count, offset, flags):
    fail()
