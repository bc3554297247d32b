"""The two names of the command: all that differs between them, and that nothing else does."""

import re
from typing import Any

import pytest

from nbdfork import info, manners
from nbdfork.cli import UsageError, parse_arguments
from nbdfork.manners import NBDFORK, NBDKIT
from nbdfork.options import FIELDS, Options
from nbdfork.uri import Endpoint
from tests.support.paths import ROOT

DIFFERENCES = [
    # words, field, as nbdfork, as nbdkit: from nbdkit(1) and nbdkit-captive(1) of 1.48
    ("", "newstyle", None, True),
    ("", "tls", "off", "auto"),
    ("", "handshake_limit", 10.0, 0.0),
    ("", "keepalive", True, False),
    ("", "max_clients", 256, 4096),
    ("", "max_clients_per_address", None, 0),
    ("--run true", "unix", None, "-"),
]

SAME = [
    ("--run true -p 0", "unix", None),
    ("--run true -i localhost", "unix", None),
    ("--run true -4", "unix", None),
    ("--run true -U /s", "unix", "/s"),
    ("--run true --vsock", "unix", None),
    ("--tls=off", "tls", "off"),
    ("-o", "newstyle", False),
    ("--keepalive", "keepalive", True),
    ("--max-clients 7", "max_clients", 7),
    ("--handshake-limit 7", "handshake_limit", 7.0),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/usr/local/bin/nbdkit", NBDKIT),
        ("nbdkit", NBDKIT),
        ("/usr/bin/nbdfork", NBDFORK),
        ("/nbdkit/nbdfork", NBDFORK),
        ("/usr/lib/nbdfork/__main__.py", NBDFORK),
    ],
)
def test_the_name_decides(name: str, expected: manners.Manners) -> None:
    assert manners.of(name) is expected


@pytest.mark.parametrize(("words", "field", "as_nbdfork", "as_nbdkit"), DIFFERENCES)
def test_what_differs(words: str, field: str, as_nbdfork: Any, as_nbdkit: Any) -> None:
    argv = ["null", *words.split()]
    assert getattr(parse_arguments(argv), field) == as_nbdfork
    assert getattr(parse_arguments(argv, manners=NBDKIT), field) == as_nbdkit


@pytest.mark.parametrize(("words", "field", "value"), SAME)
def test_what_is_asked_for_counts_under_both_names(words: str, field: str, value: Any) -> None:
    for one in (NBDFORK, NBDKIT):
        assert getattr(parse_arguments(["null", *words.split()], manners=one), field) == value


def test_nothing_else_differs() -> None:
    argv = ["null", "--run", "true"]
    one, other = parse_arguments(argv), parse_arguments(argv, manners=NBDKIT)
    differing = {f.name for f in FIELDS if getattr(one, f.name) != getattr(other, f.name)}
    assert differing == {"manners", *(field for _, field, _, _ in DIFFERENCES)}
    assert NBDKIT.defaults.keys() <= {field.name for field in FIELDS}


def test_an_option_that_goes_with_one_protocol_only_is_refused_under_both_names() -> None:
    for one in (NBDFORK, NBDKIT):
        with pytest.raises(UsageError, match="cannot go together"):
            parse_arguments(["null", "-o", "--tls=on"], manners=one)


def test_what_is_said_of_the_export_and_of_the_uri() -> None:
    assert (NBDFORK.only_export, NBDKIT.only_export) == (True, False)
    assert (NBDFORK.nbd_is_uri, NBDKIT.nbd_is_uri) == (False, True)
    assert (NBDFORK.plain_log, NBDKIT.plain_log) == (False, True)
    uri = Endpoint(unix_path="/s").uri()
    assert NBDFORK.announcement(uri) == uri
    first, quoted, _, command = NBDKIT.announcement(uri).split("\n")
    assert first == uri
    assert quoted == f"Shell-quoted URI: '{uri}'"
    assert command == f"  nbdinfo '{uri}'"


def test_the_version_has_both_names() -> None:
    assert re.fullmatch(r"1\.48\.\d+ \(nbdfork \d+\.\d+\.\d+\)", NBDKIT.version)
    found, own = info.configuration(NBDKIT), info.configuration(NBDFORK)
    assert found["version"] == f"{found['version_major']}.{found['version_minor']}.1"
    assert (found["name"], own["name"]) == ("nbdkit", "nbdfork")
    assert found.keys() == own.keys()


def test_help_tells_the_defaults_of_the_name() -> None:
    as_nbdfork, as_nbdkit = (" ".join(info.usage(one).split()) for one in (NBDFORK, NBDKIT))
    assert as_nbdkit.startswith("usage: nbdkit [OPTION ...]")
    assert "use the newstyle protocol (default)" in as_nbdkit
    assert "use the oldstyle protocol (default)" in as_nbdfork
    assert "the most clients served at once (4096)" in as_nbdkit
    assert as_nbdkit.count("(default)") == as_nbdfork.count("(default)") == 2


def test_the_manual_tells_every_difference() -> None:
    page = (ROOT / "man/nbdfork.1").read_text()
    section = page.partition(".Sh COMPATIBILITY")[2].partition(".Sh ")[0]
    rows = [line for line in section.splitlines() if line.startswith(".It ")]
    for field in {*NBDKIT.defaults, *NBDKIT.implies}:
        options = getattr(Options, field).options
        names = {name[1:] for option in options for name in option.names}
        assert any(set(re.split(r"[ ,]+", row)) & names for row in rows), field
        default = str(NBDKIT.defaults.get(field, "")).removesuffix(".0")
        if default.isdecimal() and default != "0":
            assert any(row.endswith(f" {default}") for row in rows), field
    assert NBDKIT.version in section
