"""The captive command: its environment, its end and its status; with a server, in `clients`."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nbdfork.server import captive
from nbdfork.server.captive import Captive
from tests.support.harness import eventually, is_alive


def test_it_has_the_variables_and_the_rest_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_SERVER", "yes")
    command = Captive(f'echo "$uri $OF_THE_SERVER" > {tmp_path}/out', {"uri": "nbd://here"})
    assert command.status() == 0
    assert command.has_ended()
    assert (tmp_path / "out").read_text() == "nbd://here yes\n"


@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 7", 7), ("kill -9 $$", 128 + 9), ("no-such-command 2>/dev/null", 127)],
)
def test_its_status_is_as_a_shell_has_it(command: str, status: int) -> None:
    assert Captive(command, {}).status() == status


Waiting = Callable[[str], Captive]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    """Makes a command, with something in front of it, that waits for a process of its own."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def start(how: str) -> Captive:
        command = Captive(f"{how} cat {fifo} & touch {tmp_path}/there; wait; exit 3", {})
        eventually((tmp_path / "there").exists)
        return command

    yield start
    with suppress(OSError):  # nobody reads it any more
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


def test_it_is_told_to_end_with_all_that_it_has_started(waiting: Waiting) -> None:
    command = waiting("")
    started = psutil.Process(command._process.pid).children()
    assert not command.has_ended()
    command.tell_to_end()
    assert command.status() == 128 + signal.SIGTERM
    assert started
    eventually(lambda: not any(map(is_alive, started)))
    command.tell_to_end()  # which is too late, and no matter


def test_one_that_does_not_end_is_killed(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captive, "END_SECONDS", 0.05)
    command = waiting("trap '' TERM;")
    command.tell_to_end()
    assert command.status() == 128 + signal.SIGKILL


def test_one_of_root_that_cannot_be_killed(waiting: Waiting) -> None:
    """The server has changed its user since it started the command."""
    command = waiting("")
    real = command._process

    class Foreign:
        def poll(self) -> None:
            return None

        def children(self, recursive: bool) -> list[psutil.Process]:
            return []

        def terminate(self) -> None:
            raise psutil.AccessDenied

        kill = terminate

        def wait(self, seconds: float) -> int:
            raise psutil.TimeoutExpired(seconds)

    command._process = Foreign()  # type: ignore[assignment]
    command.tell_to_end()
    assert command.status() == 128 + signal.SIGTERM
    for process in [*real.children(recursive=True), real]:
        process.kill()
    real.wait(15)
