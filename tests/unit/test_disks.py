"""The disks of a config file: its layers are configured, and errors say where they stand."""

import re
from pathlib import Path

import pytest

from nbdfork import disks
from nbdfork.assembly import Shelf
from nbdfork.backend import load
from nbdfork.backend.errors import UnknownExport
from nbdfork.backend.exports import Exports
from nbdfork.cli import UsageError, parse_arguments
from nbdfork.configfile import EXPORT_KEYS
from nbdfork.plugin import ConfigError, parameters_of


def shelf(directory: Path, text: str, *words: str) -> Shelf:
    path = directory / "it.toml"
    path.write_text(text)
    return disks.shelf(parse_arguments(["--config", str(path), *words]))


def test_a_file_with_one_export_is_what_a_command_line_is(tmp_path: Path) -> None:
    made = shelf(tmp_path, "[[export]]\nplugin = 'memory'\nsize = '1M'\n")
    assert isinstance(made.served(), Exports)
    plain = disks.shelf(parse_arguments(["memory", "1M"]))
    for one in (made, plain):
        one.life.get_ready()
        assert one.served().open("").size == 1 << 20


SEVERAL = """
[[export]]
name = "ram"
plugin = "memory"
size = 4096
description = "some memory"
[[export]]
name = "part"
plugin = "pattern"
size = 4096
filters = [{ filter = "offset", offset = 1024 }, { filter = "offset", offset = "512" }]
"""


def test_each_export_has_its_layers_with_their_own_parameters(tmp_path: Path) -> None:
    made = shelf(tmp_path, SEVERAL)
    made.life.get_ready()
    served = made.served()
    assert served.listed() == [("ram", "some memory"), ("part", "")]
    assert served.open("ram").description == "some memory"
    assert served.open("part").pread(8, 0) == (1536).to_bytes(8, "big")
    for name in ("", "other"):
        with pytest.raises(UnknownExport):
            served.open(name)
    with pytest.raises(UnknownExport):
        served.default()


def test_the_default_is_chosen_or_has_no_name(tmp_path: Path) -> None:
    chosen = SEVERAL.replace('name = "part"', 'name = "part"\ndefault = true')
    assert shelf(tmp_path, chosen).served().default() == "part"
    assert shelf(tmp_path, SEVERAL.replace('"part"', '""')).served().default() == ""


def test_relative_paths_are_meant_from_the_files_directory(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(512))
    made = shelf(tmp_path, "[[export]]\nplugin = 'file'\nfile = 'disk.img'\n")
    made.life.get_ready()
    assert made.served().open("").size == 512


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugin = 'nul'", "it.toml:2: export.plugin: there is no plugin 'nul'"),
        ("plugin = 'null'\nfilters = ['lg']", "it.toml:3: export.filters: there is no filter 'lg'"),
        ("plugin = 'memory'", "it.toml:1: export: memory: the parameter size=SIZE is required"),
        ("plugin = 'null'\nsize = 'x'", "it.toml:3: export.size: null: size=x: not a size"),
        ("plugin = 'null'\nsise = 1", "it.toml:3: export.sise: null: unknown parameter sise="),
        ("plugin = 'null'\nreadonly = true", "did you mean read-only?"),
        (
            "plugin = 'null'\nfilters = [{filter = 'offset', ofset = 1}]",
            "it.toml:3: export.filters.ofset: offset: unknown parameter ofset=; did you mean off",
        ),
        ("plugin = 'null'\nallow = 'x y'", "it.toml:3: export.allow: x y: 'x y' is neither"),
        ("plugin = 'null'\nallow = 'any for x'", "the rule is for this export; leave out 'for'"),
        ("plugin = 'null'\nrequire-tls = true", "it.toml:1: export: require-tls = true, but the"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        shelf(tmp_path, f"[[export]]\n{text}\n")


def test_a_plugin_that_serves_one_client_at_a_time_needs_a_server_of_its_own(
    tmp_path: Path,
) -> None:
    (tmp_path / "alone.py").write_text(
        "from nbdfork.plugin import Plugin, ThreadModel\n"
        "class Alone(Plugin):\n"
        "    'serves one'\n"
        "    def thread_model(self): return ThreadModel.SERIALIZE_CONNECTIONS\n"
        "    def get_size(self): return 512\n"
        "    def pread(self, count, offset): return bytes(count)\n"
    )
    made = shelf(tmp_path, SEVERAL + "[[export]]\nname = 'x'\nplugin = './alone.py'\n")
    with pytest.raises(ConfigError, match=r"one client at a time, .* a server of its own"):
        made.life.get_ready()


def test_no_parameter_has_the_name_of_a_key_of_every_export() -> None:
    """Those would have to be written in `parameters`, as those of ip, whose names are nbdkit's."""
    for kind in (load.PLUGIN, load.FILTER):
        for name in load.available(kind):
            keys = parameters_of(load.find(name, kind).plugin_class).keys()
            shared = {"allow", "deny"} if (kind, name) == (load.FILTER, "ip") else set()
            assert keys & set(EXPORT_KEYS) == shared, name


def test_such_a_parameter_of_another_plugin_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "clash.py").write_text(
        "from nbdfork.plugin import Parameter, Plugin, parse\n"
        "class Clash(Plugin):\n"
        "    'has threads of its own'\n"
        "    threads = Parameter(parse.whole(1, 9), metavar='N', help='threads', default=1)\n"
        "    def get_size(self): return 512\n"
        "    def pread(self, count, offset): return bytes([self.threads]) * count\n"
    )
    text = "[[export]]\nplugin = './clash.py'\nthreads = 2\n"
    with pytest.raises(ConfigError, match=r"threads is a key of every .* parameters\.threads"):
        shelf(tmp_path, text)
    made = shelf(tmp_path, text + "parameters.threads = 7\n")
    assert made.served().open("").pread(1, 0) == b"\7"
    assert made.disks[0].threads == 2


