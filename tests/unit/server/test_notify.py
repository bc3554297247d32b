"""What a service manager is told: datagrams on the socket that it names."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbdfork.server.notify import Notifier
from tests.support.harness import is_readable


class Manager:
    """A service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)

    def heard(self) -> list[str]:
        """Return all lines that have come."""
        found: list[str] = []
        while is_readable(self.socket.fileno()):
            found += self.socket.recv(4096).decode().split("\n")
        return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(str(tmp_path / "notify"))
    yield found
    found.socket.close()


def notifier(manager: Manager, **variables: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.socket.getsockname(), **variables})


def test_the_life_of_a_server(manager: Manager) -> None:
    told = notifier(manager)
    told.set_status("Starting")
    told.tick()
    assert manager.heard() == []
    told.tell_ready()
    assert manager.heard() == ["READY=1", f"MAINPID={os.getpid()}"]
    assert told.pause() == 0
    told.tick()
    assert manager.heard() == ["STATUS=Starting"]
    assert told.pause() is None
    told.tell_reloading()
    first, second = manager.heard()
    assert (first, second.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    told.tell_stopping()
    assert manager.heard()[0] == "STOPPING=1"


def test_the_status_is_not_told_too_often(manager: Manager) -> None:
    told = notifier(manager)
    told.tell_ready()
    for text in ("one", "two", "three"):
        told.set_status(text)
        told.tick()
    assert [line for line in manager.heard() if "STATUS" in line] == ["STATUS=one"]
    assert 0 < (told.pause() or 0) <= 1


def test_signs_of_life_come_twice_as_often_as_they_are_wanted(manager: Manager) -> None:
    told = notifier(manager, WATCHDOG_USEC="2000000", WATCHDOG_PID=str(os.getpid()))
    told.tick()
    told.tick()
    assert manager.heard() == ["WATCHDOG=1"]
    assert 0.5 < (told.pause() or 0) <= 1


def test_signs_of_life_may_be_wanted_of_another_process(manager: Manager) -> None:
    told = notifier(manager, WATCHDOG_USEC="2000000", WATCHDOG_PID="1")
    told.tick()
    assert manager.heard() == []
    assert told.pause() is None


def test_the_variables_are_not_for_children(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "nonsense", "HOME": "/"}
    told = Notifier(environment)
    assert environment == {"HOME": "/"}
    assert told.variables == {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "nonsense"}
    told.tell_ready()  # nobody is there


def test_an_abstract_socket() -> None:
    name = f"nbdfork-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell_ready()
    assert "READY=1" in manager.heard()
    manager.socket.close()


def test_without_a_service_manager_nothing_happens() -> None:
    told = Notifier()
    told.tell_ready()
    told.set_status("x")
    told.tick()
    assert told.pause() is None
