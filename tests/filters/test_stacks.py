"""Filters on top of each other, in any order and number: together they are still a disk."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.disks import BLOCK, Disk, ZeroingDisk, exports
from tests.support.model import carry_out, requests
from tests.support.noise import noise

SIZE = 16 * BLOCK

PARAMETERS: dict[str, tuple[str, ...]] = {
    "blocksize": ("minblock=4k", "maxdata=8k"),
    "blocksize-policy": ("blocksize-preferred=8k",),
    "cache": ("cache-min-block-size=4k", "cache-max-size=32k"),
    "cacheextents": (),
    "count": (),
    "cow": ("cow-block-size=8k",),
    "delay": (),
    "error": (),
    "evil": ("evil-probability=0",),
    "exportname": (),
    "fua": ("fua-mode=force",),
    "limit": ("limit=0",),
    "log": ("logfile=/dev/null",),
    "map": ("map=0-4095:8192", "map=8192-12287:0"),
    "multi-conn": (),
    "nocache": ("cache-mode=nop",),
    "noextents": (),
    "nofilter": (),
    "nozero": ("zeromode=emulate",),
    "offset": ("offset=4096",),
    "protect": (),
    "rate": ("rate=1T",),
    "readahead": (),
    "retry": ("retry-delay=0",),
    "retry-request": ("retry-request-delay=0",),
    "rotational": (),
    "swab": ("swab-bits=64",),
    "time-limit": (),
    "truncate": ("round-up=64k",),
    "xor": ("xor=rand:3",),
}
"""Filters through which what is written is read again, and what they are given for these tests."""


def arguments(stack: list[str]) -> list[str]:
    """Return the parameters of all filters of a stack, each with the number of its filter."""
    found = []
    for place, name in enumerate(stack):
        number = stack[: place + 1].count(name)
        found += [f"{name}.{number}.{word}" for word in PARAMETERS[name]]
    return found


@settings(max_examples=80, deadline=None)
@given(
    stack=st.lists(st.sampled_from(sorted(PARAMETERS)), min_size=2, max_size=6),
    script=st.lists(requests(8 * BLOCK), max_size=15),
    minimum=st.sampled_from([1, 512]),
    zeroing=st.booleans(),
)
def test_what_is_written_through_a_stack_is_read_through_it(
    stack: list[str], script: list[tuple[str, int, int, int]], minimum: int, zeroing: bool
) -> None:
    content = noise(SIZE)
    disk = (ZeroingDisk if zeroing else Disk)(content, minimum)
    found = exports(disk, " ".join(stack), *arguments(stack))
    clients = [found.open(""), found.open("")]
    size = 8 * BLOCK
    model = bytearray(noise(size + 1)[1:])
    clients[0].pwrite(memoryview(bytes(model)), 0, fua=False)
    align = clients[0].block_size.minimum
    for number, (operation, count, offset, byte) in enumerate(script):
        count, offset = count - count % align, offset - offset % align
        if not count:
            continue
        client = clients[number % 2]
        if operation == "trim":  # what is there afterwards is not said
            client.trim(count, offset, fua=False)
            operation, byte = "write", 0
        carry_out(client, model, (operation, count, offset, byte))
    assert clients[1].pread(size, 0) == model
    if clients[0].can_flush:
        clients[0].flush()
    for client in clients:
        client.close()
    assert found.open("").pread(size, 0) == model
    before = BLOCK * stack.count("offset")
    if "map" not in stack:
        assert disk.content[:before] == content[:before]
    if "cow" in stack:
        assert disk.content == content


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_of_them_twice(name: str) -> None:
    stack = [name, name]
    found = exports(Disk(noise(SIZE)), " ".join(stack), *arguments(stack))
    written = memoryview(noise(8 * BLOCK))
    found.open("").pwrite(written, 0, fua=False)
    assert found.open("").pread(8 * BLOCK, 0) == written
