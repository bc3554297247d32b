"""What is optional, and only faster: the hottest loop in C.

`AVAILABLE` says whether there is `Exchange`, the extension module's class: it may not have been
compiled, or the user may do without it.  All that it does is done by Python otherwise, in the same
way; doc/decisions/0024-plain-requests-in-c.md says what it may do, and may not.
"""

import os
from typing import TYPE_CHECKING

VARIABLE = "NBDFORK_SPEEDUPS"
"""The variable of the environment that is 0 to do without."""

AVAILABLE = False

if TYPE_CHECKING:
    from nbdfork.speedups._native import Exchange
elif os.environ.get(VARIABLE) != "0":
    try:
        from nbdfork.speedups._native import Exchange
    except ImportError:
        Exchange = None
    else:
        AVAILABLE = True
else:
    Exchange = None

__all__ = ["AVAILABLE", "VARIABLE", "Exchange"]
