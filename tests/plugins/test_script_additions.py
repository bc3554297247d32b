"""What scripts can do that nbdkit's plugins do not offer, the same in every language."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from nbdfork.plugin import Extent
from tests.support.harness import (
    SECONDS,
    many_descriptors,
    nbdfork,
)
from tests.support.libnbd import connect, libnbd
from tests.support.manual import source, unescaped
from tests.support.script_texts import FLAGS, FURTHER
from tests.support.scripting import LUA, RUBY, TCL, Language, in_languages, written

pytestmark = pytest.mark.usefixtures("needed")


@written(**FLAGS)
def test_callbacks_are_given_the_flags_at_the_end(
    language: Language, text: str, tmp_path: Path
) -> None:
    """Perl's have them as nbdkit's do."""
    with language.server(tmp_path, text) as server:
        client = connect(server.uri)
        client.flush()
        client.pwrite(b"x", 0, libnbd().CMD_FLAG_FUA)
        client.trim(512, 0, libnbd().CMD_FLAG_FUA)
        client.zero(512, 0, libnbd().CMD_FLAG_FUA)
        client.zero(512, 0, libnbd().CMD_FLAG_NO_HOLE)
        seen = bytes(client.pread(64, 0)).decode().rstrip("\0 ")
        assert seen == "flush 0 pwrite 2 trim 2 zero true 3 zero false 0"


@written(
    lua="function zero(h, n, o) nbdkit.set_error(95) assert(o > 0, 'not here') end",
    perl="sub zero { Nbdkit::set_error(95); die 'not here' if !$_[2] }",
    ruby="def zero(h, n, o, trim)\n  Nbdkit.set_error(95)\n  raise 'not here' if o.zero?\nend",
    tcl="proc zero {h n o trim} { nbdkit::set_error EOPNOTSUPP; if {!$o} { error {no} } }",
)
def test_zeroes_are_written_if_the_script_says_so(
    language: Language, text: str, tmp_path: Path
) -> None:
    """It says so by the errno: at 0 with an error, behind it without one."""
    with language.server(tmp_path, text, language.ram.read_text()) as server:
        client = connect(server.uri)
        client.pwrite(b"x" * 1536, 0)
        client.zero(512, 0)
        client.zero(512, 512)
        assert client.pread(1536, 0) == bytes(1024) + b"x" * 512


@written(**FURTHER)
def test_further_callbacks_and_functions(language: Language, text: str, tmp_path: Path) -> None:
    module = import_module(f"nbdfork.plugins.{language.name}")
    plugin_class = getattr(module, language.name.capitalize())
    plugin = plugin_class(script=str(language.script(tmp_path, text)))
    with many_descriptors():  # as in a program that serves a disk of its own
        plugin.config_complete()
        plugin.get_ready()
        plugin.after_fork()
    assert plugin.has_named_exports()
    names = [tuple(one) for one in plugin.list_exports(False)]
    assert names == [("one", ""), ("two", "the second")]
    assert plugin.default_export(False) == "one"
    export: Any = plugin.open("z\u20ac", False)
    assert export.get_size() == 65536
    assert export.description() == "this is z\u20ac"
    assert tuple(export.block_size()) == (512, 4096, 65536)
    assert export.can_cache()
    assert export.can_multi_conn()
    export.cache(512, 0)
    assert list(export.extents(1024, 2048, 0)) == [Extent(2048, 512, 0), Extent(2560, 1024, 3)]
    export.close()
    plugin.cleanup()
    plugin.unload()
    plugin.finish()


SIZES = {
    "0": 0,
    "512": 512,
    "010": 8,
    "0x10": 16,
    "0x1k": 1024,
    "1B": 1,
    "8s": 4096,
    "100M": 100 << 20,
    "7E": 7 << 60,
}

NO_SIZES = ["", "08", "0x", "k", "1Q", "1.5k", "-1", "8E", "9" * 30, "1 k"]


@written(
    lua="function config(key, value) print(nbdkit.parse_size(value)) end",
    perl="sub config { print Nbdkit::parse_size($_[1]), qq(\\n) }",
    ruby="def config(key, value) = puts(Nbdkit.parse_size(value))",
    tcl="proc config {key value} { puts [nbdkit::parse_size $value] }",
)
def test_sizes(language: Language, text: str, tmp_path: Path) -> None:
    path = language.script(tmp_path, text)
    done = nbdfork("--dump-plugin", language.name, path, *(f"size={size}" for size in SIZES))
    assert "".join(f"{number}\n" for number in SIZES.values()) in done.stdout


@written(
    lua="function config(key, value) print(select(2, pcall(nbdkit.parse_size, value))) end",
    perl="sub config { eval { Nbdkit::parse_size($_[1]) }; print qq($@\\n) }",
    ruby="def config(key, value)\n  Nbdkit.parse_size(value)\nrescue => e\n  puts e.message\nend",
    tcl="proc config {key value} { catch { nbdkit::parse_size $value } said; puts $said }",
)
def test_what_is_no_size(language: Language, text: str, tmp_path: Path) -> None:
    path = language.script(tmp_path, text)
    done = nbdfork("--dump-plugin", language.name, path, *(f"size={size}" for size in NO_SIZES))
    for size in NO_SIZES:
        assert re.search(f"(not|too large) a size: '{size}'", done.stdout)


@written(
    lua="function pread(h, n, o) nbdkit.shutdown() return ('x'):rep(n) end",
    perl="sub pread { my ($h, $n) = @_; Nbdkit::shutdown(); return 'x' x $n }",
    ruby="def pread(h, n, o)\n  Nbdkit.shutdown\n  'x' * n\nend",
    tcl="proc pread {h n o} { nbdkit::shutdown; string repeat x $n }",
)
def test_a_script_can_end_the_server(language: Language, text: str, tmp_path: Path) -> None:
    with language.server(tmp_path, text) as server:
        assert connect(server.uri).pread(2, 0) == b"xx"
        assert server.process.wait(SECONDS) == 0


VERSIONS = {
    "lua": [r"lua_version=5\.4"],
    "perl": ["perl_version=5.*"],
    "ruby": [r"ruby_version=\d+\.\d+\.\d+", r"ruby_api_version=\d+\.\d+\.\d+"],
    "tcl": [r"tcl_version=8\.\d+", r"tcl_patch_level=8\.\d+\.\d+"],
}


@written(
    lua="function dump_plugin() print('mine=yes') end",
    perl="sub dump_plugin { print qq(mine=yes\\n) }",
    ruby="def dump_plugin = puts('mine=yes')",
    tcl="proc dump_plugin {} { puts mine=yes }",
)
def test_dump_plugin_tells_of_the_script(language: Language, text: str, tmp_path: Path) -> None:
    lines = nbdfork("--dump-plugin", language.name, language.script(tmp_path, text)).stdout
    for expected in ("mine=yes", *VERSIONS[language.name]):
        assert re.search(f"^{expected}$", lines, re.MULTILINE)


@in_languages(LUA, RUBY, TCL)
def test_the_ram_disk_of_the_page_works(language: Language, tmp_path: Path) -> None:
    page = source(f"nbdfork-{language.name}-plugin.3")
    displays = re.findall(r"^\.Bd .*?\n(.*?)^\.Ed", page, re.M | re.S)
    with language.server(tmp_path, "", unescaped(displays[-1])) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1024 * 1024
        one.pwrite(bytes(range(256)) * 8, 1536)
        assert other.pread(4096, 1024) == bytes(512) + bytes(range(256)) * 8 + bytes(1536)
