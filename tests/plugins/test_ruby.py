"""What is about Ruby only: its exceptions, its at_exit, and the helper that runs the script."""

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.support.harness import Server, eventually, nbdfork
from tests.support.libnbd import connect, libnbd
from tests.support.raw import reason
from tests.support.scripting import RUBY


@pytest.fixture(autouse=True)
def _ruby() -> None:
    RUBY.need()


# -- state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", ["false", "true"])
def test_at_exit_is_done_once_where_the_disk_is(processes: str, tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = RUBY.script(
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


def test_a_method_that_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    path = RUBY.script(tmp_path, "def pread(h, count, offset) = raed(count)")
    with Server("-n", "ruby", path) as server:
        code, text = reason(server)
        assert code == 5
        assert re.fullmatch("undefined method [`']raed' for .*", text)


def test_without_ruby_it_says_what_to_install(tmp_path: Path) -> None:
    done = nbdfork("-U", "-", "ruby", RUBY.ram, "--run", "true", env={"PATH": str(tmp_path)})
    said = "nbdfork: error: ruby: there is no ruby in the PATH: install it (Debian: ruby)\n"
    assert (done.returncode, done.stderr) == (1, said)


# -- the life of the process ------------------------------------------------------------------


def test_a_child_of_the_script_exits_as_it_is_meant_to(tmp_path: Path) -> None:
    path = RUBY.script(
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


def test_the_helper_holds_no_more_descriptors_than_it_needs(tmp_path: Path) -> None:
    """Those of the template would keep it alive, or its clients' connections open."""
    listed = "Dir.children('/proc/self/fd').map { |fd| File.readlink(%(/proc/self/fd/#{fd})) "
    listed += "rescue '' }.grep(/socket|pipe/).length.to_s"
    path = RUBY.script(tmp_path, f"def pread(h, count, offset) = ({listed}).ljust(count)")
    with Server("-n", "ruby", path) as server:
        sockets = int(connect(server.uri).pread(16, 0))
        assert sockets <= 2  # to the worker, and standard output, which is the tests' pipe


def test_the_script_does_not_see_the_signals_that_end_the_server(tmp_path: Path) -> None:
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    os.mkfifo(gate)
    path = RUBY.script(
        tmp_path, f"def pwrite(h, buf, offset) = (File.write('{begun}', ''); File.read('{gate}'))"
    )
    with Server("-n", "ruby", path) as server:
        client = connect(server.uri)
        client.aio_pwrite(libnbd().Buffer.from_bytearray(bytearray(512)), 0)
        eventually(begun.exists)
        for process in psutil.Process(server.pid).children(recursive=True):
            if "script.rb" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGINT)
        gate.write_text("")
        assert client.pread(4, 0) == bytes(4)


def test_the_script_is_the_program_and_has_its_data(tmp_path: Path) -> None:
    text = "abort 'no program' unless __FILE__ == $0 && ARGV.empty?\n"
    text += "$disk = DATA.read\ndef pread(h, count, offset) = $disk[offset, count]\n__END__\nabcdef"
    with RUBY.server(tmp_path, text) as server:
        assert connect(server.uri).pread(3, 2) == b"cde"
