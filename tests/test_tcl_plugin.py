"""Scripts for nbdkit's Tcl API: the same under nbdkit and nbdfork, run by a helper."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
from nbdfork.plugins.tcl import Tcl

from nbdfork.plugin import Extent
from tests.harness import SECONDS, Server, eventually, is_alive, let_all_reach, nbdfork, run
from tests.test_lua_plugin import served_by_nbdkit
from tests.test_manual import source, unescaped
from tests.test_python_plugin import attempt, connect, facts, operations
from tests.test_structured import reason

nbd = pytest.importorskip("nbd")
if not os.environ.get("NBDFORK_CI"):
    pytest.importorskip("_tkinter")

RAM = Path(__file__).parent / "scripts" / "ram.tcl"

MINIMUM = """\
proc plugin_open {readonly} { return 1 }
proc get_size {h} { return 65536 }
proc pread {h count offset} { return [binary format x$count] }
"""


def script(directory: Path, text: str, base: str = MINIMUM) -> Path:
    path = directory / "script.tcl"
    path.write_text(f"{base}{text}\n")
    return path


def refusal(path: Path, *arguments: str, **options: Any) -> str:
    """Return what nbdfork says of a script that it refuses to start with."""
    done = nbdfork("-U", "-", "tcl", path, *arguments, "--run", "true", **options)
    assert done.returncode == 1
    return done.stderr


# -- both servers -----------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["", "pread", "pwrite", "flush", "trim", "zero", "long"])
def test_every_operation_ends_as_with_nbdkit(failing: str, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["tcl", RAM, *([f"fail={failing}"] if failing else [])]
    with served_by_nbdkit(tmp_path, *arguments) as uri:
        expected = operations(uri)
    with Server("-n", *arguments) as server:
        assert operations(server.uri) == expected


def test_facts_are_those_of_nbdkit(tmp_path: Path) -> None:
    writable = "proc pwrite {h buf offset} {}\nproc plugin_flush {h} {}"
    for path in (RAM, script(tmp_path, ""), script(tmp_path, writable)):
        with served_by_nbdkit(tmp_path, "tcl", path) as uri:
            expected = facts(uri)
        with Server("-n", "tcl", path) as server:
            found = facts(server.uri)
        for fact in (*expected, *found):
            fact.pop("can_fua", None)  # nbdkit promises it even without a flush
            fact.pop("can_fast_zero", None)  # nbdkit promises it, and refuses every one
        assert found == expected


# -- bytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 255, 256, 4096, 65537, 1024 * 1024])
def test_bytes_are_the_same_bytes(size: int) -> None:
    with Server("-n", "tcl", RAM, "size=2097152") as server:
        client = connect(server.uri)
        for data in (bytes(range(256)) * (size // 256 + 1), bytes(size), os.urandom(size)):
            client.pwrite(data[:size], 333)
            assert client.pread(size, 333) == data[:size]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("string repeat a $count", b"a" * 512),
        (r"string repeat \u00e9 $count", b"\xe9" * 512),
        (r"string repeat \0\ufeff $count", b"\0\xff" * 256),
        ("format %0512d 7", b"0" * 511 + b"7"),
        ("lrepeat 256 x", b"x " * 255 + b"x "),
    ],
)
def test_a_string_is_bytes_as_under_nbdkit(text: str, expected: bytes, tmp_path: Path) -> None:
    """The low byte of each character; a list is longer than it looks, and is cut."""
    path = script(tmp_path, f"proc pread {{h count offset}} {{ return [{text}]z }}")
    with served_by_nbdkit(tmp_path, "tcl", path) as uri:
        assert connect(uri).pread(512, 0)[:511] == expected[:511]
    with Server("-n", "tcl", path) as server:
        assert connect(server.uri).pread(512, 0)[:511] == expected[:511]


def test_parameters_may_have_any_character(tmp_path: Path) -> None:
    path = script(tmp_path, 'proc config {key value} { puts "<$key> <$value>" }')
    done = nbdfork("--dump-plugin", "tcl", path, "a=", "b={ $[exit] \u20ac = \\")
    assert "<a> <>\n<b> <{ $[exit] \u20ac = \\>\n" in done.stdout


# -- state ------------------------------------------------------------------------------------


def test_all_clients_share_the_disk() -> None:
    with Server("-n", "tcl", RAM, "size=1048576") as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1048576
        one.pwrite(b"shared" * 100, 1000)
        assert other.pread(600, 1000) == b"shared" * 100
        one.shutdown()
        assert connect(server.uri).pread(6, 1000) == b"shared"


def test_a_script_can_ask_for_a_process_for_each_client(tmp_path: Path) -> None:
    text = "set NBDFORK_PROCESSES 1\n"
    text += "proc thread_model {} { return $nbdkit::THREAD_MODEL_PARALLEL }\n"
    text += "proc pread {h count offset} { binary format a$count [pid] }"
    with Server("-n", "tcl", script(tmp_path, text)) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(16, 0) != other.pread(16, 0)
        assert len(server.serving()) == 2


def test_what_was_made_before_the_fork_is_inherited(tmp_path: Path) -> None:
    """Of an open file that is the place in it, too."""
    data = tmp_path / "data"
    data.write_text("0123456789" * 100)
    text = "set NBDFORK_PROCESSES 1\n"
    text += f"proc get_ready {{}} {{ set ::file [open {data} rb]; set ::made [pid] }}\n"
    text += "proc pread {h count offset} {\n"
    text += 'seek $::file $offset; binary format a$count "[read $::file 4] $::made" }'
    with Server("-n", "tcl", script(tmp_path, text)) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(16, 2) == other.pread(16, 2)
        assert one.pread(4, 2) == b"2345"


@pytest.mark.parametrize("processes", ["0", "1"])
def test_files_are_flushed_once_where_the_disk_is(processes: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = f"set NBDFORK_PROCESSES {processes}\n"
    text += f"set log [open {log} w]\nproc get_ready {{}} {{ puts $::log ready }}\n"
    text += "proc pwrite {h buf offset} { puts $::log $offset }"
    with Server("-n", "tcl", script(tmp_path, text)) as server:
        client = connect(server.uri)
        client.pwrite(b"x", 512)
        client.shutdown()
    assert log.read_text() == ("ready\n" if processes == "1" else "ready\n512\n")


def test_the_event_loop_and_programs_work_after_the_fork(tmp_path: Path) -> None:
    """Tcl has a thread for events; after a fork it must be there again."""
    text = "proc tick {} { after 5 {set ::done 1}; vwait ::done }\n"
    text += "proc get_ready {} { tick }\n"
    text += "proc pread {h count offset} { tick; binary format a$count [exec echo from afar] }"
    with Server("-n", "tcl", script(tmp_path, text)) as server:
        assert connect(server.uri).pread(9, 0) == b"from afar"


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("nbdkit::set_error ENOSPC; error {the moon is full}", 28, "the moon is full"),
        ("nbdkit::set_error 28; expr {1 / 0}", 28, "divide by zero"),
        ("nbdkit::set_error EWRONG", 5, "not an errno: EWRONG"),
        ("error {a [b] {c} $d \u20ac}", 5, "a [b] {c} $d \u20ac"),
        ("close nothing", 5, 'can not find channel named "nothing"'),
        ("open /dev/full/x", 22, 'couldn\'t open "/dev/full/x": not a directory'),
    ],
)
def test_clients_hear_why_but_not_where(text: str, code: int, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, f"proc pread {{h count offset}} {{\n  {text}\n}}")
    with Server("-n", "tcl", path) as server:
        assert reason(server) == (code, message)
        assert f"pread: {path}:5: {message}\n" in server.log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proc config {k v} { error {bad value} }", "config: {path}:4: bad value"),
        (
            "proc config {k v} {}\nproc get_ready {} {\n\nerror {no disk} }",
            "get_ready: {path}:7: no disk",
        ),
        ("proc config {k v} { exit 3 }", "config: {path}:4: the script called exit(3)"),
        ("proc config {k v} {}\nproc thread_model {} { return 7 }", "thread_model returned 7"),
        ("proc config {k v} {}\nproc thread_model {} { return x }", "expected integer but got"),
        ("\nnothing", 'load: {path}:5: invalid command name "nothing"'),
        ("", "takes no parameters, but key=value is given"),
    ],
)
def test_a_bad_script_is_refused_with_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    said = refusal(path, "key=value")
    assert said.startswith("nbdfork: error: tcl: ")
    assert message.format(path=path) in said
    assert said.count("\n") == 1


def test_a_script_without_a_required_callback_is_refused(tmp_path: Path) -> None:
    base = MINIMUM.replace("proc pread", "proc raed")
    assert "the callback pread is missing" in refusal(script(tmp_path, "", base))


def test_without_tcl_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == '_tkinter' else f(name, *a)\n"
    )
    said = refusal(RAM, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    message = "tcl: this Python has no Tcl: install its module tkinter (Debian: python3-tk)"
    assert said == f"nbdfork: error: {message}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("return short", "pread: buffer returned from pread is too small"),
        ("exit 7", "the script called exit(7)"),
        ("pread $h $count 0", "too many nested evaluations"),
    ],
)
def test_a_read_that_is_none_fails_alone(text: str, message: str, tmp_path: Path) -> None:
    ok = "if {$offset} { return [string repeat ok $count] }"
    path = script(tmp_path, f"proc pread {{h count offset}} {{ {ok}; {text} }}")
    with Server("-n", "tcl", path) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "EIO"
        assert message in server.log
        assert client.pread(512, 512) == b"ok" * 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proc can_write {h} { return x }", 'expected boolean value but got "x"'),
        ("proc get_size {h} { return 1.5 }", 'get_size: expected integer but got "1.5"'),
        ("proc plugin_open {readonly} { error {not today} }", "open: {path}:4: not today"),
    ],
)
def test_facts_that_are_none_refuse_the_client(text: str, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    with Server("-n", "tcl", path) as server:
        with pytest.raises(nbd.Error):
            connect(server.uri)
        assert message.format(path=path) in server.log


# -- the life of the process ------------------------------------------------------------------


def test_a_helper_that_dies_is_told_of_and_replaced() -> None:
    with Server("-n", "tcl", RAM, "fail=kill") as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pwrite(b"x", 0)) == "EIO"
        eventually(lambda: "the helper died: signal 9" in server.log)
        assert connect(server.uri).pread(4, 0) == bytes(4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_the_script_runs_as_the_user_of_the_server(tmp_path: Path) -> None:
    let_all_reach(tmp_path)
    text = "proc pread {h count offset} { binary format a$count [exec sh -c {id -u; id -G}] }"
    with Server("-n", "-u", "nobody", "-g", "nogroup", "tcl", script(tmp_path, text)) as server:
        found = bytes(connect(server.uri).pread(512, 0)).rstrip(b"\0")
    assert set(found.split()) == {b"65534"}


def test_in_the_background_warnings_go_to_the_log(tmp_path: Path) -> None:
    text = "proc plugin_open {readonly} { puts stderr {a client}; puts noise; return 1 }"
    log, pidfile, where = tmp_path / "log", tmp_path / "pid", tmp_path / "sock"
    path = script(tmp_path, text)
    done = nbdfork("-n", "-U", where, "-P", pidfile, "--log", log, "tcl", path, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server = psutil.Process(int(pidfile.read_text()))
    try:
        connect(f"nbd+unix:///?socket={where}").shutdown()
        eventually(lambda: "a client\n" in log.read_text())
    finally:
        server.terminate()
    eventually(lambda: not is_alive(server))


def has_tclx() -> bool:
    done = run("tclsh", input="package require Tclx\n") if shutil.which("tclsh") else None
    return done is not None and done.returncode == 0


def test_a_child_of_the_script_exits_as_it_is_meant_to(tmp_path: Path) -> None:
    if not has_tclx():
        assert not os.environ.get("NBDFORK_CI"), "not installed: tclsh and TclX"
        pytest.skip("not installed: tclsh and TclX")
    path = script(
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
    with Server("-n", "tcl", RAM) as server:
        connect(server.uri).shutdown()
        processes = psutil.Process(server.pid).children(recursive=True)
        assert any("host" in " ".join(process.cmdline()) for process in processes)
    eventually(lambda: not any(map(is_alive, processes)))


def test_debug_messages_are_in_the_verbose_log(tmp_path: Path) -> None:
    text = 'proc pread {h n offset} { nbdkit::debug "read $n"; string repeat x $n }'
    with Server("-v", "-n", "tcl", script(tmp_path, text)) as server:
        assert connect(server.uri).pread(3000, 0) == b"x" * 3000
        assert "debug: read 3000\n" in server.log


# -- what nbdkit's plugin does not have -------------------------------------------------------


def test_callbacks_get_the_flags_if_they_take_one_argument_more(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        set seen {}
        proc note {args} { lappend ::seen {*}$args }
        proc pread {h count offset} { binary format a$count $::seen }
        proc can_fua {h} { return $nbdkit::FUA_NATIVE }
        proc plugin_flush {h flags} { note flush $flags }
        proc pwrite {h buf offset flags} { note pwrite [expr {$flags & $nbdkit::FLAG_FUA}] }
        proc trim {h count offset {flags 0}} { note trim $flags }
        proc zero {h count offset may_trim flags} { note zero $may_trim $flags }
        """,
    )
    with Server("-n", "tcl", path) as server:
        client = connect(server.uri)
        client.flush()
        client.pwrite(b"x", 0, nbd.CMD_FLAG_FUA)
        client.trim(512, 0, nbd.CMD_FLAG_FUA)
        client.zero(512, 0, nbd.CMD_FLAG_FUA)
        client.zero(512, 0, nbd.CMD_FLAG_NO_HOLE)
        seen = bytes(client.pread(64, 0)).rstrip(b"\0").decode()
        assert seen == "flush 0 pwrite 2 trim 2 zero 1 3 zero 0 0"


