"""What a script can do and is told, the same in every language: under nbdkit, and nbdfork alone.

Each test stands above what it asks of every language; a language that is not named there has no
such thing.  What is about one language only is in the tests of its plugin.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import psutil
import pytest

from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    eventually,
    is_alive,
    let_all_reach,
    nbdfork,
)
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.script_texts import EACH_A_PROCESS, ENDS, PROCESS
from tests.support.scripting import (
    LANGUAGES,
    LUA,
    PERL,
    RUBY,
    TCL,
    Language,
    facts,
    id_of,
    in_languages,
    operations,
    shares_its_disk,
    written,
)

pytestmark = pytest.mark.usefixtures("needed")


# -- both servers -----------------------------------------------------------------------------

FAILING = ["", "pread", "pwrite", "flush", "trim", "zero", "long"]


@pytest.mark.parametrize(
    ("language", "failing"),
    [*product(LANGUAGES.values(), FAILING), (PERL, "quietly"), (RUBY, "quietly")],
    ids=id_of,
)
def test_every_operation_ends_as_with_nbdkit(
    language: Language, failing: str, tmp_path: Path
) -> None:
    """With set_error alone, zero fails quietly; nbdkit has no set_error for Lua and Tcl."""
    arguments: list[str | Path] = [language.ram, *([f"fail={failing}"] if failing else [])]
    with language.served_by_nbdkit(tmp_path, *arguments) as uri:
        expected = operations(uri)
    with Server("-n", language.name, *arguments) as server:
        assert operations(server.uri) == expected


@written(
    lua="function pwrite(h, buf, offset) end",
    perl="sub pwrite { } sub zero { } sub can_write { 1 }",
    ruby="def pwrite(h, buf, offset) = nil",
    tcl="proc pwrite {h buf offset} {}\nproc plugin_flush {h} {}",
)
def test_facts_are_those_of_nbdkit(language: Language, text: str, tmp_path: Path) -> None:
    for path in (language.ram, language.script(tmp_path, ""), language.script(tmp_path, text)):
        with language.served_by_nbdkit(tmp_path, path) as uri:
            expected = facts(uri)
        with Server("-n", language.name, path) as server:
            found = facts(server.uri)
        for fact in (*expected, *found):
            for name in language.untrue:
                fact.pop(name, None)
        assert found == expected


@written(
    lua="function pwrite(h, b, o) end function flush(h) error('the cache is full') end",
    perl="sub pwrite { } sub flush { die 'the cache is full' }",
    ruby="def pwrite(h, b, o) = nil\ndef flush(h) = raise('the cache is full')",
    tcl="proc pwrite {h b o} {}\nproc plugin_flush {h} { error {the cache is full} }",
)
def test_what_can_be_done_follows_from_the_callbacks(
    language: Language, text: str, tmp_path: Path
) -> None:
    with language.server(tmp_path, "") as server:
        assert connect(server.uri).is_read_only()
    with language.server(tmp_path, text) as server:
        client = connect(server.uri)
        assert not client.is_read_only()
        assert attempt(client.flush) == "EIO"


# -- state ------------------------------------------------------------------------------------


@in_languages()
def test_all_clients_share_the_disk(language: Language) -> None:
    with Server("-n", language.name, language.ram, "size=1048576") as server:
        assert connect(server.uri).get_size() == 1048576
        assert shares_its_disk(server)


@written(
    lua="""closed = 0
function close(h) closed = closed + 1 end
function unload() io.open('SEEN', 'w'):write(closed):close() end""",
    perl="""our $closed = 0;
sub close { $closed++ }
sub unload { open(my $seen, '>', 'SEEN'); print $seen $closed; CORE::close($seen) }""",
    ruby="""$closed = 0
def close(h) = $closed += 1
def unload = File.write('SEEN', $closed.to_s)""",
    tcl="""set closed 0
