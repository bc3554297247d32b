"""What a worker may use up, whose user it is, and how the sandbox is asked for: by its options."""

import errno
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    eventually,
    let_all_reach,
    nbdfork,
)
from tests.support.prison import ESCAPES, Prison, attempts_of, needs_root, needs_walls
from tests.support.raw import Client

pytestmark = needs_walls


# -- limits -----------------------------------------------------------------------------------


def test_limits_hold(tmp_path: Path) -> None:
    limits = ("--limit=memory=64M", "--limit=files=40", "--limit=core=4096")
    with Server("--sandbox=off", *limits, ESCAPES) as server:
        client = Client(server).greet()

        def attempt(what: str) -> int:
            return client.write(what.encode().ljust(512, b"\0"))

        assert attempt(f"memory_bomb {8 << 20}") == 0
        assert attempt(f"memory_bomb {128 << 20}") != 0
        assert attempt("descriptors") != 0
        assert attempt("limits CORE") == 0
        assert client.read(0, 12) == b"(4096, 4096)"
        client.close()
    with Server("--sandbox=off", ESCAPES) as server:
        client = Client(server).greet()
        for what in (f"memory_bomb {128 << 20}", "descriptors"):
            assert client.write(what.encode().ljust(512, b"\0")) == 0
        client.close()


@needs_root
def test_a_fork_bomb_goes_no_further_than_the_limit(tmp_path: Path) -> None:
    let_all_reach(tmp_path)
    for options, works in ((("--limit=processes=100",), False), ((), True)):
        with Server("-u", "nobody", *options, ESCAPES) as server:
            client, witness = Client(server).greet(), Client(server).greet()
            assert (client.write(b"bomb".ljust(512, b"\0")) == 0) is works
            assert witness.read(0, 512) == bytes(512)
            client.close()
            witness.close()


def test_a_worker_that_spins_is_killed_alone() -> None:
    with Server("--limit=cpu=1", ESCAPES) as server:
        client, witness = Client(server).greet(), Client(server).greet()
        client.request(1, 0, 512, b"spin".ljust(512, b"\0"))
        with pytest.raises((EOFError, OSError)):
            client.receive(1)
        assert witness.read(0, 512) == bytes(512)
        assert eventually(lambda: f"was killed by signal {int(signal.SIGXCPU)}" in server.log)
        witness.close()


def test_no_memory_is_left_in_files_by_default(prison: Prison) -> None:
    assert prison.attempt("auto", "nothing", "limits CORE") == (0, "(0, 0)")


def test_a_worker_that_crashes_is_lost_alone(prison: Prison) -> None:
    server, witness = prison.server("require", "nothing")
    client = Client(server).greet()
    client.request(1, 0, 512, b"crash".ljust(512, b"\0"))
    with pytest.raises((EOFError, OSError)):
        client.receive(1)
    assert witness.read(0, 512) == bytes(512)


@pytest.mark.parametrize("allow", ["anything", "nothing"])
def test_its_memory_is_closed(prison: Prison, allow: str) -> None:
    """To other processes of its user, and to programs that collect core files."""
    assert prison.attempt("require", allow, "dumpable") == (0, "0")
    with Server("--sandbox=require", "--limit=core=unlimited", ESCAPES) as server:
        client = Client(server).greet()
        assert client.write(b"dumpable".ljust(512, b"\0")) == 0
        assert client.read(0, 1) == b"1"
        client.close()


# -- a user for each worker -------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("mode", ["off", "require"])
def test_each_worker_has_a_user_of_its_own(mode: str) -> None:
    options = (f"--sandbox={mode}", "--worker-uids=61000-61007", "--max-clients=8")
    with Server(*options, ESCAPES, "allow=anything") as server:
        first, second = Client(server).greet(), Client(server).greet()
        users = [worker.uids().real for worker in server.serving()]
        assert len(set(users)) == 2
        assert set(users) <= set(range(61000, 61008))
        assert server.process.poll() is None
        pids = [server.pid, *(worker.pid for worker in server.serving())]
        attempts = [f"{what} {pid}" for what in ("signal", "trace", "memory") for pid in pids]
        *outcomes, identity = attempts_of(server, *attempts, "identity")
        assert all(error for error, _ in outcomes)
        real, effective, saved, group = (int(one) for one in re.findall("[0-9]+", identity[1])[:4])
        assert real == effective == saved == group
        first.close()
        second.close()


