"""The pictures of nbdforkctl: what the clients of a server do, as a table, once or live."""

import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

COLUMNS = ("id", "peer", "export", "ops/s", "MB/s", "ms", "errors", "busy", "CPU%", "MiB")
"""What the table shows of each client."""

_WIDTHS = (8, 26, 16, 9, 9, 9, 7, 7, 6, 7)
_TEXTS = {"id", "peer", "export"}
_KEYS = {
    "i": "id",
    "p": "peer",
    "e": "export",
    "o": "ops/s",
    "b": "MB/s",
    "l": "ms",
    "r": "errors",
    "c": "CPU%",
    "m": "MiB",
}
_HELP = "sort by: (i)d (p)eer (e)xport (o)ps (b)ytes (l)atency e(r)rors (c)pu (m)emory; (q)uit"
_HOME, _CLEAR = "\033[H", "\033[J"

Status = Mapping[str, Any]


def picture(before: Status | None, status: Status, sort: str) -> list[str]:
    """Return the lines that show *status*; rates are those since *before*, or since each client
    has come.
    """
    server = status["server"]
    clients = status["clients"]
    idle = sum(worker["state"] == "idle" for worker in status["workers"])
    state = ", draining" if status["draining"] else ""
    lines = [
        f"{server['program']} {server['version']}, process {server['pid']}, generation"
        f" {status['generation']}{state}, on {server['listening']}",
        f"{len(clients)} of {server['max_clients']} clients, {idle} spare workers;"
        f" {status['totals']['clients']} clients and {status['totals']['requests']} requests"
        f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(server['started']))}",
        "",
        _line(COLUMNS),
    ]
    earlier = {client["id"]: client for client in before["clients"]} if before else {}
    now = status["time"]
    rows = [
        _row(earlier.get(client["id"]), client, now, before["time"] if before else None)
        for client in clients
    ]
    at = COLUMNS.index(sort)
    rows.sort(key=lambda row: row[at], reverse=sort not in _TEXTS)
    return lines + [_line([_shown(value) for value in row]) for row in rows]


def _row(earlier: Status | None, client: Status, now: float, then: float | None) -> list[Any]:
    if earlier is None or earlier["since"] != client["since"] or then is None:
        earlier, then = {}, client["since"]
    seconds = max(now - then, 1e-3)

    def more(key: str) -> float:
        return float(client.get(key, 0)) - float(earlier.get(key, 0))

    moved = more("bytes_read") + more("bytes_written")
    return [
        client["id"],
        client["peer"],
        client["export"],
        round(more("requests") / seconds),
        moved / seconds / 1e6,
        _typical_ms(client["latency"], earlier.get("latency")),
        client["errors"],
        client["busy_seconds"],
        100 * more("cpu_seconds") / seconds,
        client.get("memory_own_bytes", 0) / 2**20,
    ]


def _typical_ms(latency: list[Status], earlier: list[Status] | None) -> float:
    """Return the bound, in ms, that half of the requests did not exceed; 0 without requests."""
    counts = [bucket["requests"] for bucket in latency]
    if earlier:
        counts = [count - old["requests"] for count, old in zip(counts, earlier, strict=True)]
    half, total = sum(counts) / 2, 0
    for bucket, count in zip(latency, counts, strict=True):
        total += count
        if total and total >= half:
            bound = bucket["up_to_ns"]
            return float("inf") if bound is None else float(bound) / 1e6
    return 0.0


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _line(cells: Any) -> str:
    parts = []
    for name, width, cell in zip(COLUMNS, _WIDTHS, cells, strict=True):
        text = "".join(c if c.isprintable() else "?" for c in cell)
        if name in _TEXTS:
            parts.append(text[:width].ljust(width))
        else:
            parts.append(text.rjust(width))
    return " ".join(parts).rstrip()


def run(look: Callable[[], Status], sort: str, interval: float, count: int | None) -> None:
    """Show pictures of what *look* returns, until (q) is pressed, or *count* of them.

    On what is no terminal they follow each other, with an empty line between them.
    """
    with _keys() as read_key:
        before: Status | None = None
        shown = 0
        while count is None or shown < count:
            status = look()
            _show(picture(before, status, sort), live=read_key is not None)
            shown += 1
            if shown == count:
                return
            deadline = time.monotonic() + interval
            while (left := deadline - time.monotonic()) > 0:
                if read_key is None:
                    select.select([], [], [], left)
                    continue
                key = read_key(left)
                if key in ("q", "\x03", "\x04"):
                    return
                if key in _KEYS:
                    sort = _KEYS[key]
                    _show(picture(before, status, sort), live=True)
            before = status


def _show(lines: list[str], live: bool) -> None:
    if not live:
        print("\n".join([*lines, ""]), flush=True)
        return
    width, height = shutil.get_terminal_size()
    fitting = [line[: width - 1] for line in [*lines[: height - 2], "", _HELP][: height - 1]]
    sys.stdout.write(_HOME + "".join(f"{line}\033[K\r\n" for line in fitting) + _CLEAR)
    sys.stdout.flush()


@contextmanager
def _keys() -> Iterator[Callable[[float], str] | None]:
    """Yield what waits for a key so many seconds and returns it; None if there is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield None
        return
    fd = sys.stdin.fileno()
    old = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    sys.stdout.write("\033[?1049h\033[?25l")  # the other screen, without the cursor

    def read(seconds: float) -> str:
        ready, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, 1).decode(errors="replace") if ready else ""

    try:
        yield read
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, old)
        sys.stdout.write("\033[?25h\033[?1049l")
        sys.stdout.flush()
