# mypy: ignore-errors
# ruff: noqa: A001
"""A disk for each name in the list; its content is its name.  Others are refused."""

import errno

import nbdkit

API_VERSION = 2

DISKS = {"red": "the red one", "green": "", "blue": "the blue one"}


def list_exports(readonly, is_tls):
    yield from DISKS.items()


def default_export(readonly, is_tls):
    return "green"


def open(readonly):
    name = nbdkit.export_name()
    if name not in DISKS:
        nbdkit.set_error(errno.ENOENT)
        raise ValueError(f"there is no disk {name!r}")
    return name


def export_description(h):
    return DISKS[h]


def get_size(h):
    return 4096


def pread(h, buf, offset, flags):
    text = (h.encode() * 4096)[:4096]
    buf[:] = text[offset : offset + len(buf)]
