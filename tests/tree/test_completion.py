"""The completion for bash, asked for all that it knows."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbdfork.backend import load, loaders
from nbdfork.declaration import Option
from nbdfork.options import TABLE
from nbdfork.plugin import parameters_of
from tests.support.harness import nbdfork, need, output
from tests.support.paths import PACKAGING, PROGRAM

SCRIPT = PACKAGING / "bash-completion" / "nbdfork"

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

    def complete(*words: str) -> set[str]:
        command = ["bash", "--norc", "-c", COMPLETE, "bash", str(SCRIPT), "nbdfork", *words]
        return set(output(*command, cwd=tmp_path, env=environment).splitlines()) - {""}

    return complete


def test_the_completion_is_bash() -> None:
    need("bash")
    output("bash", "-n", SCRIPT)


def test_completing_options(complete: Callable[..., set[str]]) -> None:
    names = {name for option in TABLE for name in option.names}
    assert complete("-") == names
    assert complete("--s") == {name for name in names if name.startswith("--s")}
    assert complete("file", "--print") == {"--print-uri", "--print-url"}
    assert complete("-v", "--print-ur") == {"--print-uri", "--print-url"}


PLAIN = {"EXPORTNAME", "IPADDR", "MASK", "MODE", "N", "NAME.FLAG=N", "NAME=VALUE", "PORT"}
PLAIN |= {"FIRST-LAST", "LABEL", "NAME", "PRIORITY", "RULE", "SECONDS", "SIZE"}
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
    script = f"source {SCRIPT}; help=$(cat); _nbdfork_options"
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
