"""Sandboxes: a plugin whose worker tries to break out.

Each attempt is made twice: without a sandbox it succeeds, or it would prove nothing; in one it
fails, and the other client notices nothing.
"""

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nbdfork.server.sandbox import calls, seccomp
from tests.support.harness import (
    Server,
    let_all_reach,
    output,
)
from tests.support.prison import DENIED, ESCAPES, Prison, needs_root, needs_walls
from tests.support.raw import Client

pytestmark = needs_walls


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


@pytest.mark.parametrize(("allow", "programs"), [("anything", True), ("nothing", False)])
def test_all_calls_that_no_disk_needs_are_refused(
    prison: Prison, allow: str, programs: bool
) -> None:
    absent = {"clone3", "io_uring_enter", "io_uring_register", "io_uring_setup"}
    for name in seccomp.refused(calls.MACHINE, programs=programs):
        error, _ = prison.attempt("require", allow, f"call {calls.NUMBERS[name]}")
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
