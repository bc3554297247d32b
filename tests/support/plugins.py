"""A plugin that is configured and opened in this process, and beside nbdkit's of the same name."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.life import Life
from nbdfork.backend.load import find
from nbdfork.plugin import ConfigError, Export, Plugin
from tests.support.harness import NBDFORK, need, output

MIB = 1 << 20


def plugin(name: str, *arguments: str | Path, debug: str | None = None) -> Plugin:
    """Return the plugin *name*, configured and ready, with a *debug* flag set."""
    made = find(name).plugin_class()
    chain = Chain(Layer(name, made))
    if debug is not None:
        chain.set_debug_flag(name, debug, 1)
    chain.configure(map(str, arguments))
    Life(chain).get_ready()
    return made


@contextmanager
def opening(
    name: str, *arguments: str | Path, export_name: str = "", read_only: bool = True
) -> Iterator[Export]:
    """The export that the plugin *name* with *arguments* opens, until it is closed."""
    export = plugin(name, *arguments).open(export_name, read_only)
    try:
        yield export
    finally:
        export.close()


def opened(name: str, *arguments: str | Path, read_only: bool = False) -> Export:
    """Return the export that the plugin *name* with *arguments* opens."""
    return plugin(name, *arguments).open("", read_only)


def content(export: Export) -> bytes:
    """Return all that is on a disk."""
    return bytes(export.pread(export.get_size(), 0)) if export.get_size() else b""


def refusal(name: str, *arguments: str | Path) -> str:
    """Return what the plugin says of *arguments* that it refuses."""
    with pytest.raises(ConfigError) as caught:
        plugin(name, *arguments)
    return str(caught.value)


def file_of(path: Path, size: int) -> Path:
    """Return *path*, a new file of noise."""
    path.write_bytes(os.urandom(size))
    return path


class Sides:
    """The same plugin served by nbdkit and by nbdfork."""

    def __init__(self, directory: Path) -> None:
        need("nbdkit", "nbdcopy", "nbdinfo")
        self._directory = directory

    def images(self, *arguments: str | Path, **options: object) -> tuple[bytes, bytes]:
        """Return the disk as each of the two serves it."""
        images = []
        for number, command in enumerate((["nbdkit"], NBDFORK)):
            image = self._directory / f"side{number}"
            copy = f'nbdcopy "$uri" {image}'
            output(*command, "-r", "-U", "-", *arguments, "--run", copy, **options)
            images.append(image.read_bytes())
        return images[0], images[1]

    def facts(self, *arguments: str | Path) -> tuple[dict[str, object], dict[str, object]]:
        """Return what nbdinfo says of each."""
        facts = []
        for command in (["nbdkit"], NBDFORK):
            text = output(*command, "-U", "-", *arguments, "--run", 'nbdinfo --json "$uri"')
            facts.append(json.loads(text)["exports"][0])
        return facts[0], facts[1]
