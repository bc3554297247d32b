"""Where messages go."""

import logging
import os
import sys
import syslog
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest

from nbdfork import logs


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


PID = os.getpid()
DEBUG = f"nbdfork[{PID}]: debug: fine\nnbdfork[{PID}]: debug: coarse\n"
PLAIN = "nbdfork: warning: odd\nnbdfork: error: bad\n  very bad\n"


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
    assert path.read_text() == "before\n" + (DEBUG if verbose else "") + PLAIN
    assert capsys.readouterr().err == ""


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
    assert (tmp_path / "log").read_text() == f"nbdfork: error: {WRITTEN}\n"


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
