"""What a plugin may want of its server: to stop it, to end a client, to know how it runs."""

import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import nbdfork
from nbdfork.backend.load import find
from nbdfork.plugin import ConfigError
from tests.samples.handle import DISCONNECT, FORCE, STOP, WAIT, WHEN
from tests.samples.handle import Handle as Sample
from tests.support import harness
from tests.support.harness import NBDFORK, SECONDS, Server, eventually, is_alive, receive
from tests.support.libnbd import connected, libnbd
from tests.support.paths import SAMPLES

HANDLE = SAMPLES / "handle.py"
GREETING = 152
SUCCESS = struct.pack(">II", 0x67446698, 0)


def read(cookie: bytes, offset: int = 0, length: int = 64) -> bytes:
    """Return a READ."""
    return struct.pack(">IHH8sQI", 0x25609513, 0, 0, cookie, offset, length)


def three(offset: int) -> bytes:
    """Return three READs, the second of which makes the plugin do something."""
    return read(b"first---") + read(b"second--", offset) + read(b"third---")


def cookies(replies: bytes) -> list[bytes]:
    """Return the cookies of successful replies to READs of 64 bytes."""
    starts = range(0, len(replies), 80)
    assert all(replies[start : start + 8] == SUCCESS for start in starts)
    return [replies[start + 8 : start + 16] for start in starts]


@contextmanager
def greeted(path: Path | str | None) -> Iterator[socket.socket]:
    """Connect as an oldstyle client."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        assert len(receive(client, GREETING)) == GREETING
        yield client


def single(sent: bytes, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Serve one client, on pipes, that sends all it has at once."""
    return subprocess.run(
        [*NBDFORK, "-s", *map(str, words)],
        input=sent,
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )


# -- stopping the server ----------------------------------------------------------------------


@pytest.mark.parametrize("when", [when for when in WHEN if when not in ("never", "open")])
@pytest.mark.parametrize("one", ["yes", "no"])
def test_a_stop_is_remembered_until_there_is_a_server(tmp_path: Path, when: str, one: str) -> None:
    words = ("-f", "-U", tmp_path / "sock", HANDLE, f"stop={when}", f"one={one}")
    done = harness.nbdfork(*words, f"log={tmp_path / 'log'}")
    assert (done.returncode, done.stderr) == (0, "")
    calls = (tmp_path / "log").read_text().split()
    assert calls[-1] == "unload"
    assert calls.count("ending") == calls.count("cleanup") > 0


@pytest.mark.parametrize("options", [(), ("-t", "4")], ids=["one by one", "in threads"])
def test_a_client_makes_the_plugin_stop_the_server(options: tuple[str, ...]) -> None:
    with Server(*options, HANDLE) as server, greeted(server.socket) as other:
        with greeted(server.socket) as client:
            client.sendall(three(STOP))
            assert sorted(cookies(receive(client, 3 * 80))) == [
                b"first---",
                b"second--",
                b"third---",
            ]
            assert receive(client, 1) == b""
        assert receive(other, 1) == b""
        assert server.process.wait(SECONDS) == 0


@pytest.mark.parametrize("when", WHEN[1:])
def test_a_stop_of_a_single_server(tmp_path: Path, when: str) -> None:
    done = single(read(b"only one"), HANDLE, f"stop={when}", f"log={tmp_path / 'log'}")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "log").read_text().split()[-3:] == ["ending", "cleanup", "unload"]


def test_a_stop_of_a_server_in_a_program() -> None:
    with nbdfork.serve(Sample(), newstyle=False) as server:
        process = psutil.Process(server.pid)
        with greeted(server.unix_path) as client:
            client.sendall(read(b"stop now", STOP))
            assert cookies(receive(client, 80)) == [b"stop now"]
        eventually(lambda: not is_alive(process))
    with nbdfork.serve(Sample(stop="get_ready")) as server:
        process = psutil.Process(server.pid)
        eventually(lambda: not is_alive(process))


# -- ending a client --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-t", "4")], ids=["one by one", "in threads"])
@pytest.mark.parametrize("one", ["yes", "no"])
def test_a_client_is_ended_when_it_has_its_answers(options: tuple[str, ...], one: str) -> None:
    with Server(*options, HANDLE, f"one={one}") as server, greeted(server.socket) as other:
        with greeted(server.socket) as client:
            client.sendall(three(DISCONNECT))
            replies = receive(client, 4 * 80)
        assert sorted(cookies(replies)) == [b"first---", b"second--", b"third---"]
        other.sendall(read(b"go on---"))
        assert cookies(receive(other, 80)) == [b"go on---"]


