"""What the tests of the fsspec plugin share."""

from functools import partial
from pathlib import Path

from tests.support import plugins
from tests.support.harness import (
    Server,
    need,
    output,
)
from tests.support.noise import CONTENT

MIB = 1 << 20


plugin = partial(plugins.plugin, "fsspec")


opened = partial(plugins.opening, "fsspec")


def reads(*arguments: str | Path) -> bool:
    """Return whether the right bytes come at these arguments; raise what goes wrong."""
    with opened(*arguments) as export:
        assert export.get_size() == len(CONTENT)
        end = bytes(export.pread(513, len(CONTENT) - 513))
        return end + bytes(export.pread(4096, MIB + 1)) == (
            CONTENT[-513:] + CONTENT[MIB + 1 : MIB + 4097]
        )


def copied(tmp_path: Path, *arguments: str | Path) -> bytes:
    """Return the disk as nbdcopy reads it, by requests that are under way together."""
    need("nbdcopy")
    with Server("-n", "fsspec", *arguments) as server:
        output("nbdcopy", "--request-size=65536", server.uri, tmp_path / "copy")
        assert "error" not in server.log
    return (tmp_path / "copy").read_bytes()
