"""Serving a disk from within a program, and the pytest fixture."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import nbdfork
from nbdfork.embed import Server
from nbdfork.plugin import (
    ConfigError,
    Export,
    Filter,
    FilterExport,
    Parameter,
    Plugin,
    SharedBuffer,
    parse,
)
from nbdfork.server.errors import StartupError
from tests.support.harness import NBDFORK, SECONDS, eventually, is_alive, need, output, run


class Ram(Plugin):
    """a RAM disk"""

    size = Parameter(parse.size, required=True, metavar="SIZE", help="its size")

    def get_ready(self) -> None:
        self.disk = SharedBuffer(self.size)

    def get_size(self) -> int:
        return self.size

    def pread(self, count: int, offset: int) -> memoryview:
        return self.disk.view()[offset : offset + count]

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.disk[offset : offset + len(data)] = data


class Upper(Filter):
    """writes in upper case"""

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        return UpperExport(next)


class UpperExport(FilterExport):
    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.next.pwrite(memoryview(bytes(data).upper()), offset, flags)


def qemu_io(uri: str, *commands: str) -> str:
    need("qemu-io")
    words = [word for command in commands for word in ("-c", command)]
    return output("qemu-io", "-f", "raw", *words, uri)


def test_the_program_and_the_clients_share_the_disk() -> None:
    disk = Ram(size="1M")
    with nbdfork.serve(disk) as server:
        qemu_io(server.uri, "write -P 65 0 512")
        assert disk.disk[0:512] == b"A" * 512
        disk.disk[0:512] = b"B" * 512
        qemu_io(server.uri, "read -P 66 0 512")
        assert server.unix_path is not None
        directory = Path(server.unix_path).parent
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children()]
    assert not directory.exists()
    assert not any(map(is_alive, processes))


def test_tcp_and_names() -> None:
    with nbdfork.serve(Ram(size=4096), port=0, export_name="my disk") as server:
        assert server.uri == f"nbd://127.0.0.1:{server.port}/my%20disk" or "[::1]" in server.uri
        assert server.unix_path is None
        need("nbdinfo")
        assert output("nbdinfo", "--size", server.uri) == "4096\n"


def test_oldstyle_and_read_only(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with nbdfork.serve(Ram(size="1M"), unix=path, newstyle=False, read_only=True):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            greeting = client.recv(152)
            assert greeting[8:16].hex() == "0000420281861253"
            assert greeting[27] & 2


def test_filters() -> None:
    disk = Ram(size="1M")
    with nbdfork.serve(disk, Upper()) as server:
        qemu_io(server.uri, "write -P 97 0 512")
    assert disk.disk[0:512] == b"A" * 512


def test_mistakes_are_raised(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the parameter size=SIZE is required"):
        nbdfork.serve(Ram())
    with pytest.raises(StartupError, match="No such file or directory"):
        nbdfork.serve(Ram(size=1), unix=str(tmp_path / "nowhere" / "sock"))

    class Unready(Ram):
        def after_fork(self) -> None:
            raise RuntimeError("not today")

    with pytest.raises(StartupError, match="not today"):
        nbdfork.serve(Unready(size=1))


def test_a_server_that_cannot_start_leaves_no_socket(tmp_path: Path) -> None:
    class Unready(Ram):
        def get_ready(self) -> None:
            raise OSError(5, "not today")

    class Unstarted(Ram):
        def after_fork(self) -> None:
            raise OSError(5, "not today")

    for plugin, error in ((Unready, ConfigError), (Unstarted, StartupError)):
        with pytest.raises(error, match="not today"):
            nbdfork.serve(plugin(size=1), unix=str(tmp_path / "sock"))
        assert list(tmp_path.iterdir()) == []


def test_keys_that_cannot_be_read_leave_no_socket(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--tls-psk"):
        nbdfork.serve(Ram(size=1), unix=str(tmp_path / "sock"), tls_psk=str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_starts_a_server_and_ends() -> None:
    need("nbdinfo")
    with ThreadPoolExecutor(1) as thread:
        server = thread.submit(nbdfork.serve, Ram(size=4096)).result(SECONDS)
        tid = thread.submit(threading.get_native_id).result()
    assert eventually(lambda: not Path(f"/proc/self/task/{tid}").exists())
    with server:
        for _ in range(6):  # more than there were workers when the thread ended
            assert output("nbdinfo", "--size", server.uri) == "4096\n"


def test_servers_can_be_stopped_in_any_order() -> None:
    first, second, third = (nbdfork.serve(Ram(size="1M")) for _ in range(3))
    for server in (second, first, third):
        qemu_io(third.uri, "read 0 512")
        server.stop()


def test_a_fork_of_the_program_keeps_no_server_running() -> None:
    server = nbdfork.serve(Ram(size="1M"))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        server.stop()  # not its to stop
        os.read(reader, 1)
        os._exit(0)
    qemu_io(server.uri, "read 0 512")
    server.stop()
    os.close(writer)
    os.close(reader)
    assert os.waitpid(pid, 0)[1] == 0


def test_one_place_to_listen() -> None:
    with pytest.raises(ValueError, match="not on both"):
        nbdfork.serve(Ram(size=1), unix="/nonexistent/sock", port=0)


def test_stopping_twice_is_no_mistake() -> None:
    server = nbdfork.serve(Ram(size=1))
    server.stop()
    server.stop()


def test_the_server_dies_with_the_program(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import os, nbdfork\n"
        "from nbdfork.plugin import Plugin\n"
        "class Empty(Plugin):\n"
        "    'nothing'\n"
        "    def get_size(self): return 0\n"
        "    def pread(self, count, offset): return b''\n"
        "server = nbdfork.serve(Empty())\n"
        "print(server.pid, server.unix_path, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60
    )
    pid, path = done.stdout.split()
    assert eventually(
        lambda: not psutil.pid_exists(int(pid)) or not is_alive(psutil.Process(int(pid)))
    )
    assert not os.path.exists(path)


def test_a_plugin_is_for_one_server() -> None:
    disk, above = Ram(size="1M"), Upper()
    with pytest.raises(ValueError, match=r"Ram: size=1X: not a size"):
        Ram(size="1X")
    with nbdfork.serve(disk, above):
        pass
    with pytest.raises(ValueError, match="this Ram has been served before: make another one"):
        nbdfork.serve(disk)
    with pytest.raises(ValueError, match="this Upper has been served before"):
        nbdfork.serve(Ram(size="1M"), above)


def test_the_fixture_shows_what_a_plugin_raised(tmp_path: Path) -> None:
    (tmp_path / "test_failing.py").write_text(
        "import pytest, socket\n"
        "from nbdfork.plugin import Plugin\n"
        "class Failing(Plugin):\n"
        "    'fails'\n"
        "    def get_size(self): return {}['nothing']\n"
        "    def pread(self, count, offset): return bytes(count)\n"
        "@pytest.mark.parametrize('good', [True, False])\n"
        "def test(nbd_server, good):\n"
        "    server = nbd_server(Failing(), newstyle=False)\n"
        "    with socket.socket(socket.AF_UNIX) as client:\n"
        "        client.connect(server.unix_path)\n"
        "        assert client.recv(8) == (b'' if good else b'NBDMAGIC')\n"
    )
    done = run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tmp_path)
    assert "1 failed, 1 passed" in done.stdout
    assert done.stdout.count("in get_size") == 1
    assert done.stdout.count("KeyError: 'nothing'") == 1


def test_the_fixture(nbd_server: Callable[..., Server]) -> None:
    first, second = nbd_server(Ram(size="1M")), nbd_server(Ram(size="2M"), read_only=True)
    qemu_io(first.uri, "write -P 1 0 512", "read -P 1 0 512")
    need("nbdinfo")
    assert output("nbdinfo", "--size", second.uri) == f"{2 << 20}\n"


def test_a_script_of_ten_lines(tmp_path: Path) -> None:
    script = tmp_path / "ones.py"
    script.write_text(
        "from nbdfork.plugin import Parameter, Plugin, parse\n"
        "class Ones(Plugin):\n"
        "    'a disk full of ones'\n"
        "    size = Parameter(parse.size, required=True, magic=True, metavar='N', help='size')\n"
        "    def get_size(self): return self.size\n"
        "    def pread(self, count, offset): return b'\\1' * count\n"
    )
    command = 'qemu-io -r -f raw -c "read -P 1 0 1M" "$uri"'
    need("qemu-io")
    output(*NBDFORK, "-U", "-", "./ones.py", "1M", "--run", command, cwd=tmp_path)
