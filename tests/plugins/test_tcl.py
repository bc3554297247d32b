"""What is about Tcl only: strings that stand for bytes, its files and events, and its helper."""

import os
import shutil
from pathlib import Path

import psutil
import pytest

from tests.support.harness import Server, eventually, is_alive, nbdfork, run
from tests.support.libnbd import connect
from tests.support.scripting import TCL


@pytest.fixture(autouse=True)
def _tcl() -> None:
    TCL.need()


# -- bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 255, 256, 4096, 65537, 1024 * 1024])
def test_bytes_are_the_same_bytes(size: int) -> None:
    with Server("-n", "tcl", TCL.ram, "size=2097152") as server:
        client = connect(server.uri)
        for data in (bytes(range(256)) * (size // 256 + 1), bytes(size), os.urandom(size)):
            client.pwrite(data[:size], 333)
            assert client.pread(size, 333) == data[:size]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("string repeat a $count", b"a" * 512),
        (r"string repeat \u00e9 $count", b"\xe9" * 512),
        (r"string repeat \0\u00ff $count", b"\0\xff" * 256),
        ("format %0512d 7", b"0" * 511 + b"7"),
        ("lrepeat 256 x", b"x " * 255 + b"x "),
    ],
)
def test_a_string_is_bytes_as_under_nbdkit(text: str, expected: bytes, tmp_path: Path) -> None:
    """A list is longer than it looks, and is cut.

    nbdkit takes the low byte of characters that are no bytes; here they are told of.
    """
    path = TCL.script(tmp_path, f"proc pread {{h count offset}} {{ return [{text}]z }}")
    with TCL.served_by_nbdkit(tmp_path, path) as uri:
        assert connect(uri).pread(512, 0)[:511] == expected[:511]
    with Server("-n", "tcl", path) as server:
        assert connect(server.uri).pread(512, 0)[:511] == expected[:511]


def test_parameters_may_have_any_character(tmp_path: Path) -> None:
    path = TCL.script(tmp_path, 'proc config {key value} { puts "<$key> <$value>" }')
    done = nbdfork("--dump-plugin", "tcl", path, "a=", "b={ $[exit] \u20ac = \\")
    assert "<a> <>\n<b> <{ $[exit] \u20ac = \\>\n" in done.stdout


# -- state ------------------------------------------------------------------------------------


def test_the_place_in_an_open_file_is_inherited(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("0123456789" * 100)
    text = "set NBDFORK_PROCESSES 1\n"
    text += f"proc get_ready {{}} {{ set ::file [open {data} rb]; set ::made [pid] }}\n"
    text += "proc pread {h count offset} {\n"
    text += 'seek $::file $offset; binary format a$count "[read $::file 4] $::made" }'
    with TCL.server(tmp_path, text) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(16, 2) == other.pread(16, 2)
        assert one.pread(4, 2) == b"2345"


@pytest.mark.parametrize("processes", ["0", "1"])
def test_files_are_flushed_once_where_the_disk_is(processes: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = f"set NBDFORK_PROCESSES {processes}\n"
    text += f"set log [open {log} w]\nproc get_ready {{}} {{ puts $::log ready }}\n"
    text += "proc pwrite {h buf offset} { puts $::log $offset }"
    with TCL.server(tmp_path, text) as server:
        client = connect(server.uri)
        client.pwrite(b"x", 512)
        client.shutdown()
    assert log.read_text() == ("ready\n" if processes == "1" else "ready\n512\n")


def test_the_event_loop_and_programs_work_after_the_fork(tmp_path: Path) -> None:
    """Tcl has a thread for events; after a fork it must be there again."""
    text = "proc tick {} { after 5 {set ::done 1}; vwait ::done }\n"
    text += "proc get_ready {} { tick }\n"
    text += "proc pread {h count offset} { tick; binary format a$count [exec echo from afar] }"
    with TCL.server(tmp_path, text) as server:
        assert connect(server.uri).pread(9, 0) == b"from afar"


# -- errors -----------------------------------------------------------------------------------


def test_without_tcl_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == '_tkinter' else f(name, *a)\n"
    )
    said = TCL.refusal(TCL.ram, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    message = "tcl: this Python has no Tcl: install its module tkinter (Debian: python3-tk)"
    assert said == f"nbdfork: error: {message}\n"


# -- the life of the process ------------------------------------------------------------------


def has_tclx() -> bool:
    done = run("tclsh", input="package require Tclx\n") if shutil.which("tclsh") else None
    return done is not None and done.returncode == 0


def test_a_child_of_the_script_exits_as_it_is_meant_to(tmp_path: Path) -> None:
    if not has_tclx():
        assert not os.environ.get("NBDFORK_CI"), "not installed: tclsh and TclX"
        pytest.skip("not installed: tclsh and TclX")
    path = TCL.script(
        tmp_path,
        """
        package require Tclx
        proc status {way} {
            if {[set child [fork]]} { return [lindex [wait $child] 2] }
            if {$way eq "exit"} { exit 5 }
            if {$way eq "error"} { error {from a child} }
        }
        proc pread {h count offset} {
            set statuses {}
            foreach way {exit error return} {
                if {[set found [status $way]] eq ""} { return [string repeat x $count] }
                lappend statuses $found
            }
            return [binary format a$count $statuses]
        }
        """,
    )
    with Server("-n", "tcl", path) as server:
        client = connect(server.uri)
        assert bytes(client.pread(5, 0)) == b"5 1 0"
        assert bytes(client.pread(5, 0)) == b"5 1 0"


def test_nothing_is_left_when_the_server_ends(tmp_path: Path) -> None:
    with Server("-n", "tcl", TCL.ram) as server:
        connect(server.uri).shutdown()
        processes = psutil.Process(server.pid).children(recursive=True)
        assert any("host" in " ".join(process.cmdline()) for process in processes)
    eventually(lambda: not any(map(is_alive, processes)))
