"""The table of clients: rates since the picture before, sorted, and fit for a terminal."""

from typing import Any

import pytest

from nbdfork.ctltop import COLUMNS, picture


def client(identity: str, **more: Any) -> dict[str, Any]:
    latency = [{"up_to_ns": 16384, "requests": 0}, {"up_to_ns": None, "requests": 0}]
    return {
        "id": identity,
        "peer": "somebody",
        "export": "",
        "since": 100.0,
        "requests": 0,
        "bytes_read": 0,
        "bytes_written": 0,
        "errors": 0,
        "busy_seconds": 0.0,
        "cpu_seconds": 0.0,
        "memory_own_bytes": 1 << 20,
        "latency": latency,
        **more,
    }


def status(time: float, *clients: dict[str, Any]) -> dict[str, Any]:
    server = {
        "program": "nbdfork",
        "version": "1",
        "pid": 7,
        "listening": "sock",
        "max_clients": 9,
        "started": 0.0,
    }
    return {
        "time": time,
        "server": server,
        "generation": 1,
        "draining": False,
        "workers": [{"state": "idle"}],
        "totals": {"clients": 3, "requests": 4},
        "clients": list(clients),
    }


def cells(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines[4:]]


def test_rates_are_those_since_the_picture_before() -> None:
    before = status(110.0, client("1", requests=100, bytes_read=10_000_000, cpu_seconds=1.0))
    now = status(
        112.0,
        client("1", requests=300, bytes_read=14_000_000, cpu_seconds=2.0, errors=5),
        client("2", requests=12, since=111.0),
    )
    one, two = cells(picture(before, now, "MB/s"))
    assert one == ["1", "somebody", "100", "2.00", "0.00", "5", "0.00", "50", "1.00"]
    assert two[:3] == ["2", "somebody", "12"]  # it came a second ago
    (alone,) = cells(picture(None, status(110.0, client("1", requests=100)), "id"))
    assert alone[2] == "10"


@pytest.mark.parametrize(
    ("column", "first"), [("id", "1"), ("ops/s", "2"), ("errors", "1"), ("peer", "2")]
)
def test_any_column_can_be_sorted_by(column: str, first: str) -> None:
    now = status(
        110.0,
        client("1", peer="b", errors=2, requests=1),
        client("2", peer="a", errors=1, requests=90),
    )
    assert cells(picture(None, now, column))[0][0] == first
    assert column in COLUMNS


def test_half_of_the_requests_took_no_longer() -> None:
    latency = [{"up_to_ns": 16384, "requests": 5}, {"up_to_ns": None, "requests": 6}]
    (row,) = cells(picture(None, status(110.0, client("1", latency=latency)), "id"))
    assert row[4] == "inf"


def test_what_a_client_has_chosen_cannot_reach_the_terminal() -> None:
    now = status(110.0, client("1", export="\033[2Jx", peer="p" * 99))
    line = picture(None, now, "id")[4]
    assert "\033" not in line
    assert "?[2Jx" in line
    assert len(line) < 130
