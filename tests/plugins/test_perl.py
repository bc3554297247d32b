"""What is about Perl only: its END blocks and objects, its characters, its modules written in C."""

import os
import re
from pathlib import Path

import pytest

from tests.support.harness import Server
from tests.support.libnbd import attempt, connect
from tests.support.scripting import PERL


@pytest.fixture(autouse=True)
def _perl() -> None:
    PERL.need()


# -- state ------------------------------------------------------------------------------------


def test_end_blocks_run_once_where_the_disk_is(tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = PERL.script(
        tmp_path,
        f"my $last = 0; sub pwrite {{ $last = $_[2] }}\n"
        f"END {{ CORE::open(my $f, '>>', '{log}'); print $f qq(last $last\\n) }}",
    )
    with Server("-n", "perl", path) as server:
        client = connect(server.uri)
        client.pwrite(b"x", 512)
        client.shutdown()
    assert log.read_text() == "last 512\n"


# -- the life of the process -------------------------------------------------------------------


def test_an_exit_fails_the_request_alone(tmp_path: Path) -> None:
    path = PERL.script(tmp_path, "sub pwrite { exit 7 }")
    with Server("-n", "perl", path) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pwrite(b"x", 0)) == "EIO"
        assert "pwrite: the script called exit(7)" in server.log
        assert client.pread(4, 0) == bytes(4)


def test_a_child_of_the_script_exits_as_it_is_meant_to(tmp_path: Path) -> None:
    """It has written what it had buffered, and does not go on as a second server."""
    out = tmp_path / "out"
    path = PERL.script(
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
    with PERL.server(tmp_path, text) as server:
        assert bytes(connect(server.uri).pread(512, 0)[:8]) == b"9dd4e461"


def test_objects_are_destroyed_in_the_end(tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = PERL.script(
        tmp_path,
        f"sub DESTROY {{ CORE::open(my $f, '>>', '{log}'); print $f qq(gone\n) }}\n"
        "our $disk = bless {};",
    )
    with Server("-n", "perl", path) as server:
        connect(server.uri).shutdown()
    assert log.read_text() == "gone\n"


# -- a Perl that is not there -----------------------------------------------------------------


def without(tmp_path: Path, perl: str | None) -> str:
    """Return what is said of a script if *perl*, a shell script, is all the Perl that there is."""
    if perl is not None:
        (tmp_path / "perl").write_text(f"#!/bin/sh\n{perl}\n")
        (tmp_path / "perl").chmod(0o755)
    return PERL.refusal(PERL.ram, env={**os.environ, "PATH": str(tmp_path)})


def test_without_a_perl_it_says_so(tmp_path: Path) -> None:
    assert "perl: there is no perl in the PATH: install it" in without(tmp_path, None)


@pytest.mark.parametrize(
    ("perl", "said"),
    [
        ("echo out of order >&2; exit 2", "does not show its configuration: out of order"),
        (
            "echo libperl-none.so.1; echo /none; echo define",
            "libperl-none.so.1, the library of .*/perl, is needed (Debian: perl): .*/none/CORE/",
        ),
    ],
    ids=["broken", "without its library"],
)
def test_a_perl_that_does_not_do(perl: str, said: str, tmp_path: Path) -> None:
    assert re.search(said.replace("(", r"\(").replace(")", r"\)"), without(tmp_path, perl))
