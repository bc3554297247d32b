"""What is told of a running server: the scoreboard, as the values of a JSON document.

The document has a version: keys are added to it, and none is changed or removed without another
number.  nbdforkctl(1) describes it.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import LATENCY_BOUNDS, Counters, Entry, State

VERSION = 1
"""Of the document."""


def document(
    board: Scoreboard, facts: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the status.

    *facts*: what of it does not change while the server runs; *state*: what the supervisor says.
    """
    counters, latency = board.totals()
    entries = [(index, board.entry(index)) for index in range(board.used)]
    several = bool(facts.get("one_process"))
    present = [(index, entry) for index, entry in entries if entry.state is not State.FREE]
    return {
        "version": VERSION,
        "time": time.time(),
        "server": dict(facts),
        **state,
        "held_bytes": board.held(),
        "totals": {**_counted(counters), "latency": _latency(latency)},
        "workers": [_worker(entry) for _, entry in present if not (several and entry.peer)],
        "clients": [
            _client(f"{entry.pid}.{index}" if several else str(entry.pid), entry)
            for index, entry in present
            if entry.state is State.SERVING and entry.peer
        ],
    }


def _counted(counters: Counters) -> dict[str, int]:
    return dict(counters._asdict())


def _latency(counts: tuple[int, ...]) -> list[dict[str, int | None]]:
    """Return how many requests took up to each bound, which is in nanoseconds."""
    bounds: list[int | None] = [*LATENCY_BOUNDS, None]
    return [
        {"up_to_ns": bound, "requests": count} for bound, count in zip(bounds, counts, strict=True)
    ]


def _worker(entry: Entry) -> dict[str, Any]:
    return {
        "pid": entry.pid,
        "state": entry.state.name.lower(),
        "generation": entry.generation,
        "since": entry.since,
        **dict(_used(entry.pid)),
    }


def _client(identity: str, entry: Entry) -> dict[str, Any]:
    busy = (time.monotonic_ns() - entry.busy_since) / 1e9 if entry.busy_since else 0.0
    return {
        "id": identity,
        "pid": entry.pid,
        "generation": entry.generation,
        "peer": entry.peer,
        "export": entry.export,
        "since": entry.since,
        "busy_seconds": round(max(0.0, busy), 6),
        **_counted(entry.counters),
        "latency": _latency(entry.latency),
        **dict(_used(entry.pid)),
    }


def _used(pid: int) -> Iterator[tuple[str, float | int]]:
    """Yield what the process *pid* has used, as far as it is there and can be looked at."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            memory = process.memory_info()
    except psutil.Error:
        return
    yield "cpu_seconds", round(times.user + times.system, 2)
    yield "memory_bytes", memory.rss
    yield "memory_own_bytes", max(0, memory.rss - memory.shared)
