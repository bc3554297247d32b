"""The log filter: nbdkit's lines, of the clients of all workers."""

import logging
import re
from pathlib import Path

import pytest

from tests.support.beside import EVERYTHING, FAST, SERVERS, outcomes
from tests.support.disks import MIB, SIZE, Disk, gate
from tests.support.harness import Server, nbdfork, need, output
from tests.support.libnbd import connected
from tests.support.noise import noise


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    done = nbdfork("-f", "--filter=log", "null", f"logfile={tmp_path}")
    assert done.returncode == 1
    assert f"log: logfile={tmp_path}: Is a directory" in done.stderr


def test_a_log_that_is_full_lets_no_request_fail(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(noise(SIZE))
    closed = []
    disk.close = lambda: closed.append(True)  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        logged = gate(disk, "log", "logfile=/dev/full")
        logged.pwrite(memoryview(b"new"), 0, fua=False)
        assert logged.pread(3, 0) == b"new"
        logged.close()
    assert closed
    assert caplog.messages == ["logfile=/dev/full: lines are missing: No space left on device"]


def without_times(log: Path) -> list[str]:
    """Return the lines, without times and without what differs: Fork, and block sizes."""
    lines = [re.sub(r"^[-\d]+ [:.\d]+ ", "", line) for line in log.read_text().splitlines()]
    lines = [re.sub(r" (min|pref|max)size=\S+", "", line) for line in lines]
    return [line for line in lines if line != "Fork"]


def test_the_log_as_nbdkit_writes_it(tmp_path: Path) -> None:
    need("nbdkit")
    script = [*EVERYTHING, ("pwrite", b"x", 1, 1), ("zero", 10, 0, FAST | 2), ("trim", 10, 20, 1)]
    for filters in (["--filter=log"], ["--filter=log", "--filter=error"]):
        logs = []
        for server in SERVERS:
            logs.append(tmp_path / f"{server}.log")
            arguments = [*filters, "memory", "1M", f"logfile={logs[-1]}"]
            if len(filters) > 1:
                arguments += ["error=ENOSPC", "error-rate=1"]
            outcomes(server, arguments, script)
        assert without_times(logs[0]) == without_times(logs[1])


def test_the_log_counts_the_clients_of_all_workers(tmp_path: Path) -> None:
    need("nbdinfo")
    log = tmp_path / "log"
    log.write_text("before\n")
    with Server("-n", "--filter=log", "memory", "1M", f"logfile={log}", "logappend=true") as server:
        output("nbdinfo", "--list", server.uri)
        with connected(server.uri) as one, connected(server.uri) as two:
            one.pread(10, 0)
            two.pread(20, 0)
    lines = without_times(log)
    assert lines[0] == "before"
    assert '...ListExports id=1 exports=("") return=0' in lines
    reads = [re.search(r"connection=(\d+) Read id=1.*count=(\S+)", line) for line in lines]
    found = {match[2]: match[1] for match in reads if match}
    assert found.keys() == {"0xa", "0x14"}
    assert len(set(found.values())) == 2
    ends = [re.search(r"connection=(\d+) Disconnect", line) for line in lines]
    assert set(found.values()) <= {match[1] for match in ends if match}


def test_a_log_begins_anew_and_a_name_stays_in_its_line(tmp_path: Path) -> None:
    need("nbdinfo")
    log = tmp_path / "log"
    log.write_text("before\n")
    with Server("-n", "--filter=log", "memory", "1M", f"logfile={log}") as server:
        name = "a%20%22%24b%0aReady%5c"
        output("nbdinfo", "--size", f"nbd+unix:///{name}?socket={server.socket}")
    lines = without_times(log)
    assert "before" not in lines
    assert any(r'Connect export="a \"\$b\x0aReady\\" tls=0' in line for line in lines)
    assert lines.count("Ready") == 0


def test_without_a_logfile_nothing_is_logged() -> None:
    need("nbdinfo")
    with Server("-n", "--filter=log", "memory", "1M") as server:
        assert output("nbdinfo", "--size", server.uri) == f"{MIB}\n"
        output("nbdinfo", "--list", server.uri)
