"""The functions of the API, which C plugins call."""

import errno
import os
import re
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.c_plugins import Build, started
from tests.support.harness import NBDFORK, SECONDS, Server, eventually, need, output, run
from tests.support.libnbd import connected, libnbd


def test_the_parsers_say_what_nbdkits_say(build: Build, tmp_path: Path) -> None:
    need("nbdkit")
    (tmp_path / "secret.txt").write_text("hush\nmore\n")
    (tmp_path / "empty.txt").write_text("")
    plugin = build("parse")
    theirs, ours = (
        output(*command, "--dump-plugin", plugin, cwd=tmp_path, input="").splitlines()
        for command in (["nbdkit"], NBDFORK)
    )
    parsed = re.compile(r"\w+\[|absolute=|real=|intern=|stdio=")
    shown = [line for line in theirs if parsed.match(line)]
    assert len(shown) > 400
    newer = {"size[0x10]=-1": "size[0x10]=16", "size[010]=10": "size[010]=8"}  # as in 1.48
    assert [line for line in ours if parsed.match(line)] == [newer.get(x, x) for x in shown]


@pytest.mark.parametrize("processes", ["yes", "no"])
def test_who_the_client_is(build: Build, processes: str) -> None:
    plugin = build("peer", "-D_GNU_SOURCE")
    with Server("-n", plugin, f"nbdfork-processes={processes}") as server:
        with connected(server.uri) as client:
            told = client.pread(client.get_size(), 0).decode()
        assert told == f"{os.getpid()} {os.getuid()} {os.getgid()}"
    with Server("-n", plugin, listen=("-i", "127.0.0.1", "-p", "0")) as server:
        with pytest.raises(libnbd().Error):
            connected(server.uri).__enter__()
        assert "nbdkit_peer_pid: the client is not on a Unix domain socket" in server.log


# -- functions that are younger than nbdkit 1.32, and a struct that is -----------------------


PARSED = {
    "delay": {
        "0": (0, 0), "10": (10, 0), "0.5": (0, 500_000_000), "1.5s": (1, 500_000_000),
        "250ms": (0, 250_000_000), "1.1ms": (0, 1_100_000), "7us": (0, 7000), "7\u00b5s": (0, 7000),
        "7\u03bcs": (0, 7000), "999ns": (0, 999), "1e3ms": (1, 0), "1e-400": (0, 0),
        "4294967294": (4294967294, 0), "4294967295": (4294967295, 0),
    },
    "probability": {
        "0": (0,), "1": (1,), "0.25": (0.25,), "1e-3": (0.001,), "50%": (0.5,), "1:4": (0.25,),
        "1/8": (0.125,), "0:0": (0,), "2:1": (2,), "1e-400": (0,),
    },
}  # fmt: skip


def test_delays_and_probabilities(build: Build) -> None:
    text = output(*NBDFORK, "--dump-plugin", build("newer"))
    for function, values in PARSED.items():
        found = re.findall(rf"^{function}\[(.*)\]=(0|-1),(.*)$", text, re.MULTILINE)
        good = {text: numbers for text, result, numbers in found if result == "0"}
        assert {
            text: tuple(map(float, numbers.split(","))) for text, numbers in good.items()
        } == values
        bad = [numbers for _, result, numbers in found if result == "-1"]
        assert len(bad) >= 10
        assert set(bad) <= {"99", "99,99"}  # what was there before


def test_what_came_to_nbdkit_late(build: Build) -> None:
    before = datetime.now(UTC)
    text = output(*NBDFORK, "--dump-plugin", build("newer"))
    pairs = [line.split("=", 1) for line in text.splitlines()]
    found = dict(pairs)
    assert found["server_name"] == "none"
    named = output(*NBDFORK, "--name", "caf\u00e9", "--dump-plugin", build("newer"))
    assert "server_name=caf\u00e9\n" in named
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", found["timestamp"])
    assert before <= datetime.fromisoformat(f"{found['timestamp']}+00:00") <= datetime.now(UTC)
    assert [value for key, value in pairs if key == "extent"] == ["100,100,3", "200,800,0"]
    assert (found["backwards"], found["too_large"]) == ("no", "no")


