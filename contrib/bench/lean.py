"""The load of the lean client: it sends requests that were made before, and counts bytes.

Other clients use up a core of their own before a fast server does, and then show no difference
between servers.  It is in C, `c/lean.c`, and costs one to two microseconds a request.
"""

import os
from dataclasses import dataclass

from contrib.bench.compiled import program
from contrib.bench.errors import BenchError
from contrib.bench.loads import Load, Measurement, Percentiles, client, server_seconds
from contrib.bench.servers import Running

SHARE = 0.4
"""A turn takes this share of the time that other clients get: it needs no time to warm up, and
there are many."""


@dataclass(frozen=True)
class Lean(Load):
    """Reads or writes of *block* bytes at random, *depth* at once, which leave by one system call,
    or (*apart*) by one each.
    """

    way: str
    block: int
    depth: int
    clients: int = 1
    apart: bool = False

    @property
    def unit(self) -> str:  # type: ignore[override]  # small requests are counted, large ones weighed
        return "requests/s" if self.block <= 64 << 10 else "MB/s"

    def command(self, server: Running, seconds: float) -> list[str]:
        where = str(server.address.path or server.address.port)
        numbers = (self.block, self.depth, self.clients, round(seconds * 1000), server.disk.size)
        return [
            program("lean"), where, server.server.export, self.way,
            *map(str, numbers), "apart" if self.apart else "together",
        ]  # fmt: skip

    def measure(self, server: Running, seconds: float) -> Measurement:
        seconds *= SHARE
        command = self.command(server, seconds)
        before = server.cpu_seconds()
        words = client(command, seconds).split()
        used = server_seconds(server, before)
        requests, elapsed, cpu, *percentiles = map(float, words)
        if not requests:
            raise BenchError(f"the lean client: no request was answered in {seconds} s")
        rate = requests / elapsed
        return Measurement(
            value=rate if self.unit == "requests/s" else rate * self.block / 1e6,
            server_us=used / requests * 1e6,
            client_us=cpu / requests * 1e6,
            client_share=min(1.0, cpu / elapsed / min(self.clients, os.cpu_count() or 1)),
            latencies=Percentiles(*percentiles),
        )
