# mypy: ignore-errors
# ruff: noqa: A001
"""Every callback there is; what is called is written to the file of the parameter calls=."""

import builtins
import functools
import os
import sys

import nbdkit

API_VERSION = 2

disk = bytearray(1024 * 1024)
calls = ""


def record(*words):
    with builtins.open(calls, "a") as file:
        print(*words, file=file)


def recorded(function):
    @functools.wraps(function)
    def call(*arguments):
        shown = [
            f"<{len(a)}>" if isinstance(a, memoryview) else repr(a)
            for a in arguments
            if not isinstance(a, Handle)
        ]
        record(function.__name__, *shown)
        return function(*arguments)

    return call


class Handle:
    pass


def dump_plugin():
    print("all_callbacks=yes")
    sys.stdout.flush()


def config(key, value):
    global calls
    if key == "calls":
        calls = os.path.abspath(value)
    record("config", key, value if key != "calls" else "")


@recorded
def config_complete():
    pass


@recorded
def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_REQUESTS


@recorded
def get_ready():
    pass


@recorded
def after_fork():
    pass


@recorded
def cleanup():
    pass


@recorded
def preconnect(readonly):
    pass


@recorded
def list_exports(readonly, is_tls):
    return [("first", "the first one"), "second"]


@recorded
def default_export(readonly, is_tls):
    return "first"


@recorded
def open(readonly):
    record("export_name", nbdkit.export_name())
    print("a line on standard output", flush=True)
    return Handle()


@recorded
def close(h):
    pass


@recorded
def get_size(h):
    return len(disk)


def export_description(h):
    return "all callbacks"


def block_size(h):
    return (1, 8192, 65536)


def is_rotational(h):
    return True


def can_multi_conn(h):
    return True


def can_write(h):
    return True


def can_flush(h):
    return True


def can_trim(h):
    return True


def can_zero(h):
    return True


def can_fast_zero(h):
    return True


def can_fua(h):
    return nbdkit.FUA_NATIVE


def can_cache(h):
    return nbdkit.CACHE_NATIVE


def can_extents(h):
    return True


@recorded
def pread(h, buf, offset, flags):
    buf[:] = disk[offset : offset + len(buf)]


@recorded
def pwrite(h, buf, offset, flags):
    disk[offset : offset + len(buf)] = buf


@recorded
def flush(h, flags):
    pass


@recorded
def trim(h, count, offset, flags):
    disk[offset : offset + count] = bytes(count)


@recorded
def zero(h, count, offset, flags):
    disk[offset : offset + count] = bytes(count)


@recorded
def cache(h, count, offset, flags):
    pass


@recorded
def extents(h, count, offset, flags):
    half = len(disk) // 2
    return [(0, half, 0), (half, half, nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO)]
