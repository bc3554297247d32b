"""The third example: a disk that can be written."""

from tests.support.harness import Server, need, run
from tests.support.plugins import MIB, plugin, refusal


def test_example3_is_one_disk_for_all_clients() -> None:
    need("qemu-io")
    with Server("example3", "size=1M") as server:
        for command in ("write -P 7 1000 5000", "read -P 7 1000 5000", "read -P 0 0 1000", "flush"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert (done.returncode, "failed" in done.stdout) == (0, False), done
    assert plugin("example3").get_size() == 100 * MIB


def test_example3_too_large() -> None:
    assert "choose less" in refusal("example3", "size=7E")
