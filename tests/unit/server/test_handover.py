"""The message from one program to the next, and what is demanded of that."""

import json
import os
import signal

import pytest

from nbdfork.server.errors import StartupError
from nbdfork.server.handover import Handover, OldGeneration, OldWorker, Program, Takeover
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import Slot


def message(**more: object) -> Handover:
    values: dict[str, object] = {
        "generation": 3,
        "board": -1,
        "slots": 4,
        "listeners": {"sockets": []},
        "generations": [OldGeneration(3, -1, [OldWorker(7, 1, 2, -1)])],
        "changes": [],
        "stacks": [],
        "others": [9],
        "shared": [],
        "demands": {},
        "facts": {"started": 1.5},
        "notify": {},
    }
    return Handover(**{**values, **more})  # type: ignore[arg-type]


def taken(given: Handover, name: str = "NBDFORK_HANDOVER") -> Takeover:
    environment = {name: str(given.write()), "HOME": "/"}
    found = Takeover.of(environment)
    assert environment == {"HOME": "/"}
    assert found is not None
    return found


def test_what_is_read_is_what_was_written() -> None:
    assert taken(message()).message == message()
    assert message().claimed() == [range(1, 3)]
    assert Takeover.of({"HOME": "/"}) is None


def test_a_rehearsal_takes_nothing_over() -> None:
    assert taken(message(), "NBDFORK_REHEARSAL").is_rehearsal
    assert not taken(message()).is_over


def test_a_message_of_another_version_is_refused_in_words() -> None:
    fd = os.memfd_create("message", 0)
    os.write(fd, json.dumps({"version": 0}).encode())
    with pytest.raises(StartupError, match="cannot take over from the one that runs: restart"):
        Takeover.of({"NBDFORK_HANDOVER": str(fd)})


def test_what_only_a_start_can_do_is_refused_in_words() -> None:
    takeover = taken(message(demands={"--port": "1", "--unix": None}))
    takeover.demand({"--port": "1", "--unix": None})
    with pytest.raises(StartupError, match=r"--port is '2' now, and was '1': .* restart it"):
        takeover.demand({"--port": "2", "--unix": None})
    with pytest.raises(StartupError, match="--unix is '/s' now, and was not given"):
        takeover.demand({"--port": "1", "--unix": "/s"})


def test_signals_that_come_meanwhile_are_delivered_in_the_end() -> None:
    takeover = taken(message())
    signums = (*map(signal.Signals, (1, 2, 3, 10, 12, 15)),)
    old = {signum: signal.getsignal(signum) for signum in signums}
    came: list[int] = []
    try:
        takeover.catch_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        assert not takeover.was_stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert takeover.was_stopped()
        for signum in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(signum, lambda signum, frame: came.append(signum))
        takeover.finish()
        assert came == [signal.SIGHUP, signal.SIGTERM]
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def test_a_program_that_is_not_there_leaves_all_as_it_was() -> None:
    program = Program("/nowhere/python", ["python"], "/")
    before = os.getcwd()
    with pytest.raises(FileNotFoundError):
        program.replace(message())
    assert os.getcwd() == before
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_rehearsal_says_why_not() -> None:
    for words, reason in (
        (["-c", "pass"], ""),
        (["-c", "import sys; sys.exit('nbdfork: error: no, because\\nmore')"], "no, because"),
        (["-c", "raise SystemExit(3)"], "it has ended with status 3"),
        (["-c", "print('what?'); raise SystemExit(3)"], "what?"),
    ):
        program = Program("/usr/bin/env", ["env", "python3", *words], "/")
        rehearsal = program.rehearse(message())
        while rehearsal.hear():
            pass
        assert rehearsal.outcome() == reason


def test_a_scoreboard_goes_on_in_a_larger_one() -> None:
    board = Scoreboard(3)
    kept, gone = board.claim(1), board.claim(1)
    assert kept is not None
    assert gone is not None
    for slots, count in ((kept, 5), (gone, 7)):
        slot = Slot(board.share(slots), 0)
        slot.begin("somebody")
        slot.count(count, 0, 0, 0, 0)
    larger = Scoreboard.take_over(board.fd, 10, [kept])
    assert larger.slots == 10
    assert larger.entry(kept[0]).peer == "somebody"
    assert larger.totals()[0].requests == 12
    assert larger.claim(2, 9) is not None  # all but the one that is kept
    assert larger.claim(2) is None
    os.pwrite(board.fd, b"something else", 0)
    with pytest.raises(StartupError, match="the scoreboard of the server that runs is another"):
        Scoreboard.take_over(board.fd, 3, [])
