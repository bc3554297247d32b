"""libnbd's Python module, which is not on PyPI: distributions have it."""

import errno
import sys
from types import ModuleType
from typing import Any

from nbdfork.plugin import ConfigError

_DEBIAN = "/usr/lib/python3/dist-packages"
"""Where Debian keeps modules; a virtual environment does not look there."""


def library() -> ModuleType:
    """Return the module.  Raises `ConfigError` if it is not installed."""
    try:
        return _imported()
    except ImportError:
        pass
    sys.path.append(_DEBIAN)  # last and only for now, so that its other modules hide none of ours
    try:
        return _imported()
    except ImportError:
        raise ConfigError(
            "the nbd plugin needs libnbd's module for this Python: install Debian's package"
            " python3-libnbd (it is not on PyPI)"
        ) from None
    finally:
        sys.path.remove(_DEBIAN)


def _imported() -> ModuleType:
    import nbd

    module: ModuleType = nbd
    return module


def as_oserror(error: Any) -> OSError:
    """Return libnbd's *error* as an OSError, with its text in one line."""
    return OSError(error.errnum or errno.EIO, " ".join(str(error.string).split()))