@pytest.mark.parametrize("fails", ["error {not here}", ""])
def test_zeroes_are_written_if_the_script_says_so(fails: str, tmp_path: Path) -> None:
    text = f"proc zero {{h count offset may_trim}} {{ nbdkit::set_error EOPNOTSUPP; {fails} }}"
    with Server("-n", "tcl", script(tmp_path, text, RAM.read_text())) as server:
        client = connect(server.uri)
        client.pwrite(b"x" * 1024, 0)
        client.zero(512, 0)
        assert client.pread(1024, 0) == bytes(512) + b"x" * 512


def test_further_callbacks_and_functions(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
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
    )
    plugin = Tcl(script=str(path))
    plugin.config_complete()
    plugin.get_ready()
    plugin.after_fork()
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
    assert export.extents(1024, 2048, 0) == [Extent(2048, 512, 0), Extent(2560, 1024, 3)]
    export.close()
    plugin.cleanup()
    plugin.unload()


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("010", 10), ("8s", 4096), ("100M", 100 << 20), ("7E", 7 << 60)],
)
def test_sizes(text: str, size: int, tmp_path: Path) -> None:
    path = script(tmp_path, "proc config {key value} { puts [nbdkit::parse_size $value] }")
    assert f"{size}\n" in nbdfork("--dump-plugin", "tcl", path, f"size={text}").stdout


