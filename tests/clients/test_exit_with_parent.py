"""`--exit-with-parent`: the parent is a process, whichever thread of it has started the server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.harness import NBDFORK, SECONDS, eventually, is_alive, need, output

SERVE = """
import os, socket, subprocess, sys, threading

def start():
    global server, tid, uri
    tid = threading.get_native_id()
    server = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
    uri = server.stdout.readline()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(uri.strip().partition("socket=")[2])
        client.recv(1)

thread = threading.Thread(target=start)
thread.start()
thread.join()
while os.path.exists(f"/proc/self/task/{tid}"):
    pass
print(server.pid, uri, sep="\\n", end="", flush=True)
sys.stdin.read()
"""
"""Starts a server in a thread, which ends when the server has workers."""

TALK = """
import os, subprocess, sys, threading

def start():
    global server, tid
    tid = threading.get_native_id()
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert len(server.stdout.read(152)) == 152

thread = threading.Thread(target=start)
thread.start()
thread.join()
while os.path.exists(f"/proc/self/task/{tid}"):
    pass
read = bytes.fromhex("25609513 0000 0000 0000000000000007 0000000000000000 00000200")
for _ in range(3):
    server.stdin.write(read); server.stdin.flush()
    assert server.stdout.read(16 + 512)[:8].hex() == "6744669800000000"
print(server.pid, "served", sep="\\n", flush=True)
sys.stdin.read()
"""
"""Starts a server in a thread, which ends when it has been greeted, and talks to it then."""


@contextmanager
def parent(script: str, *words: str) -> Iterator[tuple[psutil.Process, str]]:
    """Run *script* as the parent of a server; yield the server, and what is printed then."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *NBDFORK, "--exit-with-parent", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        server = psutil.Process(int(started.stdout.readline()))
        yield server, started.stdout.readline().strip()
        started.kill()


def test_a_thread_that_ends() -> None:
    need("nbdinfo")
    words = ("-U", "-", "--print-uri", "--spare-workers=1", "memory", "1M")
    with parent(SERVE, *words) as (server, uri):
        everyone = [server, *server.children()]
        for _ in range(4):  # each needs a worker that is forked after the thread has ended
            assert output("nbdinfo", "--size", uri) == "1048576\n"
    assert eventually(lambda: not any(map(is_alive, everyone)))
    assert not Path(uri.partition("socket=")[2]).parent.exists()


def test_a_thread_that_ends_and_a_single_client() -> None:
    with parent(TALK, "-s", "memory", "1M") as (server, answer):
        assert answer == "served"
    assert eventually(lambda: not is_alive(server))


def test_a_user_who_gives_up_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    words = ("-U", "-", "-u", "nobody", "--print-uri", "memory", "1M")
    with parent(SERVE, *words) as (server, _):
        assert server.uids().real != 0 or eventually(lambda: server.uids().real != 0)
    assert eventually(lambda: not is_alive(server))


def test_a_parent_that_has_ended_before_the_server_looks(tmp_path: Path) -> None:
    """The server looks when it has started; here it does not go on before its parent has ended."""
    plugin = tmp_path / "orphan.py"
    plugin.write_text(
        "import os, select\n"
        "from nbdfork.plugin import Plugin\n"
        "class Orphan(Plugin):\n"
        "    'waits for the end of its parent'\n"
        "    def get_ready(self):\n"
        "        parent = os.pidfd_open(os.getppid())\n"
        "        print('waiting', flush=True)\n"
        "        select.select([parent], [], [], 60)\n"
        "    def get_size(self): return 0\n"
        "    def pread(self, count, offset): return b''\n"
    )
    script = (
        "import subprocess, sys\n"
        "with open(sys.argv[1], 'w') as said:\n"
        "    server = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE, stderr=said)\n"
        "    server.stdout.readline()\n"
    )
    said = tmp_path / "said"
    words = ("-U", tmp_path / "sock", "-P", tmp_path / "pid", plugin)
    output(sys.executable, "-c", script, said, *NBDFORK, "--exit-with-parent", *words)
    assert eventually(said.read_text)
    assert "--exit-with-parent: the parent has ended already" in said.read_text()
    assert eventually(lambda: not (tmp_path / "sock").exists())
    assert eventually(lambda: not (tmp_path / "pid").exists())


def test_a_parent_outside_of_the_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a namespace")
    need("unshare")
    command = ["unshare", "-fp", *NBDFORK, "--exit-with-parent", "-U", "-", "null"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 1
    assert "the parent is in another PID namespace and cannot be watched" in done.stderr
