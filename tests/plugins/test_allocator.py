"""The parameter allocator of the memory and data plugins."""

import mmap
import os
import resource

import pytest
from nbdfork.plugins._parts.allocator import allocator

from tests.support.plugins import content, opened, refusal

PLUGINS = {"memory": ["memory", "1M"], "data": ["data", "1 2 3", "size=1M"]}


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("how", ["sparse", "malloc", "malloc,mlock=false", "zstd"])
def test_every_allocator_makes_the_same_disk(name: str, how: str) -> None:
    words = PLUGINS[name]
    assert content(opened(*words, f"allocator={how}")) == content(opened(*words))


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("how", ["heap", "sparse,mlock=true", "malloc,lock=true", "malloc,mlock=2"])
def test_others_are_refused(name: str, how: str) -> None:
    said = refusal(*PLUGINS[name], f"allocator={how}")
    assert f"{name}: allocator={how}: " in said
    assert "expected" in said


@pytest.mark.parametrize(("how", "taken"), [("sparse", 0), ("malloc", 1 << 20)])
def test_memory_is_taken_at_once_or_not(how: str, taken: int) -> None:
    kept: list[mmap.mmap] = []
    memory = allocator(how).make(1 << 20, kept.append)
    assert os.fstat(memory.fd).st_blocks * 512 == taken
    assert not kept


def locked() -> int:
    """Return how many kibibytes of this process are locked."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmLck"))


def test_memory_can_be_locked() -> None:
    if os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < 2 << 20:
        pytest.skip("so much memory cannot be locked by this user")
    before, kept = locked(), list[mmap.mmap]()
    allocator("malloc,mlock=true").make(1 << 20, kept.append)
    assert locked() - before == 1024
