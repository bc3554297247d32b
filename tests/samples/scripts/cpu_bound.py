# mypy: ignore-errors
# ruff: noqa: A001
"""A disk that is computed; its content depends on nothing, so each client may have a process."""

import hashlib

import nbdkit

API_VERSION = 2
NBDFORK_PROCESSES = True

BLOCK = 4096


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def open(readonly):
    return 1


def get_size(h):
    return 64 * 1024 * 1024


def block_size(h):
    return (BLOCK, BLOCK, 1024 * 1024)


def pread(h, buf, offset, flags):
    for start in range(0, len(buf), BLOCK):
        digest = b"%d" % (offset + start)
        for _ in range(200):
            digest = hashlib.sha256(digest).digest()
        buf[start : start + BLOCK] = digest * (BLOCK // len(digest))
