"""Starts in odd surroundings, and starts that fail: they say why and leave nothing behind."""

import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
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
    output,
    run,
    title,
)
from tests.support.paths import SAMPLES

FAILING = SAMPLES / "failing.py"
AFTER_FORK = "fork-error=EIO"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for a socket and a pidfile, whose server is ended if a test fails to do so."""
    yield tmp_path
    if (tmp_path / "pid").exists():
        pid = int((tmp_path / "pid").read_text())
        if psutil.pid_exists(pid) and title(psutil.Process(pid)).startswith("nbdfork"):
            end(pid)


def files(place: Path) -> list[str]:
    """Return what is in *place* of a server."""
    return sorted(path.name for path in place.iterdir() if path.name in ("sock", "pid"))


def in_place(place: Path) -> list[str]:
    return ["-U", str(place / "sock"), "-P", str(place / "pid")]


def greets(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(str(path))
        return client.recv(8) == b"NBDMAGIC"


def end(pid: int) -> None:
    """Stop the server *pid*, and wait for its end."""
    process = psutil.Process(pid)
    process.terminate()
    assert eventually(lambda: not is_alive(process))


# -- closed standard streams ------------------------------------------------------------------

STREAMS = [
    closed for count in range(4) for closed in itertools.combinations((0, 1, 2), count) if closed
]


def with_closed(closed: tuple[int, ...], *words: str) -> subprocess.Popen[bytes]:
    """Start the command without the descriptors *closed*; the others lead to pipes."""
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    return subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *NBDFORK, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def has_standard_streams(pid: int) -> bool:
    """Return whether programs that the process *pid* runs are given all standard streams."""
    return all(
        not int(flags.split()[1], 8) & os.O_CLOEXEC
        for fd in (0, 1, 2)
        for flags in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
        if flags.startswith("flags")
    )


@pytest.mark.parametrize("closed", STREAMS, ids=str)
def test_a_daemon_of_a_process_without_standard_streams(
    closed: tuple[int, ...], place: Path
) -> None:
    started = with_closed(closed, *in_place(place), "memory", "1M")
    assert started.communicate(timeout=SECONDS) == (b"", b"")
    assert started.returncode == 0
    pid = int((place / "pid").read_text())
    for process in (psutil.Process(pid), *psutil.Process(pid).children()):
        for fd in (0, 1, 2):
            assert Path(f"/proc/{process.pid}/fd/{fd}").resolve() == Path("/dev/null")
        assert has_standard_streams(process.pid)
    assert greets(place / "sock")
    end(pid)


@pytest.mark.parametrize("closed", STREAMS, ids=str)
def test_a_server_in_the_foreground_without_standard_streams(
    closed: tuple[int, ...], place: Path
) -> None:
    server = with_closed(closed, "-f", *in_place(place), "memory", "1M")
    assert eventually(lambda: (place / "pid").exists() and psutil.Process(server.pid).children())
    for process in (psutil.Process(server.pid), *psutil.Process(server.pid).children()):
        for fd in closed:
            assert Path(f"/proc/{process.pid}/fd/{fd}").resolve() == Path("/dev/null")
        assert has_standard_streams(process.pid)
    assert greets(place / "sock")
    server.terminate()
    out, errors = server.communicate(timeout=SECONDS)
    assert out == b""
    # Whether the worker sees that the client has left, before it is to end itself, is open.
    assert errors == b"" or (b"left when it was greeted" in errors and errors.count(b"\n") == 1)
    assert server.returncode == 0


@pytest.mark.parametrize("closed", STREAMS, ids=str)
def test_a_failing_start_without_standard_streams(closed: tuple[int, ...], place: Path) -> None:
    started = with_closed(closed, *in_place(place), str(FAILING), AFTER_FORK)
    printed, said = started.communicate(timeout=SECONDS)
    assert (started.returncode, printed) == (1, b"")
    assert b"Traceback" not in said
    assert (b"Input/output error" in said) == (2 not in closed)
    assert files(place) == []


def test_a_message_that_standard_error_cannot_take_is_logged(place: Path) -> None:
    started = with_closed((2,), "-f", "--log", str(place / "log"), str(FAILING), "ready-error=EIO")
    started.communicate(timeout=SECONDS)
    assert started.returncode == 1
    assert "Input/output error" in (place / "log").read_text()


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (0, 1, 2)], ids=str)
def test_a_single_client_needs_stdin_and_stdout(closed: tuple[int, ...]) -> None:
    started = with_closed(closed, "-s", "memory", "1M")
    printed, said = started.communicate(timeout=SECONDS)
    assert (started.returncode, printed) == (1, b"")
    assert said == b"" or b"but one of them is not open" in said


def test_a_single_client_without_stderr(place: Path) -> None:
    started = with_closed((2,), "-s", "memory", "1M")
    printed, said = started.communicate(timeout=SECONDS)
    assert (started.returncode, printed[:8], said) == (0, b"NBDMAGIC", b"")


@pytest.mark.parametrize("closed", STREAMS, ids=str)
def test_a_program_without_standard_streams_that_serves(
    closed: tuple[int, ...], place: Path
) -> None:
    program = place / "program.py"
    program.write_text(
        "import sys, nbdfork, socket\n"
        "from nbdfork.plugins.memory import Memory\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "with nbdfork.serve(Memory(size='1M')) as server, client:\n"
        "    client.connect(server.unix_path)\n"
        "    open(sys.argv[1], 'wb').write(client.recv(8))\n"
    )
    redirections = " ".join(f"{fd}>&-" for fd in closed)
    output("sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, program, place / "said")
    assert (place / "said").read_bytes() == b"NBDMAGIC"


# -- what a failed start leaves behind --------------------------------------------------------

MODES = pytest.mark.parametrize("mode", [[], ["-f"]], ids=["background", "foreground"])


@MODES
def test_a_worker_that_cannot_start(mode: list[str], place: Path) -> None:
    done = nbdfork(*mode, *in_place(place), FAILING, AFTER_FORK)
    assert done.returncode == 1
    assert done.stderr.endswith("a worker cannot start: OSError: [Errno 5] Input/output error\n")
    assert files(place) == []


@MODES
def test_a_plugin_that_cannot_get_ready(mode: list[str], place: Path) -> None:
    done = nbdfork(*mode, *in_place(place), FAILING, "ready-error=EIO")
    assert done.returncode == 1
    assert files(place) == []


@MODES
@pytest.mark.parametrize("pidfile", ["/nonexistent/pid", "/dev/full"])
def test_a_pidfile_that_cannot_be_written(mode: list[str], pidfile: str, place: Path) -> None:
    done = nbdfork(*mode, "-U", place / "sock", "-P", pidfile, "null")
    assert done.returncode == 1
    assert f"cannot write the pidfile {pidfile}: " in done.stderr
    assert files(place) == []
    assert Path("/dev/full").is_char_device()


@MODES
def test_a_full_disk(mode: list[str], place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    script = """
        mount -t tmpfs -o size=4k none . && cd "$PWD"
        head -c 4096 /dev/zero > full
        "$@"; status=$?; ls; exit $status
    """
    command = [*NBDFORK, *mode, "-U", "sock", "-P", "pid", "null"]
    done = run("unshare", "-m", "sh", "-c", script, "sh", *command, cwd=place)
    assert (done.returncode, done.stdout) == (1, "full\n")
    assert "cannot write the pidfile" in done.stderr
    assert "No space left on device" in done.stderr


@MODES
def test_tls_that_cannot_be_had(mode: list[str], place: Path) -> None:
    done = nbdfork(*mode, *in_place(place), "--tls-psk", place / "none", "null")
    assert done.returncode == 1
    assert files(place) == []


@MODES
def test_a_user_that_it_may_not_become(mode: list[str], place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    let_all_reach(place)
    place.chmod(0o777)
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = run(*as_nobody, *NBDFORK, *mode, *in_place(place), "-u", "root", "null")
    assert done.returncode == 1
    assert files(place) == []


def test_a_failure_after_the_user_was_changed(place: Path) -> None:
    """The process that was started waits as root, and removes what the server could not."""
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    let_all_reach(place)
    done = nbdfork("-u", "nobody", *in_place(place), FAILING, AFTER_FORK)
    assert done.returncode == 1
    assert "a worker cannot start" in done.stderr
    assert files(place) == []


def test_what_cannot_be_removed_is_named(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    let_all_reach(place)
    done = nbdfork("-f", "-u", "nobody", *in_place(place), FAILING, AFTER_FORK)
    assert done.returncode == 1
    for name in ("sock", "pid"):
        assert f"warning: {place}/{name} is left behind: Permission denied" in done.stderr


@MODES
def test_a_server_that_is_killed_while_it_starts(mode: list[str], place: Path) -> None:
    plugin = place / "killer.py"
    plugin.write_text(
        "import os\n"
        "from nbdfork.plugin import Plugin\n"
        "class Killer(Plugin):\n"
        "    'kills the supervisor'\n"
        "    def after_fork(self): os.kill(os.getppid(), 9)\n"
        "    def get_size(self): return 0\n"
        "    def pread(self, count, offset): return b''\n"
    )
    done = nbdfork(*mode, *in_place(place), plugin)
    if mode:
        assert done.returncode == -signal.SIGKILL  # nobody is left to tidy up
        return
    assert done.returncode == 1
    assert "the server died while it was starting" in done.stderr
    assert files(place) == []


@MODES
def test_a_signal_during_the_start(mode: list[str], place: Path) -> None:
    plugin = place / "stopped.py"
    plugin.write_text(
        "import os, signal\n"
        "from nbdfork.plugin import Plugin\n"
        "class Stopped(Plugin):\n"
        "    'is ended by a signal'\n"
        "    def get_ready(self): os.kill(os.getpid(), signal.SIGTERM)\n"
        "    def get_size(self): return 0\n"
        "    def pread(self, count, offset): return b''\n"
    )
    assert nbdfork(*mode, *in_place(place), plugin).returncode == 128 + signal.SIGTERM
    assert files(place) == []


@pytest.fixture
def slow(place: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A server in the background that starts, and the pipe whose opening lets it go on."""
    pipe = place / "pipe"
    os.mkfifo(pipe)
    plugin = place / "slow.py"
    plugin.write_text(
        "from nbdfork.plugin import Plugin\n"
        "class Slow(Plugin):\n"
        "    'waits'\n"
        "    def after_fork(self):\n"
        f"        open({str(pipe)!r}).close()\n"
        "    def get_size(self): return 0\n"
        "    def pread(self, count, offset): return b''\n"
    )
    words = [*NBDFORK, *in_place(place), "--spare-workers=1", str(plugin)]
    with subprocess.Popen(words) as started:
        eventually((place / "pid").exists)
        # Those that were left behind on the way into the background hold the ready pipe, too.
        on_the_way = psutil.Process(started.pid).children()
        eventually(lambda: not any(map(is_alive, on_the_way)))
        yield started, pipe


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_server_that_nobody_waits_for_any_more_ends(
    slow: tuple[subprocess.Popen[bytes], Path], signum: signal.Signals, place: Path
) -> None:
    started, pipe = slow
    server = psutil.Process(int(eventually((place / "pid").read_text)))
    started.send_signal(signum)
    status = started.wait(SECONDS)
    assert status == (-signum if signum == signal.SIGKILL else 128 + signum)
    pipe.open("w").close()
    assert eventually(lambda: not is_alive(server))
    assert files(place) == []


