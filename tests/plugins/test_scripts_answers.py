"""Answers of scripts that make no sense, or are too much: told in every language, and no disk but
the one that was asked for is hurt.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import eventually, nbdfork
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.scripting import Language, written


@pytest.fixture(autouse=True)
def _needed(language: Language) -> None:
    language.need()


def refused(language: Language, text: str, place: Path) -> str:
    """Return what the log says of a client that a script's answer keeps out."""
    with language.server(place, text) as server:
        for _ in range(2):  # the worker is as it was
            with pytest.raises(libnbd().Error):
                connect(server.uri)
        return server.log


@written(
    lua='function get_size(h) return "abc" end',
    perl="sub get_size { return 'abc' }",
    ruby="def get_size(h) = 'abc'",
    tcl="proc get_size {h} { return abc }",
)
def test_a_size_that_is_no_number(language: Language, text: str, tmp_path: Path) -> None:
    log = refused(language, text, tmp_path)
    assert log.count("get_size") >= 2
    assert "abc" in log or "not an integer" in log


@written(
    lua="function get_size(h) return 1.5 end",
    perl="sub get_size { return 1.5 }",
    ruby="def get_size(h) = 1.5",
    tcl="proc get_size {h} { return 1.5 }",
)
def test_a_size_that_is_not_whole(language: Language, text: str, tmp_path: Path) -> None:
    assert "get_size" in refused(language, text, tmp_path)


@written(
    lua="function get_size(h) return 1e300 end",
    perl="sub get_size { return '9' x 5000 }",
    ruby="def get_size(h) = 10**5000",
    tcl="proc get_size {h} { return [string repeat 9 5000] }",
)
def test_a_size_beyond_all_measure(language: Language, text: str, tmp_path: Path) -> None:
    log = refused(language, text, tmp_path)
    assert "get_size" in log
    assert "died" not in log


@written(
    lua="function get_size(h) end",
    perl="sub get_size { return }",
    ruby="def get_size(h) = nil",
    tcl="proc get_size {h} {}",
)
def test_no_size_at_all(language: Language, text: str, tmp_path: Path) -> None:
    assert "get_size" in refused(language, text, tmp_path)


@written(
    perl='sub pread { my ($h, $count) = @_; return "\\x{263a}" x $count }',
    tcl='proc pread {h count offset} { return [string repeat "\\u263a" $count] }',
)
def test_characters_that_are_no_bytes(language: Language, text: str, tmp_path: Path) -> None:
    """In Lua and Ruby all strings are bytes."""
    with language.server(tmp_path, text) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "EIO"
        assert "pread returned characters that are no bytes" in server.log
        client.shutdown()


@written(
    tcl='proc pread {h count offset} { return [string repeat "\\u00e4x" $count] }',
)
def test_characters_that_are_bytes(language: Language, text: str, tmp_path: Path) -> None:
    with language.server(tmp_path, text) as server:
        assert connect(server.uri).pread(4, 0) == b"\xe4x\xe4x"


MUCH = 20_000_000


@written(
    lua=f'function export_description(h) return ("x"):rep({MUCH}) end',
    perl=f"sub export_description {{ return 'x' x {MUCH} }}",
    ruby=f"def export_description(h) = 'x' * {MUCH}",
    tcl=f"proc export_description {{h}} {{ return [string repeat x {MUCH}] }}",
)
def test_an_answer_that_is_too_long(language: Language, text: str, tmp_path: Path) -> None:
    with language.server(tmp_path, text) as server:
        client = connect(server.uri)
        said = f"export_description: the answer has {MUCH} bytes; 16777216 are the most"
        assert said in server.log
        assert client.pread(512, 0) == bytes(512)
        client.shutdown()


@written(
    lua='function list_exports(r) return {{"a\\xffb", ""}, {"ok", "d\\xfe\\x1b[31m"}} end',
    perl='sub list_exports { return [["a\\xffb", ""], ["ok", "d\\xfe\\x1b[31m"]] }',
    ruby='def list_exports(r) = [["a\\xffb", ""], ["ok", "d\\xfe\\x1b[31m"]]',
)
def test_names_that_are_not_utf_8(language: Language, text: str, tmp_path: Path) -> None:
    """Those of Tcl are characters, and always are."""
    with language.server(tmp_path, text) as server:
        client = libnbd().NBD()
        client.set_opt_mode(True)
        client.connect_uri(server.uri)
        found: list[tuple[str, str]] = []

        def note(name: str, description: str) -> int:
            found.append((name, description))
            return 0

        client.opt_list(note)
        assert found == [("ok", "d\\udcfe\\x1b[31m")]
        client.opt_abort()
        assert "is not listed: its name is not UTF-8" in server.log


@written(
    lua='function after_fork() error("not today") end',
    perl="sub after_fork { die 'not today' }",
    ruby="def after_fork = raise('not today')",
    tcl='proc after_fork {} { error "not today" }',
)
def test_after_fork_that_fails_is_one_line(language: Language, text: str, tmp_path: Path) -> None:
    path = language.script(tmp_path, text)
    done = nbdfork("-f", "-U", "-", language.name, path, "--run", "sleep 60")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "warning" not in line)
    assert f"a worker cannot start: {language.name}: after_fork: " in line
    assert "not today" in line


def raising(language: Language, text: str, place: Path) -> tuple[str, Any]:
    with language.server(place, text) as server:
        client = connect(server.uri)
        failed = attempt(lambda: client.pread(512, 0))
        eventually(lambda: "pread" in server.log)
        client.shutdown()
        return server.log, failed


@written(
    lua='function pread(h, n, o) error("bad\\xff\\x1b" .. ("y"):rep(100000)) end',
    perl="sub pread { die \"bad\\xff\\x1b\" . 'y' x 100000 }",
    ruby="def pread(h, n, o) = raise(\"bad\\xff\\x1b\" + 'y' * 100000)",
    tcl='proc pread {h n o} { error "bad\\xff\\x1b[string repeat y 100000]" }',
)
def test_the_text_of_an_error_is_escaped_and_cut(
    language: Language, text: str, tmp_path: Path
) -> None:
    log, failed = raising(language, text, tmp_path)
    assert failed == "EIO"
    assert "\x1b" not in log
    assert "bad" in log
    assert "[...]" in log
    assert len(log) < 8192
