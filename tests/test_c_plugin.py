"""C plugins: nbdkit's own beside nbdkit, and plugins made here, whose callbacks tell on us."""

import ctypes
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nbdfork.plugin import ConfigError, Plugin, load
from tests.harness import NBDFORK, Server, eventually, nbdfork, need, output, run
from tests.libnbd import connected, libnbd

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent
PKG_CONFIG = {**os.environ, "PKG_CONFIG_PATH": str(ROOT / "plugins/c/lib/pkgconfig")}
STRICT = ("-Wall", "-Wextra", "-Wno-unused", "-Wno-unused-parameter", "-Werror")

Build = Callable[..., Path]


@pytest.fixture(autouse=True)
def _built() -> None:
    try:
        import nbdfork.plugins.c._native  # noqa: F401
    except ImportError as error:
        if os.environ.get("NBDFORK_CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Compile a plugin of the tests against nbdfork's header."""
    need("cc", "pkg-config")

    def compile_it(source: Path | str, *flags: str) -> Path:
        path = source if isinstance(source, Path) else HERE / f"c_{source}.c"
        plugin = tmp_path / f"{path.stem}.so"
        include = output("pkg-config", "--cflags", "nbdfork", env=PKG_CONFIG).split()
        output("cc", "-shared", "-fPIC", *STRICT, *include, *flags, "-o", plugin, path)
        return plugin

    return compile_it


def both(plugin: Path | str, *arguments: str | Path, command: str) -> tuple[str, str]:
    """Run *command* with a server of *plugin*; return what it printed under nbdkit and nbdfork."""
    need("nbdkit")
    words = ["-U", "-", str(plugin), *map(str, arguments), "--run", command]
    return output("nbdkit", *words), output(*NBDFORK, "-n", *words)


def facts(text: str) -> dict[str, Any]:
    """Return what nbdinfo --json says of an export, without what each server adds itself."""
    (export,) = json.loads(text)["exports"]
    taken = re.compile("can_|is_|export-size|contexts|description")
    return {key: value for key, value in export.items() if taken.match(key)}


# -- the header -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_our_header_has_the_layout_and_the_values_of_nbdkits(version: int, tmp_path: Path) -> None:
    need("cc", "pkg-config")
    printed = []
    for package in ("nbdkit", "nbdfork"):
        done = run("pkg-config", "--variable=prefix", package, env=PKG_CONFIG)
        if done.returncode and not os.environ.get("NBDFORK_CI"):
            pytest.skip(f"no headers of {package}: {done.stderr}")
        include = output("pkg-config", "--cflags", package, env=PKG_CONFIG).split()
        program = tmp_path / package
        defined = f"-DNBDKIT_API_VERSION={version}"
        source = HERE / "c_layout.c"
        output("cc", "-w", "-include", "stddef.h", *include, defined, "-o", program, source)
        printed.append(output(program))
    assert printed[0] == printed[1]
    assert "block_size at 376 of 8" in printed[1]


def test_every_function_of_both_headers_is_there() -> None:
    from nbdfork.plugins.c import _native

    ours = (ROOT / "plugins/c/include/nbdfork/nbdfork-plugin.h").read_text()
    names = set(re.findall(r"^extern .*?(nbdkit_\w+) \(", ours, re.MULTILINE))
    assert len(names) > 35
    for header in Path("/usr/include").glob("nbdkit-[cp]*.h"):
        names |= set(re.findall(r"EXTERN_DECL \([^,]*, (nbdkit_\w+)", header.read_text()))
    assert _native.__file__ is not None
    functions = ctypes.CDLL(_native.__file__)
    assert [name for name in sorted(names) if not hasattr(functions, name)] == []


def test_the_header_serves_cplusplus(tmp_path: Path) -> None:
    need("c++", "pkg-config")
    source = tmp_path / "disk.cc"
    source.write_text(
        "#define NBDKIT_API_VERSION 2\n#include <nbdkit-plugin.h>\n"
        "#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL\n"
        "static void *open_it (int) { return NBDKIT_HANDLE_NOT_NEEDED; }\n"
        "static int64_t size (void *) { return 512; }\n"
        "static int read_it (void *, void *, uint32_t, uint64_t, uint32_t) { return 0; }\n"
        "static struct nbdkit_plugin make () { struct nbdkit_plugin p = {}; p.name = \"cpp\";\n"
        "  p.open = open_it; p.get_size = size; p.pread = read_it; return p; }\n"
        "static struct nbdkit_plugin plugin = make ();\n"
        "NBDKIT_REGISTER_PLUGIN (plugin)\n"
    )  # fmt: skip
    include = output("pkg-config", "--cflags", "nbdfork", env=PKG_CONFIG).split()
    plugin = tmp_path / "disk.so"
    output("c++", "-shared", "-fPIC", *STRICT, *include, "-o", plugin, source)
    text = output(*NBDFORK, "-U", "-", plugin, "--run", "nbdinfo --size $uri")
    assert text == "512\n"


def test_the_version_is_nbdforks() -> None:
    need("pkg-config")
    version = output("pkg-config", "--modversion", "nbdfork", env=PKG_CONFIG)
    assert nbdfork("--version").stdout == f"nbdfork {version}"


# -- nbdkit's own plugins, under both servers -------------------------------------------------


@cache
def plugin_directory() -> Path:
    need("nbdkit")
    pairs = (line.split("=", 1) for line in output("nbdkit", "--dump-config").splitlines())
    return Path(dict(pairs)["plugindir"])


def installed(name: str) -> Path:
    path = plugin_directory() / f"nbdkit-{name}-plugin.so"
    if not path.exists():
        message = f"nbdkit's plugin {name} is not installed"
        pytest.fail(message) if os.environ.get("NBDFORK_CI") else pytest.skip(message)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(os.urandom(300_000))
        file.truncate(1 << 20)
    return path


LUA = """
size = 65536
function open(readonly) return {} end
function get_size(h) return size end
function pread(h, count, offset) return string.rep("L", count) end
"""
TCL = """
proc plugin_open {readonly} { return 1 }
proc get_size {h} { return 65536 }
proc pread {h count offset} { return [string repeat T $count] }
"""
PERL = """
sub open { return 1 }
sub get_size { return 65536 }
sub pread { my ($h, $count, $offset) = @_; return "P" x $count }
"""
SH = """#!/bin/sh
case "$1" in
  get_size) echo 64K ;;
  pread) head -c $3 /dev/zero | tr '\\\\0' S ;;
  *) exit 2 ;;
esac
"""

SIDE_BY_SIDE: dict[str, tuple[str, ...]] = {
    "memory": ("1M",),
    "data": ("data=1 2 3 @0x4000 4*100", "size=1M"),
    "file": ("file={disk}",),
    "floppy": ("{directory}/floppy",),
    "full": ("1M",),
    "info": ("mode=exportname",),
    "null": ("size=1M",),
    "ondemand": ("dir={directory}", "size=1M"),
    "partitioning": ("{disk}", "{disk}"),
    "pattern": ("1M",),
    "random": ("size=1M", "seed=7"),
    "sparse-random": ("size=1M", "seed=7"),
    "split": ("{directory}/disk.lua", "{directory}/disk.tcl"),
    "tmpdisk": ("size=1M", "command=truncate -s 1M $disk"),
    "eval": ("get_size=echo 64K", "pread=head -c $3 /dev/zero | tr '\\0' E"),
    "sh": ("{directory}/disk.sh",),
    "lua": ("{directory}/disk.lua",),
    "tcl": ("{directory}/disk.tcl",),
    "perl": ("{directory}/disk.pl",),
    "example1": (),
    "example2": ("file={disk}",),
    "example3": ("size=1M",),
}

NAMED = "nbd+unix:///disk\\?socket=$unixsocket"

NEVER_THE_SAME = {"partitioning"}
"""The contents differ from start to start: there are random names in it."""


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_the_same_bytes_and_facts_as_under_nbdkit(name: str, disk: Path, tmp_path: Path) -> None:
    need("nbdinfo", "nbdcopy")
    for suffix, text in (("lua", LUA), ("tcl", TCL), ("pl", PERL), ("sh", SH)):
        script = tmp_path / f"disk.{suffix}"
        script.write_text(text)
        script.chmod(0o755)
    (tmp_path / "floppy").mkdir()
    (tmp_path / "floppy" / "README").write_text("hello")
    words = [word.format(disk=disk, directory=tmp_path) for word in SIDE_BY_SIDE[name]]
    uri = NAMED if name in {"ondemand", "info"} else "$uri"
    command = f"nbdinfo --json {uri}; echo; nbdcopy {uri} - | sha256sum; nbdinfo --map {uri} || :"
    printed = both(installed(name), *words, command=command)
    (info, rest), (our_info, our_rest) = (text.split("\n\n", 1) for text in printed)
    assert facts(our_info) == facts(info)
    if name not in NEVER_THE_SAME:
        assert our_rest == rest


@pytest.mark.parametrize("name", ["memory", "data", "file", "ondemand"])
def test_what_was_written_is_read_by_others(name: str, disk: Path, tmp_path: Path) -> None:
    need("qemu-io")
    words = [word.format(disk=disk, directory=tmp_path) for word in SIDE_BY_SIDE[name]]
    uri = NAMED if name == "ondemand" else "$uri"
    command = (
        f"qemu-io -f raw -c 'write -f -P 7 5k 64k' -c 'write -z 10k 1k' {uri} >/dev/null &&"
        f" qemu-io -r -f raw -c 'read -P 7 5k 5k' -c 'read -P 0 10k 1k' -c 'read -P 7 11k 1k' {uri}"
    )
    text = output(*NBDFORK, "-n", "-U", "-", installed(name), *words, "--run", command)
    assert "Pattern verification failed" not in text


def test_the_plugin_full_is_full() -> None:
    need("qemu-io")
    command = "qemu-io -f raw -c 'write 0 4k' $uri"
    done = nbdfork("-n", "-U", "-", installed("full"), "1M", "--run", command)
    assert "No space left on device" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "one_process"), [("memory", "yes"), ("file", "no"), ("lua", "yes"), ("sh", "no")]
)
def test_state_in_memory_is_never_split(name: str, one_process: str) -> None:
    text = nbdfork("--dump-plugin", installed(name)).stdout
    assert f"\none_process={one_process}\n" in text
    text = nbdfork("--dump-plugin", installed(name), "nbdfork-processes=yes").stdout
    assert not text or "\none_process=no\n" in text  # no text: other parameters are missing


