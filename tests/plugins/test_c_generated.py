"""Plugins in C whose behaviour is made up: whatever they answer and call, each call returns what it
should or raises an OSError, and each client is told something well formed.

The sample `generated` reads what to do from a table of random bytes.  `make sanitize` runs this
with the sanitizers, and many more tables.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from nbdfork.plugins.c.library import CallbackError, native

from nbdfork.backend.exports import Exports
from nbdfork.plugin import Plugin
from nbdfork.protocol import wire
from nbdfork.protocol.handshake import Offer
from tests.support.c_plugins import builder, need_native, started
from tests.support.conversation import FIXED, chosen, converse, exports_of, option, queries

need_native()

TABLES = int(os.environ.get("NBDFORK_TABLES", "200"))
"""How many behaviours are tried, in each of the tests."""

FACTS = (
    *("can_write", "can_flush", "can_trim", "can_zero", "can_fast_zero", "can_fua", "can_cache"),
    *("can_multi_conn", "can_extents", "is_rotational"),
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builder(tmp_path_factory.mktemp("plugins"))("generated")


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def tables() -> Iterator[tuple[Random, str]]:
    """Yield, for each behaviour, what chooses the calls, and the table.

    Many numbers are small, so that all ways to go on are taken.
    """
    for number in range(TABLES):
        random = Random(number)
        length = random.choice((8, 64, 512, 4096))
        most = random.choice((8, 16, 256))
        yield random, bytes(random.randrange(most) for _ in range(length)).hex()


def attempt(call: Any, *arguments: Any) -> Any:
    """Return what *call* returns; None if it raises what it may: an OSError with an errno."""
    try:
        return call(*arguments)
    except OSError as error:
        raised = error
    assert raised.errno is not None
    assert raised.errno > 0, raised
    assert str(raised)
    return None


def test_every_call_returns_what_it_should_or_raises_an_error(sample: Path) -> None:
    library = native().Library(str(sample))
    library.run("load")
    for random, table in tables():
        library.config("behaviour", table)
        attempt(library.preconnect, bool(random.randrange(2)))
        for name, description in attempt(library.list_exports, False) or ():
            assert name is None or isinstance(name, str)
            assert description is None or isinstance(description, str)
        assert isinstance(attempt(library.default_export, False), str | None)
        client = attempt(library.open, "disk", False)
        if client is None:
            continue
        for _ in range(20):
            use(client, random)
        client.close()


def use(client: Any, random: Random) -> None:
    """Call something, with arguments that the server could pass."""
    offset = random.choice((0, 512, 65536, (1 << 63) - 1 - (1 << 20)))
    count = random.choice((1, 511, 4096, 1 << 20))
    what = random.randrange(8)
    if what == 0:
        assert isinstance(attempt(client.ask, random.choice(FACTS)), int | None)
        assert isinstance(attempt(client.get_size), int | None)
    elif what == 1:
        sizes = attempt(client.block_size)
        assert sizes is None or all(0 <= one < 1 << 32 for one in sizes)
        assert isinstance(attempt(client.export_description), str | None)
    elif what == 2:
        data = attempt(client.pread, count, offset)
        assert data is None or len(data) == count
    elif what == 3:
        attempt(client.pwrite, memoryview(bytes(count)), offset, random.randrange(4))
    elif what == 4:
        attempt(client.flush)
    elif what == 5:
        attempt(random.choice((client.trim, client.zero)), count, offset, random.randrange(8))
    elif what == 6:
        attempt(client.cache, count, offset)
    else:
        for piece in attempt(client.extents, count, offset, random.randrange(2)) or ():
            assert len(piece) == 3
            assert all(isinstance(number, int) for number in piece)


@pytest.fixture(scope="module")
def served(sample: Path) -> tuple[Plugin, Exports]:
    plugin = started(sample)
    return plugin, exports_of(plugin)


def test_every_client_is_told_something_well_formed(served: tuple[Plugin, Exports]) -> None:
    plugin, exports = served
    for random, table in tables():
        plugin.config("behaviour", table)
        start = [FIXED, option(wire.OPT_STRUCTURED_REPLY), option(wire.OPT_LIST)]
        start.append(option(wire.OPT_SET_META_CONTEXT, queries("", wire.BASE_ALLOCATION)))
        start.append(option(wire.OPT_GO, chosen()))
        requests = b"".join(request(random, number) for number in range(20))
        told = converse([*start, requests], exports, Offer())
        check(told)


def request(random: Random, cookie: int) -> bytes:
    command = random.choice((0, 1, 3, 4, 5, 6, 7))
    offset, length = random.choice((0, 512, 61440)), random.choice((1, 512, 4096))
    fields = (random.randrange(32), command, cookie.to_bytes(8, "big"), offset, length)
    data = bytes(length) if command == wire.CMD_WRITE else b""
    return wire.REQUEST.pack(wire.REQUEST_MAGIC, *fields) + data


def check(told: bytes) -> None:
    """Fail unless *told* is a greeting, replies to options, and then chunks, each a whole one."""
    rest = told[18:]
    while rest[:8] == wire.UINT64.pack(wire.OPTION_REPLY_MAGIC):
        length = wire.OPTION_REPLY.unpack_from(rest)[-1]
        assert len(rest) >= wire.OPTION_REPLY.size + length
        rest = rest[wire.OPTION_REPLY.size + length :]
    while rest:
        if rest[:4] == wire.UINT32.pack(wire.SIMPLE_REPLY_MAGIC):
            rest = rest[wire.SIMPLE_REPLY.size :]
            continue
        magic, *_, length = wire.CHUNK.unpack_from(rest)
        assert magic == wire.STRUCTURED_REPLY_MAGIC
        assert len(rest) >= wire.CHUNK.size + length
        rest = rest[wire.CHUNK.size + length :]


def test_the_failure_of_a_callback_is_the_plugins(sample: Path) -> None:
    """The sample does fail, with an error of its own: or the tests would prove little."""
    library = native().Library(str(sample))
    library.run("load")
    library.config("behaviour", bytes([0, 6, 0]).hex())  # nothing is called; an error, "disk"
    with pytest.raises(CallbackError) as caught:
        library.open("disk", False)
    assert caught.value.cause == "disk"
