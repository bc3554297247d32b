"""The layers of a command line: found, made, configured, with their debug flags."""

import pytest

from nbdfork import layers
from nbdfork.backend.backend import Backend
from nbdfork.cli import parse_arguments
from nbdfork.plugin.errors import ConfigError


def configured(*words: str) -> Backend:
    options = parse_arguments(words)
    return layers.configure(layers.make(layers.find(options)), options)


def test_the_plugin_is_the_last_layer() -> None:
    options = parse_arguments(["--filter=log", "--filter", "cow", "memory", "1M"])
    assert [found.name for found in layers.find(options)] == ["log", "cow", "memory"]
    assert layers.find(parse_arguments(["--filter=log"]))[0].name == "log"
    assert layers.find(parse_arguments([])) == []


def test_parameters_and_options_reach_the_disk() -> None:
    backend = configured("--filter=offset", "-e", "disk", "-r", "memory", "1M", "offset=4k")
    backend.get_ready()
    gate = backend.open(backend.canonical_name(""))
    assert (gate.size, gate.can_write) == ((1 << 20) - 4096, False)
    assert backend.canonical_name("") == "disk"
    gate.close()


def test_debug_flags_are_the_servers_or_a_layers() -> None:
    configured("-D", "nbdfork.backend.datapath=1", "-D", "file.zero=1", "file", "/etc/passwd")
    with pytest.raises(ConfigError, match=r"-D nbdfork\.x: no such debug flag; there is: backend"):
        configured("-D", "nbdfork.x=1", "null")
    with pytest.raises(ConfigError, match="'file' is none of: nbdfork, null"):
        configured("-D", "file.zero=1", "null")
    with pytest.raises(ConfigError, match=r"-D null\.x: no such debug flag; the plugin has: none"):
        configured("-D", "null.x=1", "null")


def test_a_filter_is_no_plugin() -> None:
    with pytest.raises(ConfigError, match="there is no plugin 'cow'"):
        layers.find(parse_arguments(["cow"]))
    with pytest.raises(ConfigError, match="there is no filter 'file'"):
        layers.find(parse_arguments(["--filter=file", "null"]))