def test_a_network_is_waited_for_in_several_threads(disk: Path) -> None:
    need("nbdcopy", "cmp")
    with Server("-n", "file", disk) as server:
        inner = f"nbdcopy $uri - | cmp - {disk}"
        plugin = installed("nbd")
        output(*NBDFORK, "-n", "-U", "-", plugin, f"socket={server.socket}", "--run", inner)


def test_curl_reads_a_file(disk: Path) -> None:
    need("nbdcopy", "cmp")
    command = f"nbdcopy $uri - | cmp - {disk}"
    source = (f"url=file://{disk}", "protocols=file")
    output(*NBDFORK, "-n", "-U", "-", installed("curl"), *source, "--run", command)


# -- what follows from what a plugin has ------------------------------------------------------

VARIANTS = [
    "",
    "WRITE",
    "WRITE FLUSH",
    "WRITE FLUSH TRIM ZERO EXTENTS",
    "WRITE FLUSH ZERO CAN_ZERO=0 CAN_FUA=2",
    "WRITE FLUSH ZERO CAN_ZERO=1 CAN_FUA=0",
    "WRITE CAN_FUA=1 CAN_CACHE=1",
    "WRITE CAN_WRITE=0 CAN_CACHE=2 CAN_MULTI_CONN=1 IS_ROTATIONAL=1",
    "BLOCK_SIZE EXTENTS CAN_CACHE=0",
    "API=1",
    "API=1 WRITE FLUSH TRIM ZERO",
    "API=1 WRITE FLUSH CAN_FUA=2 ZERO CAN_ZERO=0",
    "API=1 OLD WRITE FLUSH TRIM ZERO",
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_facts_are_derived_as_nbdkit_does(variant: str, build: Build) -> None:
    need("nbdinfo", "nbdcopy")
    plugin = build("facts", *(f"-D{word}" for word in variant.split()))
    command = "nbdinfo --json $uri; echo; nbdcopy $uri - | sha256sum; nbdinfo --map $uri"
    if "WRITE" in variant.split() and "CAN_WRITE=0" not in variant:
        zero = "-c 'write -z 512 512' -c 'write -z 1024 512' -c 'write -z -u 2560 512'"
        command += f"; qemu-io -f raw {zero} -c 'write -f -P 9 4k 1k' $uri >/dev/null"
        command += "; nbdcopy $uri - | sha256sum"
    printed = both(plugin, command=command)
    (info, rest), (our_info, our_rest) = (text.split("\n\n", 1) for text in printed)
    assert facts(our_info) == facts(info)
    assert our_rest == rest


def test_extents_are_cut_and_merged(build: Build) -> None:
    export = started(build("facts", "-DEXTENTS")).open("", True)
    assert list(export.extents(8192, 2048, 0)) == [(2048, 6144, 0), (8192, 2048, 3)]
    assert list(export.extents(100, 9000, 0)) == [(9000, 100, 3)]
    assert list(export.extents(1 << 40, 0, 0))[-1] == (8192, (1 << 20) - 8192, 3)
    export.close()
    with pytest.raises(ValueError, match="closed"):
        export.pread(1, 0)


def started(plugin: Path, diary: Path | None = None) -> Plugin:
    """Return a plugin of the tests, in this process."""
    made = load.find(str(plugin)).plugin_class()
    if diary is not None:
        made.config("log", str(diary))
    made.config_complete()
    made.get_ready()
    return made


def test_what_a_plugin_lacks_is_an_error_and_no_crash(build: Build) -> None:
    export = started(build("facts", "-DCAN_WRITE=1", "-DCAN_CACHE=2")).open("", False)
    assert export.can_write()
    for operation in (
        lambda: export.pwrite(memoryview(b"x"), 0, 0),
        export.flush,
        lambda: export.trim(1, 0, 0),
        lambda: export.extents(1, 0, 0),
    ):
        with pytest.raises(OSError, match="says that it can") as failed:
            operation()
        assert failed.value.errno == errno.EINVAL
    export.cache(1, 0)  # as nbdkit has it, there is nothing to do
    export.close()


def test_a_range_longer_than_the_api_takes_is_cut(build: Build, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    export = started(build("life"), diary).open("one", False)
    export.cache(5 << 30, 0)
    export.close()
    assert diary.read_text().split().count("cache") == 3


# -- the life of a plugin ---------------------------------------------------------------------


def test_help_version_and_dump(build: Build) -> None:
    plugin = build("life")
    text = output(*NBDFORK, "--help", plugin)
    assert "plugin: life - a plugin that keeps a diary\n" in text
    assert "What it does is written down.\nlog=<FILE>  (required) The diary.\n" in text
    assert output(*NBDFORK, "--version", plugin).endswith("\nlife 3.2.1\n")
    pairs = dict(
        line.split("=", 1) for line in output(*NBDFORK, "--dump-plugin", plugin).splitlines()
    )
    need("nbdkit")
    text = output("nbdkit", "--dump-plugin", plugin)
    theirs = dict(line.split("=", 1) for line in text.splitlines())
    told_by_help = {"has_longname", "has_description", "has_config_help"}
    assert {key: pairs.get(key) for key in theirs.keys() - told_by_help} == {
        key: theirs[key] for key in theirs.keys() - told_by_help
    }
    assert pairs["life_says"] == "hello"


def test_the_callbacks_come_in_their_order(build: Build, tmp_path: Path) -> None:
    need("qemu-io")
    diary = tmp_path / "diary"
    with Server("-n", build("life"), diary) as server:
        output("qemu-io", "-f", "raw", "-c", "write -f 0 512", "-c", "flush", server.uri)
        eventually(lambda: "close" in diary.read_text())
    lines = [line.split(" ", 1) for line in diary.read_text().splitlines()]
    names = [name for _, name in lines]
    supervisor = lines[0][0]
    before = ["load config", "config_complete", "get_ready"]
    assert names[:4] == [*before, "after_fork"]
    assert names[4] == "preconnect"
    assert names[5].startswith("open first")
    assert {"pwrite fua", "flush"} <= set(names)
    assert names[-3:] == ["close", "cleanup", "unload"]
    inside = [name for process, name in lines if process == supervisor]
    assert inside == [*before, "unload"]


def test_exports_are_listed_and_described(build: Build, tmp_path: Path) -> None:
    need("nbdinfo")
    command = "nbdinfo --list --json $uri"
    theirs, ours = (
        {export["export-name"]: export.get("description") for export in json.loads(text)["exports"]}
        for text in both(build("life"), tmp_path / "diary", command=command)
    )
    assert ours == theirs
    assert ours.keys() == {"first", "second"}


def test_errors_have_the_errno_and_the_log_has_the_message(build: Build, tmp_path: Path) -> None:
    plugin = started(build("life"), tmp_path / "diary")
    with pytest.raises(OSError, match="nobody gets this one") as refused:
        plugin.open("refused", False)
    assert refused.value.errno == errno.EACCES
    export = plugin.open("one", False)
    for offset, code, message in (
        (4096, errno.EIO, "life: pread: a bad sector"),
        (8192, errno.ENOMEM, "life: pread: out of memory"),
    ):
        with pytest.raises(OSError, match=message) as failed:
            export.pread(512, offset)
        assert failed.value.errno == code
        assert failed.value.strerror == "pread failed in the plugin"  # what clients may know
    assert export.description() == "this is one"
    export.close()


def test_a_message_without_a_failure_is_logged(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = started(build("life"), tmp_path / "diary")
    export = plugin.open("one", False)
    assert export.pread(512, 12288) == bytes(512)
    assert "life: only a remark" in caplog.text
    export.close()


def test_a_plugin_can_end_the_server(build: Build, tmp_path: Path) -> None:
    need("qemu-io")
    with Server("-n", build("life"), tmp_path / "diary") as server:
        run("qemu-io", "-r", "-f", "raw", "-c", "read 16k 512", server.uri)
        assert eventually(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0


def test_a_debug_flag_sets_a_variable(build: Build, tmp_path: Path) -> None:
    plugin = build("life")
    found = load.find(str(plugin)).plugin_class()
    assert "some.flag" in found.debug
    found.debug["some.flag"] = 5
    assert "other" not in found.debug
    done = nbdfork("-D", "life.other=1", plugin, tmp_path / "diary")
    assert done.returncode == 1
    assert "no such debug flag" in done.stderr


def test_the_parsers_say_what_nbdkits_say(build: Build, tmp_path: Path) -> None:
    need("nbdkit")
    (tmp_path / "secret.txt").write_text("hush\nmore\n")
    (tmp_path / "empty.txt").write_text("")
    plugin = build("parse")
    theirs, ours = (
        output(*command, "--dump-plugin", plugin, cwd=tmp_path, input="").splitlines()
        for command in (["nbdkit"], NBDFORK)
    )
    parsed = re.compile(r"\w+\[|absolute=|real=|intern=|stdio=")
    shown = [line for line in theirs if parsed.match(line)]
    assert len(shown) > 400
    assert [line for line in ours if parsed.match(line)] == shown


# -- a plugin that crashes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sector", "report"),
    [
        (1, "crashed in its callback pread (SIGSEGV)"),
        (2, "crashed in its callback pread (SIGABRT)"),
        (3, "ended its process in its callback pread (exit)"),
        (4, "crashed in its callback pread (SIGBUS)"),
    ],
)
def test_a_crash_costs_its_client_only(sector: int, report: str, build: Build) -> None:
    need("qemu-io")
    reading = ["qemu-io", "-r", "-f", "raw", "-c"]
    with Server("-n", build("crash")) as server:
        other = subprocess.Popen(
            [*reading[:-1], server.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        eventually(lambda: len(server.serving()) == 1)
        done = run(*reading, f"read {sector * 512} 512", server.uri)
        assert "failed" in done.stdout + done.stderr
        eventually(lambda: report in server.log)
        assert f"nbdfork: error: the plugin crash {report}\n" in server.log
        printed, _ = other.communicate("read 0 512\n", timeout=30)
        assert "512/512" in printed
        assert "512/512" in output(*reading, "read 0 512", server.uri)


def test_one_process_that_crashes_is_replaced(build: Build) -> None:
    need("qemu-io")
    with Server("-n", build("crash"), "nbdfork-processes=no") as server:
        run("qemu-io", "-r", "-f", "raw", "-c", "read 512 512", server.uri)
        eventually(lambda: "crashed in its callback pread" in server.log)
        text = output("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", server.uri)
        assert "512/512" in text


def test_a_crash_reaches_the_system_log(tmp_path: Path) -> None:
    program = (
        "import logging, os, sys; from nbdfork.plugins.c import crash\n"
        "logging.getLogger().handlers.clear(); crash._SYSLOG = sys.argv[1]\n"
        "crash.report_crashes(); os.abort()"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system_log:
        system_log.bind(str(tmp_path / "log"))
        system_log.settimeout(30)
        done = run(sys.executable, "-c", program, tmp_path / "log")
        message = system_log.recv(1000).decode()
    assert done.returncode == -signal.SIGABRT
    expected = "a process that serves a C plugin crashed outside of its callbacks (SIGABRT)"
    assert re.fullmatch(rf"<27>nbdfork\[\d+\]: {re.escape(expected)}\n", message)


# -- what is refused, each with a line --------------------------------------------------------


def wrong(source: str, tmp_path: Path) -> Path:
    need("cc")
    include = output("pkg-config", "--cflags", "nbdfork", env=PKG_CONFIG).split()
    plugin = tmp_path / "wrong.so"
    text = f"#define NBDKIT_API_VERSION 2\n#include <nbdkit-plugin.h>\n{source}\n"
    output("cc", "-w", "-shared", "-fPIC", *include, "-x", "c", "-", "-o", plugin, input=text)
    return plugin


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int x;", "it has no function plugin_init"),
        ("void *filter_init (void) { return 0; }", "it is a filter of nbdkit"),
        ("void *plugin_init (void) { return 0; }", "its plugin_init returned NULL"),
        (
            "void nbdkit_of_tomorrow (void); void *plugin_init (void)"
            " { nbdkit_of_tomorrow (); return 0; }",
            "nbdfork has no function nbdkit_of_tomorrow",
        ),
        (
            "static struct nbdkit_plugin p = { .name = \"a b\" };\n#define THREAD_MODEL 0\n"
            "NBDKIT_REGISTER_PLUGIN (p)",
            "the plugin's .name is 'a b'",
        ),
        (
            "static struct nbdkit_plugin p = { .name = \"empty\" };\n#define THREAD_MODEL 0\n"
            "NBDKIT_REGISTER_PLUGIN (p)",
            "the plugin has no .open",
        ),
        (
            "static struct nbdkit_plugin p = { ._struct_size = 384, ._api_version = 3 };\n"
            "void *plugin_init (void) { return &p; }",
            "it is built for API version 3",
        ),
        (
            "static struct nbdkit_plugin p = { ._struct_size = 100, ._api_version = 2 };\n"
            "void *plugin_init (void) { return &p; }",
            "cut off after 100 bytes",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plugin_is_refused(source: str, message: str, tmp_path: Path) -> None:
    plugin = wrong(source, tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        load.find(str(plugin))
    assert str(plugin) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a shared object")
    for path, message in ((text, "cannot load"), (tmp_path / "none.so", "is not a file")):
        with pytest.raises(ConfigError, match=message):
            load.find(str(path))
    assert "is required" not in nbdfork("c").stderr
    assert "nbdfork ./NAME.so" in nbdfork("c").stderr


def test_pythons_plugin_is_turned_away() -> None:
    done = nbdfork(installed("python"), "script.py")
    assert done.returncode == 1
    assert "nbdfork python SCRIPT" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nbdfork: error: life: log=FILE is missing\n"),
        (["other=1"], 'nbdfork: error: life: other=1: the key "other" is not mine\n'),
        (["number=x"], "nbdfork: error: life: number=x: number: x: a number is expected\n"),
    ],
)
def test_what_a_plugin_refuses_is_one_line(
    arguments: list[str], message: str, build: Build
) -> None:
    done = nbdfork(build("life"), *arguments)
    assert (done.returncode, done.stderr) == (1, message)


def test_without_the_native_module_one_line_says_what_to_install(build: Build) -> None:
    plugin = build("facts")
    hide = "import sys; sys.modules['nbdfork.plugins.c._native'] = None\n"
    start = "from nbdfork.main import main; sys.exit(main(sys.argv[1:]))"
    done = run(sys.executable, "-c", hide + start, plugin)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "install a C compiler and Python's headers" in done.stderr


# -- the example, and the page ----------------------------------------------------------------


def test_the_example_is_a_disk(build: Build, tmp_path: Path) -> None:
    need("qemu-io", "nbdinfo")
    plugin = build(ROOT / "contrib" / "example4.c")
    with Server("-n", plugin, "1M") as server:
        writes = ["-c", "write -P 3 100k 300k", "-c", "write -P 4 32000 2000"]
        output("qemu-io", "-f", "raw", *writes, server.uri)
        reads = ["-c", "read -P 3 100k 300k", "-c", "read -P 4 32000 2000", "-c", "read -P 0 0 31k"]
        text = output("qemu-io", "-r", "-f", "raw", *reads, server.uri)
        assert "failed" not in text
        extents = json.loads(output("nbdinfo", "--map", "--json", server.uri))
        assert [extent["type"] for extent in extents] == [0, 3, 0, 3]
    done = nbdfork(plugin)
    assert done.stderr == "nbdfork: error: example4: the parameter size=SIZE is required\n"


def test_the_disk_on_the_page_works(build: Build, tmp_path: Path) -> None:
    page = (ROOT / "man" / "nbdfork-c-plugin.3").read_text()
    match = re.search(r"^(/\* disk\.c.*?)^\.Ed$", page, re.MULTILINE | re.DOTALL)
    assert match is not None
    source = tmp_path / "disk.c"
    source.write_text(match[1].replace("\\e", "\\"))
    command = "nbdinfo --size $uri"
    assert output(*NBDFORK, "-U", "-", build(source), "--run", command) == "1048576\n"


@pytest.mark.parametrize("processes", ["yes", "no"])
def test_who_the_client_is(build: Build, processes: str) -> None:
    plugin = build("peer", "-D_GNU_SOURCE")
    with Server("-n", plugin, f"nbdfork-processes={processes}") as server:
        with connected(server.uri) as client:
            told = client.pread(client.get_size(), 0).decode()
        assert told == f"{os.getpid()} {os.getuid()} {os.getgid()}"
    with Server("-n", plugin, listen=("-i", "127.0.0.1", "-p", "0")) as server:
        with pytest.raises(libnbd().Error):
            connected(server.uri).__enter__()
        assert "nbdkit_peer_pid: the client is not on a Unix domain socket" in server.log
