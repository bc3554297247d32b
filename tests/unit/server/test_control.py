"""The control socket's file, and the way between its process and the supervisor."""

import os
import socket
import stat
from pathlib import Path

import pytest

from nbdfork.server import control
from nbdfork.server.control import Control, Desk, Facts, Settings
from nbdfork.server.errors import StartupError
from nbdfork.server.scoreboard import Scoreboard
from tests.support.harness import eventually, is_readable


def test_the_socket_is_its_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "control"
    with control.listen(str(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(StartupError, match=r"--control .*: Address already in use"):
            control.listen(str(path))
    with control.listen(str(path)):  # what was left behind is replaced
        pass


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "control"
    path.write_text("precious")
    with pytest.raises(StartupError):
        control.listen(str(path))
    assert path.read_text() == "precious"


def serve(listener: socket.socket, board: Scoreboard, facts: Facts, desk: Desk) -> None:
    """Give each order that comes, and say what has become of it."""
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                answer = desk.order({"verb": connection.recv(100).decode()})
            except EOFError:
                os._exit(0)
            connection.sendall(f"{facts['name']} {board.used} {answer}".encode())


def asked(path: Path, controlled: Control, verb: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(verb.encode())
        assert is_readable(controlled.fileno(), 10)
        assert controlled.hear()
        return client.recv(100).decode()


def test_orders_are_carried_out_and_answered(tmp_path: Path) -> None:
    path = tmp_path / "control"
    board = Scoreboard(3)
    board.claim(1)
    settings = Settings(control.listen(str(path)), str(path), serve, {"name": "it"})
    controlled = Control(settings, board, lambda order: {"done": order["verb"]})
    controlled.start()
    assert asked(path, controlled, "jump") == "it 1 {'done': 'jump'}"
    controlled.close()
    assert not path.exists()


def test_a_process_that_is_killed_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "control"
    settings = Settings(control.listen(str(path)), str(path), serve, {"name": "it"})
    controlled = Control(settings, Scoreboard(1), lambda order: {})
    controlled.start()
    os.kill(controlled.pid, 9)
    eventually(lambda: not controlled.hear())
    controlled.reap()
    controlled.start()
    assert asked(path, controlled, "x") == "it 0 {}"
    controlled.close()
