"""The report: medians, ratios and verdicts, as values, as text in Markdown and as JSON.

It knows no server and no client; what it is given are the turns of each cell.
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from contrib.bench.cells import ABSOLUTE, BEST_PEER, GROUPS, Cell, Target
from contrib.bench.loads import Measurement, Percentiles
from contrib.bench.rounds import Column

OURS = "nbdfork"

BUSY = 0.9
"""The share of its cores from which on a client is said to be what is measured."""


@dataclass(frozen=True)
class Verdict:
    """A target, what nbdfork reached, and whether that will do; None if a figure is missing."""

    target: Target
    reached: float | None
    met: bool | None

    @property
    def mark(self) -> str:
        return {True: "✓", False: "✗", None: "-"}[self.met]


@dataclass(frozen=True)
class Row:
    """A cell with the median of each server.  *peers* are the names of the columns compared."""

    cell: Cell
    columns: Mapping[str, Column]
    peers: frozenset[str]

    def median(self, name: str) -> float | None:
        """Return the median of a column, or None if there is none."""
        return self._median_of(name, "value")

    def _median_of(self, name: str, field: str) -> float | None:
        column = self.columns.get(name)
        values = [getattr(turn, field) for turn in column.turns] if column else []
        found = [value for value in values if value is not None]
        return statistics.median(found) if found else None

    def best_peer(self) -> float | None:
        medians = [found for name in self.peers if (found := self.median(name)) is not None]
        if not medians:
            return None
        return min(medians) if self.cell.load.less_is_better else max(medians)

    def ratio(self) -> float | None:
        """Return nbdfork's value divided by the best peer's."""
        return _divide(self.median(OURS), self.best_peer())

    def verdicts(self) -> list[Verdict]:
        return [self._verdict(target) for target in self.cell.targets]

    def _verdict(self, target: Target) -> Verdict:
        ours = self.median(OURS)
        if target.against == ABSOLUTE:
            reached = ours
        elif target.against == BEST_PEER:
            reached = self.ratio()
        else:
            reached = _divide(ours, self.median(target.against))
        if reached is None:
            return Verdict(target, None, None)
        less = self.cell.load.less_is_better
        return Verdict(
            target, reached, reached <= target.factor if less else reached >= target.factor
        )

    def latencies(self, name: str) -> Percentiles | None:
        """Return the medians of a column's percentiles, or None if nobody has looked."""
        column = self.columns.get(name)
        found = [turn.latencies for turn in column.turns if turn.latencies] if column else []
        return Percentiles(*map(statistics.median, zip(*found, strict=True))) if found else None

    def costs(self, name: str) -> Measurement | None:
        """Return the medians of what a column's requests cost, or None if it was not measured."""
        server_us = self._median_of(name, "server_us")
        value = self.median(name)
        if value is None or server_us is None:
            return None
        client_us = self._median_of(name, "client_us")
        return Measurement(value, server_us, client_us, self._median_of(name, "client_share"))


def _divide(a: float | None, b: float | None) -> float | None:
    """Divide; a slope in the noise around nothing is nothing to divide by."""
    return a / b if a is not None and b is not None and b > 0.001 else None


def shown(value: float | None) -> str:
    """Return a number with three digits that count, or "n/a"."""
    if value is None:
        return "n/a"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown(facts: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Return the whole report."""
    lines = ["# nbdfork beside other NBD servers", ""]
    lines += [f"- {name}: {text}" for name, text in facts.items()]
    lines += ["", INTRODUCTION, "", *_summary(rows), ""]
    for name, group in GROUPS.items():
        members = [row for row in rows if row.cell.group == name]
        if members:
            lines += [f"## {group.title}", "", *_values(members), ""]
            for table in (_costs(members), _latencies(members)):
                if table:
                    lines += [*table, ""]
    lines += _errors(rows)
    return "\n".join(lines).rstrip() + "\n"


INTRODUCTION = f"""\
Every figure is the median of all rounds; in a round each server had one turn.  The ratio is
nbdfork's figure divided by that of the best peer (nbdkit, qemu-nbd, nbd-server); where less is
better, a ratio below 1 is what is wanted.  "nbdfork class" is the script's disk as a class on
nbdfork's own contract, and the limit a loop in C that only receives, reads or writes the file, and
sends.  A target is marked ✓ if it is met and ✗ if it is not.

Costs are the CPU time that the server and the client spent on a request, in microseconds, and how
much the client used of the cores it could use; where that is {BUSY:.0%} or more (*), the row
measures the client rather than the server.

Latencies are what a client that costs next to nothing waited for the replies to all that it had
sent at once: the median, the 99th and the 99.9th percentile."""


def _summary(rows: Iterable[Row]) -> Iterator[str]:
    verdicts = [verdict for row in rows for verdict in row.verdicts() if verdict.met is not None]
    met = sum(1 for verdict in verdicts if verdict.met)
    yield f"**{met} of {len(verdicts)} targets are met.**"


def _names(rows: Iterable[Row]) -> list[str]:
    """Return the columns of a table: all that a row has, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.columns))


