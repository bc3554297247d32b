"""Scripts for nbdkit's Ruby API: the same under nbdkit and nbdfork, run by a helper."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from nbdfork.plugins.ruby import Ruby

from nbdfork.plugin import Extent
from tests.harness import SECONDS, Server, eventually, is_alive, let_all_reach, nbdfork, need
from tests.test_manual import source, unescaped
from tests.test_python_plugin import attempt, connect, facts, operations
from tests.test_structured import reason

nbd = pytest.importorskip("nbd")

RAM = Path(__file__).parent / "scripts" / "ram.rb"

MINIMUM = """\
def open(readonly) = 1
def get_size(h) = 65536
def pread(h, count, offset) = "\\0" * count
"""


@pytest.fixture(autouse=True)
def _ruby() -> None:
    need("ruby")


def script(directory: Path, text: str, base: str = MINIMUM) -> Path:
    path = directory / "script.rb"
    path.write_text(f"{base}{text}\n")
    return path


def refusal(path: Path, *arguments: str) -> str:
    """Return what nbdfork says of a script that it refuses to start with."""
    done = nbdfork("-U", "-", "ruby", path, *arguments, "--run", "true")
    assert done.returncode == 1
    return done.stderr


# -- both servers -----------------------------------------------------------------------------


@contextmanager
def served_by_nbdkit(directory: Path, *arguments: str | Path) -> Iterator[str]:
    """Serve each client with an nbdkit of its own: in a thread of nbdkit, Ruby crashes."""
    need("nbdkit")
    path = directory / "nbdkit.sock"
    path.unlink(missing_ok=True)
    command = ["nbdkit", "-s", "-n", "ruby", *map(str, arguments)]

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


@pytest.mark.parametrize(
    "failing", ["", "pread", "pwrite", "flush", "trim", "zero", "quietly", "long"]
)
def test_every_operation_ends_as_with_nbdkit(failing: str, tmp_path: Path) -> None:
    arguments: list[str | Path] = [RAM, *([f"fail={failing}"] if failing else [])]
    with served_by_nbdkit(tmp_path, *arguments) as uri:
        expected = operations(uri)
    with Server("-n", "ruby", *arguments) as server:
        assert operations(server.uri) == expected


def test_facts_are_those_of_nbdkit(tmp_path: Path) -> None:
    writable = "def pwrite(h, buf, offset) = nil"
    for path in (RAM, script(tmp_path, ""), script(tmp_path, writable)):
        with served_by_nbdkit(tmp_path, path) as uri:
            expected = facts(uri)
        with Server("-n", "ruby", path) as server:
            found = facts(server.uri)
        for fact in (*expected, *found):
            fact.pop("can_fua", None)  # nbdkit promises it even without a flush
            fact.pop("can_fast_zero", None)  # nbdkit promises it, and refuses every one
        assert found == expected


# -- state ------------------------------------------------------------------------------------


def test_all_clients_share_the_disk() -> None:
    with Server("-n", "ruby", RAM, "size=1048576") as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1048576
        data = bytes(range(256)) * 4096
        one.pwrite(data, 0)
        assert other.pread(len(data), 0) == data
        one.shutdown()
        assert connect(server.uri).pread(256, 512) == bytes(range(256))


def test_a_script_can_ask_for_a_process_for_each_client(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "NBDFORK_PROCESSES = true\ndef thread_model = Nbdkit::THREAD_MODEL_PARALLEL\n"
        "def pread(h, count, offset) = [Process.pid].pack('N') * (count / 4)",
    )
    with Server("-n", "ruby", path) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(4, 0) != other.pread(4, 0)
        assert len(server.serving()) == 2


def test_what_was_made_before_the_fork_is_inherited(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "NBDFORK_PROCESSES = true\ndef get_ready = @made = [Process.pid].pack('N')\n"
        "def pread(h, count, offset) = @made * (count / 4)",
    )
    with Server("-n", "ruby", path) as server:
        assert connect(server.uri).pread(4, 0) == connect(server.uri).pread(4, 0)


@pytest.mark.parametrize("processes", ["false", "true"])
def test_at_exit_is_done_once_where_the_disk_is(processes: str, tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = script(
        tmp_path,
        f"NBDFORK_PROCESSES = {processes}\ndef pwrite(h, buf, offset) = $last = offset\n"
        f"at_exit {{ File.write('{log}', %(last #{{$last}}\\n), mode: 'a') }}",
    )
    with Server("-n", "ruby", path) as server:
        client = connect(server.uri)
        client.pwrite(b"x", 512)
        client.shutdown()
    assert log.read_text() == ("last \n" if processes == "true" else "last 512\n")


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("Nbdkit.set_error(28); raise 'the moon is full'", 28, "the moon is full"),
        ("raise Errno::ENOSPC, 'moon'", 28, "No space left on device - moon"),
        ("Nbdkit.set_error(Errno::EPERM); raise Errno::ENOSPC", 1, "No space left on device"),
        ("raise ArgumentError", 5, "ArgumentError"),
    ],
)
def test_clients_hear_why_but_not_where(text: str, code: int, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, f"def pread(h, count, offset)\n  {text}\nend")
    with Server("-n", "ruby", path) as server:
        assert reason(server) == (code, message)
        assert f"pread: {path}:5: {message}\n" in server.log


def test_a_method_that_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    path = script(tmp_path, "def pread(h, count, offset) = raed(count)")
    with Server("-n", "ruby", path) as server:
        code, text = reason(server)
        assert code == 5
        assert re.fullmatch("undefined method [`']raed' for .*", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def config(k, v) = raise('bad value')", "config: {path}:4: bad value"),
        ("def config(k, v) = 1\ndef get_ready = fail('no disk')", "get_ready: {path}:5: no disk"),
        ("def config(k, v) = exit(3)", "{path}: config: the script called exit(3)"),
        ("def config(k, v) = 1\ndef thread_model = 7", "{path}: thread_model returned 7"),
        ("def def", "load: {path}:4: syntax error"),
        ("require 'no/such'", "load: {path}:4: cannot load such file -- no/such"),
        ("", "takes no parameters, but key=value is given"),
    ],
)
def test_a_bad_script_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    said = refusal(path, "key=value")
    assert said.startswith("nbdfork: error: ruby: ")
    assert message.format(path=path) in said


@pytest.mark.parametrize("missing", ["open", "get_size", "pread"])
def test_a_script_without_a_required_callback_is_refused(missing: str, tmp_path: Path) -> None:
    """What Kernel has of the same name is none."""
    base = "".join(line for line in MINIMUM.splitlines(True) if f"def {missing}" not in line)
    assert f"the callback {missing} is missing" in refusal(script(tmp_path, "", base))


def test_without_ruby_it_says_what_to_install(tmp_path: Path) -> None:
    done = nbdfork("-U", "-", "ruby", RAM, "--run", "true", env={"PATH": str(tmp_path)})
    said = "nbdfork: error: ruby: there is no ruby in the PATH: install it (Debian: ruby)\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("'short'", "byte array returned from pread is too small"),
        ("nil", "pread returned no string, but a NilClass"),
        ("raise(NoMemoryError)", "NoMemoryError"),
        ("exit(7)", "the script called exit(7)"),
        ("pread(h, count, offset)", "stack level too deep"),
    ],
)
def test_a_read_that_is_none_fails_alone(text: str, message: str, tmp_path: Path) -> None:
    path = script(
        tmp_path, f"def pread(h, count, offset) = offset > 0 ? 'ok' * (count / 2) : {text}"
    )
    with Server("-n", "ruby", path) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "EIO"
        assert message in server.log
        assert client.pread(512, 512) == b"ok" * 256


# -- the life of the process ------------------------------------------------------------------


@pytest.mark.parametrize(("way", "fate"), [("kill", "signal 9"), ("exit", "exit 3")])
def test_a_helper_that_dies_is_told_of_and_replaced(way: str, fate: str) -> None:
    with Server("-n", "ruby", RAM, f"fail={way}") as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pwrite(b"x", 0)) == "EIO"
        eventually(lambda: f"the helper died: {fate}" in server.log)
        assert connect(server.uri).pread(4, 0) == bytes(4)


def test_a_child_of_the_script_exits_as_it_is_meant_to(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        def status(way)
          child = Process.fork
          return Process.wait2(child).last.exitstatus if child
          exit(5) if way == :exit
          raise 'from a child' if way == :raise
        end
        def pread(h, count, offset)
          statuses = %i[exit raise return].map { |way| status(way) || (return ' ' * count) }
          statuses.join(' ').ljust(count)
        end
        """,
    )
    with Server("-n", "ruby", path) as server:
        client = connect(server.uri)
        assert bytes(client.pread(5, 0)) == b"5 1 0"
        assert bytes(client.pread(5, 0)) == b"5 1 0"
        assert "from a child (RuntimeError)" in server.log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_the_script_runs_as_the_user_of_the_server(tmp_path: Path) -> None:
    let_all_reach(tmp_path)
    text = "[Process.uid, Process.euid, Process.gid, Process.egid, *Process.groups].join(' ')"
    path = script(tmp_path, f"def pread(h, count, offset) = {text}.ljust(count)")
    with Server("-n", "-u", "nobody", "-g", "nogroup", "ruby", path) as server:
        found = bytes(connect(server.uri).pread(512, 0))
    assert set(found.split()) == {b"65534"}


