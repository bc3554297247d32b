"""What the tests of the ssh plugin share."""

from functools import partial
from pathlib import Path

from nbdfork.plugin import Export
from tests.support import plugins

MIB = 1 << 20

plugin = partial(plugins.plugin, "ssh")
opened = partial(plugins.opening, "ssh", read_only=False)


def write(export: Export, data: bytes, offset: int) -> None:
    export.pwrite(memoryview(data), offset, 0)


def without(way: list[str], key: str) -> list[str | Path]:
    return [word for word in way if not word.startswith(f"{key}=")]