def _values(rows: Sequence[Row]) -> Iterator[str]:
    names = _names(rows)
    yield f"| | unit | {' | '.join(names)} | ratio | targets |"
    yield "|---|---|" + "---:|" * (len(names) + 1) + "---|"
    for row in rows:
        load = row.cell.load
        unit = f"{load.unit}, less is better" if load.less_is_better else load.unit
        values = " | ".join(_value(row, name) for name in names)
        targets = "; ".join(_target(row, verdict) for verdict in row.verdicts())
        ratio = row.ratio()
        ratio_text = f"{ratio:.2f}" if ratio is not None else ""
        yield f"| {row.cell.name} | {unit} | {values} | {ratio_text} | {targets} |"


def _value(row: Row, name: str) -> str:
    if name not in row.columns:
        return ""
    value = row.median(name)
    return "failed" if value is None and row.columns[name].error else shown(value)


def _target(row: Row, verdict: Verdict) -> str:
    target = verdict.target
    sign = "≤" if row.cell.load.less_is_better else "≥"
    unit = row.cell.load.unit if target.against == ABSOLUTE else f"x {target.against}"
    reached = "" if verdict.reached is None else f"{verdict.reached:.2f} "
    return f"{verdict.mark} {reached}({sign} {target.factor:g} {unit})"


def _costs(rows: Sequence[Row]) -> list[str]:
    names = [name for name in _names(rows) if any(row.costs(name) for row in rows)]
    if not names:
        return []
    lines = [f"| costs: server + client, µs | {' | '.join(names)} |"]
    lines.append("|---|" + "---:|" * len(names))
    for row in rows:
        lines.append(f"| {row.cell.name} | {' | '.join(_cost(row, name) for name in names)} |")
    return lines


def _cost(row: Row, name: str) -> str:
    costs = row.costs(name)
    if costs is None:
        return ""
    share = costs.client_share
    busy = "" if share is None else f" ({share:.0%}{'*' if share >= BUSY else ''})"
    return f"{shown(costs.server_us)} + {shown(costs.client_us)}{busy}"


def _latencies(rows: Sequence[Row]) -> list[str]:
    names = [name for name in _names(rows) if any(row.latencies(name) for row in rows)]
    if not names:
        return []
    lines = [f"| latencies: p50 / p99 / p99.9, µs | {' | '.join(names)} |"]
    lines.append("|---|" + "---:|" * len(names))
    for row in rows:
        found = [row.latencies(name) for name in names]
        texts = [" / ".join(map(shown, latencies)) if latencies else "" for latencies in found]
        lines.append(f"| {row.cell.name} | {' | '.join(texts)} |")
    return lines


def _errors(rows: Iterable[Row]) -> list[str]:
    lines = [
        f"- {row.cell.full_name}: {name}: {column.error}"
        for row in rows
        for name, column in row.columns.items()
        if column.error
    ]
    return ["## Failures", "", *lines] if lines else []


def as_json(facts: Mapping[str, str], rows: Iterable[Row]) -> str:
    """Return every turn of every cell, and what the report makes of them."""
    cells = [
        {
            "group": row.cell.group,
            "name": row.cell.name,
            "unit": row.cell.load.unit,
            "less_is_better": row.cell.load.less_is_better,
            "columns": {
                name: {"median": row.median(name)} | asdict(column)
                for name, column in row.columns.items()
            },
            "ratio": row.ratio(),
            "targets": [asdict(verdict) for verdict in row.verdicts()],
        }
        for row in rows
    ]
    return json.dumps({"facts": dict(facts), "cells": cells}, indent=1) + "\n"
