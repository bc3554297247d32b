# mypy: ignore-errors
# ruff: noqa: A001
"""A disk of which every other block is a hole, for nbdkit's Python plugin."""

API_VERSION = 2
BLOCK = 4096

parameters = {}
whole = []


def config(key, value):
    parameters[key] = value


def config_complete():
    whole.extend(map(extent, range(int(parameters["blocks"]))))


def open(readonly):
    return parameters["way"]


def get_size(way):
    return len(whole) * BLOCK


def pread(way, buffer, offset, flags):
    buffer[:] = bytes(len(buffer))


def extent(number):
    return (number * BLOCK, BLOCK, number % 2 * 3)


def extents(way, count, offset, flags):
    if way == "a list of the whole disk":
        return whole
    found = map(extent, range(offset // BLOCK, -(-(offset + count) // BLOCK)))
    return list(found) if way == "a list" else found
