"""The status document: what the scoreboard says, with names that stay."""

import json
import os

from nbdfork import status
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import LATENCY_BOUNDS, Slot, State

FACTS = {"program": "nbdfork", "one_process": False}
STATE = {"generation": 1, "draining": False}


def taken(board: Scoreboard) -> Slot:
    slots = board.claim(1)
    assert slots is not None
    return Slot(board.share(slots), 0)


def test_clients_and_workers() -> None:
    board = Scoreboard(4)
    serving, idle = taken(board), taken(board)
    serving.begin("127.0.0.1:4711")
    serving.set_export("disk")
    serving.count(3, 512, 0, 1, LATENCY_BOUNDS[0])
    idle.set(State.IDLE)
    assert serving.hold(1 << 20)
    found = status.document(board, FACTS, STATE)
    assert found["held_bytes"] == 1 << 20
    assert json.loads(json.dumps(found)) == found
    assert (found["version"], found["generation"], found["server"]) == (1, 1, FACTS)
    (client,) = found["clients"]
    assert (client["id"], client["peer"]) == (str(os.getpid()), "127.0.0.1:4711")
    assert (client["export"], client["requests"], client["errors"]) == ("disk", 3, 1)
    assert client["memory_bytes"] > client["memory_own_bytes"]
    assert [worker["state"] for worker in found["workers"]] == ["serving", "idle"]
    assert found["totals"]["bytes_read"] == 512
    assert sum(bucket["requests"] for bucket in found["totals"]["latency"]) == 3
    assert found["totals"]["latency"][-1]["up_to_ns"] is None


def test_several_clients_of_one_worker_have_numbers_of_their_own() -> None:
    board = Scoreboard(3)
    slots = board.claim(1, 3)
    assert slots is not None
    memory = board.share(slots)
    Slot(memory, 0).set(State.SERVING)
    for place in (1, 2):
        Slot(memory, place).begin(f"client {place}")
    found = status.document(board, {**FACTS, "one_process": True}, STATE)
    assert [client["id"] for client in found["clients"]] == [f"{os.getpid()}.{n}" for n in (1, 2)]
    assert len(found["workers"]) == 1


def test_a_process_that_is_gone_has_used_nothing_that_is_known() -> None:
    board = Scoreboard(1)
    taken(board)  # its process is not known yet
    (worker,) = status.document(board, FACTS, STATE)["workers"]
    assert worker["state"] == "starting"
