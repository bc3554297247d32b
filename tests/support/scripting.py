"""The languages of scripts whose plugins keep one contract, and what their tests share.

A language knows how a script of it is written to a file, and how nbdkit serves it: nothing of
what any test demands.
"""

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.beside import served_by_nbdkit
from tests.support.harness import SECONDS, Server, nbdfork, need, output
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.paths import SCRIPTS

Served = AbstractContextManager[str]


@contextmanager
def _nbdkit_for_each_client(directory: Path, *arguments: str | Path) -> Iterator[str]:
    """Serve each client with an nbdkit of its own."""
    path = directory / "nbdkit.sock"
    path.unlink(missing_ok=True)
    command = ["nbdkit", "-s", "-n", *map(str, arguments)]

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                fd = client.fileno()
                subprocess.run(command, stdin=fd, stdout=fd, stderr=subprocess.DEVNULL, check=False)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = Thread(target=serve)
        thread.start()
        try:
            yield f"nbd+unix:///?socket={path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(SECONDS)


# -- the languages ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Language:
    """A language, which is also the name of its plugin.

    *minimum* has the three required callbacks, in three lines: what a test adds begins in line 4.
    *tool* is a program, or a module of Python's, that the plugin needs.
    *untrue* are the facts that nbdkit's plugin promises whatever the script can do.
    """

    name: str
    tool: str
    suffix: str
    minimum: str
    untrue: frozenset[str]
    end: str = "\n"
    tool_is_module: bool = False
    nbdkit: Callable[..., Served] = served_by_nbdkit

    @property
    def ram(self) -> Path:
        """A RAM disk with every callback that nbdkit knows; `fail=NAME` makes one fail."""
        return SCRIPTS / f"ram{self.suffix}"

    def need(self) -> None:
        """Skip the test without what the plugin needs; in CI it fails instead."""
        if not self.tool_is_module:
            need(self.tool)
        elif not os.environ.get("NBDFORK_CI"):
            pytest.importorskip(self.tool)

    def script(self, directory: Path, text: str, base: str | None = None) -> Path:
        """Return the path of a script: *text* after *base*, or after the required callbacks."""
        path = directory / f"script{self.suffix}"
        path.write_text(f"{self.minimum if base is None else base}{text}{self.end}")
        return path

    def server(self, directory: Path, text: str, base: str | None = None) -> Server:
        """Serve a script with nbdfork, in the foreground."""
        return Server("-n", self.name, self.script(directory, text, base))

    def served_by_nbdkit(self, directory: Path, *arguments: str | Path) -> Served:
        """Serve a script with nbdkit's plugin, and yield the URI."""
        need("nbdkit")
        return self.nbdkit(directory, self.name, *arguments)

    def refusal(self, path: Path, *arguments: str, lines: str = ".*\n", **options: Any) -> str:
        """Return what nbdfork says of a script that it refuses to start with.

        That is one line, unless the regular expression *lines* is for more.
        """
        done = nbdfork("-U", "-", self.name, path, *arguments, "--run", "true", **options)
        assert done.returncode == 1
        assert re.fullmatch(
            f"nbdfork: error: ({self.name}: |the {self.name} plugin ){lines}", done.stderr
        )
        return done.stderr


LUA = Language(
    "lua",
    tool="lupa",
    tool_is_module=True,
    suffix=".lua",
    minimum="""\
function open(readonly) return 1 end
function get_size(h) return 65536 end
function pread(h, count, offset) return ("\\0"):rep(count) end
""",
    untrue=frozenset({"can_fua", "can_fast_zero"}),
)

PERL = Language(
    "perl",
    tool="perl",
    suffix=".pl",
    minimum="""\
sub open { return 1 }
sub get_size { return 65536 }
sub pread { my ($h, $count, $offset) = @_; return "\\0" x $count }
""",
    end="\n1;\n",
    untrue=frozenset({"can_fua"}),
)