def test_what_is_wrong_with_a_delay_is_said(build: Build) -> None:
    done = run(*NBDFORK, "--dump-plugin", build("newer"))
    for message in (
        "what: 1h: the unit is none of s, ms, us, ns",
        "what: ten: a number is expected",
        "what: -1: a delay is a number that is not negative",
        "what: 4294967296: the number is out of range",
        "what: 1:0: a probability is a number that is not negative",
    ):
        assert message in done.stderr


@pytest.mark.parametrize("processes", ["yes", "no"])
@pytest.mark.parametrize("threads", ["1", "4"])
def test_a_plugin_disconnects_its_client(build: Build, processes: str, threads: str) -> None:
    plugin = build("newer")
    arguments: list[str | Path] = [
        "-n",
        "-v",
        "-t",
        threads,
        plugin,
        f"nbdfork-processes={processes}",
    ]
    with Server(*arguments) as server, connected(server.uri) as other:
        asked, forced = libnbd().NBD(), libnbd().NBD()
        asked.connect_uri(server.uri)
        assert asked.pread(512, 512) == b"n" * 512  # it is answered
        with pytest.raises(libnbd().Error):
            asked.pread(512, 0)
        forced.connect_uri(server.uri)
        with pytest.raises(libnbd().Error):
            forced.pread(512, 1024)
        eventually(lambda: server.log.count("is gone") == 2)
        assert other.pread(512, 0) == b"n" * 512


def test_no_request_reaches_a_plugin_that_has_disconnected(build: Build) -> None:
    export = started(build("newer")).open("", False)
    export.pread(512, 512)
    for request in (
        lambda: export.pread(512, 0),
        lambda: export.pwrite(memoryview(b"x"), 0, 0),
    ):
        with pytest.raises(OSError, match="endpoint") as refused:
            request()
        assert refused.value.errno == errno.ESHUTDOWN
    export.flush()  # so asks the server itself
    export.close()


@pytest.mark.parametrize("offset", [512, 1024])
def test_a_plugin_disconnects_a_client_on_a_pair_of_pipes(offset: int, build: Build) -> None:
    words = [*NBDFORK, "-s", "--oldstyle", str(build("newer"))]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        server.stdin.write(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, offset, 512))
        server.stdin.flush()  # and it stays open
        assert server.stdout is not None
        assert server.stderr is not None
        is_answered = offset == 512  # the other one is disconnected by force
        assert len(server.stdout.read()) == 152 + (16 + 512) * is_answered
        assert b"may be lost" not in server.stderr.read()
        assert server.wait(SECONDS) == 0


def test_memory_is_dumped_to_the_log(build: Build) -> None:
    with Server("-n", "-v", build("newer")) as server:
        with connected(server.uri) as client:
            client.pread(512, 1536)
        log = server.log
    lines = [
        "dump: 00001000:                          61 20 6c 69 6e 65 20 6f  |        a line o|",
        "dump: 00001010: 66 20 74 65 78 74 2c 20  61 6e 64 20 6f 6e 65 20  |f text, and one |",
        "dump: 00001020: 6d 6f 72 65 0a 00                                 |more..          |",
        "-00001000: 61 20 6c 69 6e 65 20 6f  66 20 74 65 78 74 2c 20  |a line of text, |",
        "+00001000:                                54 45 58 54        |          TEXT  |",
        " 00001010: 61 6e 64 20 6f 6e 65 20  6d 6f 72 65 0a 00        |and one more..  |",
    ]
    assert re.findall(r"newer: ((?:dump: |[-+ ])0000.*)", log) == lines


def test_a_client_has_no_certificate_and_may_have_no_label(build: Build) -> None:
    with Server("-n", "-v", build("newer")) as server:
        with connected(server.uri):
            pass
        log = server.log
    label = re.search(r"newer: client: '' of '' is (.+)", log)
    assert label is not None
    refused = "nbdkit_peer_security_context: " in log
    assert (label[1] == "unlabelled") == refused  # it depends on the kernel
