"""What the tests of C plugins share: plugins built here, nbdkit's own, and both servers."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nbdfork.backend import load
from nbdfork.plugin import Plugin
from tests.support.harness import NBDFORK, need, output
from tests.support.paths import C_SOURCES, ROOT

PKG_CONFIG = {**os.environ, "PKG_CONFIG_PATH": str(ROOT / "plugins/c/lib/pkgconfig")}
STRICT = ("-Wall", "-Wextra", "-Wno-unused", "-Wno-unused-parameter", "-Werror")

Build = Callable[..., Path]


def need_native() -> None:
    """Skip the test where the part that is written in C was not built; in CI it was."""
    try:
        import nbdfork.plugins.c._native  # noqa: F401
    except ImportError as error:
        if os.environ.get("NBDFORK_CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def builder(directory: Path) -> Build:
    """Return what compiles a plugin of the tests, against nbdfork's header, in *directory*."""
    need_native()
    need("cc", "pkg-config")

    def compile_it(source: Path | str, *flags: str) -> Path:
        path = source if isinstance(source, Path) else C_SOURCES / f"{source}.c"
        plugin = directory / f"{path.stem}.so"
        include = output("pkg-config", "--cflags", "nbdfork", env=PKG_CONFIG).split()
        output("cc", "-shared", "-fPIC", *STRICT, *include, *flags, "-o", plugin, path)
        return plugin

    return compile_it


def started(plugin: Path, diary: Path | None = None) -> Plugin:
    """Return a plugin of the tests, in this process."""
    made = load.find(str(plugin)).plugin_class()
    if diary is not None:
        made.config("log", str(diary))
    made.config_complete()
    made.get_ready()
    return made


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


@cache
def plugin_directory() -> Path:
    """Where nbdkit keeps its plugins."""
    need("nbdkit")
    pairs = (line.split("=", 1) for line in output("nbdkit", "--dump-config").splitlines())
    return Path(dict(pairs)["plugindir"])


def installed(name: str) -> Path:
    """Return the path of nbdkit's plugin *name*; without it, skip the test, or fail it in CI."""
    need_native()
    path = plugin_directory() / f"nbdkit-{name}-plugin.so"
    if not path.exists():
        message = f"nbdkit's plugin {name} is not installed"
        pytest.fail(message) if os.environ.get("NBDFORK_CI") else pytest.skip(message)
    return path


# -- what nbdkit's plugins are given -----------------------------------------------------------

KIB, MIB = 1 << 10, 1 << 20

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
use POSIX;  # what is not written in Perl has to find the interpreter
use Fcntl;
sub open { return 1 }
sub get_size { return POSIX::floor(65536.5) }
sub pread { my ($h, $count, $offset) = @_; return "P" x $count }
"""
SH = """#!/bin/sh
case "$1" in
  get_size) echo 64K ;;
  pread) head -c $3 /dev/zero | tr '\\\\0' S ;;
  *) exit 2 ;;
esac
"""

CC = """
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>
#include <string.h>
#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
static char disk[65536];
static void *cc_open (int readonly) { return NBDKIT_HANDLE_NOT_NEEDED; }
static int64_t cc_get_size (void *handle) { return sizeof disk; }
static int cc_pread (void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{ memcpy (buf, disk + offset, count); return 0; }
static int
cc_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{ memcpy (disk + offset, buf, count); return 0; }
static struct nbdkit_plugin plugin = {
  .name = "ram", .open = cc_open, .get_size = cc_get_size, .pread = cc_pread, .pwrite = cc_pwrite,
};
NBDKIT_REGISTER_PLUGIN (plugin)
"""
RUBY = """
$disk = "R" * 65536
def open(readonly) return 1 end
def get_size(h) return $disk.bytesize end
def pread(h, count, offset) return $disk[offset, count] end
def pwrite(h, data, offset) $disk[offset, data.bytesize] = data end
"""

PIECE = 32 * KIB


def bencoded(value: object) -> bytes:
    """Return *value* as files of BitTorrent have it (BEP 3)."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        return b"%d:%s" % (len(text), text)
    assert isinstance(value, dict)
    return b"d%se" % b"".join(bencoded(part) for item in sorted(value.items()) for part in item)


CONTENT = os.urandom(300 * KIB) + bytes(MIB - 300 * KIB)


def fill(directory: Path) -> None:
    """Make what the plugins are given."""
    (directory / "files").mkdir(parents=True)
    (directory / "files/README").write_text("hello")
    (directory / "disk.img").write_bytes(CONTENT)
    hashes = b"".join(
        hashlib.sha1(CONTENT[start : start + PIECE]).digest() for start in range(0, MIB, PIECE)
    )
    info = {"name": "disk.img", "length": MIB, "piece length": PIECE, "pieces": hashes}
    (directory / "disk.torrent").write_bytes(bencoded({"info": info}))
    for name, text in {
        "disk.lua": LUA, "disk.tcl": TCL, "disk.pl": PERL, "disk.sh": SH, "disk.c": CC,
        "disk.rb": RUBY,
    }.items():  # fmt: skip
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    read = 4102444800  # in 2100: so no reading changes it before, where file systems use relatime
    os.utime(directory / "files/README", (read, 1))
    os.utime(directory / "files", (read, 1))