RUBY = Language(
    "ruby",
    tool="ruby",
    suffix=".rb",
    minimum="""\
def open(readonly) = 1
def get_size(h) = 65536
def pread(h, count, offset) = "\\0" * count
""",
    untrue=frozenset({"can_fua", "can_fast_zero"}),
    nbdkit=_nbdkit_for_each_client,  # in a thread of nbdkit, Ruby crashes
)

TCL = Language(
    "tcl",
    tool="_tkinter",
    tool_is_module=True,
    suffix=".tcl",
    minimum="""\
proc plugin_open {readonly} { return 1 }
proc get_size {h} { return 65536 }
proc pread {h count offset} { return [binary format x$count] }
""",
    untrue=frozenset({"can_fua", "can_fast_zero"}),
)

LANGUAGES = {language.name: language for language in (LUA, PERL, RUBY, TCL)}


# -- tests in many languages ------------------------------------------------------------------


def id_of(value: object) -> str | None:
    """Return what a language is called in the name of a test."""
    return value.name if isinstance(value, Language) else None


def in_languages(*languages: Language) -> pytest.MarkDecorator:
    """Run a test, as it stands, in *languages*, or in all."""
    return pytest.mark.parametrize("language", languages or LANGUAGES.values(), ids=id_of)


def written(**texts: str) -> pytest.MarkDecorator:
    """Run a test once in each of the languages named, with what it needs as *text*."""
    rows = [pytest.param(LANGUAGES[name], text, id=name) for name, text in texts.items()]
    return pytest.mark.parametrize(("language", "text"), rows)


# -- what tests of several files demand -------------------------------------------------------


def shares_its_disk(server: Server) -> bool:
    """Return whether one client reads what another has written, even after that has gone."""
    one, other = connect(server.uri), connect(server.uri)
    data = bytes(range(256)) * 4090
    one.pwrite(data, 1000)
    at_once = bytes(other.pread(len(data), 1000))
    one.shutdown()
    later = bytes(connect(server.uri).pread(len(data), 1000))
    return at_once == later == data


def meeting(directory: Path, answer: str) -> str:
    """Return a shell's `pread` that gives *answer* when those at 0 and elsewhere are both asked."""
    place = directory / "meeting"
    os.mkfifo(place)  # it is opened for reading when somebody opens it for writing
    return (
        f"case $4 in 0) way='<';; *) way='>';; esac;"
        f' timeout {SECONDS:.0f} sh -c ": $way{place}" || exit 1; {answer}'
    )


def fails_alone(server: Server, message: str) -> bool:
    """Return whether a read at 0 fails, as the log says, and one behind it finds its data."""
    client = connect(server.uri)
    failed = attempt(lambda: client.pread(512, 0)) == "EIO"
    return failed and message in server.log and client.pread(512, 512) == b"ok" * 256


def operations(uri: str) -> dict[str, object]:
    """Do each operation once, and return how it ends; then what the disk holds."""
    client = connect(uri)
    fua = libnbd().CMD_FLAG_FUA if client.can_fua() else 0
    no_hole = libnbd().CMD_FLAG_NO_HOLE
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: client.pwrite(b"w" * 3000, 100),
        "write fua": lambda: client.pwrite(b"f" * 512, 8192, fua),
        "flush": client.flush,
        "trim": lambda: client.trim(512, 1024),
        "zero": lambda: client.zero(512, 512),
        "zero, allocated": lambda: client.zero(512, 8192, no_hole),
        "cache": lambda: client.cache(4096, 0),
        "read": lambda: client.pread(16384, 0),
        "past the end": lambda: client.pread(512, client.get_size()),
        "write past the end": lambda: client.pwrite(b"x" * 512, client.get_size()),
    }
    found = {name: attempt(step) for name, step in steps.items()}
    client.shutdown()
    return found


