"""The command line: every name of every option, and what does not go together."""

import socket
from typing import Any

import pytest

from nbdfork.cli import UsageError, parse_arguments
from nbdfork.declaration import Option
from nbdfork.options import TABLE, Options
from tests.support.paths import SAMPLES

ARGUMENTS = {
    "debug": "nbdfork.backend.datapath=0",
    "export_name": "disk",
    "log": "null",
    "unix": "/run/s",
    "unix_mode": "660",
    "worker_uids": "5000-5009",
    "pidfile": "/run/p",
    "port": "1",
    "limits": "files=7",
    "sandbox": "require",
    "tls": "require",
    "allow": "10.0.0.0/8",
    "deny": "any",
    "config": str(SAMPLES / "ram.toml"),
}


def is_default(option: Option[Any]) -> bool:
    """Return whether the option says what is so anyway."""
    return option.names[-1] in ("--oldstyle", "--keep-alive")


def argument_for(option: Option[Any]) -> str:
    return ARGUMENTS.get(option.field.name, "7")


def names() -> list[tuple[str, Option[Any]]]:
    return [(name, option) for option in TABLE for name in option.names]


@pytest.mark.parametrize(("name", "option"), names(), ids=lambda value: str(value)[:25])
def test_every_name_is_taken_before_and_after_the_plugin(name: str, option: Option[Any]) -> None:
    if name == "--config":  # which takes the place of the plugin
        return
    words = [name] if option.metavar is None else [name, argument_for(option)]
    expected = parse_arguments([*words, "file", "a=b"])
    assert expected != Options(plugin="file", arguments=("a=b",)) or is_default(option)
    assert parse_arguments(["file", *words, "a=b"]) == expected
    assert parse_arguments(["file", "a=b", *words]) == expected


@pytest.mark.parametrize(("name", "option"), names(), ids=lambda value: str(value)[:25])
def test_every_name_takes_its_argument_attached(name: str, option: Option[Any]) -> None:
    if option.metavar is None:
        return
    apart = parse_arguments([name, argument_for(option)])
    joined = name + ("=" if name.startswith("--") else "") + argument_for(option)
    assert parse_arguments([joined]) == apart


def test_seed_page_command() -> None:
    options = parse_arguments(["file", "file=d.img", "--run", "qemu -drive file=$nbd"])
    assert options.plugin == "file"
    assert options.arguments == ("file=d.img",)
    assert options.run == "qemu -drive file=$nbd"
    assert options.foreground


def test_bundles() -> None:
    options = parse_arguments(["-fvp", "80", "null", "-rnP/p"])
    assert (options.foreground, options.verbose, options.port) == (True, True, "80")
    assert (options.read_only, options.newstyle, options.pidfile) == (True, True, "/p")


@pytest.mark.parametrize(
    ("short", "field"),
    [
        ("--read", "read_only"),
        ("--new", "newstyle"),
        ("--fore", "foreground"),
        ("--verb", "verbose"),
    ],
)
def test_abbreviations(short: str, field: str) -> None:
    assert getattr(parse_arguments([short, "null"]), field) is True


def test_two_dashes_end_the_options() -> None:
    assert parse_arguments(["--", "file", "-f"]).arguments == ("-f",)


def test_a_lone_dash_is_a_word() -> None:
    assert parse_arguments(["sh", "-"]).arguments == ("-",)


def test_relative_paths_become_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    options = parse_arguments(["-P", "pid", "-U", "sock", "--log", "log", "null"])
    assert (options.pidfile, options.unix, options.log) == ("/usr/pid", "/usr/sock", "/usr/log")
    assert parse_arguments(["-U", "-", "--log", "syslog"]).unix == "-"


def test_export_name_implies_newstyle() -> None:
    assert parse_arguments(["-e", "", "null"]).newstyle
    assert not parse_arguments(["null"]).newstyle


def test_the_last_of_4_and_6_counts() -> None:
    assert parse_arguments(["null"]).family == socket.AF_UNSPEC
    assert parse_arguments(["-4", "-6", "null"]).family == socket.AF_INET6
    assert parse_arguments(["-4", "-6", "-4", "null"]).family == socket.AF_INET


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--tls-psk f", ("on", True)),
        ("--tls-certificates d --tls require", ("require", True)),
        ("--tls on", ("on", True)),
        ("--tls off", ("off", False)),
        ("--tls on --tls off", ("off", False)),
        ("--tls off -o", ("off", False)),
    ],
)
def test_what_implies_tls_and_what_tls_implies(line: str, expected: tuple[str, bool]) -> None:
    options = parse_arguments([*line.split(), "null"])
    assert (options.tls, bool(options.newstyle)) == expected


def test_debug_flags_accumulate() -> None:
    options = parse_arguments(["-D", "a.b=1", "-D", "c.d.e=2", "null"])
    assert options.debug == (("a", "b", 1), ("c", "d.e", 2))


@pytest.mark.parametrize(
    "line",
    [
        "-U s -p 3",
        "-p 3 -U s",
        "-U s -i ::1",
        "-U s -4",
        "-U s --vsock",
        "--vsock -i localhost",
        "-s --vsock",
        "-s --dump-plugin",
        "-s -p 3",
        "-s -U s",
        "-s --run x",
        "-s -i ::1",
        "-s --print-uri",
        "-s --max-clients 3",
        "-o -e x",
        "-o -n",
        "-n --old-style",
        "-o --tls on",
        "-o --tls-psk f",
        "--tls-psk f --tls off",
        "--tls off --tls-verify-peer",
        "--tls-psk f --tls-verify-peer",
    ],
)
def test_conflicts(line: str) -> None:
    with pytest.raises(UsageError, match="cannot go together"):
        parse_arguments([*line.split(), "null"])


def test_a_conflict_says_what_is_implied() -> None:
    with pytest.raises(
        UsageError, match="--tls-psk and -o cannot go together: --tls-psk implies -n"
    ):
        parse_arguments(["-o", "--tls-psk", "f", "null"])
    with pytest.raises(
        UsageError, match=r"--export-name and -o cannot .*: --export-name implies -n"
    ):
        parse_arguments(["-o", "--export-name=x", "null"])


@pytest.mark.parametrize("line", ["-p 3", "-i ::1", "-U s", "-s", "--run x"])
def test_conflicts_with_inherited_sockets(line: str) -> None:
    with pytest.raises(UsageError, match="LISTEN_FDS"):
        parse_arguments([*line.split(), "null"], activated=True)


def test_inherited_sockets_imply_foreground() -> None:
    assert parse_arguments(["null"], activated=True).foreground


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--verbos=1", "--verbos takes no argument"),
        ("-p", "-p needs an argument: PORT"),
        ("--run", "--run needs an argument: CMD"),
        ("-p 4294967295", "at most 65535, or 4294967294 with --vsock"),
        ("--nosuch", "unknown option --nosuch"),
        ("--verbsoe", "did you mean --verbose?"),
        ("-fz", "unknown option -z in -fz"),
        ("--ex", "ambiguous"),
        ("--max-clients 0", "a whole number from 1 to"),
        ("--spare-workers x", "a whole number from 1 to"),
        ("--handshake-limit -1", "a number of seconds"),
        ("--handshake-limit 1.2.3", "--handshake-limit 1.2.3"),
        ("-D x", "expected nbdfork.FLAG=N"),
        ("-D x.y=z", "expected nbdfork.FLAG=N"),
    ],
)
def test_mistakes_are_named(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arguments(line.split())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
