"""The captive command (`--run`)."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.harness import NBDFORK, SECONDS, eventually, is_alive, nbdfork, need


@pytest.mark.parametrize(("command", "status"), [("true", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_exit_status_is_the_commands(command: str, status: int) -> None:
    assert nbdfork("-U", "-", "null", "--run", command).returncode == status


def test_variables_with_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / 'a socket\'s "name" $HOME'
    command = 'printf "%s\\n" "$nbd" "$uri" "$port" "$unixsocket" "$exportname"'
    done = nbdfork("-U", path, "-e", "my disk", "null", "--run", command)
    nbd, uri, port, unixsocket, exportname = done.stdout.splitlines()
    assert nbd == uri
    assert uri.startswith("nbd+unix:///my%20disk?socket=/")
    assert " " not in uri
    assert (port, unixsocket, exportname) == ("", str(path), "my disk")


def test_variables_with_tcp() -> None:
    command = 'printf "%s\\n" "$nbd" "$uri" "$port" "$unixsocket" "$exportname"'
    done = nbdfork("-p", "0", "null", "--run", command)
    nbd, uri, port, unixsocket, exportname = done.stdout.splitlines()
    assert int(port) > 0
    assert (nbd, uri) == (f"nbd:localhost:{port}", f"nbd://localhost:{port}")
    assert (unixsocket, exportname) == ("", "")


def test_odd_socket_names_work_unquoted(tmp_path: Path) -> None:
    need("nbdinfo", "qemu-img")
    path = tmp_path / 'it\'s a "socket"'
    for tool in ("nbdinfo --size $nbd", "nbdinfo --size $uri", "qemu-img info -f raw $nbd"):
        done = nbdfork("-U", path, "memory", "1M", "--run", tool)
        assert done.returncode == 0, done.stderr
        assert "1048576" in done.stdout
        path.unlink()


def test_the_address_of_i_is_what_the_command_connects_to() -> None:
    done = nbdfork("-i", "::1", "-p", "0", "null", "--run", 'echo "$nbd $uri $port"')
    nbd, uri, port = done.stdout.split()
    assert (nbd, uri) == (f"nbd:[::1]:{port}", f"nbd://[::1]:{port}")


def test_the_private_socket_is_removed() -> None:
    done = nbdfork("-U", "-", "null", "--run", 'test -S "$unixsocket" && echo "$unixsocket"')
    assert done.returncode == 0
    assert not Path(done.stdout.strip()).parent.exists()


def test_the_command_keeps_stdin_and_its_privileges() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    done = nbdfork("-U", "-", "-u", "nobody", "null", "--run", "id -u; cat", input="typed")
    assert done.stdout == "0\ntyped"


def test_failing_start_runs_no_command(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    done = nbdfork("-U", "-", "-P", "/nonexistent/pid", "null", "--run", f"touch {marker}")
    assert done.returncode == 1
    assert not marker.exists()


def start(tmp_path: Path, command: str) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Start a captive server; return it and the command, which writes its pid first."""
    script = f"echo $$ > {tmp_path}/command; {command}"
    server = subprocess.Popen(
        [*NBDFORK, "-U", "-", "-P", str(tmp_path / "pid"), "memory", "1M", "--run", script]
    )
    pidfile = tmp_path / "command"
    eventually(lambda: pidfile.exists() and pidfile.read_text())
    return server, psutil.Process(int(pidfile.read_text()))


def test_a_signal_to_the_server_is_passed_on(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/told; exit 7' TERM; sleep 60 & touch {tmp_path}/set; wait"
    server, _ = start(tmp_path, script)
    eventually((tmp_path / "set").exists)
    server.send_signal(signal.SIGTERM)
    assert server.wait(SECONDS) == 7
    assert (tmp_path / "told").exists()


def test_a_command_that_dies_of_the_signal(tmp_path: Path) -> None:
    server, command = start(tmp_path, "sleep 60; true")
    sleeper = eventually(command.children)[0]
    server.send_signal(signal.SIGTERM)
    assert server.wait(SECONDS) == 128 + signal.SIGTERM
    assert not is_alive(sleeper)


def test_the_command_is_told_when_the_server_is_killed(tmp_path: Path) -> None:
    script = f"trap 'touch {tmp_path}/told; exit' TERM; sleep 60 & touch {tmp_path}/set; wait"
    server, _ = start(tmp_path, script)
    eventually((tmp_path / "set").exists)
    server.kill()
    server.wait(SECONDS)
    assert eventually((tmp_path / "told").exists)


def test_clients_that_outlive_the_command_are_let_go() -> None:
    script = (
        "import os, socket, sys\n"
        "c = socket.socket(socket.AF_UNIX); c.connect(os.environ['unixsocket'])\n"
        "assert len(c.recv(152, socket.MSG_WAITALL)) == 152\n"
        "if os.fork() == 0:\n"
        "    assert c.recv(1) == b''; print('let go', flush=True); os._exit(0)\n"
        "sys.exit(5)\n"
    )
    command = f"{sys.executable} -c {shlex.quote(script)}"
    done = nbdfork("-U", "-", "memory", "1M", "--run", command)
    assert done.returncode == 5
    assert done.stdout == "let go\n"
