"""What ends while a C plugin is being called: its process, its client, the server, its patience."""

import errno
import os
import re
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nbdfork.backend import load
from nbdfork.plugin import Plugin
from tests.support.c_plugins import Build
from tests.support.harness import NBDFORK, SECONDS, Server, eventually, nbdfork, run
from tests.support.libnbd import connected, libnbd

REASONS = "the first reason; the second reason"
ENDS = {
    "exit": "ended its process in its callback {} (exit)",
    "abort": "crashed in its callback {} (SIGABRT)",
}


Words = Callable[[str, str], list[str | Path]]


@pytest.fixture
def ends(build: Build, tmp_path: Path) -> Words:
    """What makes the words for a plugin that does *how* in its callback *when*."""
    plugin = build("ends")

    def words(when: str, how: str) -> list[str | Path]:
        return [plugin, f"diary={tmp_path}/diary", f"when={when}", f"how={how}", "last=1"]

    return words


def diary(tmp_path: Path) -> list[str]:
    return (tmp_path / "diary").read_text().splitlines()


# -- a plugin that ends its process -----------------------------------------------------------


@pytest.mark.parametrize("callback", ["config", "config_complete", "get_ready"])
@pytest.mark.parametrize(("how", "status"), [("exit", 3), ("abort", -signal.SIGABRT)])
def test_the_reason_to_end_while_starting_is_shown(
    callback: str, how: str, status: int, ends: Words
) -> None:
    done = nbdfork("-U", "-", *ends(callback, how))
    assert done.returncode == status
    what = ENDS[how].format(callback)
    assert done.stderr == f"nbdfork: error: the plugin ends {what}: {REASONS}\n"


def test_a_plugin_may_end_the_start_without_a_word(ends: Words) -> None:
    done = nbdfork("-U", "-", *ends("config", "leave"))
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("how", ENDS)
def test_the_reason_to_end_a_new_worker_is_logged(how: str, ends: Words) -> None:
    done = nbdfork("-f", "-U", "-", *ends("after_fork", how))
    assert done.returncode == 1
    assert f"the plugin ends {ENDS[how].format('after_fork')}: {REASONS}\n" in done.stderr


@pytest.mark.parametrize("callback", ["open", "pread"])
@pytest.mark.parametrize("how", ENDS)
def test_the_reason_to_end_a_worker_is_logged(callback: str, how: str, ends: Words) -> None:
    report = f"nbdfork: error: the plugin ends {ENDS[how].format(callback)}: {REASONS}\n"
    with Server("-n", *ends(callback, how)) as server:
        with pytest.raises(libnbd().Error), connected(server.uri) as client:
            client.pread(512, 0)
        eventually(lambda: report in server.log)


def test_a_child_that_ends_is_not_the_plugin(ends: Words, tmp_path: Path) -> None:
    with Server("-n", *ends("pread", "child")) as server:
        with connected(server.uri) as client:
            client.pread(512, 0)
        assert "child: 0" in diary(tmp_path)
        assert "nbdfork: error: ends: said by a child\n" in server.log
        assert "ended its process" not in server.log


@pytest.mark.parametrize("processes", ["yes", "no"])
def test_a_stack_that_overflows_is_reported(processes: str, ends: Words) -> None:
    """In one process it is the stack of a thread, whose other one for this is its own."""
    words = ends("pread", "recurse")
    with Server("-n", *words, f"nbdfork-processes={processes}") as server:
        with pytest.raises(libnbd().Error), connected(server.uri) as client:
            client.pread(512, 0)
        eventually(lambda: "the plugin ends crashed in its callback pread (SIGSEGV)" in server.log)


# -- a plugin that says too much --------------------------------------------------------------


