"""The rbd plugin while daemons of a cluster with three copies are killed, silent, or gone."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from tests.support.ceph import Ceph
from tests.support.harness import Server, eventually
from tests.support.libnbd import attempt, connect, connected, libnbd

MIB = 1 << 20
BLOCK = 4096
BLOCKS = 256


@pytest.fixture
def ceph() -> Iterator[Ceph]:
    with Ceph(copies=3) as ceph:
        yield ceph


class Verifier:
    """Writes blocks, and reads them back, until it is told to stop; all must be right."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._stopping = threading.Event()
        self._model: dict[int, int] = {}
        self._random = Random(7)
        self.rounds = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._round()
        except BaseException as error:
            self.failure = error

    def _round(self) -> None:
        number = self._random.randrange(BLOCKS)
        self._model[number] = self.rounds
        self._client.pwrite(self.rounds.to_bytes(8, "little") * (BLOCK // 8), number * MIB // 8)
        for known in self._random.sample(sorted(self._model), min(4, len(self._model))):
            data = self._client.pread(BLOCK, known * MIB // 8)
            assert data == self._model[known].to_bytes(8, "little") * (BLOCK // 8), known
        self.rounds += 1

    def goes_on(self) -> None:
        """Return when it has done some more."""
        before = self.rounds
        eventually(lambda: self.failure or self.rounds > before + 20, 60)
        assert self.failure is None, self.failure

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        assert self.failure is None, self.failure


def test_a_daemon_that_is_killed_costs_nobody_a_request(ceph: Ceph) -> None:
    image = ceph.add_image("disk")
    with Server("-n", "rbd", f"conf={ceph.conf}", image) as server:
        with connected(server.uri) as client:
            verifier = Verifier(client)
            verifier.goes_on()
            ceph.stores[1].kill()
            verifier.goes_on()
            verifier.stop()
        assert "error" not in server.log


def test_all_daemons_gone_and_back(ceph: Ceph) -> None:
    """Requests fail after the time they have, no sooner, and work again when it is over."""
    image = ceph.add_image("disk")
    with Server("-n", "rbd", f"conf={ceph.conf}", image, "timeout=2") as server:
        with connected(server.uri) as client:
            client.pwrite(b"before", 0)
            signal_stores(ceph, signal.SIGSTOP)
            begun = time.monotonic()
            assert attempt(lambda: client.pread(6, 0)) == "EIO"
            assert time.monotonic() - begun > 1.5
            assert "RBD operation timeout (error reading disk" in server.log
            signal_stores(ceph, signal.SIGCONT)
            eventually(lambda: attempt(lambda: client.pread(6, 0)) == b"before", 60)
            client.pwrite(b"after!", 0)
            assert client.pread(6, 0) == b"after!"


def test_a_client_that_leaves_while_the_cluster_is_silent_frees_its_place(ceph: Ceph) -> None:
    image = ceph.add_image("disk")
    with Server("-n", "--max-clients=1", "rbd", f"conf={ceph.conf}", image) as server:
        client = connect(server.uri)
        signal_stores(ceph, signal.SIGSTOP)
        client.aio_pread(libnbd().Buffer(BLOCK), 0)
        [worker] = server.serving()
        del client
        eventually(lambda: worker.pid not in {one.pid for one in server.serving()})
        signal_stores(ceph, signal.SIGCONT)


def signal_stores(ceph: Ceph, signum: signal.Signals) -> None:
    for store in ceph.stores:
        assert store.process is not None
        os.kill(store.process.pid, signum)
