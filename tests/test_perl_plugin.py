"""Scripts for nbdkit's Perl API: the same under nbdkit and nbdfork, and within a process."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from nbdfork.plugins.perl import Perl

from nbdfork.plugin import Extent
from tests.harness import (
    SECONDS,
    Server,
    eventually,
    is_alive,
    let_all_reach,
    nbdfork,
    need,
)
from tests.test_python_plugin import attempt, connect, facts, operations
from tests.test_structured import reason

nbd = pytest.importorskip("nbd")

RAM = Path(__file__).parent / "scripts" / "ram.pl"

MINIMUM = """\
sub open { return 1 }
sub get_size { return 65536 }
sub pread { my ($h, $count, $offset) = @_; return "\\0" x $count }
"""


@pytest.fixture(autouse=True)
def _perl() -> None:
    need("perl")


def script(directory: Path, text: str, base: str = MINIMUM) -> Path:
    path = directory / "script.pl"
    path.write_text(f"{base}{text}\n1;\n")
    return path


def refusal(path: Path, *arguments: str) -> str:
    """Return what nbdfork says of a script that it refuses to start with."""
    done = nbdfork("-U", "-", "perl", path, *arguments, "--run", "true")
    assert done.returncode == 1
    return done.stderr


# -- both servers -----------------------------------------------------------------------------


@contextmanager
def served_by_nbdkit(directory: Path, *arguments: str | Path) -> Iterator[str]:
    need("nbdkit")
    socket, pidfile = directory / "nbdkit.sock", directory / "nbdkit.pid"
    socket.unlink(missing_ok=True)
    pidfile.unlink(missing_ok=True)
    command = ["nbdkit", "-f", "-n", "-U", socket, "-P", pidfile, "perl", *arguments]
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: pidfile.exists() and pidfile.read_text())
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.mark.parametrize(
    "failing",
    ["", "pread", "pwrite", "flush", "trim", "zero", "quietly", "long"],
)
def test_every_operation_ends_as_with_nbdkit(failing: str, tmp_path: Path) -> None:
    arguments: list[str | Path] = [RAM, *([f"fail={failing}"] if failing else [])]
    with served_by_nbdkit(tmp_path, *arguments) as uri:
        expected = operations(uri)
    with Server("-n", "perl", *arguments) as server:
        assert operations(server.uri) == expected


def test_facts_are_those_of_nbdkit(tmp_path: Path) -> None:
    for path in (RAM, script(tmp_path, "")):
        with served_by_nbdkit(tmp_path, path) as uri:
            expected = facts(uri)
        with Server("-n", "perl", path) as server:
            found = facts(server.uri)
        for fact in (*expected, *found):
            fact.pop("can_fua", None)  # nbdkit promises it even without a flush
        assert found == expected


def test_what_can_be_written_follows_from_the_callbacks(tmp_path: Path) -> None:
    with Server("-n", "perl", script(tmp_path, "sub pwrite { }")) as server:
        assert not connect(server.uri).is_read_only()
    with Server("-n", "perl", script(tmp_path, "")) as server:
        assert connect(server.uri).is_read_only()


# -- state ------------------------------------------------------------------------------------


def test_all_clients_share_the_disk() -> None:
    with Server("-n", "perl", RAM, "size=1048576") as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1048576
        one.pwrite(b"shared" * 100, 1000)
        assert other.pread(600, 1000) == b"shared" * 100
        one.shutdown()
        assert connect(server.uri).pread(6, 1000) == b"shared"


def test_a_script_can_ask_for_a_process_for_each_client(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "our $NBDFORK_PROCESSES = 1; sub thread_model { 3 }\n"
        "sub pread { my ($h, $count) = @_; return pack('N', $$) x ($count / 4) }",
    )
    with Server("-n", "perl", path) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(4, 0) != other.pread(4, 0)
        assert len(server.serving()) == 2


def test_what_was_made_before_the_fork_is_inherited(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "my $made = ''; sub get_ready { $made = pack('N', $$) }\n"
        "sub pread { my ($h, $count) = @_; return $made x ($count / 4) }\n"
        "our $NBDFORK_PROCESSES = 1;",
    )
    with Server("-n", "perl", path) as server:
        assert connect(server.uri).pread(4, 0) == connect(server.uri).pread(4, 0)


def test_end_blocks_run_once_where_the_disk_is(tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = script(
        tmp_path,
        f"my $last = 0; sub pwrite {{ $last = $_[2] }}\n"
        f"END {{ CORE::open(my $f, '>>', '{log}'); print $f qq(last $last\\n) }}",
    )
    with Server("-n", "perl", path) as server:
        client = connect(server.uri)
        client.pwrite(b"x", 512)
        client.shutdown()
    assert log.read_text() == "last 512\n"


# -- errors -----------------------------------------------------------------------------------


def test_clients_hear_why_but_not_where(tmp_path: Path) -> None:
    path = script(tmp_path, "sub pread { Nbdkit::set_error(28); die 'the moon is full' }")
    with Server("-n", "perl", path) as server:
        assert reason(server) == (28, "the moon is full")
        assert f"pread: the moon is full at {path} line" in server.log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sub config { die 'bad value' }", "config: bad value at {path} line 4."),
        ("sub config {} sub get_ready { die qq(no disk\\n) }", "{path}: get_ready: no disk"),
        ("sub config { exit 3 }", "{path}: config: the script called exit(3)"),
        ("sub config {} sub thread_model { 7 }", "{path}: thread_model returned 7"),
        ("sub {", "load: "),
        ("", "takes no parameters, but key=value is given"),
    ],
)
def test_a_bad_script_is_refused_with_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    said = refusal(path, "key=value")
    assert said.startswith("nbdfork: error: perl: ")
    assert message.format(path=path) in said


def test_a_script_without_a_required_callback_is_refused(tmp_path: Path) -> None:
    path = script(tmp_path, "sub open { 1 } sub get_size { 1 }", base="")
    assert "the callback pread is missing" in refusal(path)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    assert "nothing.pl: there is no file" in refusal(tmp_path / "nothing.pl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("return 'short'", "the buffer returned from pread is too small"),
        ("return undef", "pread returned nothing"),
        ("return chr(300) x 65536", "pread returned characters that are no bytes"),
        ("die { code => 1 }", "HASH(0x"),
    ],
)
def test_a_read_that_is_none_fails_alone(text: str, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, f"my $n = 0; sub pread {{ return qq(ok) x 256 if $n++; {text} }}")
    with Server("-n", "perl", path) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "EIO"
        assert message in server.log
        assert client.pread(512, 0) == b"ok" * 256


# -- the life of the process -------------------------------------------------------------------


@pytest.mark.parametrize(("way", "fate"), [("kill", "signal 9"), ("exit", "status 3")])
def test_a_process_that_dies_is_told_of_and_replaced(way: str, fate: str) -> None:
    with Server("-n", "perl", RAM, f"fail={way}") as server:
        client = connect(server.uri)
        with pytest.raises(nbd.Error):
            client.pwrite(b"x", 0)
        eventually(lambda: fate in server.log)
        assert connect(server.uri).pread(4, 0) == bytes(4)


def test_an_exit_fails_the_request_alone(tmp_path: Path) -> None:
    path = script(tmp_path, "sub pwrite { exit 7 }")
    with Server("-n", "perl", path) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pwrite(b"x", 0)) == "EIO"
        assert "pwrite: the script called exit(7)" in server.log
        assert client.pread(4, 0) == bytes(4)


def test_a_child_of_the_script_exits_as_it_is_meant_to(tmp_path: Path) -> None:
    """It has written what it had buffered, and does not go on as a second server."""
    out = tmp_path / "out"
    path = script(
        tmp_path,
        f"""
        sub child {{
            my ($way) = @_;
            my $pid = fork;
            return waitpid($pid, 0) && $? >> 8 if $pid;
            CORE::open my $file, '>>', '{out}';
            print $file "$way\n";
            exit 5 if $way eq 'exit';
        }}
        sub pread {{
            my ($h, $count) = @_;
            my @statuses = map {{ child($_) }} 'exit', 'return';
            return pack "a$count", "@statuses";
        }}
        """,
        "sub open { return 1 }\nsub get_size { return 65536 }\n",
    )
    with Server("-n", "perl", path) as server:
        client = connect(server.uri)
        assert bytes(client.pread(3, 0)) == b"5 0"
        assert bytes(client.pread(3, 0)) == b"5 0"
    assert sorted(out.read_text().split()) == ["exit", "exit", "return", "return"]


def test_modules_written_in_c_can_be_used(tmp_path: Path) -> None:
    text = "use Digest::MD5; sub pread { my $d = Digest::MD5::md5_hex('x'); return $d x 16 }"
    with Server("-n", "perl", script(tmp_path, text)) as server:
        assert bytes(connect(server.uri).pread(512, 0)[:8]) == b"9dd4e461"


def test_clients_of_one_process_take_turns(tmp_path: Path) -> None:
    """Threads share the interpreter: what one reads is never what another has asked for."""
    path = script(
        tmp_path,
        "sub pread { my ($h, $count, $offset) = @_; return pack('Q', $offset) x ($count / 8) }",
    )

    def read(uri: str, number: int) -> bool:
        client = connect(uri)
        offsets = [(number * 977 + i * 131) % 120 * 512 for i in range(300)]
        return all(client.pread(512, at) == at.to_bytes(8, "little") * 64 for at in offsets)

    with Server("-n", "perl", path) as server, ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda number: read(server.uri, number), range(4)))


def test_objects_are_destroyed_in_the_end(tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = script(
        tmp_path,
        f"sub DESTROY {{ CORE::open(my $f, '>>', '{log}'); print $f qq(gone\n) }}\n"
        "our $disk = bless {};",
    )
    with Server("-n", "perl", path) as server:
        connect(server.uri).shutdown()
    assert log.read_text() == "gone\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_the_script_runs_as_the_user_of_the_server(tmp_path: Path) -> None:
    let_all_reach(tmp_path)
    path = script(
        tmp_path,
        "sub pread { my ($h, $count) = @_; my @ids = ($<, $>, (split ' ', $()[0], split ' ', $));\n"
        "return pack('a' . $count, qq(@ids)) }",
    )
    with Server("-n", "-u", "nobody", "-g", "nogroup", "perl", path) as server:
        found = bytes(connect(server.uri).pread(512, 0)).rstrip(b"\0")
    assert set(found.split()) == {b"65534"}


def test_in_the_background_warnings_go_to_the_log(tmp_path: Path) -> None:
    path = script(tmp_path, "sub open { warn 'a client'; print qq(noise\\n); return 1 }")
    log, pidfile = tmp_path / "log", tmp_path / "pid"
    socket = tmp_path / "sock"
    done = nbdfork("-n", "-U", socket, "-P", pidfile, "--log", log, "perl", path, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server = psutil.Process(int(pidfile.read_text()))
    try:
        connect(f"nbd+unix:///?socket={socket}").shutdown()
        eventually(lambda: "a client at" in log.read_text())
    finally:
        server.terminate()
    eventually(lambda: not is_alive(server))


def test_debug_messages_are_in_the_verbose_log() -> None:
    with Server("-v", "-n", "perl", RAM) as server:
        client = connect(server.uri)
        assert client.pread(3000, 0) == bytes(3000)
        assert client.pread(200000 % 65536, 0) == bytes(200000 % 65536)
        assert "debug: reading 3000 bytes" in server.log


# -- what nbdkit's plugin does not have -------------------------------------------------------


def test_further_callbacks_and_functions(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
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
        'sub pread { my ($h, $count) = @_; return "\\0" x $count }',
    )
    plugin = Perl(script=str(path))
    plugin.config_complete()
    plugin.get_ready()
    plugin.after_fork()
    assert [tuple(one) for one in plugin.list_exports(False)] == [
        ("one", ""),
        ("two", "the second"),
    ]
    assert plugin.default_export(False) == "one"
    export: Any = plugin.open("two", False)
    assert export.get_size() == 65536
    assert export.description() == "this is two"
    assert tuple(export.block_size()) == (512, 4096, 65536)
    assert export.can_cache()
    assert export.can_multi_conn()
    export.cache(512, 0)
    assert export.extents(1024, 2048, 0) == [Extent(2048, 512, 0), Extent(2560, 1024, 3)]
    export.close()
    plugin.cleanup()
    plugin.unload()


def test_a_script_can_end_the_server(tmp_path: Path) -> None:
    path = script(tmp_path, "sub pread { Nbdkit::shutdown(); my ($h, $n) = @_; return 'x' x $n }")
    with Server("-n", "perl", path) as server:
        assert connect(server.uri).pread(2, 0) == b"xx"
        assert server.process.wait(SECONDS) == 0


def test_dump_plugin_tells_of_the_script(tmp_path: Path) -> None:
    path = script(tmp_path, "sub dump_plugin { print qq(mine=yes\\n) }")
    done = nbdfork("--dump-plugin", "perl", path)
    assert "mine=yes\n" in done.stdout
    assert "perl_version=5" in done.stdout