proc plugin_close {h} { global closed; incr closed }
proc unload {} { global closed; set f [open SEEN w]; puts -nonewline $f $closed; close $f }""",
)
def test_the_state_that_clients_have_left_is_unloaded(
    language: Language, text: str, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    with language.server(tmp_path, text.replace("SEEN", str(seen))) as server:
        for _ in range(3):
            assert connect(server.uri).pread(1, 0)
    assert seen.read_text() == "3"


@written(**PROCESS)
def test_a_script_can_ask_for_a_process_for_each_client(
    language: Language, text: str, tmp_path: Path
) -> None:
    with language.server(tmp_path, text) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(16, 0) != other.pread(16, 0)
        assert len(server.serving()) == 2


@written(
    lua="function get_ready() MADE = pread(1, 16, 0) end",
    perl="sub get_ready { $made = $$ }",
    ruby="def get_ready = @made = Process.pid",
    tcl="proc get_ready {} { set ::made [pid] }",
)
def test_what_was_made_before_the_fork_is_inherited(
    language: Language, text: str, tmp_path: Path
) -> None:
    with language.server(tmp_path, PROCESS[language.name] + text) as server:
        assert connect(server.uri).pread(16, 0) == connect(server.uri).pread(16, 0)


def ends_in(log: Path) -> dict[str, set[str]]:
    """Return in which processes each callback of a script of `ENDS` has been called, and check
    that none has been called in one of them twice.
    """
    lines = log.read_text().splitlines()
    assert len(set(lines)) == len(lines)
    return {
        what: {line.split()[1] for line in lines if line.startswith(f"{what} ")}
        for what in ("cleanup", "unload", "end")
    }


@written(**ENDS)
def test_a_script_that_serves_all_clients_is_unloaded_in_its_process(
    language: Language, text: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    path = language.script(tmp_path, text)
    with Server("-n", language.name, path, f"log={log}") as server:
        connect(server.uri).shutdown()
        supervisor = str(server.pid)
    ends = ends_in(log)
    assert len(ends["cleanup"]) == 1
    assert ends["unload"] == ends["cleanup"] != {supervisor}
    assert ends["end"] in (set(), ends["unload"])
    assert bool(ends["end"]) is (language in (LUA, PERL))


@written(**ENDS)
def test_a_script_with_a_process_for_each_client_is_unloaded_where_it_was_loaded(
    language: Language, text: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    path = language.script(tmp_path, text + EACH_A_PROCESS[language.name])
    with Server("-n", language.name, path, f"log={log}") as server:
        for _ in range(3):
            connect(server.uri).shutdown()
    ends = ends_in(log)
    assert len(ends["cleanup"]) >= 3
    assert len(ends["unload"]) == 1
    assert not ends["unload"] & ends["cleanup"]
    assert ends["end"] in (set(), ends["unload"])


@written(**ENDS)
@pytest.mark.parametrize("each", [False, True], ids=["one", "each"])
def test_the_script_of_a_single_client_ends_once(
    language: Language, text: str, each: bool, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    path = language.script(tmp_path, text + (EACH_A_PROCESS[language.name] if each else ""))
    client = libnbd().NBD()
    client.connect_command([*NBDFORK, "-n", "-s", language.name, str(path), f"log={log}"])
    assert client.pread(512, 0) == bytes(512)
    client.shutdown()
    del client  # which waits for the server
    ends = ends_in(log)
    assert len(ends["cleanup"]) == len(ends["unload"]) == 1
    assert ends["end"] in (set(), ends["unload"])


@written(
    lua="function pread(h, n, offset) return string.pack('<I8', offset):rep(n // 8) end",
    perl="sub pread { my ($h, $n, $offset) = @_; return pack('Q', $offset) x ($n / 8) }",
    ruby="def pread(h, n, offset) = [offset].pack('Q<') * (n / 8)",
    tcl="proc pread {h n offset} { string repeat [binary format w $offset] [expr {$n / 8}] }",
)
def test_clients_of_one_process_take_turns(language: Language, text: str, tmp_path: Path) -> None:
    """Threads share the interpreter: what one reads is never what another has asked for."""

    def read(uri: str, number: int) -> bool:
        client = connect(uri)
        offsets = [(number * 977 + i * 131) % 120 * 512 for i in range(300)]
        return all(client.pread(512, at) == at.to_bytes(8, "little") * 64 for at in offsets)

    with language.server(tmp_path, text) as server, ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda number: read(server.uri, number), range(4)))


# -- the life of the process ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "way", "fate"),
    [
        (LUA, "kill", "signal 9"),
        (PERL, "kill", "signal 9"),
        (PERL, "exit", "status 3"),
        (RUBY, "kill", "the helper died: signal 9"),
        (RUBY, "exit", "the helper died: exit 3"),
        (TCL, "kill", "the helper died: signal 9"),
    ],
    ids=id_of,
)
def test_a_process_that_dies_is_told_of_and_replaced(
    language: Language, way: str, fate: str
) -> None:
    """If the script has a helper to run it, the client hears of it, and keeps its connection."""
    with Server("-n", language.name, language.ram, f"fail={way}") as server:
        client = connect(server.uri)
        with pytest.raises(libnbd().Error) as caught:
            client.pwrite(b"x", 0)
        assert (caught.value.errno == "EIO") == ("helper" in fate)
        eventually(lambda: fate in server.log)
        assert connect(server.uri).pread(4, 0) == bytes(4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
@written(
    lua="function pread(h, n, o)\n"
    "return string.pack('c' .. n, io.popen('id -u; id -G'):read('a')) end",
    perl="sub pread { my @ids = ($<, $>, (split ' ', $()[0], split ' ', $));\n"
    "return pack('a' . $_[1], qq(@ids)) }",
    ruby="def pread(h, n, o) = [Process.uid, Process.euid, Process.gid, Process.egid,\n"
    "*Process.groups].join(' ').ljust(n)",
    tcl="proc pread {h n o} { binary format a$n [exec sh -c {id -u; id -G}] }",
)
def test_the_script_runs_as_the_user_of_the_server(
    language: Language, text: str, tmp_path: Path
) -> None:
    let_all_reach(tmp_path)
    path = language.script(tmp_path, text)
    with Server("-n", "-u", "nobody", "-g", "nogroup", language.name, path) as server:
        found = bytes(connect(server.uri).pread(512, 0)).rstrip(b"\0")
    assert set(found.split()) == {b"65534"}


@written(
    perl="sub open { warn qq(a client\\n); print qq(noise\\n); return 1 }",
    ruby="def open(readonly)\n  warn 'a client'\n  puts 'noise'\n  1\nend",
    tcl="proc plugin_open {readonly} { puts stderr {a client}; puts noise; return 1 }",
)
def test_in_the_background_warnings_go_to_the_log(
    language: Language, text: str, tmp_path: Path
) -> None:
    """Lua's io.stderr is that of the process, which leads nowhere then."""
    log, pidfile, where = tmp_path / "log", tmp_path / "pid", tmp_path / "sock"
    script = (language.name, language.script(tmp_path, text))
    done = nbdfork("-n", "-U", where, "-P", pidfile, "--log", log, *script, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server = psutil.Process(int(pidfile.read_text()))
    try:
        connect(f"nbd+unix:///?socket={where}").shutdown()
        eventually(lambda: "a client\n" in log.read_text())
    finally:
        server.terminate()
    eventually(lambda: not is_alive(server))


@written(
    lua="function pread(h, n, o) nbdkit.debug('read ' .. n) return ('x'):rep(n) end",
    perl="sub pread { my ($h, $n) = @_; Nbdkit::debug(qq(read $n)); return 'x' x $n }",
    ruby="def pread(h, n, o)\n  Nbdkit.debug(%(read #{n}))\n  'x' * n\nend",
    tcl='proc pread {h n o} { nbdkit::debug "read $n"; string repeat x $n }',
)
def test_debug_messages_are_in_the_verbose_log(
    language: Language, text: str, tmp_path: Path
) -> None:
    with Server("-v", "-n", language.name, language.script(tmp_path, text)) as server:
        assert connect(server.uri).pread(3000, 0) == b"x" * 3000
        assert ": read 3000\n" in server.log
