"""What comes along: the init script, the systemd units and the completion, used for real."""

import configparser
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdfork.backend import load, loaders
from nbdfork.backend.arguments import magic_key, split
from nbdfork.cli import parse_arguments
from nbdfork.declaration import Option
from nbdfork.options import TABLE, Options
from nbdfork.plugin import parameters_of
from nbdfork.uri import Endpoint
from tests.support.harness import SECONDS, eventually, nbdfork, need, output, run
from tests.support.paths import ROOT

PACKAGING = ROOT / "contrib" / "packaging"
PROGRAM = Path(sys.executable).parent / "nbdfork"


# -- the init script --------------------------------------------------------------------------


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
    assert service("reload") == 2
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


# -- the systemd units ------------------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # as its manual says
    parser.read_string((PACKAGING / name).read_text())
    return parser


def started_by_the_unit() -> Options:
    program, *arguments = shlex.split(unit("nbdfork.service")["Service"]["ExecStart"])
    assert program == "/usr/bin/nbdfork"
    return parse_arguments(arguments, activated=True)


def test_the_service_unit_starts_a_server_that_takes_the_sockets() -> None:
    options = started_by_the_unit()
    assert options.plugin == "file"
    assert options.newstyle
    assert options.foreground
    plugin_class = load.find("file").plugin_class
    keys = [split(argument)[0] or magic_key(plugin_class) for argument in options.arguments]
    assert keys
    assert set(keys) <= parameters_of(plugin_class).keys()
    assert unit("nbdfork.socket")["Socket"]["ListenStream"] == Options().port


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    need("systemd-analyze", "man")
    for name in ("nbdfork.service", "nbdfork.socket"):
        text = (PACKAGING / name).read_text().replace("/usr/bin/nbdfork", str(PROGRAM))
        (tmp_path / name).write_text(text)
    (tmp_path / "man").mkdir()
    (tmp_path / "man" / "man1").symlink_to(ROOT / "man")
    environment = os.environ | {"MANPATH": str(tmp_path / "man")}
    units = [tmp_path / "nbdfork.service", tmp_path / "nbdfork.socket"]
    done = run("systemd-analyze", "verify", *units, env=environment)
    assert done.returncode == 0, done.stderr
    assert "nbdfork" not in done.stderr  # it also warns of other units of the machine


def test_the_server_of_the_unit_serves_on_a_socket_that_is_passed(tmp_path: Path) -> None:
    need("systemd-socket-activate", "nbdinfo")
    (tmp_path / "disk.img").write_bytes(bytes(65536))
    words = shlex.split(unit("nbdfork.service")["Service"]["ExecStart"])
    words = [str(PROGRAM), *words[1:-1], str(tmp_path / "disk.img")]
    path = tmp_path / "sock"
    manager = subprocess.Popen(
        ["systemd-socket-activate", "-l", path, *words], stderr=subprocess.DEVNULL
    )
    try:
        eventually(path.exists)
        assert output("nbdinfo", "--size", f"nbd+unix:///?socket={path}") == "65536\n"
    finally:
        manager.terminate()  # by now it is the server, which was executed in its place
        assert manager.wait(SECONDS) == 0


# -- the completion ---------------------------------------------------------------------------

COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
[[ $(complete -p nbdfork) == *' -F _nbdfork '* ]] && _nbdfork
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def quick_help(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints what `nbdfork --help` does, and takes a hundredth of the time."""
    directory = tmp_path_factory.mktemp("quick")
    (directory / "help").write_text(nbdfork("--help").stdout)
    program = directory / "nbdfork"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = --help ]; then cat {directory}/help; else {PROGRAM} "$@"; fi\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture
def complete(tmp_path: Path, quick_help: Path) -> Callable[..., set[str]]:
    """Return the function that completes the last of some words."""
    need("bash")
    environment = os.environ | {"PATH": f"{quick_help.parent}:{os.environ['PATH']}"}
    script = PACKAGING / "nbdfork.bash-completion"

    def complete(*words: str) -> set[str]:
        command = ["bash", "--norc", "-c", COMPLETE, "bash", str(script), "nbdfork", *words]
        return set(output(*command, cwd=tmp_path, env=environment).splitlines()) - {""}

    return complete


def test_the_completion_is_bash() -> None:
    need("bash")
    output("bash", "-n", PACKAGING / "nbdfork.bash-completion")


def test_completing_options(complete: Callable[..., set[str]]) -> None:
    names = {name for option in TABLE for name in option.names}
    assert complete("-") == names
    assert complete("--s") == {name for name in names if name.startswith("--s")}
    assert complete("file", "--print") == {"--print-uri"}
    assert complete("-v", "--print") == {"--print-uri"}


PLAIN = {"EXPORTNAME", "IPADDR", "MASK", "MODE", "N", "NAME.FLAG=N", "NAME=VALUE", "PORT"}
PLAIN |= {"FIRST-LAST", "RULE", "SECONDS"}
"""The forms of arguments that nothing is known of."""


@pytest.mark.parametrize(
    "option", [one for one in TABLE if one.metavar], ids=lambda one: one.names[0]
)
def test_completing_the_argument_of_an_option(
    option: Option[Any], complete: Callable[..., set[str]], tmp_path: Path
) -> None:
    """By the form that is declared for it: words to choose from, and what the rest stands for."""
    (tmp_path / "a file").touch()
    (tmp_path / "a folder").mkdir()
    assert option.metavar is not None
    words = {word for word in option.metavar.split("|") if word.islower()}
    kinds = set(option.metavar.split("|")) - words - {"-"}
    name = option.names[0]
    if words:
        assert complete(name, "=" if name.startswith("--") else "") == words
        assert complete(name, min(words)[:2]) == {w for w in words if w[:2] == min(words)[:2]}
    for kind in kinds:
        if kind.endswith("FILE") or kind == "SOCKET":
            assert complete(name, "a f") == {"a file", "a folder"}
        elif kind == "DIR":
            assert complete(name, "a f") == {"a folder"}
        elif kind in ("USER", "GROUP"):
            assert "root" in complete(name, "ro")
        elif kind == "FILTER":
            assert complete(name, "") == set(load.available(load.FILTER))
        elif kind == "CMD":
            assert "true" in complete(name, "tru")
        else:
            assert kind in PLAIN
            assert complete(name, "") == set()


def test_the_completion_knows_the_argument_of_every_name() -> None:
    need("bash")
    script = f"source {PACKAGING}/nbdfork.bash-completion; help=$(cat); _nbdfork_options"
    text = nbdfork("--help").stdout
    found = output("bash", "--norc", "-c", script, input=text).splitlines()
    names = [(name, option.metavar) for option in TABLE for name in option.names]
    assert found == [f"{name} {form}" if form else name for name, form in names]


def test_completing_plugins(complete: Callable[..., set[str]], tmp_path: Path) -> None:
    assert complete("") == set(load.available(load.PLUGIN))
    assert complete("m") == {"memory"}
    assert complete("-p", "10809", "--log", "=", "null", "-r", "m") == {"memory"}
    plugins = {f"xdisk{suffix}" for suffix in (".py", *loaders.SHIPPED)}
    for name in (*plugins, "xdisk.img"):
        (tmp_path / name).touch()
    (tmp_path / "xdir").mkdir()
    assert complete("xd") == plugins | {"xdir"}


@pytest.mark.parametrize("name", load.available(load.PLUGIN))
def test_completing_parameters(complete: Callable[..., set[str]], name: str) -> None:
    parameters = parameters_of(load.find(name).plugin_class)
    assert complete(name, "") == {f"{key}=" for key in parameters}
    for key, parameter in parameters.items():
        if re.fullmatch(r"[a-z]+(\|[a-z]+)+", parameter.metavar):
            assert complete("-p", "0", name, key, "=") == set(parameter.metavar.split("|"))


def test_completing_filters(complete: Callable[..., set[str]]) -> None:
    assert complete("--filter", "=") == set(load.available(load.FILTER))
    assert complete("--filter", "noe") == {"noextents"}
    assert complete("--filter", "cow", "mem") == {"memory"}
    assert complete("--filter", "=", "cow", "memory", "cow") == {
        "cow-block-size=",
        "cow-on-cache=",
        "cow-on-read=",
    }
    assert complete("--filter", "cow", "--filter", "offset", "memory", "off") == {"offset="}
    assert complete("memory", "cow") == set()


def test_completing_file_names(complete: Callable[..., set[str]], tmp_path: Path) -> None:
    (tmp_path / "my disk.img").touch()
    assert complete("file", "my") == {"my disk.img"}
    assert complete("-f", "file", "file", "=", "my") == {"my disk.img"}
