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
    assert "whole number" in refusal("random", "1M", "seed=x")
