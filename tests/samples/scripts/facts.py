# mypy: ignore-errors
# ruff: noqa: A001
"""A disk for nbdkit's Python plugin with the facts that are in the name of its export, as JSON."""

import json

import nbdkit

API_VERSION = 2
LEVELS = {"none": 0, "emulate": 1, "native": 2}


def open(readonly):
    return json.loads(nbdkit.export_name())


def get_size(facts):
    return facts["get_size"]


def can_write(facts):
    return facts["can_write"]


def can_flush(facts):
    return facts["can_flush"]


def can_fua(facts):
    return LEVELS[facts["can_fua"]]


def can_trim(facts):
    return facts["can_trim"]


def can_zero(facts):
    return facts["can_zero"]


def can_fast_zero(facts):
    return facts["can_fast_zero"]


def can_cache(facts):
    return LEVELS[facts["can_cache"]]


def can_extents(facts):
    return facts["can_extents"]


def can_multi_conn(facts):
    return facts["can_multi_conn"]


def is_rotational(facts):
    return facts["is_rotational"]


def block_size(facts):
    return tuple(facts["block_size"])


def export_description(facts):
    return facts["description"]


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL  # or more connections would be of no use


def pread(facts, buffer, offset, flags):
    buffer[:] = bytes(len(buffer))


def pwrite(facts, buffer, offset, flags):
    pass


def flush(facts, flags):
    pass


def trim(facts, count, offset, flags):
    pass


def zero(facts, count, offset, flags):
    pass


def cache(facts, count, offset, flags):
    pass


def extents(facts, count, offset, flags):
    return [(offset, count, 0)]
