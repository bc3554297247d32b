"""What the tests of the curl plugin share; without pycurl they are skipped."""

from functools import partial
from pathlib import Path

from tests.support import plugins
from tests.support.harness import need_modules
from tests.support.noise import CONTENT

need_modules("pycurl")

MIB = 1 << 20

plugin = partial(plugins.plugin, "curl")
opened = partial(plugins.opening, "curl")


def reads(*arguments: str | Path) -> bool:
    """Return whether CONTENT comes at these arguments; raise what goes wrong."""
    with opened(*arguments) as export:
        assert export.get_size() == len(CONTENT)
        return bytes(export.pread(4096, MIB + 1)) == CONTENT[MIB + 1 : MIB + 4097]
