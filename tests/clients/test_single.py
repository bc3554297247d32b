"""One client on stdin and stdout (`-s`)."""

import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.exchange import Player, arguments, connections, files
from tests.support.harness import NBDFORK, SECONDS, eventually, nbdfork, output, receive, run
from tests.support.libnbd import libnbd
from tests.support.raw import GREETING

READ = bytes.fromhex("25609513 0000 0000 0000000000000007 0000000000000000 00000200")
DISC = bytes.fromhex("25609513 0000 0002 0000000000000000 0000000000000000 00000000")
REPLY = bytes.fromhex("67446698 00000000 0000000000000007") + bytes(512)


def inetd(*words: str | Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a server as inetd does: the connection is its stderr, too."""
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen(
            [*NBDFORK, "-s", *map(str, words)],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=theirs.fileno(),
        )
    ours.settimeout(SECONDS)
    return server, ours


def on_pipes(sent: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*NBDFORK, *words], input=sent, capture_output=True, check=False, timeout=SECONDS
    )


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_golden_exchange_under_inetd(path: Path) -> None:
    for steps in connections(path):
        server, client = inetd(*arguments(path))
        with client:
            Player(client).play(steps, 0)
        assert server.wait(SECONDS) == 0


def test_messages_never_reach_the_client(tmp_path: Path) -> None:
    """The plugin prints, fails and logs; stderr is the client, as it is under inetd."""
    plugin = tmp_path / "chatty.py"
    plugin.write_text(
        "import os, sys\n"
        "from nbdfork.plugin import Plugin\n"
        "print('loading')\n"
        "class Chatty(Plugin):\n"
        "    'talks'\n"
        "    def get_size(self):\n"
        "        print('size', flush=True); os.write(1, b'raw'); return 4096\n"
        "    def pread(self, count, offset):\n"
        "        print('read', file=sys.stderr); raise OSError(5, 'broken')\n"
    )
    server, client = inetd("-v", plugin)
    with client:
        greeting = receive(client, GREETING)
        assert greeting[:8] == b"NBDMAGIC"
        client.sendall(READ + DISC)
        reply = receive(client, 4096)  # to the end
        assert reply.hex() == "67446698000000050000000000000007"
    assert server.wait(SECONDS) == 0


@pytest.mark.parametrize("end", [DISC, b""], ids=["disconnect", "end of file"])
def test_on_pipes(end: bytes) -> None:
    done = on_pipes(READ + READ + end, "-s", "memory", "1M")
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout[GREETING:] == REPLY + REPLY


def test_large_requests_on_pipes() -> None:
    write = bytes.fromhex("25609513 0000 0001 0000000000000001 0000000000000000 00800000")
    read = bytes.fromhex("25609513 0000 0000 0000000000000002 0000000000000000 00800000")
    data = os.urandom(8 << 20)
    done = on_pipes(write + data + read + DISC, "-s", "memory", "8M")
    assert done.stdout[GREETING + 16 + 16 :] == data


@pytest.mark.parametrize("pipes", [True, False], ids=["pipes", "socket"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_signals_end_it(pipes: bool, signum: signal.Signals) -> None:
    if pipes:
        server = subprocess.Popen(
            [*NBDFORK, "-s", "memory", "1M"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert server.stdout is not None
        assert len(server.stdout.read(GREETING)) == GREETING
    else:
        server, client = inetd("memory", "1M")
        assert len(receive(client, GREETING)) == GREETING
    server.send_signal(signum)
    assert server.wait(SECONDS) == 0


def test_libnbd_starts_it_as_a_subprocess() -> None:
    libnbd()  # or the test is skipped
    script = (
        "import sys; sys.path.append('/usr/lib/python3/dist-packages')\n"
        "import nbd\n"
        "h = nbd.NBD()\n"
        f"h.connect_command({[*NBDFORK, '-s', '-n', 'memory', '1M']!r})\n"
        "h.pwrite(b'hello', 4000); print(h.get_size(), bytes(h.pread(5, 4000)))\n"
        "h.shutdown()\n"
    )
    assert output(sys.executable, "-c", script) == "1048576 b'hello'\n"


def test_secrets_are_not_shown_by_ps(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "def config(key, value): pass\n"
        "def open(readonly): return 1\n"
        "def get_size(h): return 512\n"
        "def pread(h, count, offset): return bytes(count)\n"
    )
    server, client = inetd("python", script, "password=hush")
    with client:
        receive(client, GREETING)
        title = Path(f"/proc/{server.pid}/cmdline").read_text().rstrip("\0")
    assert title == f"nbdfork: single -s python {script} 'password=***'"
    assert server.wait(SECONDS) == 0


def test_a_terminal_is_not_a_client() -> None:
    ours, theirs = pty.openpty()
    done = nbdfork("-s", "null", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1
    assert "this is a terminal" in done.stderr


def test_closed_descriptors_are_not_a_client() -> None:
    for redirection in ("<&-", ">&-", "<&- >&-"):
        done = run("sh", "-c", f'"$@" {redirection}', "sh", *NBDFORK, "-s", "null")
        assert done.returncode == 1
        assert "but one of them is not open" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_errors_at_start_are_told_on_stderr() -> None:
    done = on_pipes(b"", "-s", "file", "/nonexistent")
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"nbdfork: error: file: /nonexistent: No such file or directory" in done.stderr


def test_user_switch_and_pidfile(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    server, client = inetd("-u", "nobody", "-P", tmp_path / "pid", "memory", "1M")
    with client:
        assert len(receive(client, GREETING)) == GREETING
        assert (tmp_path / "pid").read_text() == f"{server.pid}\n"
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert "Uid:\t65534\t65534\t65534\t65534" in status
    assert server.wait(SECONDS) == 0


def test_exit_with_parent() -> None:
    command = [*NBDFORK, "-s", "--exit-with-parent", "memory", "1M"]
    script = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen({command!r}, stdin=int(sys.argv[1]), stdout=subprocess.PIPE)\n"
        f"child.stdout.read({GREETING})\n"
        "print(child.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    reader, writer = os.pipe()
    text = output(sys.executable, "-c", script, str(reader), pass_fds=[reader])
    assert eventually(lambda: not is_running(int(text)))
    os.close(reader)
    os.close(writer)


def is_running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