def test_the_files_of_another_server_stay(place: Path) -> None:
    arguments = [*in_place(place), "memory", "1M"]
    assert nbdfork(*arguments).returncode == 0
    pid = (place / "pid").read_text()
    assert nbdfork(*arguments).returncode == 1
    early = nbdfork("-U", place / "other", "-P", place / "pid", FAILING, "ready-error=EIO")
    assert early.returncode == 1
    assert (place / "pid").read_text() == pid
    assert greets(place / "sock")
    end(int(pid))


def test_a_single_server_that_cannot_start(place: Path) -> None:
    done = nbdfork("-s", "-P", place / "pid", FAILING, AFTER_FORK, input="")
    assert done.returncode == 1
    assert "nbdfork: error: cannot start to serve: OSError: [Errno 5]" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(place) == []


# -- odd places -------------------------------------------------------------------------------


def test_a_private_socket_does_not_need_a_short_tmpdir(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    command = 'test -S "$unixsocket" && echo "$unixsocket"'
    done = nbdfork("-U", "-", "null", "--run", command, env={**os.environ, "TMPDIR": str(long)})
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith(str(tmp_path))
    assert not Path(done.stdout.strip()).parent.exists()
    assert list(long.iterdir()) == []


def test_a_private_socket_is_in_tmpdir_if_that_will_do(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = nbdfork("-U", "-", "null", "--run", 'echo "$unixsocket"', env=environment)
    assert done.stdout.startswith(f"{tmp_path}/nbdfork")


def test_the_longest_path_of_a_socket(tmp_path: Path) -> None:
    fits = tmp_path / ("x" * (107 - len(f"{tmp_path}/")))
    assert nbdfork("-U", fits, "null", "--run", "exit 3").returncode == 3
    done = nbdfork("-U", f"{fits}x", "null")
    assert done.returncode == 1
    assert "a path of 108 bytes is too long for a Unix domain socket, which can" in done.stderr


def test_a_path_that_is_not_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff"
    command: list[str | bytes] = [
        *NBDFORK,
        "-U",
        path,
        "memory",
        "1M",
        "--run",
        'nbdinfo --size "$uri"',
    ]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1048576\n", b"")
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
    assert done.returncode == 1
    assert b"Address already in use" in done.stderr


def test_ps_shows_the_arguments_that_main_was_given(place: Path) -> None:
    script = (
        "import sys; from nbdfork.main import main\n"
        f"sys.exit(main(['-f', '--print-uri', '-U', {str(place / 'sock')!r}, 'memory', '1M']))"
    )
    command = [sys.executable, "-c", script, "other", "words"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"nbd+unix")
        shown = title(psutil.Process(server.pid))
        server.terminate()
        assert shown == f"nbdfork: supervisor -f --print-uri -U {place}/sock memory 1M"
        assert server.wait(SECONDS) == 0
