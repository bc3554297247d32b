"""Clients that change a disk at random, and a model that knows what each block of it may hold.

A request that was answered has happened, and is seen by all; one that was not may have.  What a
flush has covered is there for ever; what none has covered may be gone once its storage has crashed,
but then the next flush of the client that wrote it fails, if it is to be trusted.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tests.support.harness import eventually
from tests.support.libnbd import libnbd

BLOCK = 512
BLOCKS = 2048
SIZE = BLOCKS * BLOCK
CLIENTS = 4
BATCH = 6
"""So many requests each client has under way at once, no two of them for the same block."""

ZEROES = bytes(BLOCK)
_LENGTHS = (1, 3, 8, 140, 700)  # blocks; the longest are sent from a mapped file
_ZERO = 2  # the flag of an extent that reads as zeroes


class Model:
    """What each block may hold.

    *ghosts*: a request whose client was lost may still happen, at any time.  *together*: a flush
    covers what all clients have written, and not only the writes of its own.  *forgets*: what a
    read finds is not known while something happens.
    """

    forgets = False

    def __init__(self, ghosts: bool, together: bool, content: bytes = bytes(SIZE)) -> None:
        blocks = [content[start : start + BLOCK] for start in range(0, SIZE, BLOCK)]
        self.may = [{block} for block in blocks]  # what a read may find
        self.claimed = [{block} for block in blocks]  # what the one who wrote it takes for true
        self.since = [{block} for block in blocks]  # all that it has held since it was flushed
        self.writer: list[Client | None] = [None] * BLOCKS
        self.flushes: list[Flush] = []
        self._ghosts: list[set[bytes]] = [set() for _ in blocks]
        self._has_ghosts = ghosts
        self.together = together

    def begin(self, client: "Client", blocks: range, content: bytes) -> None:
        """A request that makes each of *blocks* hold *content* is about to be sent."""
        for block in blocks:
            if not self.together and self.writer[block] is not client:
                self.claimed[block] |= self.since[block]  # it knows nothing of what was there
            for known in (self.may, self.claimed, self.since):
                known[block].add(content)
            self.writer[block] = client
            for flush in self.flushes:
                flush.later.setdefault(block, set()).add(content)

    def done(self, blocks: range, content: bytes, stable: bool) -> None:
        """It was answered, and no other request for the blocks was under way."""
        for block in blocks:
            self.may[block] = {content} | self._ghosts[block]
            self.claimed[block] = set(self.may[block])
            if stable:
                self.since[block] = set(self.may[block])

    def left(self, blocks: range, content: bytes) -> None:
        """Its client was lost."""
        if self._has_ghosts:
            for block in blocks:
                self._ghosts[block].add(content)

    def crash(self) -> None:
        """The storage has lost what it likes of that which had not been flushed."""
        self.may = [set(since) for since in self.since]

    def check(self, found: bytes | bytearray) -> list[int]:
        """Return the blocks that cannot hold what was *found*; from now on it is what they hold."""
        wrong = self.differences(range(BLOCKS), found)
        if not wrong:
            for block in range(BLOCKS):
                content = bytes(found[block * BLOCK : (block + 1) * BLOCK])
                self.may[block] = {content} | self._ghosts[block]
        return wrong

    def differences(self, blocks: range, found: bytes | bytearray) -> list[int]:
        """Return those of *blocks* that cannot hold what was *found*."""
        return [
            block
            for place, block in enumerate(blocks)
            if bytes(found[place * BLOCK : (place + 1) * BLOCK]) not in self.may[block]
        ]


class Request(ABC):
    """What a client has sent."""

    cookie: int

    def __init__(self, client: "Client") -> None:
        self.client = client

    @abstractmethod
    def submit(self) -> None:
        """Send it."""

    @abstractmethod
    def finish(self, error: str | None) -> None:
        """It was answered, with *error* or well."""

    def lost(self) -> None:  # noqa: B027  # nothing follows from it for most
        """The connection has ended without an answer."""


class Change(Request):
    """A write, a trim or a request to zero."""

    def __init__(self, client: "Client", chance: random.Random, blocks: range) -> None:
        super().__init__(client)
        self.blocks = blocks
        self.kind = chance.choice(["write", "write", "write", "zero", "trim"])
        if self.kind == "trim" and not client.handle.can_trim():
            self.kind = "write"
        self.content = chance.randbytes(16) * (BLOCK // 16) if self.kind == "write" else ZEROES
        self.flags = 0
        if client.handle.can_fua() and chance.random() < 0.2:
            self.flags = libnbd().CMD_FLAG_FUA
        client.model.begin(client, blocks, self.content)

    def submit(self) -> None:
        handle, offset, count = self.client.handle, self.blocks.start * BLOCK, len(self.blocks)
        if self.kind == "write":
            self.buffer = libnbd().Buffer.from_bytearray(bytearray(self.content * count))
            self.cookie = handle.aio_pwrite(self.buffer, offset, flags=self.flags)
        else:
            send = handle.aio_zero if self.kind == "zero" else handle.aio_trim
            self.cookie = send(count * BLOCK, offset, flags=self.flags)

    def finish(self, error: str | None) -> None:
        if error is None and self.kind != "trim":  # which is only a hint
            self.client.model.done(self.blocks, self.content, bool(self.flags))

    def lost(self) -> None:
        self.client.model.left(self.blocks, self.content)


class Read(Request):
    """A read of blocks that nobody changes at the time."""

    def __init__(self, client: "Client", blocks: range) -> None:
        super().__init__(client)
        self.blocks = blocks

    def submit(self) -> None:
        self.buffer = libnbd().Buffer(len(self.blocks) * BLOCK)
        self.cookie = self.client.handle.aio_pread(self.buffer, self.blocks.start * BLOCK)

    def finish(self, error: str | None) -> None:
        model = self.client.model
        if error is None and not model.forgets:
            wrong = model.differences(self.blocks, self.buffer.to_bytearray())
            if wrong:
                self.client.errors.append(f"a read finds what cannot be in the blocks {wrong}")


class Flush(Request):
    """A flush: what was answered before it is safe, if it succeeds."""

    def __init__(self, client: "Client") -> None:
        super().__init__(client)
        self.later: dict[int, set[bytes]] = {}

    def submit(self) -> None:
        model = self.client.model
        self.covered = [
            set(claimed) if model.together or writer is self.client else None
            for claimed, writer in zip(model.claimed, model.writer, strict=True)
        ]
        model.flushes.append(self)
        self.cookie = self.client.handle.aio_flush()

    def finish(self, error: str | None) -> None:
        model = self.client.model
        model.flushes.remove(self)
        for block, covered in enumerate(self.covered):
            if covered is None:
                continue
            if error is None:
                model.since[block] = covered | self.later.get(block, set())
                model.may[block] &= model.since[block]
            else:
                # It knows now, of a crash that the model may yet have to hear of.
                model.claimed[block] = model.may[block] | model.since[block]

    def lost(self) -> None:
        if self in self.client.model.flushes:
            self.client.model.flushes.remove(self)


class Client:
    """A client, for as long as its connection lasts."""

    def __init__(self, uri: str, model: Model) -> None:
        self.model = model
        self.handle = eventually(lambda: try_to_connect(uri))
        self.under_way: list[Request] = []
        self.errors: list[str] = []

    def send(self, requests: Iterable[Request]) -> bool:
        """Send *requests* and do not wait; return False if the connection has ended."""
        requests = list(requests)
        for number, request in enumerate(requests):
            try:
                request.submit()
            except libnbd().Error:
                for unsent in requests[number:]:
                    unsent.lost()
                return False
            self.under_way.append(request)
        return True

    def wait(self) -> bool:
        """Wait for all answers; return False if the connection ends instead."""
        try:
            while self.under_way:
                self._take_answers()
                if self.under_way:
                    assert self.handle.poll(30_000) == 1, "a request is not answered"
        except (libnbd().Error, ConnectionError):
            with suppress(ConnectionError):
                self._take_answers()
            for request in self.under_way:
                request.lost()
            self.under_way = []
            return False
        return True

    def is_served(self) -> bool:
        """Return whether the client can go on with this connection."""
        try:
            self.handle.pread(BLOCK, 0)
        except libnbd().Error:
            return False
        return True

    def _take_answers(self) -> None:
        waiting = []
        try:
            for request in self.under_way:
                waiting.append(request)
                error = None
                try:
                    if not self.handle.aio_command_completed(request.cookie):
                        continue
                except libnbd().Error as failure:
                    if failure.errno in (None, "ENOTCONN", "EINVAL") and self._is_dead():
                        continue  # it was not answered
                    error = failure.errno
                    self.errors.append(error)
                waiting.pop()
                request.finish(error)
        finally:
            self.under_way = waiting
        if self._is_dead() and self.under_way:
            raise ConnectionError

    def _is_dead(self) -> bool:
        return bool(self.handle.aio_is_dead() or self.handle.aio_is_closed())


def try_to_connect(uri: str) -> Any:
    """Return a client, or None if it cannot be one now."""
    handle = libnbd().NBD()
    handle.add_meta_context("base:allocation")
    try:
        handle.connect_uri(uri)
    except libnbd().Error:
        return None
    return handle


def drawn(chance: random.Random, clients: list[Client], flushes: float) -> list[list[Request]]:
    """Draw what each client asks for next; so often as *flushes* says, a flush is among it."""
    cuts = sorted(chance.sample(range(BLOCKS + 1), 2 * CLIENTS * BATCH))
    places = list(zip(cuts[::2], cuts[1::2], strict=True))
    chance.shuffle(places)
    found: list[list[Request]] = []
    for number, client in enumerate(clients):
        requests: list[Request] = []
        for start, end in places[number::CLIENTS]:
            blocks = range(start, min(end, start + chance.choice(_LENGTHS)))
            if client.handle.is_read_only() or chance.random() < 0.2:
                requests.append(Read(client, blocks))
            else:
                requests.append(Change(client, chance, blocks))
        if client.handle.can_flush() and chance.random() < flushes:
            requests.insert(chance.randrange(len(requests) + 1), Flush(client))
        found.append(requests)
    return found


def wrong_zeroes(handle: Any, found: bytes | bytearray) -> list[tuple[int, int]]:
    """Return the extents that are said to be zeroes and are not; fail if some are missing."""
    wrong: list[tuple[int, int]] = []
    covered = 0

    def take(context: str, offset: int, entries: list[int], error: int) -> int:
        nonlocal covered
        for length, flags in zip(entries[::2], entries[1::2], strict=True):
            if flags & _ZERO and any(found[offset : offset + length]):
                wrong.append((offset, length))
            offset += length
        covered = offset
        return 0

    while covered < SIZE:
        before = covered
        handle.block_status(SIZE - covered, covered, take)
        assert covered > before
    return wrong
