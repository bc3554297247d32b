"""The systemd units: what they start, and that systemd takes them as they are."""

import configparser
import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from nbdfork.backend import load
from nbdfork.backend.arguments import magic_key, split
from nbdfork.cli import parse_arguments
from nbdfork.options import Options
from nbdfork.plugin import parameters_of
from tests.support.harness import SECONDS, eventually, need, output, run
from tests.support.paths import PACKAGING, PROGRAM, ROOT

SERVICES = ("nbdfork.service", "nbdfork@.service")
UNITS = (*SERVICES, "nbdfork.socket")


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # as its manual says
    parser.read_string((PACKAGING / name).read_text())
    return parser


def settings(text: str) -> list[str]:
    """Return the words of NBDFORK_ARGS in the line *text*, by the quotes of shell and systemd."""
    (setting,) = shlex.split(text)
    name, _, words = setting.partition("=")
    assert name == "NBDFORK_ARGS"
    return shlex.split(words)


def default_file() -> list[str]:
    (line,) = [
        line
        for line in (PACKAGING / "nbdfork.default").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return settings(line)


def test_the_service_starts_a_server_that_takes_the_sockets() -> None:
    service = unit("nbdfork.service")["Service"]
    assert shlex.split(service["ExecStart"]) == ["nbdfork", "$NBDFORK_ARGS"]
    words = settings(service["Environment"])
    assert words == default_file()
    options = parse_arguments(words, activated=True)
    assert options.newstyle
    assert options.foreground
    plugin_class = load.find(options.plugin or "").plugin_class
    keys = [split(argument)[0] or magic_key(plugin_class) for argument in options.arguments]
    assert set(keys) <= parameters_of(plugin_class).keys()
    assert options.arguments == (f"dir=/var/lib/{service['StateDirectory']}",)
    assert unit("nbdfork.socket")["Socket"]["ListenStream"] == Options().port


def test_one_of_several_servers_stays_in_the_foreground() -> None:
    words = shlex.split(unit("nbdfork@.service")["Service"]["ExecStart"])
    assert words == ["nbdfork", "-f", "$NBDFORK_ARGS"]
    assert parse_arguments([*words[1:-1], *default_file()]).foreground


def test_a_reload_is_the_signal_for_it() -> None:
    for name in SERVICES:
        assert unit(name)["Service"]["ExecReload"] == "kill -HUP $MAINPID"


def test_both_services_are_hardened_alike() -> None:
    services = [dict(unit(name)["Service"]) for name in SERVICES]
    for service in services:
        for key in ("Environment", "EnvironmentFile", "ExecStart", "RuntimeDirectory"):
            service.pop(key, None)
    assert services[0] == services[1]


def test_the_services_tell_that_they_are_ready(tmp_path: Path) -> None:
    """As their type says, so that what needs the server is started when clients can connect."""
    assert {unit(name)["Service"]["Type"] for name in SERVICES} == {"notify"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        words = [PROGRAM, "-f", "-U", tmp_path / "sock", *default_file()[:-1], f"dir={tmp_path}"]
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        server = subprocess.Popen(list(map(str, words)), env=environment)
        try:
            while b"READY=1" not in manager.recv(4096).splitlines():
                pass
            assert (tmp_path / "sock").exists()
        finally:
            server.terminate()
            assert server.wait(SECONDS) == 0


def test_the_user_of_the_services_is_that_which_sysusers_makes() -> None:
    users = (PACKAGING / "nbdfork.sysusers").read_text().splitlines()[-1].split()
    assert users[:2] == ["u", unit("nbdfork.service")["Service"]["User"]]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    need("systemd-analyze", "man")
    for name in UNITS:
        text = (PACKAGING / name).read_text()
        (tmp_path / name).write_text(text.replace("ExecStart=nbdfork ", f"ExecStart={PROGRAM} "))
    (tmp_path / "man").mkdir()
    (tmp_path / "man" / "man1").symlink_to(ROOT / "man")
    environment = os.environ | {"MANPATH": str(tmp_path / "man")}
    units = [tmp_path / name for name in UNITS]
    done = run("systemd-analyze", "verify", *units, env=environment)
    assert done.returncode == 0, done.stderr
    assert "nbdfork" not in done.stderr  # it also warns of other units of the machine


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_finds_little_that_a_service_could_do(name: str) -> None:
    """Its own figure, from 0 to 10 for one that is exposed to everything."""
    need("systemd-analyze")
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=30", PACKAGING / name)
    assert done.returncode == 0, done.stdout


def test_the_server_of_the_unit_serves_on_a_socket_that_is_passed(tmp_path: Path) -> None:
    need("systemd-socket-activate", "nbdinfo")
    (tmp_path / "disk.img").write_bytes(bytes(65536))
    words = [str(PROGRAM), *default_file()[:-1], f"dir={tmp_path}"]
    path = tmp_path / "sock"
    manager = subprocess.Popen(
        ["systemd-socket-activate", "-l", path, *words], stderr=subprocess.DEVNULL
    )
    try:
        eventually(path.exists)
        uri = f"nbd+unix:///disk.img?socket={path}"
        assert output("nbdinfo", "--size", uri) == "65536\n"
    finally:
        manager.terminate()  # by now it is the server, which was executed in its place
        assert manager.wait(SECONDS) == 0
