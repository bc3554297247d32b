"""The control socket and nbdforkctl: what is seen of clients, and orders for the server."""

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import (
    SECONDS,
    Server,
    eventually,
    let_all_reach,
    need,
    need_modules,
    output,
    run,
    title,
)
from tests.support.libnbd import connected

CTL = [sys.executable, "-m", "nbdfork.ctl"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def server(place: Path) -> Iterator[Server]:
    with Server("-n", "--control", place, "memory", "1M") as found:
        yield found


def ctl(place: Path, *words: str) -> str:
    return output(*CTL, "--control", place, *words)


def refusal(place: Path, *words: str) -> str:
    done = run(*CTL, "--control", place, *words)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def status(place: Path) -> Any:
    return json.loads(ctl(place, "status", "--json"))


def spoken(place: Path, data: bytes) -> bytes:
    """Return all that the server says to *data*."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(place))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        found = b""
        while more := client.recv(65536):
            found += more
        return found


@pytest.mark.parametrize(("sandbox", "shown"), [("off", "off"), ("auto", "no new privileges; ")])
def test_what_bounds_workers_is_told(sandbox: str, shown: str, place: Path) -> None:
    options = (f"--sandbox={sandbox}", "--memory-budget=64M", "--control", place)
    with Server("-n", *options, "memory", "1M"):
        found = status(place)["server"]
        assert found["sandbox"].startswith(shown)
        assert found["memory_budget"] == 64 << 20


def test_what_clients_do_is_seen(server: Server, place: Path) -> None:
    with connected(server.uri) as client:
        client.pwrite(bytes(4096), 0)
        client.pread(512, 0)
        found = status(place)
        (seen,) = found["clients"]
        assert (seen["requests"], seen["bytes_read"], seen["bytes_written"]) == (2, 512, 4096)
        assert seen["peer"].startswith(f"unix pid {os.getpid()} ")
        assert found["server"]["pid"] == server.pid
        assert str(seen["pid"]) in ctl(place, "status")
    eventually(lambda: status(place)["clients"] == [])
    totals = status(place)["totals"]
    assert (totals["clients"], totals["requests"], totals["bytes_written"]) == (1, 2, 4096)


def test_metrics_are_scraped_under_load(server: Server, place: Path) -> None:
    need_modules("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    with connected(server.uri) as client:
        before = 0.0
        for _ in range(3):
            for _ in range(50):
                client.pread(4096, 0)
            text = ctl(place, "metrics")
            families = {one.name: one for one in text_string_to_metric_families(text)}
            assert families["nbdfork_requests"].samples[0].value == before + 50
            before += 50


def test_one_client_is_disconnected_and_others_stay(server: Server, place: Path) -> None:
    with connected(server.uri) as other:
        with connected(server.uri) as client:
            assert client.pread(512, 0) == bytes(512)
            mine = max(status(place)["clients"], key=lambda one: one["since"])
            ctl(place, "disconnect", mine["id"])
            eventually(lambda: len(status(place)["clients"]) == 1)
        assert other.pread(512, 0) == bytes(512)
    assert "is disconnected" in server.log
    idle = next(one["pid"] for one in status(place)["workers"] if one["state"] == "idle")
    for wrong in (str(idle), "1", "x"):
        assert f"there is no client {wrong}" in refusal(place, "disconnect", wrong)


def test_a_drained_server_ends_with_its_clients(server: Server, place: Path) -> None:
    with connected(server.uri) as client:
        assert "its clients, 1 now" in ctl(place, "drain")
        eventually(lambda: len(server.workers()) == 2)  # its own, and the control socket's
        assert run("nbdinfo", server.uri).returncode != 0
        assert status(place)["draining"]
        client.pwrite(b"x" * 512, 0)
        assert server.process.poll() is None
    assert server.process.wait(SECONDS) == 0
    assert not place.exists()


def test_clients_stay_no_longer_than_the_drain_limit(place: Path) -> None:
    with Server("-n", "--control", place, "--drain-limit", "0.2", "memory", "1M") as server:
        with connected(server.uri) as client:
            client.pwrite(b"x" * 512, 0)
            ctl(place, "drain")
            assert server.process.wait(SECONDS) == 0


def test_more_is_logged_from_now_on(server: Server, place: Path) -> None:
    ctl(place, "log-level", "debug")

    def is_logged() -> bool:
        with connected(server.uri):
            pass
        return "client unix pid" in server.log

    eventually(is_logged)
    assert run(*CTL, "--control", place, "log-level", "loud").returncode == 2


def test_its_process_can_be_killed(server: Server, place: Path) -> None:
    with connected(server.uri) as client:
        for _ in range(2):
            child = next(one for one in server.workers() if title(one) == "nbdfork: control")
            child.kill()
            child.wait(SECONDS)
            assert len(status(place)["clients"]) == 1
        assert client.pread(512, 0) == bytes(512)


def test_it_has_no_way_to_clients(server: Server) -> None:
    """No socket of a client, no listening socket, and no way to write to the scoreboard."""
    with connected(server.uri):
        (child,) = [one for one in server.workers() if title(one) == "nbdfork: control"]
        listening = line_of(output("ss", "-xlp"), str(server.socket))
        assert f"pid={server.pid}," in listening
        assert f"pid={child.pid}," not in listening
        maps = Path(f"/proc/{child.pid}/maps").read_text()
        shared = [line for line in maps.splitlines() if "nbdfork-scoreboard" in line]
        assert [line.split()[1] for line in shared] == ["r--s"]
        opened = {os.readlink(link) for link in Path(f"/proc/{child.pid}/fd").iterdir()}
        assert not any("nbdfork-scoreboard" in link for link in opened)


def line_of(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


def test_others_get_no_answer(server: Server, place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    let_all_reach(place.parent)
    place.chmod(0o666)
    words = [*CTL, "--control", str(place), "status"]
    done = run("setpriv", "--reuid=65534", "--clear-groups", *words, cwd="/")
    assert done.returncode == 1
    assert "only root and the server's own user" in done.stderr
    assert "of user 65534 is refused at the control socket" in server.log


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /nowhere HTTP/1.1\r\n\r\n", 404),
        (b"POST /jump HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404),
        (b"POST /drain HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 404),
        (b"POST /drain HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", 400),
        (b"POST /drain HTTP/1.1\r\nContent-Length: -5\r\n\r\n{", 400),
        (b"POST /drain HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{", 400),
        (b"POST /log-level HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 409),
        (b"PUT / HTTP/1.1\r\n\r\n", 501),
        (b"\0\xff garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    ],
)
def test_what_is_no_order_is_refused(
    server: Server, place: Path, request_: bytes, code: int
) -> None:
    assert re.match(
        rb"(HTTP/1\.[01] )?%d|.*Error code: %d" % (code, code), spoken(place, request_), re.S
    )
    assert status(place)["draining"] is False


def test_a_server_that_is_not_there(place: Path) -> None:
    assert "No such file" in refusal(place, "status")


def test_several_clients_of_one_process(place: Path, tmp_path: Path) -> None:
    (tmp_path / "together.py").write_text(
        "from nbdfork.plugin import Plugin\n"
        "class Together(Plugin):\n"
        "    'one process'\n"
        "    def one_process(self): return True\n"
        "    def get_size(self): return 512\n"
        "    def pread(self, count, offset): return bytes(count)\n"
    )
    with Server("-n", "--control", place, tmp_path / "together.py") as server:
        with connected(server.uri), connected(server.uri):
            clients = eventually(lambda: len(status(place)["clients"]) == 2) and status(place)
            first = clients["clients"][0]["id"]
            assert "." in first
            assert "there is no client" in refusal(place, "disconnect", first)
            pid = first.partition(".")[0]
            assert "serves several clients" in refusal(place, "disconnect", pid)


# -- people -----------------------------------------------------------------------------------


def test_top_follows_itself_where_there_is_no_terminal(server: Server, place: Path) -> None:
    with connected(server.uri):
        text = ctl(place, "top", "--count", "2", "--interval", "0.1", "--sort", "peer")
    pictures = text.strip().split("\n\nnbdfork")
    assert len(pictures) == 2
    assert all(f"unix pid {os.getpid()}" in picture for picture in pictures)
    assert "\033" not in text


def test_top_on_a_terminal_takes_keys(server: Server, place: Path) -> None:
    ours, theirs = pty.openpty()
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    environment = {**os.environ, "COLUMNS": "100", "LINES": "20", "TERM": "xterm"}
    words = [*CTL, "--control", str(place), "top", "--interval", "0.1"]
    seen = ""
    with connected(server.uri):
        with subprocess.Popen(words, stdin=theirs, stdout=theirs, env=environment) as top:
            os.close(theirs)

            def shows(text: str) -> bool:
                nonlocal seen
                while any(event & select.POLLIN for _, event in poll.poll(0)):
                    seen += os.read(ours, 65536).decode()
                return text in seen

            eventually(lambda: shows(f"unix pid {os.getpid()}"))
            seen = ""
            os.write(ours, b"o")
            eventually(lambda: shows("sort by:"))
            assert max(len(line) for line in seen.split("\r\n")) < 120
            os.write(ours, b"q")
            eventually(lambda: shows("\033[?1049l"))  # the terminal is as it was
            assert top.wait(SECONDS) == 0
    os.close(ours)


def forward(place: Path) -> int:
    """Let a TCP port on loopback lead to the socket at *place*; return the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def carry(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(place))
            for pair in ((client, far), (far, client)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def test_the_page_shows_the_status_in_a_browser(
    server: Server, place: Path, tmp_path: Path
) -> None:
    need("chromium")
    page = spoken(place, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert not re.search(rb"https?://|src=|@import", page)  # nothing is fetched from elsewhere
    with connected(server.uri):
        shown = output(
            "chromium",
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1500"),
            *(f"--user-data-dir={tmp_path}", "--window-size=400,800", "--dump-dom"),
            f"http://127.0.0.1:{forward(place)}/",
        )
    assert f"unix pid {os.getpid()}" in shown
    assert re.search(r"<b>1 / 256</b>", shown)
    assert re.search(r'<p id="error" role="alert"></p>', shown)
