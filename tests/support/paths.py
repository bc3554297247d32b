"""Where things are in the source tree."""

import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent

PACKAGING = ROOT / "contrib" / "packaging"
"""What comes along for services."""

PROGRAM = Path(sys.executable).parent / "nbdfork"
"""The command as it is installed."""

GOLDEN = TESTS / "golden"
"""Exchanges with the server, byte for byte; see `exchange`."""

SAMPLES = TESTS / "samples"
"""Plugins that exist for the tests: most fail, wait or count on demand."""

SCRIPTS = SAMPLES / "scripts"
"""Disks in the languages that plugins like python, perl and ocaml run."""

C_SOURCES = SAMPLES / "c"
"""Plugins and stand-ins in C."""
