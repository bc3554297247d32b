"""Workers are killed at any moment: no answered write is lost or misplaced, and others serve on.

`make torture` does so 10,000 times; a failure names the seed that repeats its requests.
"""

import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.harness import Server, eventually
from tests.support.libnbd import connected, libnbd
from tests.support.several import CLIENTS, MIB, SIZE, Model, connect, ranges

STACKS = [
    ("file", "DISK"),
    ("memory", "4M"),
    ("--filter=log", "split", "HALF1", "HALF2", "logfile=/dev/null"),
    ("--filter=cow", "file", "DISK"),
]
KILLS = int(os.environ.get("NBDFORK_KILLS", "100")) // len(STACKS)
SEED = os.environ.get("NBDFORK_SEED", "1")


class Change:
    """A request that changes a range; what the range holds is not known before it is answered."""

    def __init__(self, client: Any, model: Model, chance: random.Random, place: tuple[int, int]):
        self.client = client
        self.model = model
        self.offset, count = place
        self.data = bytes(count) if chance.random() < 0.3 else chance.randbytes(count)
        self.flags = chance.choice([0, libnbd().CMD_FLAG_FUA])
        model.forget(self.offset, count)

    def submit(self) -> None:
        """Send it; the client may have lost its worker already."""
        if any(self.data):
            buffer = libnbd().Buffer.from_bytearray(bytearray(self.data))
            self.cookie = self.client.aio_pwrite(buffer, self.offset, flags=self.flags)
        else:
            self.cookie = self.client.aio_zero(len(self.data), self.offset, flags=self.flags)

    def is_done(self) -> bool:
        """Return whether it has been answered, and note what the disk must hold then."""
        if not self.client.aio_command_completed(self.cookie):
            return False
        self.model.write(self.offset, self.data)
        return True


def finish(client: Any, unsent: list[Change], waiting: list[Change]) -> bool:
    """Send the changes *unsent*, and wait for the answers to them and to those *waiting*.

    Return False if the client lost its worker instead; what had been answered is noted, too.
    """
    waiting = list(waiting)
    try:
        for change in unsent:
            change.submit()
            waiting.append(change)
        while waiting := [change for change in waiting if not change.is_done()]:
            assert client.poll(30_000) == 1
    except libnbd().Error:
        assert client.aio_is_dead() or client.aio_is_closed()
        for change in waiting:
            with suppress(libnbd().Error):  # it was not answered
                change.is_done()
        return False
    return True


def kill_one(server: Server, chance: random.Random) -> None:
    """Kill a worker that serves a client."""
    worker: psutil.Process = chance.choice(eventually(server.serving))
    worker.kill()


@pytest.mark.parametrize("stack", STACKS, ids=" ".join)
def test_answered_writes_survive_kills_of_workers(tmp_path: Path, stack: tuple[str, ...]) -> None:
    chance = random.Random(seed := f"{SEED} {' '.join(stack)}")
    print(f"seed: {seed}, {KILLS} kills")
    places = {"DISK": SIZE, "HALF1": SIZE // 2, "HALF2": SIZE // 2}
    for name, size in places.items():
        (tmp_path / name).write_bytes(bytes(size))
    words = [str(tmp_path / word) if word in places else word for word in stack]
    model = Model()
    with Server("-n", *words) as server:
        clients = [connect(server.uri) for _ in range(CLIENTS)]
        for kill in range(KILLS):
            wanted: list[list[Change]] = [[] for _ in clients]
            for index, place in enumerate(ranges(chance)):
                number = index % CLIENTS
                wanted[number].append(Change(clients[number], model, chance, place))
            victim = chance.randrange(CLIENTS)
            for number, changes in enumerate(wanted):
                under_way = changes[: len(changes) // 2] if number == victim else []
                for change in under_way:
                    change.submit()
                if number == victim:
                    kill_one(server, chance)
                if not finish(clients[number], changes[len(under_way) :], under_way):
                    clients[number] = connect(server.uri)
            check(model, server, f"seed {seed}, kill {kill}")
            clients = [alive(client, server) for client in clients]


def alive(client: Any, server: Server) -> Any:
    """Return *client*, or another one if its worker was killed."""
    try:
        client.pread(512, 0)
    except libnbd().Error:
        return connect(server.uri)
    return client


def check(model: Model, server: Server, when: str) -> None:
    """A client that comes now sees all that was answered."""
    with connected(server.uri) as late:
        for start in range(0, SIZE, MIB):
            try:
                model.check(start, late.pread(MIB, start))
            except AssertionError:
                pytest.fail(f"{when}: an answered write is lost or misplaced, or another is there")
