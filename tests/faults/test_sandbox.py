"""Sandboxes: a plugin whose worker tries to break out.

Each attempt is made twice: without a sandbox it succeeds, or it would prove nothing; in one it
fails, and the other client notices nothing.
"""

import ctypes
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nbdfork.server.sandbox import calls, landlock, seccomp
from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    eventually,
    let_all_reach,
    nbdfork,
    output,
)
from tests.support.paths import SAMPLES
from tests.support.raw import Client

ESCAPES = SAMPLES / "escapes.py"

DENIED = errno.EINVAL
"""What a client is told of EACCES, which its protocol does not have."""

pytestmark = pytest.mark.skipif(
    not (landlock.scopes() and seccomp.is_available()),
    reason="the kernel cannot confine a worker: Landlock 6 and seccomp are needed",
)

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root could do that at all")


class Prison:
    """Servers of the sample, each with a client that is to notice nothing."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._servers: dict[tuple[str, ...], tuple[Server, Client]] = {}

    def attempt(self, mode: str, allow: str, what: str) -> tuple[int, str]:
        """Return the errno that the attempt ends with, 0 if it succeeds, and what it found."""
        server, witness = self.server(mode, allow)
        client = Client(server).greet()
        error = client.write(what.encode().ljust(512, b"\0"))
        found = client.read(0, 4096).rstrip(b"\0").decode()
        client.close()
        assert witness.read(0, 512) == bytes(512)
        return error, found

    def server(self, mode: str, allow: str, *more: str | Path) -> tuple[Server, Client]:
        key = (mode, allow, *map(str, more))
        if key not in self._servers:
            options = (f"--sandbox={mode}", "--max-clients=8", "--spare-workers=1")
            server = Server(*options, *more, ESCAPES, f"allow={allow}")
            self._servers[key] = (self._stack.enter_context(server), Client(server).greet())
            self._stack.callback(self._servers[key][1].close)
        return self._servers[key]

    def escapes(self, allow: str, what: str) -> bool:
        """Return whether the attempt succeeds in a sandbox; without one it has to."""
        error, _ = self.attempt("off", allow, what)
        assert error == 0, f"{what} fails without a sandbox, too: {os.strerror(error)}"
        return self.attempt("require", allow, what)[0] == 0


@pytest.fixture(scope="module")
def prison() -> Iterator[Prison]:
    with ExitStack() as stack:
        yield Prison(stack)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same user that has nothing to do with the server."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


# -- other processes --------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", ["signal", "pidfd"])
@pytest.mark.parametrize("allow", ["anything", "nothing"])
def test_no_signals_to_others(
    prison: Prison, attempt: str, allow: str, bystander: subprocess.Popen[bytes]
) -> None:
    assert not prison.escapes(allow, f"{attempt} {bystander.pid}")
    server, _ = prison.server("require", allow)
    other_worker = server.serving()[0].pid
    for pid in (server.pid, other_worker):
        assert prison.attempt("require", allow, f"{attempt} {pid}")[0] == errno.EPERM


LISTENER = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
print("ready", flush=True)
while True:
    signal.sigwait([signal.SIGURG])
    print("heard", flush=True)
"""

INTO_OTHERS = ("trace", "memory", "poke", "edit", "take", "starve", "slow", "pin")


@pytest.mark.parametrize("attempt", INTO_OTHERS)
def test_others_are_neither_looked_into_nor_changed(
    prison: Prison, attempt: str, bystander: subprocess.Popen[bytes]
) -> None:
    assert not prison.escapes("anything", f"{attempt} {bystander.pid}")
    server, _ = prison.server("require", "anything")
    for pid in (server.pid, server.serving()[0].pid):
        assert prison.attempt("require", "anything", f"{attempt} {pid}")[0]


def test_signals_that_are_needed_are_all_that_is_gained(
    prison: Prison, bystander: subprocess.Popen[bytes]
) -> None:
    assert prison.attempt("require", "signals", f"signal {bystander.pid}")[0] == 0
    for attempt in INTO_OTHERS:
        assert prison.attempt("require", "signals", f"{attempt} {bystander.pid}")[0]


