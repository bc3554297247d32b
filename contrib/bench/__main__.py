"""`python contrib/bench` and `python -m contrib.bench`: both are the command."""

import sys
from pathlib import Path

# Run as a directory, Python puts the directory itself first, where its files are no package.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from contrib.bench.cli import main  # noqa: E402

sys.exit(main())
