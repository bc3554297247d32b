"""The languages of scripts whose plugins keep one contract, and what their tests share.

A language knows how a script of it is written to a file, and how nbdkit serves it: nothing of
what any test demands.
"""

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
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


def rows(names: str, **languages: Sequence[tuple[Any, ...]]) -> pytest.MarkDecorator:
    """Run a test once with each row of each of the languages, whose fields are called *names*."""
    found = [
        pytest.param(LANGUAGES[name], *row, id=f"{name}-{number}")
        for name, table in languages.items()
        for number, row in enumerate(table)
    ]
    return pytest.mark.parametrize(("language", *names.split(", ")), found)


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
