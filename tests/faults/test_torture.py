"""Any part is killed, stopped or broken at any moment: what was answered stays true.

The model is in `tests/support/torture.py`, what can happen in `tests/support/rigs.py`.  `make
torture` goes on for 10,000 kills; a failure names the seed that repeats its requests.
"""

import os
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.daemon import Daemon
from tests.support.harness import NBDFORK, title
from tests.support.libnbd import connect, fails, libnbd
from tests.support.rigs import RIGS, Rig
from tests.support.torture import BLOCK, CLIENTS, SIZE, Client, drawn, wrong_zeroes

KILLS = -(-int(os.environ.get("NBDFORK_KILLS", "100")) // len(RIGS))
SEED = os.environ.get("NBDFORK_SEED", "1")


@pytest.mark.parametrize("kind", RIGS, ids=lambda kind: kind.__name__)
def test_what_was_answered_stays_true(tmp_path: Path, kind: type[Rig]) -> None:
    libnbd()
    chance = random.Random(seed := f"{SEED} {kind.__name__}")
    with ExitStack() as stack:
        rig = kind(tmp_path, stack, chance)
        clients = [Client(rig.server.uri, rig.model) for _ in range(CLIENTS)]
        for kill in range(KILLS):
            happening = chance.choice(rig.happenings())
            when = f"seed {seed!r}, kill {kill}, {happening.__name__}"
            it_happens = happening()
            wanted = drawn(chance, clients, rig.flushes)
            are_there = []
            for client, requests in zip(clients, wanted, strict=True):
                are_there.append(client.send(requests[: len(requests) // 2]))
            next(it_happens)
            for number, (client, requests) in enumerate(zip(clients, wanted, strict=True)):
                are_there[number] &= client.send(requests[len(requests) // 2 :])
            next(it_happens)
            for number, client in enumerate(clients):
                are_there[number] &= client.wait()
            next(it_happens, None)
            for client in clients:
                refused = {"ESHUTDOWN"}  # by workers that have to end
                failed = {one for one in client.errors if not rig.lossy or " " in one} - refused
                assert not failed, f"{when}: {failed}"
            check(rig, when)
            for number, client in enumerate(clients):
                if not are_there[number] or not client.is_served():
                    clients[number] = Client(rig.server.uri, rig.model)


def check(rig: Rig, when: str) -> None:
    """A client that comes now sees all that was answered, and no holes where there are data."""
    late = Client(rig.server.uri, rig.model)
    while rig.lossy and not late.is_served():  # its first request may be the one that fails
        late = Client(rig.server.uri, rig.model)
    check_with(late.handle, rig, when)


def check_with(late: Any, rig: Rig, when: str) -> None:
    """See `check`, of which *late* is the client."""
    found = late.pread(SIZE, 0)
    wrong = rig.model.check(found)
    assert not wrong, f"{when}: answered writes are lost or misplaced in the blocks {wrong}"
    if late.can_meta_context("base:allocation"):
        assert not wrong_zeroes(late, found), when
    late.shutdown()


def test_a_log_that_nobody_reads_any_more(tmp_path: Path) -> None:
    """Its pipe is closed: what is to be logged goes nowhere, and nothing else is different."""
    disk, path = tmp_path / "disk", tmp_path / "sock"
    disk.write_bytes(bytes(SIZE))
    reading, writing = os.pipe()
    words: list[str | Path] = [*NBDFORK, "-f", "-n", "-U", path, "file", disk]
    with Daemon(*words, where=path, directory=tmp_path, stderr=writing) as server:
        os.close(writing)
        os.close(reading)
        assert server.process is not None
        supervisor = psutil.Process(server.process.pid)
        client = connect(f"nbd+unix:///?socket={path}")
        serving = [one for one in supervisor.children() if "worker serving" in title(one)]
        for worker in serving:
            worker.kill()  # which the supervisor would tell
        with pytest.raises(libnbd().Error):
            client.pread(BLOCK, 0)
        client = connect(f"nbd+unix:///?socket={path}")
        os.truncate(disk, 0)
        with fails("EIO"):  # and so would the worker
            client.pread(BLOCK, 0)
        os.truncate(disk, SIZE)
        assert client.pread(BLOCK, 0) == bytes(BLOCK)
        assert server.stop() == 0
