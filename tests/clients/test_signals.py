"""Signals, and what a service manager is told of the life of a server."""

import signal
import socket
from pathlib import Path

import pytest

from tests.support.harness import SECONDS, Server, eventually
from tests.support.libnbd import connected


@pytest.mark.parametrize("signum", [signal.SIGALRM, signal.SIGIO, signal.SIGPROF])
def test_signals_that_mean_nothing_are_told_of(signum: signal.Signals) -> None:
    with Server("-n", "null", "1M") as server, connected(server.uri) as client:
        server.process.send_signal(signum)
        for worker in server.workers():
            worker.send_signal(signum)
        eventually(lambda: f"the signal {signum.name} means nothing here" in server.log)
        assert client.pread(512, 0) == bytes(512)
        with connected(server.uri):
            pass


def test_usr1_opens_the_log_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Server("--log", log, "null") as server:
        log.rename(tmp_path / "old")
        server.process.send_signal(signal.SIGUSR1)
        eventually(log.exists)
        eventually(lambda: "SIGUSR1: the log is opened again" in log.read_text())
    with Server("null") as server:
        server.process.send_signal(signal.SIGUSR1)
        eventually(lambda: "SIGUSR1: the log goes where it went" in server.log)


def test_a_service_manager_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        heard: list[str] = []

        def hears(text: str) -> None:
            while text not in heard:
                heard.extend(manager.recv(4096).decode().split("\n"))

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with Server("-n", "null", environment=environment) as server:
            hears("READY=1")
            hears(f"MAINPID={server.pid}")
            hears("STATUS=Serving 0 clients")
            with connected(server.uri):
                hears("STATUS=Serving 1 client")
            heard.clear()
            hears("WATCHDOG=1")
        hears("STOPPING=1")
