"""A supervisor that can have no more files or memory for a while goes on when it can."""

import mmap
import resource
from collections.abc import Callable

import psutil
import pytest

from tests.support.harness import Server, eventually
from tests.support.libnbd import connected

SHORTAGES: dict[str, tuple[int, Callable[[psutil.Process], int], str]] = {
    "files": (resource.RLIMIT_NOFILE, lambda process: process.num_fds(), "next fork in"),
    "memory": (resource.RLIMIT_AS, lambda process: mmap.PAGESIZE, "cannot fork a worker"),
}


@pytest.mark.parametrize(("limit", "used", "told"), SHORTAGES.values(), ids=SHORTAGES)
def test_workers_that_die_while_something_is_short(
    limit: int, used: Callable[[psutil.Process], int], told: str
) -> None:
    with Server("-n", "memory", "1M") as server:
        with connected(server.uri) as client:
            client.pread(512, 0)
            eventually(lambda: len(server.workers()) == 5)
            supervisor = psutil.Process(server.pid)
            before = supervisor.rlimit(limit)
            supervisor.rlimit(limit, (used(supervisor), before[1]))
            [serving], idle = server.serving(), server.workers()
            killed = [serving, next(worker for worker in idle if worker != serving)]
            for worker in killed:
                worker.kill()
            eventually(lambda: not {*killed} & {*server.workers()})  # they have been reaped
            eventually(lambda: told in server.log)  # it has tried to replace them
            supervisor.rlimit(limit, before)
        eventually(server.workers)
        with connected(server.uri) as client:
            assert client.pread(512, 0) == bytes(512)
        assert server.process.poll() is None
