"""How much memory this process has taken at the most."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS = Path("/proc/self/status")


@contextmanager
def growth() -> Iterator[Callable[[], int]]:
    """By how many bytes this process has been larger, at the most, than when this began."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    before = _bytes("VmHWM")
    yield lambda: _bytes("VmHWM") - before


def _bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
