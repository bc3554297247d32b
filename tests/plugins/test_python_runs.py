"""How the python plugin runs scripts: in which processes, threads and modes."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import NBDFORK, SECONDS, Server, eventually, nbdfork, run
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.paths import SCRIPTS
from tests.support.python_scripts import MINIMUM, script


def test_clients_at_once_see_one_disk() -> None:
    with Server("-n", "python", SCRIPTS / "v2_ramdisk.py") as server:
        one, other = connect(server.uri), connect(server.uri)
        one.pwrite(b"from one", 0)
        other.pwrite(b"from other", 512)
        assert other.pread(8, 0) == b"from one"
        assert one.pread(10, 512) == b"from other"
        one.shutdown()
        assert connect(server.uri).pread(8, 0) == b"from one"
        assert len(server.workers()) == 1


def test_a_process_for_each_client_if_the_script_says_so() -> None:
    with Server("-n", "python", SCRIPTS / "cpu_bound.py") as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(4096, 0) == other.pread(4096, 0)
        eventually(lambda: len(server.serving()) == 2)


def test_each_thread_has_its_own_export_name_and_error() -> None:
    with Server("-n", "python", SCRIPTS / "named_exports.py") as server:
        uris = [server.uri.replace(":///", f":///{name}") for name in ("red", "blue")]
        red, blue = map(connect, uris)
        assert red.pread(3, 0) == b"red"
        assert blue.pread(4, 0) == b"blue"


def test_shutdown_ends_the_server(tmp_path: Path) -> None:
    path = script(tmp_path, "def flush(h, f): nbdkit.shutdown()")
    with Server("-n", "python", path) as server:
        client = connect(server.uri)
        attempt(client.flush)
        assert server.process.wait(SECONDS) == 0


@pytest.mark.parametrize("where", ["", "def config_complete(): ", "def get_ready(): "])
def test_shutdown_before_there_are_clients(tmp_path: Path, where: str) -> None:
    path = script(tmp_path, f"{where}nbdkit.shutdown()")
    done = nbdfork("-f", "-U", "-", "python", path)
    assert done.returncode == 0, done.stderr


def client_on_pipes(path: Path, *parameters: str | Path) -> Any:
    client = libnbd().NBD()
    client.connect_command([*NBDFORK, "-s", "-n", "python", str(path), *map(str, parameters)])
    return client


def test_what_a_script_prints_is_printed_once(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "def get_ready(): print('in get_ready')\n"
        "def open(readonly): print('in open')\n"
        "def cleanup(): print('in cleanup')",
    )
    done = nbdfork("-n", "-U", "-", "python", path, "--run", "nbdinfo --size $uri")
    lines = ["in get_ready", "1048576", "in open", "in cleanup"]
    assert sorted(done.stdout.splitlines()) == sorted(lines)


def test_single_mode_is_not_disturbed_by_print(tmp_path: Path) -> None:
    client = client_on_pipes(SCRIPTS / "all_callbacks.py", f"calls={tmp_path / 'calls'}")
    client.pwrite(b"hello", 0)
    assert client.pread(5, 0) == b"hello"
    client.shutdown()


def test_shutdown_in_single_mode(tmp_path: Path) -> None:
    path = script(tmp_path, "def flush(h, f): nbdkit.shutdown()")
    client = client_on_pipes(path)
    attempt(client.flush)
    assert attempt(lambda: client.pread(512, 0)) != bytes(512)


def test_a_script_with_a_shebang_is_a_command(tmp_path: Path) -> None:
    path = script(tmp_path, "", "#!/usr/bin/env -S nbdfork python\n" + MINIMUM)
    path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = run(path, "-n", "-U", "-", "--run", "nbdinfo --size $uri", env=environment)
    assert (done.stdout, done.returncode) == ("1048576\n", 0), done.stderr


def test_a_dead_worker_is_replaced() -> None:
    with Server("-n", "python", SCRIPTS / "v2_ramdisk.py") as server:
        connect(server.uri).shutdown()  # it has started, then
        (worker,) = server.workers()
        worker.kill()
        eventually(lambda: worker.pid not in [one.pid for one in server.workers()])
        assert connect(server.uri).pread(4, 0) == bytes(4)
