"""The filters that count: count and stats."""

import re
from pathlib import Path

import pytest

from nbdfork.filters._around import Kind
from nbdfork.filters.stats import Table
from nbdfork.plugin import ConfigError
from tests.support.disks import Disk, gate
from tests.support.harness import Server, eventually
from tests.support.libnbd import connect, connected


def test_what_all_clients_do_is_counted_and_logged_in_the_end(tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    arguments = ("--filter=count", "--filter=stats", "memory", "1M", f"statsfile={stats}")
    server = Server("-n", "-v", *arguments)
    with connected(server.uri) as one, connected(server.uri) as two:
        one.pread(4096, 8192)
        two.pread(512, 0)
        two.pwrite(bytes(1024), 0)
        two.zero(2048, 0)
        two.trim(512, 0)
        two.flush()
    killed = connect(server.uri)
    killed.pread(1000, 0)
    [worker] = eventually(server.serving)
    worker.kill()
    assert server.stop() == 0
    with server:
        assert "count bytes: read 5608, written 1024, zeroed 2048, trimmed 512" in server.log
    text = stats.read_text()
    assert re.match(r"total: 7 ops, \d+\.\d{6} s, 8.98 KiB, ", text)
    assert re.search(r"^read: 3 ops, .* s, 5.48 KiB, .*/s op, .*/s total$", text, re.MULTILINE)
    assert re.search(r"^ +12 bits: +33.3% \(1 reqs, 4.00 KiB total\)$", text, re.MULTILINE)
    assert re.search(r"^ +13 bit aligned: 100.0% \(1\)$", text, re.MULTILINE)
    assert "flush: 1 ops" in text
    del killed


def test_sizes_that_are_rare_are_put_together() -> None:
    table = Table()
    for _ in range(95):
        table.add(Kind.READ, 4096, 4096, 1000)
    for size in range(1, 6):
        table.add(Kind.READ, size, 0, 1000)
    lines = list(table.report(2.0, 95))
    assert lines[0] == "total: 100 ops, 2.000000 s, 380.01 KiB, 190.01 KiB/s"
    assert lines[1].startswith("read: 100 ops, 0.000100 s, 380.01 KiB, 3.62 GiB/s op")
    assert lines[2:] == [
        "  Request size and alignment breakdown:",
        "    12 bits:  95.0% (95 reqs, 380.00 KiB total)",
        "        12 bit aligned: 100.0% (95)",
        "    other sizes:   5.0% (5 reqs, 15 bytes total)",
    ]
    assert len(list(table.report(2.0, 0))) == 2


def test_a_file_that_is_there_can_be_added_to(tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    stats.write_text("old\n")
    arguments = ("--filter=stats", "memory", "1M", f"statsfile={stats}", "statsappend=true")
    with Server("-n", *arguments):
        pass
    assert stats.read_text().startswith("old\ntotal: 0 ops")


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"statsfile=.*: Is a directory"):
        gate(Disk(b""), "stats", f"statsfile={tmp_path}")
