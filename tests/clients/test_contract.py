"""The contract as clients see it: what processes share, what is serialised, and a plugin's life."""

import re
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.harness import NBDFORK, SECONDS, Server, eventually
from tests.support.paths import SAMPLES
from tests.support.raw import Client, clients

LOCAL = SAMPLES / "local.py"


def test_plain_variables_are_not_shared_by_default() -> None:
    """The trap that the manual warns of."""
    with Server(LOCAL) as server, clients(server, 2) as (one, other):
        one.greet().write(b"mine")
        assert other.greet().read(0, 4) == bytes(4)


@pytest.mark.parametrize("model", ["serialize_all_requests", "parallel"])
def test_one_process_serves_clients_at_once_from_the_same_memory(model: str) -> None:
    with Server("-v", LOCAL, "one=yes", f"model={model}") as server, clients(server, 20) as many:
        for number, client in enumerate(many):
            client.greet().write(bytes([number]), number)
        assert all(client.read(0, 20) == bytes(range(20)) for client in many)
        assert len(server.workers()) == 1
        many[0].close()
        eventually(lambda: re.search(r"client unix pid \d+ uid \d+ is gone", server.log))
        assert not re.search(r"^\S+ nbdfork\[\d+\] (warning|error):", server.log, re.MULTILINE)
        assert many[1].read(0, 20) == bytes(range(20))


def test_one_process_has_a_limit_of_clients() -> None:
    options = ("--max-clients", "2")
    with Server(*options, LOCAL, "one=yes") as server, clients(server, 3) as many:
        many[0].greet()
        many[1].greet()
        assert not many[2].has_been_greeted(0.3)
        many[0].close()
        many[2].greet()


def test_one_process_is_drained_like_the_others() -> None:
    with Server(LOCAL, "one=yes") as server, clients(server, 3) as many:
        for client in many:
            client.greet().write(b"x")
        assert server.stop() == 0
        for client in many:
            with pytest.raises(EOFError):
                client.receive(1)


def test_serialize_connections_serves_one_client_after_another() -> None:
    with Server(LOCAL, "model=serialize_connections") as server, clients(server, 2) as (a, b):
        a.greet().write(b"kept")
        assert not b.has_been_greeted(0.3)
        a.close()
        assert b.greet().read(0, 4) == b"kept"
        assert len(server.workers()) == 1


@pytest.mark.parametrize("one", ["yes", "no"])
def test_serialize_all_requests_lets_no_two_overlap(tmp_path: Path, one: str) -> None:
    log = tmp_path / "log"
    arguments = (f"one={one}", "model=serialize_all_requests", f"log={log}")
    with Server(LOCAL, *arguments) as server, clients(server, 4) as many:
        threads = [threading.Thread(target=write_often, args=(client,)) for client in many]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "overlap" not in log.read_text()


def write_often(client: Client) -> None:
    client.greet()
    for _ in range(300):
        client.write(b"x")


def test_the_lock_survives_the_death_of_its_holder() -> None:
    with Server(LOCAL, "model=serialize_all_requests") as server:
        a = Client(server).greet()
        (worker,) = eventually(server.serving)
        b = Client(server).greet()
        stop = threading.Event()
        writer = threading.Thread(target=write_until, args=(a, stop))
        writer.start()
        for _ in range(50):
            b.write(b"y")
        worker.kill()
        stop.set()
        writer.join()
        b.write(b"z")
        a.close()
        b.close()


def write_until(client: Client, stop: threading.Event) -> None:
    try:
        while not stop.is_set():
            client.write(b"x")
    except (EOFError, OSError):
        pass


def test_the_life_of_a_plugin(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Server("--spare-workers", "1", LOCAL, f"log={log}") as server:
        supervisor = server.pid
        client = Client(server).greet()
        client.read()
        client.close()
        assert eventually(lambda: "cleanup" in log.read_text())
    calls = noted(log)
    assert calls[:2] == [("config_complete", supervisor), ("get_ready", supervisor)]
    assert calls[-2:] == [("unload", supervisor), ("finish", supervisor)]
    worker = next(pid for call, pid in calls if call == "preconnect")
    assert worker != supervisor
    of_worker = [call for call, pid in calls if pid == worker]
    assert of_worker == ["after_fork", "preconnect", "close", "cleanup"]
    assert sum(call == "after_fork" for call, _ in calls) == sum(c == "cleanup" for c, _ in calls)


def noted(log: Path) -> list[tuple[str, int]]:
    """Return the calls that a plugin has noted, and in which processes they were."""
    return [(line.split()[0], int(line.split()[1])) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("words", [("one=yes",), ("model=serialize_connections",)], ids=str)
def test_a_plugin_is_unloaded_where_all_clients_were_served(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    log = tmp_path / "log"
    with Server(LOCAL, *words, f"log={log}") as server:
        for _ in range(2):
            client = Client(server).greet()
            client.read()
            client.close()
        assert eventually(lambda: log.read_text().count("close") == 2)
    calls = noted(log)
    start, end = calls[:2], calls[-1]
    assert (*start, end) == tuple(
        (call, server.pid) for call in ("config_complete", "get_ready", "finish")
    )
    assert {pid for _, pid in calls[2:-1]} == {calls[2][1]} != {server.pid}
    assert [call for call, _ in calls[-3:-1]] == ["cleanup", "unload"]


@pytest.mark.parametrize("one", ["yes", "no"])
def test_a_single_server_unloads_once(tmp_path: Path, one: str) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [*NBDFORK, "-s", str(LOCAL), f"one={one}", f"log={log}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0
    assert [call for call, _ in noted(log)][-4:] == ["close", "cleanup", "unload", "finish"]