def test_many_messages_are_logged_in_parts(
    ends: Words, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export = started(ends("pread", "complain")).open("", False)
    with pytest.raises(OSError, match="pread") as failed:
        export.pread(512, 0)
    assert str(failed.value) == "ends: pread: complaint 0."
    export.close()
    found = [int(number) for number in re.findall(r"complaint (\d+)\.", caplog.text)]
    assert found == list(range(20000))
    assert 50 < len(caplog.records) < 200
    assert max(len(record.getMessage()) for record in caplog.records) < 4200


def started(words: list[str | Path]) -> Plugin:
    made = load.find(str(words[0])).plugin_class()
    for word in words[1:]:
        made.config(*str(word).split("=", 1))
    made.config_complete()
    made.get_ready()
    return made


# -- what ends a sleep ------------------------------------------------------------------------

WOKEN = f"woke: -1 {errno.ESHUTDOWN}"


@contextmanager
def asleep(uri: str, tmp_path: Path) -> Iterator[None]:
    """A client, to whom a plugin that sleeps owes an answer."""
    with connected(uri) as client:
        client.aio_pread(libnbd().Buffer(512), 0)
        while client.aio_get_direction() & libnbd().AIO_DIRECTION_WRITE:
            client.poll(-1)
        eventually(lambda: "pread" in diary(tmp_path))
        yield


@pytest.mark.parametrize("threads", ["1", "4"])
@pytest.mark.parametrize("processes", ["yes", "no"])
@pytest.mark.parametrize("end", ["server", "client"])
def test_a_sleep_ends_with_the_server_and_with_the_client(
    end: str, processes: str, threads: str, ends: Words, tmp_path: Path
) -> None:
    words = [*ends("pread", "sleep"), f"nbdfork-processes={processes}"]
    with Server("-n", "-t", threads, *words) as server:
        with asleep(server.uri, tmp_path):
            if end == "server":
                server.stop()
        eventually(lambda: "close" in diary(tmp_path))
        reason = "nbdkit_nanosleep: the (connection|server) ends"
        assert re.search(f"ends: pread: {reason}", server.log)
    done = [line for line in diary(tmp_path) if "stdio" not in line]
    assert [line for line in done if line != "cleanup"] == ["pread", WOKEN, "close"]
    assert done[-1] == "cleanup"


def test_a_sleep_on_standard_input_ends_with_the_client(ends: Words, tmp_path: Path) -> None:
    client = libnbd().NBD()
    client.connect_command([*NBDFORK, "-s", *map(str, ends("pread", "sleep"))])
    client.aio_pread(libnbd().Buffer(512), 0)
    eventually(lambda: "pread" in diary(tmp_path))
    del client
    eventually(lambda: "cleanup" in diary(tmp_path))
    assert diary(tmp_path)[-3:] == [WOKEN, "close", "cleanup"]


@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_sleep_on_a_pair_of_pipes_ends_with_the_server(
    threads: str, ends: Words, tmp_path: Path
) -> None:
    words = [*NBDFORK, "-s", "--oldstyle", "-t", threads, *map(str, ends("pread", "sleep"))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.read(152).startswith(b"NBDMAGIC")
        server.stdin.write(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 512))
        server.stdin.flush()
        eventually(lambda: "pread" in diary(tmp_path))
        server.terminate()
        assert server.wait(SECONDS) == 0
    assert diary(tmp_path)[-3:] == [WOKEN, "close", "cleanup"]


def test_a_thread_of_the_plugin_sleeps_until_the_end(ends: Words, tmp_path: Path) -> None:
    with Server("-n", *ends("after_fork", "thread"), "nbdfork-processes=no") as server:
        with connected(server.uri) as client:
            client.pread(512, 0)
        assert WOKEN not in diary(tmp_path)
    assert diary(tmp_path)[-2:] == [WOKEN, "cleanup"]


def test_a_sleep_is_no_longer_than_an_int_of_seconds(ends: Words, tmp_path: Path) -> None:
    export = started(ends("pread", "oversleep")).open("", False)
    with pytest.raises(OSError, match="4294967295 seconds are more than 2147483647"):
        export.pread(512, 0)
    export.close()
    assert f"woke: -1 {errno.EINVAL}" in diary(tmp_path)


# -- standard input ---------------------------------------------------------------------------


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_RDWR])
def test_standard_input_is_safe_but_for_a_client_on_it(
    single: bool, mode: int, ends: Words, tmp_path: Path
) -> None:
    """Be it the null device, as with cron and systemd."""
    words = [*map(str, ends("config", "leave"))]
    if single:
        with pytest.raises(libnbd().Error):
            libnbd().NBD().connect_command([*NBDFORK, "-s", *words])
    else:
        null = os.open(os.devnull, mode)
        try:
            run(*NBDFORK, *words, stdin=null)
        finally:
            os.close(null)
    assert set(diary(tmp_path)) == {"stdio is unsafe" if single else "stdio is safe"}


# -- extents ----------------------------------------------------------------------------------


def test_types_of_extents_that_nobody_knows_are_left_out(ends: Words) -> None:
    export = started(ends("", "")).open("", True)
    assert list(export.extents(8192, 0, 0)) == [(0, 8192, 2)]
    export.close()
