"""What a plugin raises: the log is told all of it, a client what it may know, and nobody dies."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import NBDFORK, SECONDS, Server, eventually, nbdfork, need, run
from tests.support.libnbd import connected
from tests.support.paths import SAMPLES
from tests.support.raw import Client, reason

FAILING = SAMPLES / "failing.py"

REFERENCE = re.compile(r"RuntimeError in the plugin \(reference ([0-9a-f]{6})\)")


def told(server: Server) -> str:
    """Return what qemu says of an export that it cannot have: the server's words are in it."""
    need("qemu-img")
    done = run("qemu-img", "info", server.uri)
    assert done.returncode != 0
    return done.stderr


# -- bugs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["open", "size", "default"])
def test_of_a_bug_a_client_is_told_the_kind_and_where_to_look(method: str) -> None:
    with Server("-n", FAILING, f"{method}-error=/etc/secret") as server:
        match = REFERENCE.search(text := told(server))
        assert match is not None
        assert "secret" not in text
        entry = server.log[server.log.index(f"(reference {match[1]})") :]
        assert "RuntimeError: /etc/secret" in entry
        assert "Traceback" in entry


def test_so_it_is_for_a_request() -> None:
    with Server("-n", FAILING, "pread-error=/etc/secret") as server:
        error, text = reason(server)
        match = REFERENCE.fullmatch(text)
        assert match is not None
        assert error == 5
        assert f"READ of 512 bytes at 0: {text}" in server.log
        assert "RuntimeError: /etc/secret" in server.log


def test_so_it_is_for_a_list() -> None:
    with Server("-n", FAILING, "list-error=/etc/secret") as server:
        done = run("nbdinfo", "--list", server.uri)
        assert done.returncode != 0
        assert "secret" not in done.stderr
        assert REFERENCE.search(server.log)


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-n",)], ids=["oldstyle", "newstyle"])
def test_a_plugin_that_refuses_a_client(options: tuple[str, ...]) -> None:
    with Server(*options, FAILING, "preconnect-error=EPERM:not from there") as server:
        client = Client(server)
        assert client.socket.recv(1) == b""
        client.close()
        (line,) = eventually(lambda: server.log).splitlines()
        assert " warning: unix pid " in line
        assert line.endswith(": the plugin refuses the client: not from there")


@pytest.mark.parametrize("options", [(), ("-n",)], ids=["oldstyle", "newstyle"])
def test_a_plugin_that_fails_when_a_client_comes(options: tuple[str, ...]) -> None:
    with Server(*options, FAILING, "preconnect-error=/etc/secret") as server:
        client = Client(server)
        assert client.socket.recv(1) == b""
        client.close()
        assert eventually(lambda: "RuntimeError: /etc/secret" in server.log)
        assert REFERENCE.search(server.log)
        assert "uid 0: failing: preconnect: RuntimeError in the" in server.log.splitlines()[0]
        assert "refuses" not in server.log


# -- texts that cannot be written as they are -------------------------------------------------


@pytest.mark.parametrize("method", ["open", "size"])
def test_a_text_that_is_not_utf_8_is_a_reply(method: str) -> None:
    with Server("-n", FAILING, f"{method}-error=EIO:/disk-\udcff is gone") as server:
        for _ in range(2):
            assert r"the export cannot be opened: /disk-\udcff is gone" in told(server)
        assert r"/disk-\udcff is gone" in server.log
        assert "killed" not in server.log
        assert "Traceback" not in server.log


def test_so_it_is_in_the_answer_to_a_request() -> None:
    with Server("-n", FAILING, "pread-error=EIO:/disk-\udcff is gone") as server:
        assert reason(server) == (5, r"/disk-\udcff is gone")


def test_so_it_is_in_a_log_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ("--log", log, "-n", FAILING, "open-error=EIO:/disk-\udcff is gone")
    with Server(*words) as server:
        assert r"/disk-\udcff is gone" in told(server)
    assert r"/disk-\udcff is gone" in log.read_text()


@pytest.mark.parametrize("options", [("-f",), ()], ids=["foreground", "background"])
@pytest.mark.parametrize("method", ["ready", "fork"])
def test_so_it_is_for_the_user_who_starts_the_server(
    options: tuple[str, ...], method: str, tmp_path: Path
) -> None:
    where = ("-U", str(tmp_path / "sock"))
    error = f"{method}-error=EIO:/disk-\udcff is gone"
    done = nbdfork(*options, *where, FAILING, error, errors="surrogateescape")
    assert done.returncode == 1
    assert re.search(r"/disk-(\\udcff|\udcff) is gone", done.stderr)


# -- the client is gone -----------------------------------------------------------------------


@pytest.mark.parametrize("one", ["False", "True"])
def test_there_is_no_client_when_the_last_one_has_left(tmp_path: Path, one: str) -> None:
    plugin, seen = tmp_path / "asks.py", tmp_path / "seen"
    plugin.write_text(
        "from nbdfork.plugin import Plugin, client\n"
        "class Asks(Plugin):\n"
        f"    def one_process(self): return {one}\n"
        "    def get_size(self): return 512\n"
        "    def pread(self, count, offset): return bytes(count)\n"
        "    def note(self, when):\n"
        f"        with open({str(seen)!r}, 'a') as seen:\n"
        "            print(when, bool(client.current()), client.descriptor() >= 0, file=seen)\n"
        "    def close(self): self.note('close')\n"
        "    def cleanup(self): self.note('cleanup')\n"
        "    def unload(self): self.note('unload')\n"
    )
    with Server("--spare-workers=1", plugin) as server, connected(server.uri) as client:
        client.pread(512, 0)
    lines = seen.read_text().splitlines()
    assert "close True True" in lines
    assert set(lines) == {"close True True", "cleanup False False", "unload False False"}


def test_so_it_is_on_pipes(tmp_path: Path) -> None:
    plugin = tmp_path / "asks.py"
    plugin.write_text(
        "import sys\n"
        "from nbdfork.plugin import Plugin, client\n"
        "class Asks(Plugin):\n"
        "    def get_size(self): return 512\n"
        "    def pread(self, count, offset): return bytes(count)\n"
        "    def close(self): print('close', client.descriptor() >= 0, file=sys.stderr)\n"
        "    def cleanup(self): print('cleanup', client.descriptor() >= 0, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [*NBDFORK, "-s", plugin], input=b"", capture_output=True, check=False, timeout=SECONDS
    )
    lines = done.stderr.decode().splitlines()
    assert [line for line in lines if "greeted" not in line] == ["close True", "cleanup False"]
