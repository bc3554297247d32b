"""The helper protocol: what a good helper does, and that a bad one hurts its clients only."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from nbdfork.scripting import frames
from tests.support.harness import Server, eventually, is_alive, nbdfork
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.manual import source
from tests.support.paths import SCRIPTS

HELPER = SCRIPTS / "helper.py"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The helper as a program of its own."""
    path = tmp_path / "helper"
    path.write_text(f"#!{sys.executable}\n{HELPER.read_text()}")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("way", ["good", "notices", "dribble"])
def test_data_comes_through(way: str, program: Path) -> None:
    data = bytes(range(256)) * 256
    with Server("-n", "host", program, f"way={way}") as server:
        client = connect(server.uri)
        client.pwrite(data, 0)
        assert client.pread(65536, 0) == data
        assert client.pread(1, 255) == b"\xff"


def test_requests_of_many_clients_do_not_get_mixed_up(program: Path) -> None:
    """The thread model lets them overlap: each has to find its own reply."""
    with Server("-n", "host", program, "good") as server:

        def use(number: int) -> bool:
            client = connect(server.uri)
            block = bytes([number]) * 1000
            good = True
            for _ in range(100):
                client.pwrite(block, number * 1000)
                good &= client.pread(1000, number * 1000) == block
            client.shutdown()
            return good

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(use, range(1, 9)))


def test_an_error_has_its_errno_and_its_text(program: Path) -> None:
    with Server("-n", "host", program, "way=error") as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "ENOSPC"
        assert attempt(lambda: client.pread(512, 0)) == "ENOSPC"
        assert "pread: the disk is very very" in server.log


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("short", "it answered a read of 512 bytes with 511"),
        ("stuck", "it answered a read of 512 bytes with 511"),
        ("long", "it answered a read of 512 bytes with 516"),
        ("huge", "it sent a reply of 2147483647 bytes"),
        ("unknown notice", "it sent an unknown notice, 77"),
        ("abort", "the helper died: signal 6"),
    ],
)
def test_a_helper_that_cannot_be_understood_is_replaced(
    way: str, message: str, program: Path
) -> None:
    with Server("-n", "host", program, f"way={way}") as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "EIO"
        assert message in server.log
        assert connect(server.uri).get_size() == 65536


def test_a_helper_that_hangs_ends_with_the_server(program: Path) -> None:
    with Server("-n", "--shutdown-limit=1", "host", program, "way=hang") as server:
        client = connect(server.uri)
        client.aio_pread(libnbd().Buffer(512), 0)
        while client.aio_in_flight() and client.aio_get_direction() & 2:
            client.poll(100)  # until it is sent
        family = psutil.Process(server.pid).children(recursive=True)
        assert len(family) >= 3  # the worker, the template and its fork
    eventually(lambda: not any(map(is_alive, family)))


def test_extents_that_are_none_fail_the_request(program: Path) -> None:
    with Server("-n", "host", program, "way=extents") as server:
        client = libnbd().NBD()
        client.add_meta_context("base:allocation")
        client.connect_uri(server.uri)
        assert attempt(lambda: client.block_status(65536, 0, lambda *_: 0)) == "EIO"
        assert client.pread(65536, 0) == bytes(65536)  # which only has to do without them
        assert "extents: the answer is not a list of extents" in server.log
        assert client.pread(512, 0) == bytes(512)


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("negative", "get_size: returned -1"),
        ("block_size", "block_size: the answer is not three numbers"),
    ],
)
def test_bad_facts_refuse_the_client(way: str, message: str, program: Path) -> None:
    with Server("-n", "host", program, way) as server:
        with pytest.raises(Exception, match="nbd_connect_uri"):
            connect(server.uri)
        assert message in server.log


def test_what_the_helper_tells_is_in_dump_plugin(program: Path) -> None:
    said = nbdfork("--dump-plugin", "host", program).stdout
    assert "flavour=mint\n" in said
    assert "thread_model=" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\nexit 5\n", "load: the helper died: exit 5"),
        ("#!/nowhere\n", "cannot be run: No such file or directory"),
        ("no program", "cannot be run: Exec format error"),
    ],
)
def test_what_is_no_helper_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "helper"
    path.write_text(text)
    path.chmod(0o755)
    done = nbdfork("-U", "-", "host", path, "--run", "true")
    assert done.returncode == 1
    assert message in done.stderr


def test_a_program_that_is_not_executable_is_told(tmp_path: Path) -> None:
    path = tmp_path / "helper"
    path.write_text("")
    assert "chmod +x" in nbdfork("-U", "-", "host", path, "--run", "true").stderr


def test_parameters_before_the_program_are_refused() -> None:
    assert "name that first" in nbdfork("-U", "-", "host", "key=value", "--run", "true").stderr


def test_a_helper_that_exits_while_it_is_configured_is_told(program: Path) -> None:
    done = nbdfork("-U", "-", "host", program, "way=exit", "--run", "true")
    assert "config: the helper died: exit 4" in done.stderr


def test_the_page_has_every_operation() -> None:
    text = source("nbdfork-host-plugin.3")
    for name, number in frames.OPERATIONS.items():
        assert f".It {number} Cm {name}" in text
