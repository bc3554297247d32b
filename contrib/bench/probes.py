"""The probes: what a server costs beside moving data.

Connecting, memory, starting, and telling where the data of an image is.
"""

import contextlib
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil

from contrib.bench.client import Visit, Visits
from contrib.bench.errors import BenchError
from contrib.bench.loads import LIMIT, Fio, Load, Measurement, client, server_seconds
from contrib.bench.servers import Running, running

MB = 1e6

CROWDS = (0, 16, 64)
"""How many clients are connected when memory is looked at; the result is the slope."""

STARTS = 3
"""Starts in one turn; their median counts, because a single one is soon disturbed."""


def _at_once(clients: int, work: Callable[[], Visits], limit: float) -> list[Visits]:
    """Return what *work* returns in so many processes.  Raises `BenchError`.

    Not a `multiprocessing.Pool`: its threads fork, and a lock held by another thread stays locked.
    """
    context = multiprocessing.get_context("fork")
    ends, processes = [], []

    def run(sender: Connection) -> None:
        try:
            sender.send(work())
        except OSError as error:
            sender.send(str(error))

    for _ in range(clients):
        receiver, sender = context.Pipe(duplex=False)
        processes.append(context.Process(target=run, args=(sender,)))
        processes[-1].start()
        sender.close()
        ends.append(receiver)
    try:
        return [_received(end, limit) for end in ends]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _received(end: Connection, limit: float) -> Visits:
    try:
        found = end.recv() if end.poll(limit) else "no end"
    except EOFError:
        found = "a client died"
    if isinstance(found, Visits):
        return found
    raise BenchError(f"connecting: {found}")


@dataclass(frozen=True)
class Connects(Load):
    """Connect, read the first 4 KiB, close, over and over: *clients* processes at once."""

    clients: int
    unit = "connects/s"

    def measure(self, server: Running, seconds: float) -> Measurement:
        before = server.cpu_seconds()
        visit = Visit(server.address, server.server.export)
        visits = _at_once(self.clients, lambda: visit.repeat(seconds), seconds + LIMIT)
        used = server_seconds(server, before)
        count = sum(visit.number for visit in visits)
        cpu = sum(visit.cpu for visit in visits)
        cores = min(self.clients, os.cpu_count() or 1)
        return Measurement(
            value=sum(visit.number / visit.elapsed for visit in visits),
            server_us=used / count * 1e6,
            client_us=cpu / count * 1e6,
            client_share=min(1.0, cpu / cores / max(visit.elapsed for visit in visits)),
        )


class Map(Load):
    """`nbdinfo --map`: block status of the whole disk, if the server can tell."""

    unit = "s"
    less_is_better = True

    def measure(self, server: Running, seconds: float) -> Measurement | None:
        facts = json.loads(client(["nbdinfo", "--json", "--no-content", server.uri], seconds))
        if "base:allocation" not in facts["exports"][0].get("contexts", ()):
            return None
        begun = time.perf_counter()
        text = client(["nbdinfo", "--map", server.uri], seconds)
        elapsed = time.perf_counter() - begun
        if text.count("\n") < 2:
            return None  # it can tell, but knows of one piece only
        return Measurement(elapsed)


@dataclass(frozen=True)
class Memory:
    """The memory of some processes in bytes: shared pages in proportion, and private pages."""

    proportional: float
    private: float

    @classmethod
    def of(cls, processes: Sequence[psutil.Process]) -> "Memory":
        """Add up what /proc/PID/smaps_rollup says of *processes*."""
        found = []
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(process.memory_full_info())
        return cls(sum(info.pss for info in found), sum(info.uss for info in found))


@dataclass(frozen=True)
class MemoryOfIdleClient(Load):
    """What each client that is connected, has read 4 KiB and waits adds to a server."""

    kind: str  # an attribute of `Memory`
    unit = "MB"
    less_is_better = True

    def measure(self, server: Running, seconds: float) -> Measurement:
        visit = Visit(server.address, server.server.export)
        found = []
        with contextlib.ExitStack() as stack:
            present = 0
            for crowd in CROWDS:
                for _ in range(crowd - present):
                    stack.callback(visit.leave, _arrive(visit))
                present = crowd
                time.sleep(0.2)  # a server that keeps spare workers makes new ones
                found.append(getattr(Memory.of(server.processes()), self.kind) / MB)
        return Measurement(statistics.linear_regression(CROWDS, found).slope)


@dataclass(frozen=True)
class MemoryOfBusyClient(Load):
    """What each client that keeps 32 requests in flight adds to a server."""

    kind: str
    unit = "MB"
    less_is_better = True
    load = Fio("randread", 4096, depth=32, clients=16)

    def measure(self, server: Running, seconds: float) -> Measurement:
        before = getattr(Memory.of(server.processes()), self.kind)
        with _at_work(self.load.command(server, seconds + 1)):
            time.sleep(seconds / 2 + 0.7)  # fio takes a moment to begin
            during = getattr(Memory.of(server.processes()), self.kind)
        return Measurement((during - before) / self.load.clients / MB)


class MemoryOfSpareWorker(Load):
    """The private memory of a process that the server keeps ready for the next client."""

    unit = "MB"
    less_is_better = True

    def measure(self, server: Running, seconds: float) -> Measurement | None:
        workers = server.processes()[1:]
        if not workers:
            return None
        return Measurement(Memory.of(workers).private / len(workers) / MB)


class Startup(Load):
    """From running the program until it greets a client."""

    unit = "ms"
    less_is_better = True

    def measure(self, server: Running, seconds: float) -> Measurement:
        times = []
        for _ in range(STARTS):
            with running(server.server, server.disk, "unix") as another:
                times.append(another.startup)
        return Measurement(statistics.median(times) * 1000)

    def reference(self) -> tuple[str, Measurement]:
        times = []
        for _ in range(STARTS):
            begun = time.perf_counter()
            client([sys.executable, "-c", "pass"], LIMIT)
            times.append(time.perf_counter() - begun)
        return "bare python", Measurement(statistics.median(times) * 1000)


class FirstClient(Load):
    """How long the first client of a server waits until it knows the size of the disk."""

    unit = "s"
    less_is_better = True

    def measure(self, server: Running, seconds: float) -> Measurement:
        with running(server.server, server.disk, "unix") as another:
            begun = time.perf_counter()
            client(["nbdinfo", "--size", another.uri], LIMIT)
            return Measurement(time.perf_counter() - begun)


def _arrive(visit: Visit) -> socket.socket:
    try:
        return visit.arrive()
    except OSError as error:
        raise BenchError(f"connecting: {error}") from error


@contextmanager
def _at_work(command: list[str]) -> Iterator[None]:
    """Run a client during this block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        if process.poll() is not None:
            raise BenchError(f"{command[0]} had ended before its server was looked at")
    finally:
        process.terminate()
        process.wait(LIMIT)