@needs_root
def test_their_group_can_be_chosen_to_reach_the_disk(tmp_path: Path) -> None:
    let_all_reach(tmp_path)
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    os.chown(disk, 0, 61999)
    disk.chmod(0o660)
    users = ("--worker-uids=61000-61255", "--sandbox=require")
    with Server(*users, "-g", "61999", "file", disk) as server:
        client = Client(server).greet()
        assert client.write(b"x" * 512) == 0
        assert client.read(0, 512) == b"x" * 512
        client.close()
    done = nbdfork(*users, "-U", "-", "file", disk, "--run", "true")
    assert (done.returncode, "Permission denied (for user 61000" in done.stderr) == (1, True)


@needs_root
def test_each_has_processes_of_its_own_to_use_up() -> None:
    limits = ("--limit=processes=20", "--worker-uids=61300-61303", "--max-clients=4")
    with Server(*limits, ESCAPES) as server:
        for _ in range(2):
            (error, _), (nothing, _) = attempts_of(server, "bomb", "nothing")
            assert error
            assert not nothing


@needs_root
def test_there_must_be_enough_users() -> None:
    message = refused("--worker-uids=5000-5003")
    assert "these are 4 users, and there can be 256 workers" in message
    done = nbdfork("--worker-uids=5000-5255", "-u", "nobody", "null")
    assert "--worker-uids" in done.stderr
    assert "a user of its own" in done.stderr


# -- stopping the server, which is no signal any more -----------------------------------------


def test_only_a_plugin_that_says_so_stops_the_server() -> None:
    for allow, stops in (("stop", True), ("anything", True), ("nothing", False)):
        with Server("--sandbox=auto", ESCAPES, f"allow={allow}") as server:
            client = Client(server).greet()
            assert client.write(b"stop".ljust(512, b"\0")) == 0
            if stops:
                assert server.process.wait(15) == 0
            else:
                assert eventually(lambda: "asks to stop the server" in server.log)
                assert client.read(0, 512) == b"None".ljust(512, b"\0")
                assert server.process.poll() is None
            client.close()


# -- options ----------------------------------------------------------------------------------


def refused(*options: str) -> str:
    done = nbdfork(*options, "-U", "-", "null")
    assert done.returncode == 1
    return done.stderr


def test_what_is_in_force_is_told() -> None:
    with Server("-v", "--sandbox=auto", "--limit=files=100", "null", "1M") as server:
        line = next(line for line in server.log.splitlines() if "sandbox:" in line)
        assert "files: none; programs: no; network: no; " in line
        assert line.endswith("limits: core 0, files 100")
        words = "workers see no other processes" if os.getuid() == 0 else "sandbox:"
        eventually(lambda: words in server.log)
    with Server("-v", "--sandbox=off", "null", "1M") as server:
        assert "debug: sandbox: off\n" in server.log
    lines = nbdfork("--dump-config").stdout.splitlines()
    assert any(line.startswith("sandbox_landlock=") for line in lines)
    assert "sandbox_seccomp=yes" in lines


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--sandbox=on", "expected one of: off, auto, require"),
        ("--limit=colour=3", "a limit is one of: core, cpu, files, memory, processes"),
        ("--limit=files=many", "--limit files=many: "),
    ],
)
def test_options_that_are_wrong(option: str, message: str) -> None:
    assert message in refused(option)


@needs_root
def test_a_limit_that_would_not_hold_is_refused() -> None:
    assert "--limit processes=5 does not hold for root: use -u or --worker-uids" in refused(
        "--limit=processes=5"
    )


def test_a_single_client_is_served_in_a_cell(bystander: subprocess.Popen[bytes]) -> None:
    for mode, expected in (("off", 0), ("require", errno.EPERM)):
        ours, theirs = socket.socketpair()
        command = [*NBDFORK, "-s", f"--sandbox={mode}", str(ESCAPES)]
        ends = theirs.fileno()
        with ours, subprocess.Popen(command, stdin=ends, stdout=ends) as process:
            theirs.close()
            client = Client.__new__(Client)  # on a connection that is there already
            client.socket = ours
            what = f"signal {bystander.pid}".encode()
            assert client.greet().write(what.ljust(512, b"\0")) == expected
            client.close()
            assert process.wait(SECONDS) == 0
