"""The config file: its form, and what is said of one that is wrong."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbdfork import configfile
from nbdfork.configfile import ConfigFile, Setting
from nbdfork.plugin import ConfigError


def read(directory: Path, text: str | bytes, name: str = "it.toml") -> ConfigFile:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return configfile.read(str(path))


def pairs(found: tuple[Setting, ...]) -> list[tuple[str, str]]:
    return [(setting.key, setting.text) for setting in found]


WHOLE = """
[server]
port = 10810
allow = ["any", "::1"]
verbose = true
[[export]]
name = "a"
default = true
plugin = "file"
file = "/a"
filters = ["log", { filter = "offset", offset = 512 }]
read-only = true
require-tls = true
max-clients = 3
threads = 2
description = "the first"
allow = "any"
deny = ["uid:5", "uid:6"]
parameters = { tls = false }
[[export]]
name = ""
plugin = "null"
"""


def test_all_that_there_can_be(tmp_path: Path) -> None:
    file = read(tmp_path, WHOLE)
    assert pairs(file.server) == [
        *(("port", "10810"), ("allow", "any"), ("allow", "::1"), ("verbose", "true"))
    ]
    one, other = file.exports
    assert (one.name, one.is_default, one.description) == ("a", True, "the first")
    assert (one.read_only, one.with_tls, one.max_clients, one.threads) == (True, True, 3, 2)
    assert (one.plugin.name, pairs(one.plugin.settings)) == ("file", [("tls", "false")])
    assert pairs(one.settings) == [("file", "/a")]
    assert [(layer.name, pairs(layer.settings)) for layer in one.filters] == [
        *(("log", []), ("offset", [("offset", "512")]))
    ]
    assert (pairs(one.allow), pairs(one.deny)) == (
        [("allow", "any")],
        [("deny", "uid:5"), ("deny", "uid:6")],
    )
    assert (other.name, other.plugin.name, other.is_default) == ("", "null", False)


def test_secrets_are_read_from_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame\n")
    file = read(tmp_path, '[[export]]\nplugin = "curl"\npassword = { file = "key" }\n')
    assert pairs(file.exports[0].settings) == [("password", "sesame")]
    text = '[[export]]\nplugin = "curl"\npassword = { file = "kex" }\n'
    with pytest.raises(ConfigError, match=r"it\.toml:3: export\.password\.file: .*kex: No such"):
        read(tmp_path, text)


def test_files_are_included_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in "ba":
        (tmp_path / "d" / f"{name}.toml").write_text(
            f'[[export]]\nname = "{name}"\nplugin = "null"\n'
        )
    file = read(tmp_path, 'include = ["d/*.toml", "none/*"]\n[[export]]\nname="0"\nplugin="null"\n')
    assert [export.name for export in file.exports] == ["0", "a", "b"]
    with pytest.raises(ConfigError, match=r"it\.toml:1: include: .*/nowhere: there is no such"):
        read(tmp_path, 'include = "nowhere"\n')
    (tmp_path / "d" / "a.toml").write_text("[server]\nport = 1\n")
    with pytest.raises(ConfigError, match=r"d/a\.toml:1: server: there is no such key .*: export"):
        read(tmp_path, 'include = "d/*"\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it.toml:1: there is no [[export]]: what is to be served?"),
        ("x = 1 y", "it.toml:1: x: not TOML: Expected newline"),
        ("\nserver.a = 1\nserver.a = 2\n", "it.toml:3: server.a: not TOML: Cannot overwrite"),
        ("x = ", "it.toml:1: not TOML: Invalid value"),
        (b"a = 1\nb = '\xff'", "it.toml:2: this is not UTF-8"),
        ("exports = 1", "it.toml:1: exports: there is no such key; did you mean export?"),
        ("server = 1", "it.toml:1: server: this is a number; a table is expected"),
        ("export = [1]", "it.toml:1: export: this is a number; a table is expected"),
        ("[[export]]\nplugn = 'x'", "export: the key plugin is missing, which says what is served"),
        ("[[export]]\nplugn = 'x'", "did you mean it by plugn?"),
        ("[[export]]\nplugin = 1", "it.toml:2: export.plugin: this is a number; a name"),
        ("[[export]]\nplugin='x'\nname=1", "it.toml:3: export.name: this is a number; a text"),
        ("[[export]]\nplugin='x'\nread-only='no'", "this is a text; true or false is expected"),
        ("[[export]]\nplugin='x'\nthreads=0", "a whole number from 1 to 1024 is expected"),
        ("[[export]]\nplugin='x'\nfilters=[1]", "this is a number; the name of a filter, or"),
        ("[[export]]\nplugin='x'\nfilters=[{}]", "it.toml:3: export.filters: the key filter is"),
        ("[[export]]\nplugin='x'\na=2020-01-01", "export.a: this is a time; a text, a number"),
        ("[[export]]\nplugin='x'\na={b=1}", "export.a: this is a table; a text, a number"),
        ('[[export]]\nplugin="x"\na="\\u0000"', "export.a: there is a null byte in it"),
        ("[[export]]\nplugin='x'\nparameters=1", "export.parameters: this is a number; a table"),
        (
            "[[export]]\nplugin='x'\n[[export]]\nplugin='x'\nname='b'",
            "it.toml:1: export: an export",
        ),
        (
            "[[export]]\nplugin='x'\nname='a'\n[[export]]\nplugin='x'\nname='a'",
            "it.toml:4: export 'a': there is an export of this name at ",
        ),
        (
            "".join(f"[[export]]\nplugin='x'\nname='{n}'\ndefault=true\n" for n in "ab"),
            "it.toml:5: export 'b': the default export is that at ",
        ),
        (f"[[export]]\nplugin='x'\nname='{'x' * 4097}'", "longer than 4096 bytes"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"^/nowhere/x\.toml: No such file or directory$"):
        configfile.read("/nowhere/x.toml")


LINES = st.sampled_from(
    [
        *("[server]", "[[export]]", "[export.parameters]", "include = 'x'", "# a comment"),
        *("name = 'a'", "name = 'b'", "plugin = 'null'", "plugin = 1", "size = '1M'", "a.b = 1"),
        *("filters = ['log', {filter = 'log', x = [1, 2]}]", "filters = {}", "threads = 99999"),
        *("default = true", "allow = [[]]", "deny = ['any']", "x = {file = 'x'}", "x = [", "]"),
        *("[[server]]", "export = 1", "[export]", '"" = ""', "name = '\U0001f4be'"),
    ]
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=10).map("\n".join) | st.text(max_size=30))
@example("export = [[]]")
@example("[[export]]\nplugin = 'x'\nallow = [[]]")
def test_any_file_is_read_or_said_in_one_line_to_be_wrong(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    directory = tmp_path_factory.getbasetemp()
    said = ""
    try:
        file = read(directory, text.encode(errors="surrogatepass"))
    except ConfigError as error:
        said = str(error)
    if said:
        assert "it.toml" in said
        assert "\n" not in said
    else:
        assert file.exports