# -- [server] ---------------------------------------------------------------------------------


def options_of(directory: Path, text: str, *words: str) -> object:
    path = directory / "it.toml"
    path.write_text(f"[server]\n{text}\n[[export]]\nplugin = 'null'\n")
    options = parse_arguments(["--config", str(path), *words])
    return vars(options)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("port = 1", (), {"port": "1", "newstyle": True}),
        ("port = 1", ("-p", "2"), {"port": "2"}),
        ("port = 1", ("-U", "/s"), {"port": "10809", "unix": "/s"}),
        ("unix = '/s'\nunix-mode = '660'", ("-p", "2"), {"unix": None, "port": "2"}),
        ("keepalive = false", (), {"keepalive": False}),
        ("keepalive = false", ("--keepalive",), {"keepalive": True}),
        ("foreground = true", (), {"foreground": True}),
        ("foreground = false\nno-fork = false", (), {"foreground": False}),
        ("run = 'true'", (), {"run": "true", "foreground": True}),
        ("limit = ['files=7', 'core=0']", ("--limit=cpu=1",), None),
    ],
)
def test_the_command_line_goes_before_the_file(
    tmp_path: Path, text: str, words: tuple[str, ...], expected: dict[str, object] | None
) -> None:
    options = options_of(tmp_path, text, *words)
    assert isinstance(options, dict)
    if expected is None:
        assert options["limits"] == (("files", 7), ("core", 0), ("cpu", 1))
    else:
        assert {key: options[key] for key in expected} == expected


def test_paths_of_options_are_meant_from_the_files_directory(tmp_path: Path) -> None:
    options = options_of(tmp_path, "pidfile = 'p'", "--log", "l")
    assert isinstance(options, dict)
    assert (options["pidfile"], options["log"]) == (str(tmp_path / "p"), str(Path("l").absolute()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "it.toml:2: server.prot: prot is no option; did you mean port?"),
        ("help = true", "help is an option of the command line alone"),
        ("filter = 'log'", "filter is an option of the command line alone"),
        ("port = 5000000000", "it.toml:2: server.port: 5000000000: a port is at most 65535"),
        ("verbose = 'x'", "it.toml:2: server.verbose: true or false is expected"),
    ],
)
def test_an_option_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        options_of(tmp_path, text)


def test_options_that_exclude_each_other_are_named_with_their_places(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unix \(.*:3: server.unix\) and port \(.*:2: server"):
        options_of(tmp_path, "port = 1\nunix = '/s'")
    with pytest.raises(UsageError, match="--config and the plugin 'null' cannot go together"):
        options_of(tmp_path, "port = 1", "null")
    with pytest.raises(UsageError, match="implies -n"):
        options_of(tmp_path, "oldstyle = true")