@pytest.mark.parametrize("one", ["yes", "no"])
def test_a_client_is_ended_at_once(one: str) -> None:
    with Server("-v", HANDLE, f"one={one}") as server, greeted(server.socket) as other:
        with greeted(server.socket) as client:
            client.sendall(three(FORCE))
            assert receive(client, 3 * 80) == b""
            eventually(lambda: "the plugin ends the connection" in server.log)
        assert server.log.count("pread(") == 2  # the third one is not carried out any more
        other.sendall(read(b"go on---"))
        assert cookies(receive(other, 80)) == [b"go on---"]


def test_a_client_with_threads_is_ended_at_once() -> None:
    with Server("-t", "4", HANDLE) as server, greeted(server.socket) as client:
        client.sendall(read(b"end now!", FORCE))
        assert receive(client, 80) == b""


@pytest.mark.parametrize(("offset", "answers"), [(DISCONNECT, 3), (FORCE, 0)])
def test_a_client_on_pipes_is_ended(offset: int, answers: int) -> None:
    done = single(three(offset), HANDLE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(cookies(done.stdout[GREETING:])) == answers


@pytest.mark.parametrize("offset", [DISCONNECT, FORCE])
def test_a_client_with_tls_is_ended(tmp_path: Path, offset: int) -> None:
    keys = tmp_path / "keys.psk"
    keys.write_text("alice:" + "5a" * 32 + "\n")
    with Server("--tls=require", f"--tls-psk={keys}", HANDLE) as server:
        uri = server.uri.replace("://", "://alice@")
        client = libnbd().NBD()
        client.set_uri_allow_local_file(True)
        client.connect_uri(uri)
        if offset == DISCONNECT:
            assert len(client.pread(512, offset)) == 512
        else:
            with pytest.raises(libnbd().Error):
                client.pread(512, offset)
        with pytest.raises(libnbd().Error):
            client.pread(512, 0)
        del client
        with connected(uri) as another:
            assert another.pread(6, 0) == b"single"


# -- knowing how it runs ----------------------------------------------------------------------


def test_a_server_in_the_foreground_tells_how_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Server(HANDLE, f"log={log}") as server, greeted(server.socket) as client:
        client.sendall(read(b"what is?"))
        # The tests give it no standard input, and read the others.
        assert receive(client, 80)[16:].rstrip(b"\0") == b"single=False stdio=-++ ending=True"
    assert log.read_text().splitlines()[0] == "at start: single=False stdio=-++ ending=False"


def test_a_single_server_tells_how_it_runs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = single(read(b"what is?"), HANDLE, f"log={log}")
    assert done.stdout[GREETING + 16 :].rstrip(b"\0") == b"single=True stdio=-++ ending=True"
    assert log.read_text().splitlines()[0] == "at start: single=True stdio=-++ ending=False"


def test_a_server_in_the_background_has_no_stdio(tmp_path: Path) -> None:
    sock, pidfile, log = tmp_path / "sock", tmp_path / "pid", tmp_path / "log"
    words = ("-P", pidfile, "-U", sock, HANDLE, f"log={log}")
    assert harness.nbdfork(*words, stdin=subprocess.PIPE).returncode == 0
    with greeted(sock) as client:
        client.sendall(read(b"what is?"))
        assert receive(client, 80)[16:].rstrip(b"\0") == b"single=False stdio=--- ending=True"
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    eventually(lambda: "unload" in log.read_text())
    assert log.read_text().splitlines()[0] == "at start: single=False stdio=+++ ending=False"


@pytest.mark.parametrize("words", [(), ("one=yes",)], ids=["many processes", "one process"])
def test_the_descriptor_tells_the_end_while_the_main_thread_waits(words: tuple[str, ...]) -> None:
    with Server(HANDLE, *words) as server, greeted(server.socket) as client:
        client.sendall(read(b"wait----", WAIT))
        assert eventually(server.serving)
        server.process.send_signal(signal.SIGTERM)
        assert cookies(receive(client, 80)) == [b"wait----"]


def test_the_descriptor_tells_the_end_of_a_worker_that_nobody_has_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Server("--spare-workers=1", HANDLE, f"log={log}") as server:
        with greeted(server.socket):
            pass
        eventually(lambda: "ending\ncleanup" in log.read_text())


# -- the name of the handle -------------------------------------------------------------------


def test_a_parameter_cannot_take_the_place_of_the_handle(tmp_path: Path) -> None:
    path = tmp_path / "remote.py"
    path.write_text(
        "from nbdfork.plugin import Parameter, Plugin\n"
        "class Remote(Plugin):\n"
        "    server = Parameter(str, metavar='HOST', help='where the disk is')\n"
    )
    with pytest.raises(ConfigError, match=r"Remote.server is a part of .* say key='server'"):
        find(str(path))
