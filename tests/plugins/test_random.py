"""The random plugin: noise that is the same for all clients."""

import zlib
from pathlib import Path

from tests.support.harness import Server, need, output, run
from tests.support.plugins import content, opened, refusal


def test_random_is_the_same_for_every_client_and_every_seed(tmp_path: Path) -> None:
    need("nbdcopy", "cmp")
    images = [tmp_path / name for name in "ab"]
    with Server("random", "1000003") as server:
        for image in images:
            output("nbdcopy", server.uri, image)
    assert images[0].read_bytes() == images[1].read_bytes()
    assert len(zlib.compress(images[0].read_bytes())) > 990_000
    seeded = [content(opened("random", "50000", f"seed={seed}")) for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]
    export = opened("random", "50000", "seed=1")
    assert bytes(export.pread(9000, 4000)) == seeded[0][4000:13000]
    assert content(opened("random", "100", "seed=1")) == seeded[0][:100]


def test_random_is_not_changed() -> None:
    need("nbdcopy", "qemu-io")
    with Server("random", "1M") as server:
        output("nbdcopy", server.uri, server.uri)
        for command in ("write 0 512", "write -z 0 512"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert "Input/output error" in done.stdout + done.stderr


def test_random_seeds_are_checked() -> None:
    assert "not a size" in refusal("random", "1M", "seed=x")
    assert "from 0 to 4294967295" in refusal("random", "1M", "seed=4294967296")


# The first bytes that nbdkit 1.48.1 serves for `random 32 seed=0`.
SEED_0 = "e01405517eae4896061772ad7bf81875ffb9f3d12dc341c507f84909a0ebdad2"


def test_the_bytes_for_a_seed_are_those_of_nbdkit() -> None:
    assert content(opened("random", "32", "seed=0")).hex() == SEED_0
    assert content(opened("random", "31", "seed=0x1")).hex() == SEED_0[2:]
    export = opened("random", str(1 << 40), "seed=7")
    assert bytes(export.pread(5000, 3)) == bytes(export.pread(5003, 0))[3:]


def test_fast_repeats_a_sector_with_its_number_in_it() -> None:
    """As nbdkit 1.48.1 does: the low byte of the number of the sector, exclusive or."""
    export = opened("random", "1M", "seed=0", "fast=true")
    first = bytes(export.pread(512, 0))
    assert first[:32].hex() == SEED_0
    for sector in (1, 255, 256, 1000):
        assert bytes(export.pread(512, sector * 512)) == bytes(b ^ sector & 255 for b in first)
    assert bytes(export.pread(1000, 700)) == bytes(export.pread(1700, 0))[700:]
