"""Scripts of the sh plugin that wait, and that ignore what ends others: nobody waits for them."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbdfork.plugins.sh import process as module
from nbdfork.plugins.sh.process import NobodyWaits, Patience, run

from tests.support.harness import Server, eventually
from tests.support.raw import Client, clients

SLEEPING = "trap '' TERM INT HUP; echo $$ >{0}.new; mv {0}.new {0}; sleep 1000; true"


def gone(pid: Path) -> bool:
    """Return whether the script that has written its number there is no more, nor its children."""
    number = int(pid.read_text())
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return not any(
            f"PPid:\t{number}\n" in status
            for entry in Path("/proc").glob("[0-9]*/status")
            if (status := text_of(entry))
        )
    return False


def text_of(entry: Path) -> str:
    try:
        return entry.read_text()
    except OSError:
        return ""  # it has ended


@pytest.fixture
def peer() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_script_is_killed_when_its_time_is_over(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(NobodyWaits):
        run(["/bin/sh", "-c", SLEEPING.format(pid)], os.environ, patience=Patience(seconds=0.3))
    assert gone(pid)


@pytest.mark.parametrize("closed", ["", "exec >&- 2>&-;"], ids=["with output", "output closed"])
def test_a_script_is_killed_when_its_client_has_left(
    closed: str,
    tmp_path: Path,
    peer: tuple[socket.socket, socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    ours, theirs = peer
    theirs.close()
    pid = tmp_path / "pid"
    command = ["/bin/sh", "-c", closed + SLEEPING.format(pid)]
    with pytest.raises(NobodyWaits):
        run(command, os.environ, patience=Patience(departure=ours.fileno()))
    assert gone(pid)


def test_a_script_has_the_time_to_end(peer: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = peer
    theirs.close()
    command = ["/bin/sh", "-c", "echo done"]
    outcome = run(command, os.environ, patience=Patience(60, ours.fileno()))
    assert outcome.output == b"done\n"


def script(place: Path, **methods: str) -> Path:
    path = place / "script"
    cases = "".join(f"{name}) {text} ;;\n" for name, text in methods.items())
    path.write_text(f"#!/bin/sh\ncase $1 in\nget_size) echo 65536 ;;\n{cases}*) exit 2 ;;\nesac\n")
    path.chmod(0o755)
    return path


def test_clients_that_come_one_by_one(tmp_path: Path) -> None:
    """Their one worker is not killed, but the script is."""
    pid = tmp_path / "pid"
    reading = f"test -e {pid} || {{ {SLEEPING.format(pid)}; }}; head -c $3 /dev/zero"
    path = script(tmp_path, thread_model="echo serialize_connections", pread=reading)
    with Server("sh", path) as server, clients(server, 2) as (leaving, other):
        leaving.greet().request(0, 0, 512)
        eventually(pid.exists)
        (worker,) = server.serving()
        leaving.close()
        assert other.greet().read() == bytes(512)
        assert worker.is_running()
        assert gone(pid)
        assert "nobody waits for it any more" in server.log


def test_the_end_does_not_wait_for_unload(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with Server("sh", script(tmp_path, unload=SLEEPING.format(pid))) as server:
        Client(server).greet().close()
        server.stop()
        assert gone(pid)
        assert "unload: nobody waits for it any more: killed" in server.log
