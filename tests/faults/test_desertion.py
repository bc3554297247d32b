"""A worker that goes, or that can serve nobody any more, costs its client and is never silent."""

import socket
from pathlib import Path

import psutil
import pytest

from tests.support.harness import Server, eventually, nbdfork, title
from tests.support.libnbd import connected, libnbd
from tests.support.paths import SAMPLES

DESERTING = SAMPLES / "deserting.py"
EXCEPTIONS = ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "Desertion"]


@pytest.mark.parametrize("way", ["exit", "failure", *EXCEPTIONS])
def test_a_worker_that_ends_in_the_middle_is_told_of(way: str) -> None:
    with Server("-n", DESERTING, f"way={way}") as server, connected(server.uri) as other:
        with pytest.raises(Exception, match="CLOSED"), connected(server.uri) as client:
            with pytest.raises(Exception, match="pread"):
                client.pread(512, 0)
        assert other.pread(512, 512) == bytes(512)
        if way in EXCEPTIONS:
            eventually(lambda: f"is lost: {way} in its worker" in server.log)
            eventually(lambda: "in pread" in server.log)  # the traceback tells in which call
        else:
            status = {"exit": 0, "failure": 1}[way]
            said = f"exited with status {status} in the middle of its work"
            eventually(lambda: said in server.log)
            line = next(line for line in server.log.splitlines() if said in line)
            assert "serving unix pid" in line


STARTING = {
    "the file": "import sys\nsys.exit(0)\nfrom nbdfork.plugin import Plugin\n{body}",
    "config_complete": "{body}    def config_complete(self):\n        sys.exit(0)\n",
    "get_ready": "{body}    def get_ready(self):\n        sys.exit(0)\n",
    "config": "{body}    def config(self, key, value):\n        sys.exit(0)\n",
}
BODY = """import sys
from nbdfork.plugin import Plugin
class Quitter(Plugin):
    def get_size(self):
        return 512
    def pread(self, count, offset):
        return bytes(count)
"""


@pytest.mark.parametrize("where", STARTING)
@pytest.mark.parametrize("mode", [["-f"], []], ids=["foreground", "background"])
def test_a_plugin_cannot_end_the_start_in_silence(
    where: str, mode: list[str], tmp_path: Path
) -> None:
    plugin = tmp_path / "quitter.py"
    plugin.write_text(STARTING[where].format(body=BODY))
    done = nbdfork(
        *mode, "-U", tmp_path / "socket", plugin, "key=value" if where == "config" else "-r"
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "called sys.exit(0)" in line
    assert where in line or "while it was loaded" in line
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("way", ["exit", "failure", *EXCEPTIONS])
def test_a_worker_that_ends_before_its_first_client_is_told_of(way: str, tmp_path: Path) -> None:
    done = nbdfork("-f", "-U", tmp_path / "socket", DESERTING, f"fork-way={way}")
    assert done.returncode == 1
    assert f"{way}" in done.stderr or "in the middle of its work" in done.stderr
    assert "nbdfork: error: a worker" in done.stderr


def serves_again(server: Server) -> bool:
    """Return whether clients can connect; they cannot until the sockets have been made anew."""
    try:
        with connected(server.uri) as client:
            return bool(client.pread(512, 512) == bytes(512))
    except Exception:
        return False


def idle(server: Server) -> list[psutil.Process]:
    """Return the workers once none has a client, or is about to end because of one."""
    workers = server.workers()
    return workers if all(title(one) == "nbdfork: worker idle" for one in workers) else []


@pytest.mark.parametrize("way", ["close", "shutdown"])
@pytest.mark.parametrize("clients_per_worker", ["0", "1", "3"])
@pytest.mark.parametrize("where", ["unix", "tcp", "any port"])
def test_sockets_that_a_plugin_spoils_are_made_anew(
    way: str, clients_per_worker: str, where: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    options = ("-n", "--clients-per-worker", clients_per_worker, "--spare-workers", "1")
    plugin = (DESERTING, f"listeners={way}", f"mark={mark}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    listen = {
        "unix": None,
        "tcp": ("-i", "127.0.0.1", "-p", port),
        "any port": ("-i", "127.0.0.1", "-p", "0"),
    }[where]
    with Server(*options, *plugin, listen=listen) as server:
        with connected(server.uri) as client:
            assert client.pread(512, 512) == bytes(512)
        settled = eventually(lambda: idle(server))
        mark.touch()  # the next worker finds it
        for worker in settled:
            worker.kill()
        eventually(lambda: not mark.exists())
        eventually(lambda: serves_again(server))
        said = "cannot accept clients: " if way == "close" else "does not listen any more"
        eventually(lambda: said in server.log)


def test_a_plugin_that_hangs_is_told_of_and_killed() -> None:
    limits = ("--hang-warning", "0.5", "--hang-limit", "2")
    with Server("-n", *limits, DESERTING, "way=hang") as server, connected(server.uri) as other:
        with pytest.raises(Exception, match="CLOSED"), connected(server.uri) as client:
            with pytest.raises(Exception, match="pread"):
                client.pread(512, 0)
        assert other.pread(512, 512) == bytes(512)
        assert "stack: " in server.log
        assert "in pread" in server.log
        assert "has been busy for 2 seconds: killed" in server.log
        eventually(lambda: "was killed by signal 9" in server.log)
        assert server.log.count("has been busy") == 2


def test_a_plugin_that_hangs_is_left_alone_by_default() -> None:
    with Server("-n", "--hang-warning", "0.5", DESERTING, "way=hang") as server:
        client = libnbd().NBD()
        client.connect_uri(server.uri)
        client.aio_pread(libnbd().Buffer(512), 0)
        eventually(lambda: "in pread" in server.log)
        (worker,) = server.serving()
        worker.kill()
        eventually(lambda: "was killed by signal 9" in server.log)
        assert server.log.count("has been busy") == 1
