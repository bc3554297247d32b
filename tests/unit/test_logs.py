"""Where messages go."""

import logging
import os
import re
import sys
import syslog
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest

from nbdfork import logs
from nbdfork.backend.client import Client, set_serving


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Put back what pytest has."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    for name in chain.from_iterable(logs.DEBUG_FLAGS.values()):
        logging.getLogger(name).setLevel(logging.NOTSET)


def say() -> None:
    log = logging.getLogger("nbdfork.test")
    log.debug("fine")
    log.info("coarse")
    log.warning("odd")
    log.error("bad\nvery bad")


DEBUG = "nbdfork: debug: fine\nnbdfork: debug: coarse\n"
PLAIN = "nbdfork: warning: odd\nnbdfork: error: bad\n  very bad\n"


def whole(text: str) -> str:
    """Return *text* without the times and process IDs of its lines, which all have to be there."""
    begin = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d nbdfork\[(\d+)\] ")
    found = []
    for line in text.splitlines():
        match = begin.match(line)
        assert line.startswith("  ") if match is None else int(match[1]) == os.getpid()
        found.append(line if match is None else f"nbdfork: {line[match.end() :]}")
    return "".join(f"{line}\n" for line in found)


@pytest.mark.parametrize(("verbose", "expected"), [(False, PLAIN), (True, DEBUG + PLAIN)])
def test_standard_error(verbose: bool, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("stderr", verbose)
    say()
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("verbose", [False, True])
def test_a_file_takes_all(
    verbose: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    logs.set_up(str(path), verbose)
    say()
    begin, written = path.read_text().split("\n", 1)
    assert (begin, whole(written)) == ("before", (DEBUG if verbose else "") + PLAIN)
    assert capsys.readouterr().err == ""


class Stream:
    def fileno(self) -> int:
        return -1


@pytest.fixture
def served() -> Iterator[Client]:
    """A client that this thread serves."""
    one = Client(Stream(), lambda at_once: None, peer="127.0.0.1:40000")
    set_serving(one)
    yield one
    set_serving(None)


def test_a_server_says_when_and_for_whom(
    served: Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setattr(syslog, "syslog", lambda priority, line: said.append(line))
    logs.set_up("stderr", verbose=False)
    logs.begin_service()
    logging.getLogger("nbdfork").warning("odd")
    served.export = 'the "disk"\n'
    logging.getLogger("nbdfork").warning("odd")
    expected = ["127.0.0.1:40000: odd", '127.0.0.1:40000 "the \\"disk\\"\\n": odd']
    shown = whole(capsys.readouterr().err)
    assert shown == "".join(f"nbdfork: warning: {line}\n" for line in expected)
    logs.set_up("syslog", verbose=False)
    logging.getLogger("nbdfork").warning("odd")
    assert said == expected[1:]
    set_serving(None)
    logging.getLogger("nbdfork").warning("odd")
    assert said[1:] == ["odd"]


def test_a_journal_has_the_time_already(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    logs.set_up("stderr", verbose=False)
    logs.begin_service()
    logging.getLogger("nbdfork").warning("odd")
    assert capsys.readouterr().err == f"nbdfork[{os.getpid()}] warning: odd\n"


def test_a_file_that_was_renamed_is_made_again(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    logs.set_up(str(path), verbose=False)
    log = logging.getLogger("nbdfork")
    log.warning("one")
    path.rename(old)
    log.warning("two")
    log.warning("three")
    assert whole(old.read_text()) == "nbdfork: warning: one\n"
    assert whole(path.read_text()) == "nbdfork: warning: two\nnbdfork: warning: three\n"
    os.truncate(path, 0)  # as copytruncate does
    log.warning("four")
    assert whole(path.read_text()) == "nbdfork: warning: four\n"


def test_the_old_file_is_kept_if_there_can_be_no_new_one(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    logs.set_up(str(path), verbose=False)
    path.rename(old)
    path.mkdir()
    logging.getLogger("nbdfork").error("two")
    logging.getLogger("nbdfork").error("three")
    first, *others = whole(old.read_text()).splitlines()
    assert first.startswith("nbdfork: warning: the log goes on here, for the new file cannot be")
    assert others == ["nbdfork: error: two", "nbdfork: error: three"]


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        logs.set_up(str(tmp_path), verbose=False)


@pytest.mark.parametrize("destination", ["null", "syslog"])
def test_debugging_is_for_standard_error_wherever_the_rest_goes(
    destination: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(syslog, "openlog", lambda *_: None)
    monkeypatch.setattr(syslog, "syslog", lambda *words: said.append(words))
    logs.set_up(destination, verbose=True)
    say()
    assert capsys.readouterr().err == DEBUG
    lines = [(syslog.LOG_WARNING, "odd"), (syslog.LOG_ERR, "bad"), (syslog.LOG_ERR, "  very bad")]
    assert said == (lines if destination == "syslog" else [])


def test_nothing_is_said_twice_after_another_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("stderr", verbose=False)
    logs.set_up("stderr", verbose=False)
    logging.getLogger("nbdfork").warning("once")
    assert capsys.readouterr().err.count("once") == 1
    assert sys.stderr


UNWRITABLE = "/disk-\udcff: a\0b\ud800"
WRITTEN = r"/disk-\udcff: a\x00b\ud800"


def test_what_cannot_be_written_is_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda priority, line: lines.append(line))
    for destination in ("stderr", "syslog", str(tmp_path / "log")):
        logs.set_up(destination, verbose=False)
        logging.getLogger("nbdfork").error("%s", UNWRITABLE)
    assert capsys.readouterr().err == f"nbdfork: error: {WRITTEN}\n"
    assert lines == [WRITTEN]
    assert whole((tmp_path / "log").read_text()) == f"nbdfork: error: {WRITTEN}\n"


@pytest.mark.parametrize("flag", logs.DEBUG_FLAGS)
def test_a_debug_flag_silences_a_part(flag: str) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    loggers = [logging.getLogger(name) for name in logs.DEBUG_FLAGS[flag]]
    for name in logs.DEBUG_FLAGS[flag]:
        assert import_module(name).log.name == name
    logs.set_debug_flag(flag, 0)
    assert not any(logger.isEnabledFor(logging.DEBUG) for logger in loggers)
    assert all(logger.isEnabledFor(logging.INFO) for logger in loggers)
    logs.set_debug_flag(flag, 1)
    assert all(logger.isEnabledFor(logging.DEBUG) for logger in loggers)
    with pytest.raises(KeyError):
        logs.set_debug_flag("no.such", 1)


def test_control_characters_are_shown_and_lines_cannot_be_forged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.set_up("stderr", verbose=False)
    log = logging.getLogger("nbdfork.test")
    log.error("the export %s", "\x1b[2Jx\r\x00\x9by\nnbdfork: error: forged")
    try:
        raise ValueError("\x1b[2J\nnbdfork: error: forged")
    except ValueError:
        log.exception("a bug:")
    shown = capsys.readouterr().err
    assert "the export \\x1b[2Jx\\x0d\\x00\\x9by\n  nbdfork: error: forged\n" in shown
    assert "\x1b" not in shown
    starts = [line for line in shown.splitlines() if line.startswith("nbdfork: error:")]
    assert starts == [shown.splitlines()[0], "nbdfork: error: a bug:"]


def test_what_comes_again_and_again_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    logs.set_up("stderr", verbose=False)
    log = logging.getLogger("nbdfork.test")
    for number in range(1000):
        log.error("sector %d is bad", number)
    log.error("another thing")
    now[0] += logs.BURST_SECONDS
    log.error("sector %d is bad", 1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == logs.BURST + 3
    assert lines[logs.BURST] == "nbdfork: error: another thing"
    assert f"and {1000 - logs.BURST} more messages" in lines[-2]
    assert lines[-1] == "nbdfork: error: sector 1000 is bad"
