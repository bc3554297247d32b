"""Several clients at random, against a model of what the disk must hold."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Server
from tests.support.libnbd import connected, libnbd
from tests.support.several import CLIENTS, MIB, SIZE, Model, connect, ranges

Check = Callable[[], None]


class Driver:
    """One client with its random requests."""

    def __init__(self, client: Any, model: Model, chance: random.Random) -> None:
        self.nbd = libnbd()
        self.client = client
        self.model = model
        self.chance = chance
        self.waiting: dict[int, Check] = {}

    def submit(self, offset: int, count: int) -> None:
        """Send one request for a range that nobody else is using."""
        kind = self.chance.choice(
            [self.read, self.read, self.write, self.write, self.zero, self.trim, self.status]
        )
        cookie, check = kind(offset, count)
        self.waiting[cookie] = check

    def finish(self) -> None:
        """Wait for all replies and check them."""
        while self.waiting:
            done = [cookie for cookie in self.waiting if self.client.aio_command_completed(cookie)]
            for cookie in done:
                self.waiting.pop(cookie)()
            if not done:
                assert self.client.poll(30_000) == 1

    def fua(self) -> int:
        return int(self.chance.choice([0, self.nbd.CMD_FLAG_FUA]))

    def read(self, offset: int, count: int) -> tuple[int, Check]:
        buffer = self.nbd.Buffer(count)
        cookie = self.client.aio_pread(buffer, offset)
        return cookie, lambda: self.model.check(offset, buffer.to_bytearray())

    def write(self, offset: int, count: int) -> tuple[int, Check]:
        data = self.chance.randbytes(count)
        self.model.write(offset, data)
        buffer = self.nbd.Buffer.from_bytearray(bytearray(data))
        cookie = self.client.aio_pwrite(buffer, offset, flags=self.fua())
        return cookie, lambda: None

    def zero(self, offset: int, count: int) -> tuple[int, Check]:
        self.model.write(offset, bytes(count))
        flags = self.fua() | self.chance.choice([0, self.nbd.CMD_FLAG_NO_HOLE])
        return self.client.aio_zero(count, offset, flags=flags), lambda: None

    def trim(self, offset: int, count: int) -> tuple[int, Check]:
        self.model.forget(offset, count)
        return self.client.aio_trim(count, offset, flags=self.fua()), lambda: None

    def status(self, offset: int, count: int) -> tuple[int, Check]:
        entries: list[int] = []

        def note(context: str, start: int, found: list[int], error: Any) -> int:
            entries.extend(found)
            return 0

        cookie = self.client.aio_block_status(count, offset, note)
        return cookie, lambda: self.check_status(offset, count, entries)

    def check_status(self, offset: int, count: int, entries: list[int]) -> None:
        """What is said to read as zeroes must be zeroes."""
        end = offset + count
        for length, kind in zip(entries[::2], entries[1::2], strict=True):
            length = min(length, end - offset)
            if kind & 2:
                self.model.check(offset, bytes(length))
            offset += length


@pytest.mark.parametrize(
    "arguments",
    [
        ("file", "DISK"),
        ("memory", "4M"),
        ("--filter=cow", "file", "DISK"),
        ("--filter=offset", "memory", "6M", "offset=1M", "range=4M"),
        ("--filter=truncate", "memory", "6M", "truncate=4M"),
        ("--filter=delay", "memory", "4M", "rdelay=1ms", "wdelay=1ms"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("options", [("-n",), ("-n", "--no-sr")], ids=["structured", "simple"])
def test_random_requests_of_several_clients(
    tmp_path: Path, options: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SIZE))
    seed = " ".join((*options, *arguments))
    chance = random.Random(seed)
    model = Model()
    words = [str(disk) if word == "DISK" else word for word in arguments]
    with Server(*options, *words) as server:
        drivers = [Driver(connect(server.uri), model, chance) for _ in range(CLIENTS)]
        if "--no-sr" in options:
            for driver in drivers:
                driver.status = driver.read  # type: ignore[method-assign]
        for _ in range(25):
            for index, (offset, count) in enumerate(ranges(chance)):
                drivers[index % CLIENTS].submit(offset, count)
            for driver in drivers:
                driver.finish()
        drivers[0].client.flush()
        for driver in drivers:  # each sees what all have written
            for start in range(0, SIZE, MIB):
                model.check(start, driver.client.pread(MIB, start))
            driver.client.shutdown()
        with connected(server.uri) as late:
            model.check(0, late.pread(SIZE, 0))
    if words == ["file", str(disk)]:
        model.check(0, disk.read_bytes())
