"""Reload and upgrade: another program takes the place of the one that runs, under its clients."""

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import psutil
import pytest

from tests.support.harness import NBDFORK, SECONDS, Server, eventually, run
from tests.support.libnbd import connected, libnbd
from tests.support.reloadable import CTL, Reloadable


def write(place: Path, text: str) -> Path:
    path = place / "it.toml"
    path.write_text(text)
    return path


RAM = '[[export]]\nname = "ram"\nplugin = "memory"\nsize = "1M"\n'
NULL = '[[export]]\nname = "null"\nplugin = "null"\nsize = 4096\n'


def test_nothing_is_lost_that_clients_have(tmp_path: Path) -> None:
    with Reloadable(tmp_path, "-n", "memory", "1M") as server, connected(server.uri) as client:
        client.pwrite(b"x" * 512, 0)
        for number in (2, 3):
            server.reload()
            assert server.generation() == number
            with connected(server.uri) as other:
                assert other.pread(512, 0) == b"x" * 512
                other.pwrite(bytes([number]) * 512, 512)
            assert client.pread(512, 512) == bytes([number]) * 512
        assert server.process.poll() is None
    assert not server.control.exists()


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR2])
def test_a_signal_reloads_a_server_in_the_background(
    tmp_path: Path, signum: signal.Signals
) -> None:
    write(tmp_path, RAM)
    words = ["-U", "sock", "-P", "pid", "--log", "log", "--config", "it.toml"]  # relative paths
    assert run(*NBDFORK, *words, cwd=tmp_path).returncode == 0
    server = psutil.Process(int((tmp_path / "pid").read_text()))
    try:
        with connected(f"nbd+unix:///ram?socket={tmp_path}/sock") as client:
            client.pwrite(b"x" * 512, 0)
            write(tmp_path, RAM + NULL)
            server.send_signal(signum)
            log = tmp_path / "log"
            eventually(lambda: "reloaded: this is generation 2" in log.read_text())
            assert client.pread(512, 0) == b"x" * 512
        with connected(f"nbd+unix:///null?socket={tmp_path}/sock"):
            pass
        assert server.cwd() == "/"
        assert (tmp_path / "pid").read_text() == f"{server.pid}\n"
    finally:
        server.terminate()
        server.wait(SECONDS)


def test_exports_come_and_go_and_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 512)
    (tmp_path / "b").write_bytes(b"b" * 512)
    file = '[[export]]\nname = "file"\nplugin = "file"\nfile = "{}"\n'
    path = write(tmp_path, RAM + file.format("a"))
    with Reloadable(tmp_path, "--config", path) as server:
        with connected(server.at("file")) as old, connected(server.at("ram")) as removed:
            write(tmp_path, NULL + file.format("b"))
            server.reload()
            assert old.pread(512, 0) == b"a" * 512  # it stays with what it has
            removed.pwrite(b"x" * 512, 0)
            with connected(server.at("file")) as new, connected(server.at("null")):
                assert new.pread(512, 0) == b"b" * 512
            with pytest.raises(libnbd().Error):
                libnbd().NBD().connect_uri(server.at("ram"))


def test_a_wrong_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, RAM)
    with Reloadable(tmp_path, "--config", path) as server, connected(server.at("ram")) as client:
        client.pwrite(b"x" * 512, 0)
        before = server.workers()
        for text, message in (
            ("[[export", "it.toml:1: not TOML"),
            (RAM.replace("size", "sise"), "it.toml:4: export.sise: memory: unknown parameter"),
            (RAM.replace("1M", "2M"), "memory: its state in memory, 'disk', is that of another"),
            ("[server]\nunix = 'other'\n" + RAM, ""),  # the command line says otherwise
            ("[server]\ncontrol = 'x'\npidfile = 'other'\n" + RAM, "--pidfile is '"),
            ("", "there is no [[export]]"),
        ):
            write(tmp_path, text)
            if message:
                assert message in server.refusal()
        assert "not reloaded: " in server.log
        assert server.generation() == 1
        assert {one.pid for one in before} <= {one.pid for one in server.workers()}
        with connected(server.at("ram")) as other:
            assert other.pread(512, 0) == b"x" * 512


