"""Who makes room for others, by what the scoreboard says."""

from nbdfork.server.room import SILENCE_SECONDS, Room
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import Slot, State


def slot_of(board: Scoreboard) -> Slot:
    claimed = board.claim(1)
    assert claimed is not None
    return Slot(board.share(claimed), 0)


def test_one_that_says_nothing_has_its_time() -> None:
    board, room = Scoreboard(1), Room()
    slot_of(board).begin("somebody")
    entry = board.entry(0)
    assert room.reason(7, entry, entry.since + SILENCE_SECONDS) == ""
    assert room.reason(7, entry, entry.since + SILENCE_SECONDS + 1) == "it is silent"
    assert room.reason(7, entry, entry.since + SILENCE_SECONDS + 2) == ""  # it was told
    room.forget(7)
    assert room.reason(7, entry, entry.since + SILENCE_SECONDS + 3) == "it is silent"


def test_one_that_has_been_answered_stays() -> None:
    board, room = Scoreboard(1), Room()
    slot = slot_of(board)
    slot.begin("somebody")
    slot.count(1, 512, 0, 0, 1000)
    entry = board.entry(0)
    assert entry.state is State.SERVING
    assert room.reason(7, entry, entry.since + 1000) == ""


def test_one_that_has_ended_has_until_the_next_look() -> None:
    board, room = Scoreboard(1), Room()
    slot = slot_of(board)
    slot.begin("somebody")
    slot.count(1, 512, 0, 0, 1000)
    slot.set_closing()
    entry = board.entry(0)
    looks = [room.reason(7, entry, entry.since) for _ in range(3)]
    assert looks == ["", "it has ended, and does not close", ""]
