"""Maps of finely fragmented disks: what clients are told, and what plugins are asked for it.

The log filter tells what it asked, and how much of the answer was taken.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nbdfork.backend.extents import MOST_EXTENTS
from tests.support.harness import Server, need, output
from tests.support.paths import SCRIPTS

BLOCK = 4096
BLOCKS = 50_000


def asked(log: Path) -> list[tuple[int, int]]:
    """Return how many blocks each request was about, and how many extents were taken."""
    text = log.read_text()
    counts = [int(count, 16) // BLOCK for count in re.findall(r" Extents .*count=(\S+)", text)]
    taken = [found.count('"') // 2 for found in re.findall(r"\.\.\.Extents .*extents=(.*)", text)]
    return list(zip(counts, taken, strict=True))


def mapped(server: Server, context: str = "base:allocation") -> list[Any]:
    found = json.loads(output("nbdinfo", "--json", f"--map={context}", server.uri))
    return [(extent["offset"], extent["length"], extent["type"]) for extent in found]


EXPECTED = [(number * BLOCK, BLOCK, number % 2 * 3) for number in range(BLOCKS)]


@pytest.mark.parametrize("way", ["a list", "a generator", "a list of the whole disk"])
def test_a_script_is_asked_for_about_what_it_is_told_for(tmp_path: Path, way: str) -> None:
    need("nbdinfo")
    words = [f"logfile={tmp_path / 'log'}", f"blocks={BLOCKS}", f"way={way}"]
    script = str(SCRIPTS / "fragmented.py")
    with Server("-n", "--filter=log", "python", script, *words) as server:
        assert mapped(server) == EXPECTED
    requests = asked(tmp_path / "log")
    assert all(taken <= MOST_EXTENTS + 1 for _, taken in requests)
    made = [blocks for blocks, _ in requests[1:]]
    assert sum(made) < 3 * BLOCKS
    assert max(made) <= 2 * MOST_EXTENTS


def test_a_file_and_one_behind_another_server(tmp_path: Path) -> None:
    need("nbdinfo")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(2000 * BLOCK)
        for number in range(0, 2000, 2):
            file.seek(number * BLOCK)
            file.write(b"x" * BLOCK)
    with Server("-n", "file", disk) as server, Server("-n", "nbd", f"uri={server.uri}") as proxy:
        told = mapped(server)
        assert sum(length for _, length, _ in told) == 2000 * BLOCK
        assert mapped(proxy) == told