def test_the_helper_holds_no_more_descriptors_than_it_needs(tmp_path: Path) -> None:
    """Those of the template would keep it alive, or its clients' connections open."""
    listed = "Dir.children('/proc/self/fd').map { |fd| File.readlink(%(/proc/self/fd/#{fd})) "
    listed += "rescue '' }.grep(/socket|pipe/).length.to_s"
    path = script(tmp_path, f"def pread(h, count, offset) = ({listed}).ljust(count)")
    with Server("-n", "ruby", path) as server:
        sockets = int(connect(server.uri).pread(16, 0))
        assert sockets <= 2  # to the worker, and standard output, which is the tests' pipe


def test_in_the_background_warnings_go_to_the_log(tmp_path: Path) -> None:
    path = script(tmp_path, "def open(readonly)\n  warn 'a client'\n  puts 'noise'\n  1\nend")
    log, pidfile = tmp_path / "log", tmp_path / "pid"
    where = tmp_path / "sock"
    done = nbdfork("-n", "-U", where, "-P", pidfile, "--log", log, "ruby", path, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    server = psutil.Process(int(pidfile.read_text()))
    try:
        connect(f"nbd+unix:///?socket={where}").shutdown()
        eventually(lambda: "a client\n" in log.read_text())
    finally:
        server.terminate()
    eventually(lambda: not is_alive(server))


def test_the_script_does_not_see_the_signals_that_end_the_server(tmp_path: Path) -> None:
    path = script(tmp_path, "def pwrite(h, buf, offset) = sleep(0.3)")
    with Server("-n", "ruby", path) as server:
        client = connect(server.uri)
        client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), 0)
        for process in psutil.Process(server.pid).children(recursive=True):
            if "script.rb" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGINT)
        assert client.pread(4, 0) == bytes(4)


