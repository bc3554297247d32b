"""A server that becomes another version under its clients: none of them may notice."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.harness import SECONDS, eventually, run
from tests.support.libnbd import connected
from tests.support.reloadable import CTL, Reloadable

CLIENTS = int(os.environ.get("UPGRADE_CLIENTS", "6"))
UPGRADES = int(os.environ.get("UPGRADES", "3"))


class Done:
    """What the clients have seen: how many there were and what they did, and what has failed."""

    def __init__(self) -> None:
        self.operations = 0
        self.came = 0
        self.longest = 0.0
        self.failures: list[str] = []

    def note(self, began: float) -> None:
        """An operation that was begun then is over."""
        self.operations += 1
        self.longest = max(self.longest, time.monotonic() - began)

    def __str__(self) -> str:
        return (
            f"{self.operations} operations, {self.came} more clients,"
            f" {len(self.failures)} failures; the longest took {self.longest:.2f} s"
        )


def _verify(uri: str, place: int, stop: threading.Event, done: Done) -> None:
    """Write to a part of the disk that is this client's own, and read it again."""
    try:
        with connected(uri) as client:
            number = 0
            while not stop.is_set():
                number += 1
                data = number.to_bytes(8, "big") * 512
                began = time.monotonic()
                client.pwrite(data, place * 4096)
                if client.pread(4096, place * 4096) != data:
                    raise AssertionError(f"client {place} reads what it has not written")
                done.note(began)
    except Exception as error:
        done.failures.append(f"client {place}: {error}")


def _come_and_go(uri: str, stop: threading.Event, done: Done) -> None:
    try:
        while not stop.is_set():
            began = time.monotonic()
            with connected(uri) as client:
                client.pread(512, 0)
            done.note(began)
            done.came += 1
    except Exception as error:
        done.failures.append(f"a client that came: {error}")


@contextmanager
def load(uri: str) -> Iterator[Done]:
    """Clients that stay and verify, and others that come and go."""
    stop = threading.Event()
    done = Done()
    threads = [
        threading.Thread(target=_verify, args=(uri, place, stop, done)) for place in range(CLIENTS)
    ]
    threads.append(threading.Thread(target=_come_and_go, args=(uri, stop, done)))
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join(SECONDS)


def test_an_upgrade_under_load_costs_no_client_an_error(tmp_path: Path) -> None:
    with Reloadable(tmp_path, "-n", "memory", "1M") as server, load(server.uri) as done:
        eventually(lambda: len(server.serving()) >= CLIENTS)
        for _ in range(UPGRADES):
            server.reload()
        assert server.generation() == UPGRADES + 1
        assert done.failures == []
    print(f"{UPGRADES} upgrades under {CLIENTS} clients that verify, and one after another: {done}")


SCRIPT = """#!{python}
import sys
import nbdfork
nbdfork.__version__ = "{version}"
from nbdfork.main import main
sys.exit(main())
"""


def test_a_script_that_is_another_one_now_is_the_new_program(tmp_path: Path) -> None:
    """As a link that leads into another virtual environment; with it come its packages."""
    link = tmp_path / "nbdfork"
    for version in ("8.1", "8.2"):
        script = tmp_path / version
        script.write_text(SCRIPT.format(python=sys.executable, version=version))
        script.chmod(0o755)
    link.symlink_to("8.1")
    where, control = tmp_path / "sock", tmp_path / "control"
    words = ["-f", "-n", "-U", str(where), "--control", str(control), "memory", "1M"]
    with subprocess.Popen([link, *words], stderr=subprocess.PIPE) as server:
        try:
            eventually(control.exists)
            assert shown(control)["version"] == "8.1"
            with connected(f"nbd+unix:///?socket={where}") as client:
                client.pwrite(b"kept", 0)
                link.unlink()
                link.symlink_to("8.2")
                assert run(*CTL, "--control", control, "reload").returncode == 0
                assert shown(control)["version"] == "8.2"
                assert client.pread(4, 0) == b"kept"
                with connected(f"nbd+unix:///?socket={where}") as other:
                    assert other.pread(4, 0) == b"kept"
        finally:
            server.terminate()
            server.communicate(timeout=SECONDS)


def shown(control: Path) -> dict[str, Any]:
    """Return what the status says of the server."""
    done = run(*CTL, "--control", control, "status", "--json")
    server: dict[str, Any] = json.loads(done.stdout)["server"]
    return server