def facts(uri: str) -> list[dict[str, object]]:
    """Return what nbdinfo tells of all exports, without what is the server's own business."""
    need("nbdinfo")
    exports = json.loads(output("nbdinfo", "--json", "--list", uri))["exports"]
    server_own = {"uri", "contexts", "can_df", "export-size-str"}
    found = []
    for export in exports:
        kept = {key: value for key, value in export.items() if key not in server_own}
        if kept.get("block_size_maximum") == 32 * 1024 * 1024:  # nbdfork's default: none
            kept = {key: value for key, value in kept.items() if "block_size" not in key}
        found.append(kept)
    return found


# -- scripts too long to stand above their tests ----------------------------------------------

PROCESS = {
    "lua": """\
function pread(h, n, offset)
    local stat = io.open("/proc/self/stat")
    local pid = stat:read("n")
    stat:close()
    return string.pack("c" .. n, MADE or pid)
end
function thread_model() return nbdkit.THREAD_MODEL_PARALLEL end
NBDFORK_PROCESSES = true
""",
    "perl": """\
our ($made, $NBDFORK_PROCESSES) = (0, 1);
sub pread { my ($h, $n) = @_; return pack "a$n", $made || $$ }
sub thread_model { 3 }
""",
    "ruby": """\
def pread(h, n, offset) = (@made || Process.pid).to_s.ljust(n)
def thread_model = Nbdkit::THREAD_MODEL_PARALLEL
NBDFORK_PROCESSES = true
""",
    "tcl": """\
set made 0
proc pread {h n offset} { binary format a$n [expr {$::made ? $::made : [pid]}] }
proc thread_model {} { return $nbdkit::THREAD_MODEL_PARALLEL }
set NBDFORK_PROCESSES 1
""",
}
"""Scripts with a process for each client, whose disk tells which; or what was made before."""

ENDS = {
    "lua": """\
local log
local function note(what)
    local stat, file = io.open("/proc/self/stat"), io.open(log, "a")
    file:write(what, " ", stat:read("n"), "\\n")
    stat:close()
    file:close()
end
function config(key, value) log = value end
function cleanup() note("cleanup") end
function unload() note("unload") end
THE_END = setmetatable({}, {__gc = function() note("end") end})
""",
    "perl": """\
my $log;
sub note { CORE::open(my $file, '>>', $log); print $file "$_[0] $$\\n" }
sub config { my ($key, $value) = @_; $log = $value }
sub cleanup { note('cleanup') }
sub unload { note('unload') }
END { note('end') }
""",
    "ruby": """\
def note(what) = File.write($log, "#{what} #{Process.pid}\\n", mode: 'a')
def config(key, value)
  $log = value
end
def cleanup = note('cleanup')
def unload = note('unload')
""",
    "tcl": """\
proc note {what} { set file [open $::log a]; puts $file "$what [pid]"; close $file }
proc config {key value} { set ::log $value }
proc cleanup {} { note cleanup }
proc unload {} { note unload }
""",
}
"""Scripts that write into the file log=FILENAME what is called when they end, and where."""

EACH_A_PROCESS = {
    "lua": "NBDFORK_PROCESSES = true\n",
    "perl": "our $NBDFORK_PROCESSES = 1;\n",
    "ruby": "NBDFORK_PROCESSES = true\n",
    "tcl": "set NBDFORK_PROCESSES 1\n",
}
"""What asks for a process for each client."""

