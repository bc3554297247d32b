"""The init script, used for real, by root alone."""

import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nbdfork.uri import Endpoint
from tests.support.harness import SECONDS, eventually, need, output, run
from tests.support.paths import PACKAGING, PROGRAM


class Service:
    """The init script with settings of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.defaults = directory / "default"
        self.pidfile = directory / "nbdfork.pid"
        self.socket = directory / "a socket"
        self.set(NBDFORK_ARGS=f"-r file '{directory}/my disk.img'")

    def set(self, **settings: str | Path) -> None:
        """Write the settings: what every test has, and *settings*."""
        usual = {
            "NBDFORK": PROGRAM,
            "NBDFORK_USER": "nobody",
            "NBDFORK_PIDFILE": self.pidfile,
            "NBDFORK_SOCKET": self.socket,
        }
        lines = [
            f"{name}={shlex.quote(str(value))}\n" for name, value in (usual | settings).items()
        ]
        self.defaults.write_text("".join(lines))

    def __call__(self, action: str) -> int:
        """Run the script and return its exit status."""
        environment = {"PATH": "/usr/bin:/bin", "NBDFORK_DEFAULTS": str(self.defaults)}
        # Not through pipes, which a server in the background might hold open.
        with (self.directory / "output").open("w") as log:
            return subprocess.run(
                [PACKAGING / "nbdfork.init", action],
                check=False,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=2 * SECONDS,
            ).returncode

    @property
    def said(self) -> str:
        """What the last run printed."""
        return (self.directory / "output").read_text()

    def server(self) -> psutil.Process:
        return psutil.Process(int(self.pidfile.read_text()))


def has_ended(process: psutil.Process) -> bool:
    """Return whether *process* is no more, or only waits for process 1 to take note."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def service() -> Iterator[Service]:
    if os.geteuid() != 0:
        pytest.skip("only root can start services")
    with tempfile.TemporaryDirectory(prefix="nbdfork-init") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "my disk.img").write_bytes(bytes(65536))
        found = Service(directory)
        yield found
        if found.pidfile.exists():
            found("stop")


def test_the_init_script_is_posix_shell() -> None:
    output("sh", "-n", PACKAGING / "nbdfork.init")
    assert os.access(PACKAGING / "nbdfork.init", os.X_OK)


def test_the_life_of_a_service(service: Service) -> None:
    need("nbdinfo")
    assert service("status") == 3
    assert service("start") == 0, service.said
    uri = Endpoint(unix_path=str(service.socket)).uri()
    assert output("nbdinfo", "--size", uri) == "65536\n"  # at once: started means ready
    assert service("status") == 0
    assert service("start") == 0
    assert "running already" in service.said
    server = service.server()
    everyone = [server, *server.children()]
    assert len(everyone) > 1
    nobody = pwd.getpwnam("nobody")
    for process in everyone:
        assert set(process.uids()) == {nobody.pw_uid}
        assert set(process.gids()) == {nobody.pw_gid}
    assert service("stop") == 0, service.said
    assert all(has_ended(process) for process in everyone)
    assert not service.pidfile.exists()
    assert not service.socket.exists()
    assert service("status") == 3
    assert service("stop") == 0  # there is nothing to do, which is no failure


def test_the_group_of_a_service(service: Service) -> None:
    service.set(NBDFORK_ARGS="null", NBDFORK_GROUP="daemon")
    assert service("start") == 0, service.said
    assert output("id", "-g", "daemon").strip() == str(service.server().gids().real)


@pytest.mark.parametrize("action", ["restart", "force-reload", "try-restart"])
def test_restarting_a_service(service: Service, action: str) -> None:
    assert service("start") == 0, service.said
    before = service.server()
    assert service(action) == 0, service.said
    assert has_ended(before)
    assert service("status") == 0
    assert service.server() != before


def test_restarting_a_service_that_is_not_running(service: Service) -> None:
    assert service("try-restart") == 0
    assert service("status") == 3
    assert service("restart") == 0, service.said
    assert service("status") == 0


def test_a_service_is_reloaded_in_its_place(service: Service) -> None:
    assert service("reload") == 7
    # As a user who can run the interpreter, wherever that is installed.
    service.set(NBDFORK_ARGS=f"-r file '{service.directory}/my disk.img'", NBDFORK_USER="root")
    assert service("start") == 0, service.said
    server = service.server()
    assert service("reload") == 0, service.said
    eventually(lambda: "NBDFORK_HANDOVER" in server.environ())  # of the new program
    eventually(lambda: service("status") == 0)
    assert service.server() == server


def test_a_service_that_died(service: Service) -> None:
    assert service("start") == 0, service.said
    server = service.server()
    everyone = [server, *server.children()]
    server.kill()
    psutil.wait_procs(everyone, timeout=SECONDS)
    assert service("status") == 1
    assert service("start") == 0, service.said  # though its pidfile and its socket are there
    assert service("status") == 0


def test_a_pidfile_with_the_number_of_another_process(service: Service) -> None:
    other = subprocess.Popen(["sleep", "1000"])
    try:
        service.pidfile.write_text(f"{other.pid}\n")
        assert service("status") == 1
        assert service("stop") == 0
        assert other.poll() is None
        for nonsense in ("", "-1\n", "1; reboot\n"):
            service.pidfile.write_text(nonsense)
            assert service("status") == 1
    finally:
        other.kill()
        other.wait()


def test_failures_have_the_statuses_of_lsb(service: Service) -> None:
    assert service("jump") == 2
    service.set(NBDFORK_ARGS="")
    assert service("start") == 6
    service.set(NBDFORK_ARGS="null", NBDFORK="/nonexistent")
    assert service("start") == 5
    service.set(NBDFORK_ARGS="file /nonexistent")
    assert service("start") == 1
    assert "/nonexistent: No such file or directory" in service.said
    assert service("status") == 3


def test_other_users_may_only_ask(service: Service) -> None:
    assert service("start") == 0, service.said
    nobody = pwd.getpwnam("nobody")
    # The script itself may be where only root can read.
    script = shutil.copy(PACKAGING / "nbdfork.init", service.directory)
    for action, status in {"status": 0, "stop": 4, "start": 4}.items():
        environment = {"NBDFORK_DEFAULTS": str(service.defaults)}
        done = run("sh", script, action, user=nobody.pw_uid, env=environment)
        assert done.returncode == status, done.stderr