def test_debug_messages_are_in_the_verbose_log(tmp_path: Path) -> None:
    text = "def pread(h, count, offset)\n  Nbdkit.debug(%(read #{count}))\n  'x' * count\nend"
    with Server("-v", "-n", "ruby", script(tmp_path, text)) as server:
        assert connect(server.uri).pread(3000, 0) == b"x" * 3000
        assert "debug: read 3000\n" in server.log


def test_the_script_is_the_program_and_has_its_data(tmp_path: Path) -> None:
    text = "abort 'no program' unless __FILE__ == $0 && ARGV.empty?\n"
    text += "$disk = DATA.read\ndef pread(h, count, offset) = $disk[offset, count]\n__END__\nabcdef"
    with Server("-n", "ruby", script(tmp_path, text)) as server:
        assert connect(server.uri).pread(3, 2) == b"cde"


# -- what nbdkit's plugin does not have -------------------------------------------------------


def test_callbacks_get_the_flags_if_they_take_one_argument_more(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        $seen = []
        def pread(h, count, offset) = $seen.join(' ').ljust(count)
        def can_fua(h) = Nbdkit::FUA_NATIVE
        def flush(h, flags) = $seen << "flush #{flags}"
        def pwrite(h, buf, offset, flags) = $seen << "pwrite #{flags & Nbdkit::FLAG_FUA}"
        def trim(h, count, offset, flags = 0) = $seen << "trim #{flags}"
        def zero(h, count, offset, may_trim, flags) = $seen << "zero #{may_trim} #{flags}"
        """,
    )
    with Server("-n", "ruby", path) as server:
        client = connect(server.uri)
        client.flush()
        client.pwrite(b"x", 0, nbd.CMD_FLAG_FUA)
        client.trim(512, 0, nbd.CMD_FLAG_FUA)
        client.zero(512, 0, nbd.CMD_FLAG_FUA)
        client.zero(512, 0, nbd.CMD_FLAG_NO_HOLE)
        seen = bytes(client.pread(64, 0)).decode().rstrip()
        assert seen == "flush 0 pwrite 2 trim 2 zero true 3 zero false 0"


def test_further_callbacks_and_functions(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
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
    )
    plugin = Ruby(script=str(path))
    plugin.config_complete()
    plugin.get_ready()
    plugin.after_fork()
    names = [tuple(one) for one in plugin.list_exports(False)]
    assert names == [("one", ""), ("two", "the second")]
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


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("8s", 4096), ("1B", 1), ("100M", 100 << 20), ("7E", 7 << 60)],
)
def test_sizes(text: str, size: int, tmp_path: Path) -> None:
    path = script(tmp_path, "def config(key, value) = puts(Nbdkit.parse_size(value))")
    assert f"{size}\n" in nbdfork("--dump-plugin", "ruby", path, f"size={text}").stdout


@pytest.mark.parametrize("text", ["", "k", "1Q", "1.5k", "-1", "8E", "1 k"])
def test_what_is_no_size(text: str, tmp_path: Path) -> None:
    path = script(tmp_path, "def config(key, value) = Nbdkit.parse_size(value)")
    assert re.search(f"(not|too large) a size: '{text}'", refusal(path, f"size={text}"))


def test_a_script_can_end_the_server(tmp_path: Path) -> None:
    path = script(tmp_path, "def flush(h) = Nbdkit.shutdown")
    with Server("-n", "ruby", path) as server:
        connect(server.uri).flush()
        assert server.process.wait(SECONDS) == 0


def test_dump_plugin_tells_of_the_script(tmp_path: Path) -> None:
    path = script(tmp_path, "def dump_plugin = puts('mine=yes')")
    done = nbdfork("--dump-plugin", "ruby", path)
    assert "mine=yes\n" in done.stdout
    assert re.search(r"^ruby_version=\d+\.\d+\.\d+$", done.stdout, re.MULTILINE)
    assert re.search(r"^ruby_api_version=\d+\.\d+\.\d+$", done.stdout, re.MULTILINE)


def test_the_ram_disk_of_the_page_works(tmp_path: Path) -> None:
    displays = re.findall(r"^\.Bd .*?\n(.*?)^\.Ed", source("nbdfork-ruby-plugin.3"), re.M | re.S)
    path = script(tmp_path, "", unescaped(displays[-1]))
    with Server("-n", "ruby", path) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1024 * 1024
        one.pwrite(bytes(range(256)) * 8, 1536)
        assert other.pread(4096, 1024) == bytes(512) + bytes(range(256)) * 8 + bytes(1536)