FLAGS = {
    "lua": """\
local seen = {}
local function note(...)
    for _, value in ipairs {...} do seen[#seen + 1] = tostring(value) end
end
function pread(h, n, o) return string.pack("c" .. n, table.concat(seen, " ")) end
function can_fua(h) return nbdkit.FUA_NATIVE end
function flush(h, flags) note("flush", flags) end
function pwrite(h, buf, offset, flags) note("pwrite", flags & nbdkit.FLAG_FUA) end
function trim(h, count, offset, flags) note("trim", flags) end
function zero(h, count, offset, may_trim, flags) note("zero", may_trim, flags) end
""",
    "ruby": """\
$seen = []
def pread(h, count, offset) = $seen.join(' ').ljust(count)
def can_fua(h) = Nbdkit::FUA_NATIVE
def flush(h, flags) = $seen << "flush #{flags}"
def pwrite(h, buf, offset, flags) = $seen << "pwrite #{flags & Nbdkit::FLAG_FUA}"
def trim(h, count, offset, flags = 0) = $seen << "trim #{flags}"
def zero(h, count, offset, may_trim, flags) = $seen << "zero #{may_trim} #{flags}"
""",
    "tcl": """\
set seen {}
proc note {args} { lappend ::seen {*}$args }
proc pread {h count offset} { binary format a$count $::seen }
proc can_fua {h} { return $nbdkit::FUA_NATIVE }
proc plugin_flush {h flags} { note flush $flags }
proc pwrite {h buf offset flags} { note pwrite [expr {$flags & $nbdkit::FLAG_FUA}] }
proc trim {h count offset {flags 0}} { note trim $flags }
proc zero {h count offset may_trim flags} { note zero [lindex {false true} $may_trim] $flags }
""",
}
"""Scripts whose disk tells which requests there were, and with which flags."""

FURTHER = {
    "lua": """\
function list_exports(readonly) return {"one", {"two", "the second"}} end
function default_export(readonly) return "one" end
function open(readonly) return {name = nbdkit.export_name()} end
function get_size(h) return nbdkit.parse_size("64k") end
function export_description(h) return "this is " .. h.name end
function block_size(h) return {512, 4096, 65536} end
function can_cache(h) return nbdkit.CACHE_NATIVE end
function cache(h, count, offset) end
function can_multi_conn(h) return nbdkit.parse_bool("yes") end
function extents(h, count, offset)
    local nothing = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    return {{offset, 512, 0}, {offset + 512, count, nothing}}
end
""",
    "perl": """\
sub list_exports { return ['one', ['two', 'the second']] }
sub default_export { return 'one' }
sub open { return { name => Nbdkit::export_name() } }
sub get_size { return Nbdkit::parse_size('64k') }
sub export_description { my ($h) = @_; return "this is $h->{name}" }
sub block_size { return [512, 4096, 65536] }
sub can_cache { return $Nbdkit::CACHE_NATIVE }
sub cache { }
sub can_multi_conn { return Nbdkit::parse_bool('yes') }
sub extents {
    my ($h, $count, $offset, $flags) = @_;
    return [[$offset, 512, 0], [$offset + 512, $count,
        $Nbdkit::EXTENT_HOLE | $Nbdkit::EXTENT_ZERO]];
}
""",
    "ruby": """\
def list_exports(readonly) = ['one', ['two', 'the second']]
def default_export(readonly) = 'one'
def open(readonly) = { name: Nbdkit.export_name }
def get_size(h) = Nbdkit.parse_size('64k')
def export_description(h) = "this is #{h[:name]}"
def block_size(h) = [512, 4096, 65536]
def can_cache(h) = Nbdkit::CACHE_NATIVE
def cache(h, count, offset) = nil
def can_multi_conn(h) = Nbdkit.parse_bool('yes')
def extents(h, count, offset)
  [[offset, 512, 0], [offset + 512, count, Nbdkit::EXTENT_HOLE | Nbdkit::EXTENT_ZERO]]
end
""",
    "tcl": """\
proc list_exports {readonly} { return {one {two {the second}}} }
proc default_export {readonly} { return one }
proc plugin_open {readonly} { return [nbdkit::export_name] }
proc get_size {h} { return [nbdkit::parse_size 64k] }
proc export_description {h} { return "this is $h" }
proc block_size {h} { return {512 4096 65536} }
proc can_cache {h} { return $nbdkit::CACHE_NATIVE }
proc cache {h count offset} {}
proc can_multi_conn {h} { return [nbdkit::parse_bool yes] }
proc extents {h count offset} {
    set nothing [expr {$nbdkit::EXTENT_HOLE | $nbdkit::EXTENT_ZERO}]
    return [list [list $offset 512 0] [list [expr {$offset + 512}] $count $nothing]]
}
""",
}
"""Scripts with the callbacks and functions that nbdkit's plugins do not have."""