def test_many_exports_need_many_descriptors(tmp_path: Path) -> None:
    text = "".join(RAM.replace('"ram"', f'"{number}"') for number in range(300))
    path = write(tmp_path, text)
    few = ("sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh")
    with (
        Reloadable(tmp_path, "--config", path, within=few) as server,
        connected(server.at("299")) as client,
    ):
        client.pwrite(b"x" * 512, 0)
        server.reload()
        with connected(server.at("299")) as other:
            assert other.pread(512, 0) == b"x" * 512


def test_an_overlay_survives(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    words = ("-n", "--filter=cow", "file", tmp_path / "disk")
    with Reloadable(tmp_path, *words) as server:
        with connected(server.uri) as client:
            client.pwrite(b"x" * 70000, 4096)
        server.reload()
        with connected(server.uri) as client:
            assert client.pread(70000, 4096) == b"x" * 70000
    assert (tmp_path / "disk").read_bytes() == bytes(1 << 20)


PLUGIN = """
from nbdfork.plugin import Plugin, SharedBuffer
class Some(Plugin):
    'has {what}'
    {body}
    def get_size(self): return 512
    def pread(self, count, offset): return bytes(count)
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def one_process(self): return True", "all served by one process, whose memory cannot"),
        ("def get_ready(self): self.x = SharedBuffer(9)", "shared state without a name"),
    ],
)
def test_what_cannot_be_handed_over_refuses_in_words(
    tmp_path: Path, body: str, message: str
) -> None:
    (tmp_path / "some.py").write_text(PLUGIN.format(what="state", body=body))
    with Reloadable(tmp_path, "-n", tmp_path / "some.py") as server:
        with connected(server.uri) as client:
            assert message in server.refusal()
            assert client.pread(512, 0) == bytes(512)


def test_a_program_with_a_command_ends_with_it(tmp_path: Path) -> None:
    control = tmp_path / "control"
    ctl = " ".join([*CTL, "--control", str(control)])
    words = ["-U", "-", "--control", str(control), "null", "--run", f"{ctl} reload"]
    done = run(*NBDFORK, *words)
    assert "ends with the command of --run" in done.stderr


STEPS = """
import os, signal
from nbdfork.plugin import Plugin
mode = open({path!r}).read().split()
loads = {path!r} + '.loads'
with open(loads, 'a') as file:
    file.write('x')
number = len(open(loads).read())
def step(name):
    if mode[0] == name and number in map(int, mode[2:]):
        if mode[1] == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        if mode[1] == 'exit':
            os._exit(3)
        raise RuntimeError('no ' + name)
step('import')
class Steps(Plugin):
    'fails at a step'
    def config_complete(self): step('config_complete')
    def get_ready(self): step('get_ready')
    def after_fork(self): step('after_fork')
    def get_size(self): return 512 * number
    def pread(self, count, offset): return bytes(count)
"""


@pytest.mark.parametrize("step", ["import", "config_complete", "get_ready", "after_fork"])
@pytest.mark.parametrize("how", ["raise", "exit", "kill"])
def test_a_new_program_that_fails_in_its_rehearsal_leaves_all_as_it_was(
    tmp_path: Path, step: str, how: str
) -> None:
    mode = tmp_path / "mode"
    mode.write_text("none none")
    (tmp_path / "steps.py").write_text(STEPS.format(path=str(mode)))
    with Reloadable(tmp_path, "-n", tmp_path / "steps.py") as server:
        with connected(server.uri) as client:
            mode.write_text(f"{step} {how} 2")
            said = server.refusal()
            if how == "raise":
                assert f"no {step}" in said
            assert client.pread(512, 0) == bytes(512)
            with connected(server.uri) as other:
                assert other.get_size() == 512


@pytest.mark.parametrize("step", ["import", "get_ready", "after_fork"])
def test_a_new_program_that_fails_afterwards_tries_again_and_clients_stay(
    tmp_path: Path, step: str
) -> None:
    mode = tmp_path / "mode"
    mode.write_text("none none")
    (tmp_path / "steps.py").write_text(STEPS.format(path=str(mode)))
    with Reloadable(tmp_path, "-n", tmp_path / "steps.py") as server:
        with connected(server.uri) as client:
            mode.write_text(f"{step} raise 3 4")  # the second load is the rehearsal
            server.reload()
            assert server.log.count("cannot take over, and will try again") == 2
            assert client.pread(512, 0) == bytes(512)
            with connected(server.uri) as other:
                assert other.get_size() == 512 * 5


def test_plugins_finish_when_their_clients_have_left(tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text(
        "import os\n"
        "from nbdfork.plugin import Plugin\n"
        "class Notes(Plugin):\n"
        "    'notes its end'\n"
        f"    def finish(self): open({str(tmp_path / 'notes')!r}, 'a').write('finish ')\n"
        "    def get_size(self): return 512\n"
        "    def pread(self, count, offset): return bytes(count)\n"
    )
    notes = tmp_path / "notes"
    with Reloadable(tmp_path, "-n", tmp_path / "notes.py") as server:
        with connected(server.uri) as client:
            server.reload()
            assert notes.read_text() == "finish "  # of the rehearsal
            assert client.pread(512, 0) == bytes(512)
        eventually(lambda: notes.read_text() == "finish finish ")
    assert notes.read_text() == "finish finish finish "


def test_clients_of_an_earlier_program_stay_no_longer_than_the_drain_limit(
    tmp_path: Path,
) -> None:
    with Reloadable(tmp_path, "-n", "--drain-limit=0.2", "memory", "1M") as server:
        with connected(server.uri) as client:
            client.pwrite(b"x" * 512, 0)
            server.reload()
            eventually(lambda: not server.serving())
        with connected(server.uri) as other:
            assert other.pread(512, 0) == b"x" * 512


def test_a_signal_to_end_while_a_reload_is_under_way(tmp_path: Path) -> None:
    with Reloadable(tmp_path, "-n", "memory", "1M") as server, connected(server.uri) as client:
        client.pwrite(b"x" * 512, 0)
        server.process.send_signal(signal.SIGUSR2)
        eventually(lambda: "reloading: " in server.log)
        server.process.terminate()
        assert server.process.wait(2 * SECONDS) == 0


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        heard: list[str] = []

        def hears(text: str) -> None:
            while not any(text in line for line in heard):
                heard.extend(manager.recv(4096).decode().split("\n"))

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Server("-n", "null", environment=environment) as server:
            hears("READY=1")
            heard.clear()
            server.process.send_signal(signal.SIGUSR2)
            hears("MONOTONIC_USEC=")
            assert "RELOADING=1" in heard
            hears("READY=1")
            hears(f"MAINPID={server.pid}")


def test_a_hang_up_of_its_terminal_ends_a_server() -> None:
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with tempfile.TemporaryDirectory() as place:
        words = [*NBDFORK, "-f", "-U", f"{place}/sock", "null"]
        with subprocess.Popen(words, preexec_fn=take_terminal, stdout=theirs) as server:
            eventually(
                lambda: Path(place, "sock").exists() and psutil.Process(server.pid).children()
            )
            server.send_signal(signal.SIGHUP)
            assert server.wait(SECONDS) == 0
    os.close(ours)
    os.close(theirs)


def test_sockets_of_a_service_manager_are_kept(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    log = tmp_path / "log"
    script = (
        "import os, sys\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'nbdfork', *sys.argv[1:]])\n"
    )
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-c", script, "-n", "memory", "1M"],
            env={**os.environ, "LISTEN_FDS": "1"},
            preexec_fn=lambda: os.dup2(listener.fileno(), 3),
            close_fds=False,
            stderr=stderr,
        )
    try:
        uri = f"nbd://127.0.0.1:{listener.getsockname()[1]}"
        with connected(uri) as client:
            client.pwrite(b"x" * 512, 0)
            server.send_signal(signal.SIGUSR2)
            eventually(lambda: "reloaded: this is generation 2" in log.read_text())
            with connected(uri) as other:
                assert other.pread(512, 0) == b"x" * 512
    finally:
        server.terminate()
        assert server.wait(SECONDS) == 0
        listener.close()
