"""The log filter: nbdkit's lines, of the clients of all workers."""

import errno
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbdfork.plugin import REQ_ONE, Extent
from tests.support import facts
from tests.support.beside import EVERYTHING, FAST, SERVERS, outcomes
from tests.support.disks import BLOCK, MIB, SIZE, Disk, exports, gate
from tests.support.facts import Facts, name_of
from tests.support.harness import Server, nbdfork, need, output, refused
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


def test_the_log_tells_what_was_taken_of_the_answers(tmp_path: Path) -> None:
    disk = exports(Facts(), "log", f"logfile={tmp_path / 'log'}").open(name_of(facts.EVERYTHING))
    disk.extents(4096, 512, REQ_ONE)
    disk.status("x-test:age", 4096, 0, 0)
    disk.resize(1 << 20)
    lines = without_times(tmp_path / "log")
    first = lines.index("connection=1 Extents id=1 offset=0x200 count=0x1000 req_one=1 ...")
    assert lines[first + 1 :] == [
        'connection=1 ...Extents id=1 extents=(0x200 0x1000 "") return=0',
        'connection=1 Extents id=2 context="x-test:age" offset=0x0 count=0x1000 req_one=0 ...',
        'connection=1 ...Extents id=2 extents=(0x0 0x1000 "5") return=0',
        "connection=1 Resize id=3 size=0x100000 ...",
        "connection=1 ...Resize id=3 return=0",
    ]


def test_an_answer_of_which_only_a_part_is_taken_has_succeeded(tmp_path: Path) -> None:
    disk = exports(Disk(bytes(BLOCK) + noise(BLOCK)), "log", f"logfile={tmp_path / 'log'}")
    top = disk.open("")
    top.extents(2 * BLOCK, 0, REQ_ONE)
    line = without_times(tmp_path / "log")[-1]
    assert "...Extents" in line
    assert line.endswith("return=0")


def test_an_answer_that_fails_on_its_way_has_failed(tmp_path: Path) -> None:
    class Failing(Disk):
        def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
            yield Extent(0, 10, 0)
            raise OSError(errno.ENOMEM, "no more is known")

    top = exports(Failing(bytes(BLOCK)), "log", f"logfile={tmp_path / 'log'}").open("")
    with refused(errno.ENOMEM):
        top.extents(BLOCK, 0, 0)
    assert without_times(tmp_path / "log")[-1].endswith("return=-1 error=ENOMEM")


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


def test_a_script_is_told_what_the_log_says(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f'echo "$connection $type $id $act $offset $count $return $error" >>{told}'
    logged = gate(Disk(noise(SIZE)), "log", f"logscript={script}")
    logged.pread(512, 1024)
    logged.close()
    lines = [line.strip() for line in told.read_text().splitlines()]
    assert lines[0] == "PRINT  Ready"
    assert lines[-4].startswith("1 PRINT  Connect")
    assert lines[-3:] == [
        "1 ENTER 1 Read 0x400 0x200",
        "1 LEAVE 1 Read   0",
        "1 PRINT  Disconnect",
    ]
