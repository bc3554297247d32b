"""The rbd plugin while daemons of a cluster with three copies are killed, silent, or gone."""

import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support.ceph import Ceph
from tests.support.harness import Server, eventually, suspend
from tests.support.libnbd import attempt, connect, connected, libnbd
from tests.support.verifier import BLOCK, Verifier


@pytest.fixture
def ceph() -> Iterator[Ceph]:
    with Ceph(copies=3) as ceph:
        yield ceph


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
            stop_stores(ceph)
            begun = time.monotonic()
            assert attempt(lambda: client.pread(6, 0)) == "EIO"
            assert time.monotonic() - begun > 1.5
            assert "RBD operation timeout (error reading disk" in server.log
            continue_stores(ceph)
            eventually(lambda: attempt(lambda: client.pread(6, 0)) == b"before", 60)
            client.pwrite(b"after!", 0)
            assert client.pread(6, 0) == b"after!"


def test_a_client_that_leaves_while_the_cluster_is_silent_frees_its_place(ceph: Ceph) -> None:
    image = ceph.add_image("disk")
    with Server("-n", "--max-clients=1", "rbd", f"conf={ceph.conf}", image) as server:
        client = connect(server.uri)
        stop_stores(ceph)
        client.aio_pread(libnbd().Buffer(BLOCK), 0)
        [worker] = server.serving()
        del client
        eventually(lambda: worker.pid not in {one.pid for one in server.serving()})
        continue_stores(ceph)


def stop_stores(ceph: Ceph) -> None:
    """Let the cluster fall silent."""
    for store in processes(ceph):
        suspend(store)


def continue_stores(ceph: Ceph) -> None:
    for store in processes(ceph):
        store.resume()


def processes(ceph: Ceph) -> list[psutil.Process]:
    return [psutil.Process(store.process.pid) for store in ceph.stores if store.process]