@pytest.mark.parametrize("text", ["", "k", "1Q", "1.5k", "-1", "8E", "9" * 30, "1 k"])
def test_what_is_no_size(text: str, tmp_path: Path) -> None:
    path = script(tmp_path, "proc config {key value} { nbdkit::parse_size $value }")
    assert re.search(f"(not|too large) a size: '{text}'", refusal(path, f"size={text}"))


def test_a_script_can_end_the_server(tmp_path: Path) -> None:
    text = "proc pwrite {h b o} {}\nproc plugin_flush {h} { nbdkit::shutdown }"
    with Server("-n", "tcl", script(tmp_path, text)) as server:
        connect(server.uri).flush()
        assert server.process.wait(SECONDS) == 0


def test_dump_plugin_tells_of_the_script(tmp_path: Path) -> None:
    path = script(tmp_path, "proc dump_plugin {} { puts mine=yes }")
    done = nbdfork("--dump-plugin", "tcl", path)
    assert "mine=yes\n" in done.stdout
    assert re.search(r"^tcl_version=8\.\d+$", done.stdout, re.MULTILINE)
    assert re.search(r"^tcl_patch_level=8\.\d+\.\d+$", done.stdout, re.MULTILINE)


def test_the_ram_disk_of_the_page_works(tmp_path: Path) -> None:
    displays = re.findall(r"^\.Bd .*?\n(.*?)^\.Ed", source("nbdfork-tcl-plugin.3"), re.M | re.S)
    path = script(tmp_path, "", unescaped(displays[-1]))
    with Server("-n", "tcl", path) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1024 * 1024
        one.pwrite(bytes(range(256)) * 8, 1536)
        assert other.pread(4096, 1024) == bytes(512) + bytes(range(256)) * 8 + bytes(1536)
