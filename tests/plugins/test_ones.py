"""The ones plugin: a disk of one byte, over and over."""

import pytest

from nbdfork.plugin import ConfigError
from tests.support.harness import Server, need, run
from tests.support.plugins import content, plugin


@pytest.mark.parametrize("byte", ["010", "1_0", "0b1", "\u0667"])
def test_a_byte_of_ones_that_others_read_otherwise(byte: str) -> None:
    with pytest.raises(ConfigError, match="expected a byte"):
        plugin("ones", "10", f"byte={byte}")


def test_ones() -> None:
    assert content(plugin("ones", "1000")) == b"\xff" * 1000
    assert content(plugin("ones", "byte=0x55", "size=1k")) == b"\x55" * 1024
    assert content(plugin("ones", "10", "byte=7")) == b"\x07" * 10


@pytest.mark.parametrize("byte", ["256", "0x100", "-1", "x", ""])
def test_ones_of_what_is_no_byte(byte: str) -> None:
    with pytest.raises(ConfigError, match="expected a byte"):
        plugin("ones", "10", f"byte={byte}")


def test_ones_forgets() -> None:
    need("qemu-io")
    with Server("ones", "1M") as server:
        for command in ("write -P 7 0 64k", "write -z 0 64k", "discard 0 64k", "flush"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert (done.returncode, "failed" in done.stdout) == (0, False), done
        done = run("qemu-io", "-f", "raw", "-c", "read -P 255 0 1M", server.uri)
        assert "verification failed" not in done.stdout
