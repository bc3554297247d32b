"""The layers of a command line: found, made, configured, with their debug flags."""

from pathlib import Path

import pytest

from nbdfork import layers
from nbdfork.backend.chain import Chain
from nbdfork.backend.exports import Exports
from nbdfork.backend.life import Life
from nbdfork.cli import parse_arguments
from nbdfork.plugin import ConfigError


def configured(*words: str) -> Chain:
    options = parse_arguments(words)
    return layers.configure(layers.make(layers.find(options)), options)


def test_the_plugin_is_the_last_layer() -> None:
    options = parse_arguments(["--filter=log", "--filter", "cow", "memory", "1M"])
    assert [found.name for found in layers.find(options)] == ["log", "cow", "memory"]
    assert layers.find(parse_arguments(["--filter=log"]))[0].name == "log"
    assert layers.find(parse_arguments([])) == []


def test_parameters_reach_the_layers() -> None:
    chain = configured("--filter=offset", "-s", "memory", "1M", "offset=4k")
    Life(chain).get_ready()
    gate = Exports(chain).open("")
    assert gate.size == (1 << 20) - 4096
    assert chain.server.single
    gate.close()


def test_debug_flags_are_the_servers_or_a_layers() -> None:
    configured("-D", "nbdfork.backend.datapath=1", "-D", "file.zero=1", "file", "/etc/passwd")
    with pytest.raises(ConfigError, match=r"-D nbdfork\.x: no such debug flag; there is: backend"):
        configured("-D", "nbdfork.x=1", "null")
    with pytest.raises(ConfigError, match="'file' is none of: nbdfork, null"):
        configured("-D", "file.zero=1", "null")
    with pytest.raises(ConfigError, match=r"-D null\.x: no such debug flag; the plugin has: none"):
        configured("-D", "null.x=1", "null")


def test_a_plugin_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "partial.py"
    path.write_text(
        "from nbdfork.scripting import HelperPlugin\n"
        "class Partial(HelperPlugin):\n"
        "    'has not said which command is its helper'\n"
        "    name = 'partial'\n"
    )
    with pytest.raises(ConfigError, match=r"^partial: making the plugin failed: .* '?command"):
        configured(str(path), "script")


def test_a_filter_is_no_plugin() -> None:
    with pytest.raises(ConfigError, match="there is no plugin 'cow'"):
        layers.find(parse_arguments(["cow"]))
    with pytest.raises(ConfigError, match="there is no filter 'file'"):
        layers.find(parse_arguments(["--filter=file", "null"]))


@pytest.mark.parametrize(
    ("words", "style"),
    [
        (("null",), False),
        (("-n", "null"), True),
        (("-o", "null"), False),
        (("file", "dir=/"), True),
        (("--filter=log", "--filter=cow", "file", "dir=/", "logfile=/dev/null"), True),
        (("file", "/etc/passwd"), False),
        (("nbd", "socket=/nowhere", "dynamic-export=true"), True),
        (("-e", "hostname", "file", "dir=/etc"), True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_exports_that_are_chosen_by_name_need_newstyle(words: tuple[str, ...], style: bool) -> None:
    options = parse_arguments(words)
    assert layers.is_newstyle([configured(*words)], options) is style


def test_oldstyle_is_refused_where_clients_have_to_give_names() -> None:
    words = ("-o", "file", "dir=/")
    with pytest.raises(ConfigError, match=r"^file: clients choose .* by their names.*leave out -o"):
        layers.is_newstyle([configured(*words)], parse_arguments(words))
