"""The life of the server in the background: ready, pidfile, user, signals, the end."""

import os
import pwd
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.harness import (
    NBDFORK,
    SECONDS,
    eventually,
    is_alive,
    let_all_reach,
    nbdfork,
    need,
    output,
    receive,
    run,
    title,
)
from tests.support.paths import SAMPLES

AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")


def need_nobody() -> None:
    need_root()
    if run(*AS_NOBODY, sys.executable, "-c", "import nbdfork").returncode:
        pytest.skip("nobody may not read this checkout, or its interpreter")


@contextmanager
def background(*arguments: str | Path, **options: object) -> Iterator[psutil.Process]:
    """Start a server in the background; yield its supervisor and stop it in the end."""
    pidfile = Path(str(options.get("cwd", "/"))) / str(arguments[arguments.index("-P") + 1])
    done = nbdfork(*arguments, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    supervisor = psutil.Process(int(pidfile.read_text()))
    try:
        yield supervisor
    finally:
        stop(supervisor)


def stop(supervisor: psutil.Process, signum: signal.Signals = signal.SIGTERM) -> None:
    """Stop a server and demand that nothing of it is left running."""
    processes = [supervisor, *supervisor.children(recursive=True)] if is_alive(supervisor) else []
    if processes:
        supervisor.send_signal(signum)
    assert eventually(lambda: not any(map(is_alive, processes)))


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        return client.recv(8) == b"NBDMAGIC"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that any user can reach and read."""
    let_all_reach(tmp_path)
    (tmp_path / "disk.img").write_bytes(b"x" * 4096)
    (tmp_path / "disk.img").chmod(0o666)
    return tmp_path


def test_relative_paths_are_meant_where_the_server_was_started(shared: Path) -> None:
    (shared / "pid").write_text("what was there before is overwritten\n")
    arguments = ("-P", "pid", "-U", "sock", "file", "disk.img")
    with background(*arguments, cwd=shared) as supervisor:
        assert connects(shared / "sock")  # at once: ready means ready
        assert supervisor.cwd() == "/"
        assert (shared / "pid").read_text() == f"{supervisor.pid}\n"
    assert (shared / "pid").exists()  # neither is deleted at the end
    assert (shared / "sock").exists()
    done = nbdfork(*arguments, cwd=shared)
    assert done.returncode == 1
    assert "sock: Address already in use (by another server, or by a socket file" in done.stderr


def test_the_server_is_a_daemon(shared: Path) -> None:
    with background("-P", "pid", "-U", "sock", "memory", "1M", cwd=shared) as supervisor:
        assert supervisor.terminal() is None
        assert os.getsid(supervisor.pid) != os.getsid(0)
        for process in (supervisor, *supervisor.children()):
            for fd in (0, 1, 2):
                assert Path(f"/proc/{process.pid}/fd/{fd}").resolve() == Path("/dev/null")
        assert len(supervisor.children()) == 4
        assert connects(shared / "sock")


def test_it_is_found_by_its_name(shared: Path) -> None:
    with background("-P", "pid", "-U", "sock", "memory", "1M", cwd=shared) as supervisor:
        workers = supervisor.children()
        assert eventually(lambda: [title(w) for w in workers] == ["nbdfork: worker idle"] * 4)
        assert [w.name() for w in workers] == ["nbdfork-worker"] * 4
        assert supervisor.name() == "nbdfork"
        assert title(supervisor) == "nbdfork: supervisor -P pid -U sock memory 1M"


@pytest.mark.parametrize(
    ("user", "group"),
    [("nobody", None), ("65534", "nogroup"), ("nobody", "65534"), ("daemon", None), ("12345", "1")],
)
def test_user_switch(shared: Path, user: str, group: str | None) -> None:
    need_root()
    uid = pwd.getpwnam(user).pw_uid if user.isalpha() else int(user)
    gid = {"nogroup": 65534, None: pwd.getpwuid(uid).pw_gid if user.isalpha() else 0}.get(group)
    gid = int(group or 0) if gid is None else gid
    arguments = ["-P", "pid", "-U", "sock", "-u", user, *(["-g", group] if group else [])]
    with background(*arguments, "file", "disk.img", cwd=shared) as supervisor:
        for process in (supervisor, *supervisor.children()):
            status = Path(f"/proc/{process.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            assert fields["Uid"].split() == [str(uid)] * 4
            assert fields["Gid"].split() == [str(gid)] * 4
            assert set(fields["Groups"].split()) <= {str(gid)}  # root's others are gone
        assert (shared / "pid").stat().st_uid == 0
        assert connects(shared / "sock")


def test_a_user_without_a_group(shared: Path) -> None:
    need_root()
    done = nbdfork("-u", "12345", "-P", "pid", "-U", "sock", "memory", "1", cwd=shared)
    assert done.returncode == 1
    assert "-u 12345: this user is not in the password file and so has no group" in done.stderr
    assert not (shared / "sock").exists()


def test_group_alone(shared: Path) -> None:
    need_root()
    with background("-P", "pid", "-U", "sock", "-g", "daemon", "memory", "1", cwd=shared) as server:
        assert server.gids().effective == 1
        assert server.uids().effective == 0


def test_an_ordinary_user_may_become_himself(shared: Path) -> None:
    need_nobody()
    shared.chmod(0o777)
    command = [*NBDFORK, "-P", str(shared / "pid"), "-U", str(shared / "sock"), "-u", "nobody"]
    output(*AS_NOBODY, *command, "memory", "1M")
    stop(psutil.Process(int((shared / "pid").read_text())))


def test_a_private_socket_goes_with_the_server_whoever_it_became(shared: Path) -> None:
    need_root()
    log = shared / "log"
    with background("-P", "pid", "-U", "-", "-u", "nobody", "-v", "--log", log, "null", cwd=shared):
        where = log.read_text().split("socket=")[1].split()[0]
        assert connects(Path(where))
        assert oct(Path(where).parent.stat().st_mode & 0o777) == "0o700"
    assert not Path(where).parent.exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_signals_end_it_cleanly(shared: Path, signum: signal.Signals) -> None:
    with background("-P", "pid", "-U", "sock", "memory", "1M", cwd=shared) as supervisor:
        stop(supervisor, signum)


def test_sigpipe_is_ignored(shared: Path) -> None:
    with background("-P", "pid", "-U", "sock", "memory", "1M", cwd=shared) as supervisor:
        for process in (supervisor, *supervisor.children()):
            process.send_signal(signal.SIGPIPE)
        assert connects(shared / "sock")
        assert supervisor.is_running()


# -- start-up that fails ----------------------------------------------------------------------


def fails(*arguments: str | Path, message: str, **options: object) -> None:
    done = nbdfork(*arguments, **options)
    assert done.returncode == 1
    assert done.stderr.startswith("nbdfork: error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = f"cannot listen on 127.0.0.1:{port}: Address already in use"
        fails("-i", "127.0.0.1", "-p", port, "null", message=message)


def test_unknown_service_and_address() -> None:
    fails("-p", "nosuchservice", "null", message="cannot listen on all interfaces, port nosuchserv")
    fails("-i", "no.such.host.invalid", "null", message="cannot listen on no.such.host.invalid")
    fails("-i", "192.0.2.1", "null", message="cannot listen")


@pytest.mark.parametrize("mode", [[], ["-f"]])
def test_unwritable_pidfile(mode: list[str]) -> None:
    message = "cannot write the pidfile /nonexistent/pid: No such file or directory"
    fails(*mode, "-U", "-", "-P", "/nonexistent/pid", "null", message=message)


def test_unknown_user_and_group() -> None:
    fails("-U", "-", "-u", "nosuchuser", "null", message="-u nosuchuser: there is no such user")
    fails("-U", "-", "-g", "nosuchgroup", "null", message="-g nosuchgroup: there is no such group")


def test_no_permission_to_switch() -> None:
    need_nobody()
    done = run(*AS_NOBODY, *NBDFORK, "-U", "-", "-u", "root", "null")
    assert done.returncode == 1
    assert "cannot change to user 0 and group 0: Operation not permitted" in done.stderr


def test_socket_path_that_is_too_long(tmp_path: Path) -> None:
    fails(
        "-U", tmp_path / ("x" * 120), "null", message="bytes is too long for a Unix domain socket"
    )


def test_plugin_that_cannot_get_ready(tmp_path: Path) -> None:
    fails("-U", "-", SAMPLES / "failing.py", "ready-error=EIO", message="Input/output error")


def test_plugin_that_cannot_start_a_worker(tmp_path: Path) -> None:
    message = "a worker cannot start: OSError: [Errno 5] Input/output error"
    fails("-U", "-", SAMPLES / "failing.py", "fork-error=EIO", message=message)


def test_log_file_that_cannot_be_opened() -> None:
    fails("-U", "-", "--log", "/nonexistent/log", "null", message="--log /nonexistent/log: No such")


# -- the rest ---------------------------------------------------------------------------------


def test_a_huge_limit_of_descriptors_costs_nothing(shared: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, max(hard, 1_000_000)))
    except (ValueError, PermissionError):
        most = hard  # this machine does not allow more: do what it allows
    else:
        most = max(hard, 1_000_000)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))

    def raise_limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    arguments = ("-P", "pid", "-U", "sock", "memory", "1M")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    with background(*arguments, cwd=shared, preexec_fn=raise_limit):
        assert connects(shared / "sock")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_stime - usage.ru_stime < 5  # a million close(2) would take longer


def test_inherited_descriptors_are_closed(shared: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    arguments = ("-P", "pid", "-U", "sock", "memory", "1M")
    with background(*arguments, cwd=shared, pass_fds=[writer]):
        os.close(writer)
        assert os.read(reader, 1) == b""  # the server does not hold the other end
    os.close(reader)


def test_messages_go_to_the_system_log(shared: Path) -> None:
    need_root()
    need("busybox")
    messages = shared / "messages"
    with subprocess.Popen(["busybox", "syslogd", "-n", "-O", str(messages)]) as syslogd:
        try:
            eventually(lambda: messages.exists() and "started" in messages.read_text())
            plugin = (SAMPLES / "failing.py", "pread-error=EIO", "pwrite-error=EIO")
            with background("-P", "pid", "-U", "sock", *plugin, cwd=shared):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(SECONDS)
                    client.connect(str(shared / "sock"))
                    receive(client, 152)
                    client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 0, 0, 512))
                    assert receive(client, 16)[:8].hex() == "6744669800000005"
                eventually(lambda: "READ" in messages.read_text())
        finally:
            syslogd.terminate()
    text = messages.read_text()
    assert "daemon.err nbdfork[" in text
    assert "READ of 512 bytes at 0: Input/output error" in text


def test_log_to_a_file(shared: Path) -> None:
    plugin = SAMPLES / "failing.py"
    arguments = ("-P", "pid", "-U", "sock", "--log", "log", plugin, "open-error=EIO")
    with background(*arguments, cwd=shared), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(shared / "sock"))
        assert client.recv(8) == b""  # oldstyle cannot say why
        assert eventually(lambda: "the export cannot be opened" in (shared / "log").read_text())


def test_verbose_keeps_standard_error(shared: Path) -> None:
    log = shared / "stderr"
    with log.open("wb") as stderr:
        done = subprocess.run(
            [*NBDFORK, "-v", "-P", shared / "pid", "-U", shared / "sock", "memory", "1M"],
            stderr=stderr,
            check=False,
            timeout=SECONDS,
        )
    assert done.returncode == 0
    assert connects(shared / "sock")
    assert eventually(lambda: "client unix pid" in log.read_text())
    stop(psutil.Process(int((shared / "pid").read_text())))


def test_on_a_terminal_the_server_says_where_it_is(tmp_path: Path) -> None:
    terminal, end = os.openpty()
    command = [*NBDFORK, "-f", "-U", str(tmp_path / "sock"), "null"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=end)
    os.close(end)
    try:
        said, coming = b"", select.poll()
        coming.register(terminal, select.POLLIN)
        while not said.endswith(b"\n"):  # it may come in pieces
            assert coming.poll(SECONDS * 1000)
            said += os.read(terminal, 4096)
        assert said.decode() == f"nbd+unix:///?socket={tmp_path}/sock\r\n"
    finally:
        process.send_signal(signal.SIGINT)  # as Ctrl-C does
        assert process.wait(SECONDS) == 0
        os.close(terminal)