@pytest.mark.parametrize("allow", ["anything", "nothing"])
def test_a_signal_to_everybody_reaches_nobody(prison: Prison, allow: str) -> None:
    """Nor does one to a group.  What is heard is only what the test sends."""
    command = [sys.executable, "-c", LISTENER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == b"ready\n"
        prison.attempt("require", allow, "everybody")
        prison.attempt("require", allow, f"group {listener.pid}")
        assert prison.attempt("off", allow, f"group {listener.pid}")[0] == 0
        assert listener.stdout.readline() == b"heard\n"
        listener.terminate()
        assert listener.stdout.read() == b""


@needs_root
def test_other_processes_are_not_seen(prison: Prison, bystander: subprocess.Popen[bytes]) -> None:
    assert not prison.escapes("anything", f"see {bystander.pid}")
    server, _ = prison.server("require", "anything")
    for pid in (server.pid, server.serving()[0].pid):
        assert prison.attempt("require", "anything", f"see {pid}")[0]
    assert prison.attempt("require", "anything", "see self")[0] == 0


def test_slots_of_others_cannot_be_written(prison: Prison) -> None:
    for mode in ("off", "require"):  # it is no matter of the sandbox
        assert prison.attempt(mode, "anything", "scoreboard")[0] == DENIED


@needs_root
def test_the_table_of_slots_cannot_be_opened(prison: Prison) -> None:
    for allow in ("anything", "nothing"):
        assert not prison.escapes(allow, "scoreboard_file")


def test_memory_that_others_share_by_a_number_is_not_attached(prison: Prison) -> None:
    libc = ctypes.CDLL(None)
    key = 0x6E62_0000 + os.getpid() % 0x10000
    found = libc.shmget(key, 4096, 0o1600)  # IPC_CREAT
    assert found >= 0
    try:
        assert not prison.escapes("files", f"shared_memory {key}")
    finally:
        libc.shmctl(found, 0, None)  # IPC_RMID


# -- files ------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(b"mine")
    (tmp_path / "other").write_bytes(b"not mine")
    (tmp_path / "inside").mkdir()
    return tmp_path


@pytest.mark.parametrize("allow", ["nothing", "network"])
@pytest.mark.parametrize(
    "attempt", ["read other", "write other", "list inside", "create inside/new", "remove disk"]
)
def test_files_that_are_not_needed_are_out_of_reach(
    prison: Prison, directory: Path, allow: str, attempt: str
) -> None:
    name, _, file = attempt.partition(" ")
    before = sorted(path.name for path in directory.rglob("*"))
    assert prison.attempt("require", allow, f"{name} {directory / file}")[0] == DENIED
    assert sorted(path.name for path in directory.rglob("*")) == before
    assert (directory / "other").read_bytes() == b"not mine"
    assert prison.attempt("off", allow, f"{name} {directory / file}")[0] == 0


@pytest.mark.parametrize("allow", ["nothing", "network"])
@pytest.mark.parametrize(
    "attempt",
    [
        *("mode other", "own other", "time other", "attribute other", "watch other"),
        *("link other", "rename other", "truncate other"),
    ],
)
def test_what_is_known_of_files_is_not_changed_either(
    prison: Prison, directory: Path, allow: str, attempt: str
) -> None:
    name, _, file = attempt.partition(" ")
    before = (directory / file).stat()
    assert prison.attempt("require", allow, f"{name} {directory / file}")[0]
    assert (directory / file).stat() == before
    assert not os.listxattr(directory / file)
    assert prison.attempt("off", allow, f"{name} {directory / file}")[0] == 0


@needs_root
def test_root_cannot_read_passwords(prison: Prison) -> None:
    assert not prison.escapes("nothing", "read /etc/shadow")


def test_the_file_that_is_needed_can_be_used_and_those_beside_it_cannot(directory: Path) -> None:
    disk = directory / "disk"
    with Server("--sandbox=require", ESCAPES, "allow=files", f"path={disk}") as server:

        def attempt(what: str) -> int:
            client = Client(server).greet()
            error = client.write(what.encode().ljust(512, b"\0"))
            client.close()
            return error

        assert attempt(f"write {disk}") == 0
        assert disk.read_bytes() == b"mineescaped"
        assert attempt(f"read {directory / 'other'}") == DENIED
        assert attempt(f"list {directory}") == DENIED
        # Workers have been waiting since before it was replaced.
        (directory / "new").write_bytes(b"new")
        (directory / "new").rename(disk)
        assert attempt(f"write {disk}") == 0
        assert disk.read_bytes() == b"newescaped"


def test_a_worker_that_stays_finds_a_file_that_was_replaced(directory: Path) -> None:
    disk, apart = directory / "disk", directory.with_name("apart")
    apart.write_bytes(b"apart")
    options = ("--sandbox=require", "--clients-per-worker=0", "--max-clients=1")
    with Server(*options, ESCAPES, "allow=files", f"path={disk}") as server:
        for number in range(2):
            client = Client(server).greet()
            assert client.write(f"write {disk}".encode().ljust(512, b"\0")) == 0
            assert client.write(f"read {apart}".encode().ljust(512, b"\0")) == DENIED
            client.close()
            (directory / "new").write_bytes(b"%d" % number)
            (directory / "new").rename(disk)


def test_read_only_disks_are_only_read(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(512))
    with Server("-v", "--sandbox=require", "-r", "file", disk) as server:
        client = Client(server).greet()
        assert client.read(0, 512) == bytes(512)
        client.close()
        assert f"files: read {disk};" in server.log


# -- out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", ["connect", "datagram"])
def test_no_network_for_those_who_do_not_need_it(prison: Prison, attempt: str) -> None:
    kind = socket.SOCK_STREAM if attempt == "connect" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as target:
        target.bind(("127.0.0.1", 0))
        if attempt == "connect":
            target.listen(8)
        what = f"{attempt} {target.getsockname()[1]}"
        assert not prison.escapes("nothing", what)
        assert prison.attempt("require", "network", what)[0] == 0


def test_no_sockets_of_this_machine_either(prison: Prison, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as target:
        target.bind(str(tmp_path / "socket"))
        target.listen(8)
        assert not prison.escapes("nothing", f"unix {tmp_path / 'socket'}")


def test_no_abstract_socket_even_with_the_network(prison: Prison) -> None:
    name = f"nbdfork-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as target:
        target.bind(f"\0{name}")
        target.listen(8)
        assert not prison.escapes("network", f"abstract {name}")


@needs_root
def test_no_raw_sockets(prison: Prison) -> None:
    assert not prison.escapes("anything", "packet")


# -- programs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", ["run", "fork"])
def test_no_programs_for_those_who_do_not_need_them(prison: Prison, attempt: str) -> None:
    assert not prison.escapes("nothing", attempt)
    assert prison.attempt("require", "programs", attempt)[0] == 0


def test_it_does_not_become_a_program_that_is_in_no_file() -> None:
    for mode, becomes in (("off", True), ("require", False)):
        with Server(f"--sandbox={mode}", ESCAPES, "allow=nothing") as server:
            client = Client(server).greet()
            client.request(1, 0, 512, b"become".ljust(512, b"\0"))
            if becomes:
                with pytest.raises((EOFError, OSError)):
                    client.reply()
            else:
                assert client.reply()[0] == errno.EPERM
            client.close()


@needs_root
def test_nothing_is_typed_into_a_terminal(prison: Prison) -> None:
    assert not prison.escapes("anything", "type")


def test_a_program_of_root_gives_no_privileges(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make such a program")
    program = tmp_path / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o4755)
    let_all_reach(tmp_path)
    found = {}
    for mode in ("off", "require"):
        with Server(f"--sandbox={mode}", "-u", "nobody", ESCAPES, f"target={program}") as server:
            client = Client(server).greet()
            assert client.write(b"gain".ljust(512, b"\0")) == 0
            found[mode] = client.read(0, 512).rstrip(b"\0").decode().strip()
            client.close()
    assert found == {"off": "0", "require": "65534"}


# -- the kernel -------------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("attempt", ["root", "owner", "namespace"])
def test_what_root_could_do(prison: Prison, tmp_path: Path, attempt: str) -> None:
    assert not prison.escapes("anything", f"{attempt} {tmp_path}")


@needs_root
def test_nothing_is_mounted(prison: Prison, tmp_path: Path) -> None:
    assert prison.attempt("require", "anything", f"mount {tmp_path}")[0] == errno.EPERM
    assert prison.attempt("off", "anything", f"mount {tmp_path}")[0] == 0
    output("umount", tmp_path)


def test_all_calls_that_no_disk_needs_are_refused(prison: Prison) -> None:
    absent = {"clone3", "io_uring_enter", "io_uring_register", "io_uring_setup"}
    for name in seccomp.refused(calls.MACHINE, programs=True):
        error, _ = prison.attempt("require", "anything", f"call {calls.NUMBERS[name]}")
        # What the protocol has no number for, as ENOSYS, is told as EINVAL or EIO.
        assert error if name in absent else error == errno.EPERM, name


@pytest.mark.parametrize("allow", ["anything", "files", "network", "nothing", "programs"])
def test_what_the_kernel_says_of_a_worker(prison: Prison, allow: str) -> None:
    """Of itself it can read that, or its supervisor can."""
    server, _ = prison.server("require", allow)
    text = Path(f"/proc/{server.serving()[0].pid}/status").read_text()
    status = dict(line.split(":", 1) for line in text.splitlines())
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    files = 0b11111  # what lets root use the files of others
    capabilities = int(status["CapEff"], 16)
    assert capabilities & ~files == 0
    assert allow in ("anything", "files", "programs") or capabilities == 0
    if allow in ("anything", "programs"):
        assert int(status["CapBnd"], 16) == 0 or os.getuid() != 0


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


def attempts_of(server: Server, *attempts: str) -> list[tuple[int, str]]:
    """Return the error of each attempt, made by one worker, and what it found."""
    client = Client(server).greet()
    done = []
    for what in attempts:
        error = client.write(what.encode().ljust(512, b"\0"))
        done.append((error, client.read(0, 512).rstrip(b"\0").decode()))
    client.close()
    return done


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
    with Server(*users, "file", disk) as server:
        client = Client(server)
        with pytest.raises((EOFError, OSError)):
            client.greet()


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
        (line,) = [line for line in server.log.splitlines() if "sandbox:" in line]
        assert "files: none; programs: no; network: no; " in line
        assert line.endswith("limits: core 0, files 100")
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
