"""The loads that move data: what a client does to a server, and what that costs both of them.

fio's nbd engine and nbdcopy are the clients.  Each of fio's clients is a process of its own (its
`numjobs`), with a connection of its own.  Client and server share the processor cores, so a row
in which the client is busy all the time measures the client: hence the costs.
"""

import contextlib
import errno
import json
import os
import resource
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from contrib.bench.errors import BenchError, QueueFull
from contrib.bench.materials import MIB
from contrib.bench.servers import Running

LIMIT = 60.0
"""Seconds that a client may take beyond those it is asked to work."""

TRIES = 5
"""How often fio may try to connect all its clients: on a Unix domain socket a listen queue that is
full (nbd-server's is short) turns clients away, and fio gives up if one of them is."""

COPY_REQUEST = 256 << 10
"""Bytes of nbdcopy's requests, its default."""


class Percentiles(NamedTuple):
    """How long (microseconds) half of the client's turns took at most, 99 % and 99.9 % of them."""

    p50: float
    p99: float
    p999: float


@dataclass(frozen=True)
class Measurement:
    """What one turn gave, in the load's unit; the CPU time (microseconds) that server and client
    spent on each request; the share (0 to 1) of the cores it could use that the client did; and
    how long a client waited, if it looked.
    """

    value: float
    server_us: float | None = None
    client_us: float | None = None
    client_share: float | None = None
    latencies: Percentiles | None = None


class Load(ABC):
    """What is measured.  *unit* is that of `Measurement.value`."""

    unit: str
    less_is_better = False

    @abstractmethod
    def measure(self, server: Running, seconds: float) -> Measurement | None:
        """Measure for about *seconds*; None if the server has nothing to be measured.

        Raises `BenchError`.
        """

    def reference(self) -> tuple[str, Measurement] | None:
        """Return the name and the measurement of something that is not a server, or None."""
        return None


@dataclass(frozen=True)
class Fio(Load):
    """Reads or writes of one size: fio's rw=, bytes, requests in flight and clients."""

    rw: str
    block: int
    depth: int
    clients: int = 1

    @property
    def unit(self) -> str:  # type: ignore[override]  # small requests are counted, large ones weighed
        return "requests/s" if self.block <= 64 << 10 else "MB/s"

    def command(self, server: Running, seconds: float) -> list[str]:
        return [
            "fio", "--name=x", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={self.rw}",
            f"--bs={self.block}", f"--iodepth={self.depth}", f"--size={server.disk.size}",
            f"--numjobs={self.clients}", "--group_reporting", "--time_based",
            f"--runtime={round(seconds * 1000)}ms", "--randrepeat=1", "--norandommap",
            "--gtod_reduce=1", "--output-format=json",
        ]  # fmt: skip

    def measure(self, server: Running, seconds: float) -> Measurement:
        for _ in range(TRIES - 1):
            with contextlib.suppress(QueueFull):
                return self._measure_once(server, seconds)
        return self._measure_once(server, seconds)

    def _measure_once(self, server: Running, seconds: float) -> Measurement:
        before = server.cpu_seconds()
        text = client(self.command(server, seconds), seconds)
        used = server_seconds(server, before)
        job = json.loads(text[text.index("{") :])["jobs"][0]
        if job["error"]:
            raise BenchError(f"fio: {os.strerror(job['error'])}")
        done = [job[way] for way in ("read", "write") if job[way]["total_ios"]]
        if not done:
            raise BenchError(f"fio: no request was answered in {seconds} s")
        count = done[0]["total_ios"]
        # Of several jobs the percentages are means, and the time is the sum.
        share = (job["usr_cpu"] + job["sys_cpu"]) / 100
        seconds_of_client = share * job["job_runtime"] / 1000
        cores = min(self.clients, os.cpu_count() or 1)
        rate = done[0]["iops"]
        return Measurement(
            value=rate if self.unit == "requests/s" else rate * self.block / 1e6,
            server_us=used / count * 1e6,
            client_us=seconds_of_client / count * 1e6,
            client_share=min(1.0, share * self.clients / cores),
        )


@dataclass(frozen=True)
class Copy(Load):
    """nbdcopy of the whole disk to nowhere, or (*within*) onto itself, read and written at once."""

    within: bool = False
    unit = "MB/s"

    def measure(self, server: Running, seconds: float) -> Measurement:
        target = server.uri if self.within else "null:"
        before = server.cpu_seconds()
        with usage_of_clients() as usage:
            client(["nbdcopy", server.uri, target], seconds)
        used = server_seconds(server, before)
        count = server.disk.size / COPY_REQUEST * (2 if self.within else 1)
        return Measurement(
            value=server.disk.size / 1e6 / usage.elapsed,
            server_us=used / count * 1e6,
            client_us=usage.cpu / count * 1e6,
            client_share=min(1.0, usage.cpu / usage.elapsed / (os.cpu_count() or 1)),
        )


def prepare(server: Running) -> None:
    """Do what no cell measures unless it says so.  Raises `BenchError`.

    Memory is written once, so that the kernel has found it; what waits for the first client has
    waited.
    """
    disk = server.disk
    if disk.filling:
        client(["nbdcopy", str(disk.filling), server.uri], disk.size / MIB)
    if disk.prepared_by_first_client:
        client(["nbdinfo", "--size", server.uri], disk.size / MIB)


@dataclass
class Usage:
    """The time that clients took, and their CPU time, in seconds."""

    elapsed: float = 0.0
    cpu: float = 0.0


@contextmanager
def usage_of_clients() -> Iterator[Usage]:
    """Yield what will be the usage of the child processes that begin and end in this block."""
    usage = Usage(time.perf_counter(), _children_cpu())
    yield usage
    usage.elapsed = time.perf_counter() - usage.elapsed
    usage.cpu = _children_cpu() - usage.cpu


def _children_cpu() -> float:
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def server_seconds(server: Running, before: float) -> float:
    """Return the CPU time of *server* since it was *before*, once its clients have gone."""
    time.sleep(0.05)  # a worker that is just ending must be reaped, or die before it is looked at
    return max(0.0, server.cpu_seconds() - before)


def client(command: list[str], seconds: float) -> str:
    """Run a client that works for *seconds*, and return what it printed.

    If it must be ended, so are its children: fio, killed, would leave its jobs behind, and they
    are in sessions of their own.
    """
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is not installed") from error
    with process:
        try:
            text, errors = process.communicate(timeout=seconds + LIMIT)
        except subprocess.TimeoutExpired as error:
            _kill(psutil.Process(process.pid))
            raise BenchError(f"{command[0]} took more than {error.timeout:.0f} s") from error
        except BaseException:
            _kill(psutil.Process(process.pid))
            raise
    if process.returncode:
        kind = QueueFull if os.strerror(errno.EAGAIN) in errors else BenchError
        said = " ".join(errors.split())[:300]
        raise kind(f"{command[0]}: exit status {process.returncode}: {said}")
    return text


def _kill(process: psutil.Process) -> None:
    """Kill a client, and before it what it has started."""
    for one in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
