"""`python -m nbdfork` is the `nbdfork` command."""

import sys

from nbdfork.main import main

sys.exit(main())
