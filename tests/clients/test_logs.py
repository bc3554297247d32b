"""The log of a running server: who and which in each line, and its rotation by logrotate."""

import os
import re
import time
from pathlib import Path

import pytest

from tests.support.harness import Server, eventually, need, output
from tests.support.libnbd import connected, fails

LINE = re.compile(
    r"(?P<time>\S+) nbdfork\[(?P<pid>\d+)\] (?P<level>\w+): (?P<peer>.+?) \"(?P<export>.*?)\": "
    r"(?P<text>.+)"
)
ERRORS = ("--filter=error", "memory", "1M", "error-pread-rate=100%")


def fail(server: Server, offset: int) -> None:
    """Have a client make a request that fails."""
    with connected(server.uri) as client, fails("EIO"):
        client.pread(512, offset)


def test_a_line_says_who_and_which() -> None:
    listen = ("-p", "0", "-i", "127.0.0.1")
    with Server("-n", "-e", "my disk", *ERRORS, listen=listen) as server:
        fail(server, 512)
        match = eventually(lambda: LINE.search(server.log))
        assert match["level"] == "error"
        assert re.fullmatch(r"127\.0\.0\.1:\d+", match["peer"])
        assert match["export"] == "my disk"
        assert int(match["pid"]) != server.pid
        assert match["text"].startswith("READ of 512 bytes at 512: ")


def test_logrotate_renames_the_log(tmp_path: Path) -> None:
    need("logrotate")
    log, settings = tmp_path / "log", tmp_path / "settings"
    tmp_path.chmod(0o755)  # logrotate refuses a directory that others can write to
    settings.write_text(
        f"{log} {{\n  su {os.getuid()} {os.getgid()}\n  create 0600\n  rotate 3\n}}\n"
    )
    settings.chmod(0o600)
    with Server("--log", log, *ERRORS) as server, connected(server.uri) as client:
        fail(server, 0)
        with fails("EIO"):
            client.pread(512, 512)
        assert eventually(lambda: log.read_text().count("READ of") == 2)
        output("logrotate", "-f", "-s", tmp_path / "state", settings)
        assert log.read_text() == ""
        fail(server, 1024)
        with fails("EIO"):  # by a worker that has written to the old file
            client.pread(512, 1536)
        assert eventually(lambda: log.read_text().count("READ of") == 2)
        assert Path(f"{log}.1").read_text().count("READ of") == 2
        assert server.log == ""


def test_logrotate_copies_the_log_and_cuts_it_off(tmp_path: Path) -> None:
    """What is written afterwards is at the file's begin, with nothing lost in between."""
    need("logrotate")
    log, settings = tmp_path / "log", tmp_path / "settings"
    tmp_path.chmod(0o755)
    settings.write_text(f"{log} {{\n  su {os.getuid()} {os.getgid()}\n  copytruncate\n}}\n")
    settings.chmod(0o600)
    with Server("--log", log, *ERRORS) as server, connected(server.uri) as client:
        with fails("EIO"):
            client.pread(512, 512)
        eventually(lambda: "READ of 512 bytes at 512" in log.read_text())
        output("logrotate", "-f", "-s", tmp_path / "state", settings)
        assert log.read_text() == ""
        with fails("EIO"):  # by the worker that has written before
            client.pread(512, 1536)
        eventually(lambda: "READ of 512 bytes at 1536" in log.read_text())
        assert b"\0" not in log.read_bytes()  # as it would be if they wrote on at the old place


@pytest.mark.parametrize("sandbox", ["off", "auto"])
def test_clients_are_served_while_nobody_reads_the_log(sandbox: str) -> None:
    reader, writer = os.pipe()
    with Server("-v", f"--sandbox={sandbox}", "memory", "1M", stderr=writer) as server:
        os.close(writer)
        began = time.monotonic()
        for _ in range(3):  # each by another worker, and the supervisor has something to say too
            with connected(server.uri) as client:
                for _ in range(1000):  # a line for each
                    client.pread(512, 0)
        assert time.monotonic() - began < 15
        os.set_blocking(reader, False)
        said = bytearray()
        with open(reader, "rb", buffering=0) as log:
            while part := log.read(1 << 20):
                said += part
            with connected(server.uri) as client:
                client.pread(512, 0)

            def is_told() -> bool:  # by whoever writes first when there is room again
                said.extend(log.read(1 << 20) or b"")
                return b"messages before this one are lost" in said

            eventually(is_told)
