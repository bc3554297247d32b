"""One cell, measured: all its servers run at once, and take turns.

In each round every server has one turn, in an order that moves on by one from round to round, so
that what disturbs the machine for a while disturbs all of them.  A server without a client does
nothing, so those that wait for their turn cost the one that has it no time.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from contrib.bench.cells import Cell
from contrib.bench.errors import BenchError
from contrib.bench.loads import Load, Measurement, prepare
from contrib.bench.materials import Disk
from contrib.bench.servers import Running, Server, running


@dataclass
class Column:
    """What one server did in one cell: a measurement for each turn, and why one is missing.

    With neither, the server has nothing that could be measured.
    """

    turns: list[Measurement] = field(default_factory=list)
    error: str = ""


def measure(
    cell: Cell, disk: Disk, servers: Sequence[Server], rounds: int, seconds: float
) -> dict[str, Column]:
    """Measure a cell; a server that fails loses its turns, and the others go on."""
    columns = {server.name: Column() for server in servers}
    with ExitStack() as stack:
        ready = []
        for server in servers:
            try:
                started = stack.enter_context(running(server, disk, cell.transport))
                prepare(started)
                ready.append(started)
            except BenchError as error:
                columns[server.name].error = str(error)
        for number in range(rounds):
            for position in range(len(ready)):
                server_running = ready[(number + position) % len(ready)]
                _turn(cell.load, server_running, seconds, columns[server_running.server.name])
            if reference := cell.load.reference():
                name, measurement = reference
                columns.setdefault(name, Column()).turns.append(measurement)
    return columns


def _turn(load: Load, server: Running, seconds: float, column: Column) -> None:
    try:
        measurement = load.measure(server, seconds)
    except BenchError as error:
        column.error = str(error)
    else:
        if measurement is not None:
            column.turns.append(measurement)
