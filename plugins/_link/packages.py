"""Modules that are not on PyPI: distributions have them, out of sight of virtual environments."""

import importlib
import sys
from types import ModuleType

from nbdfork.plugin import ConfigError

_DEBIAN = "/usr/lib/python3/dist-packages"
"""Where Debian keeps modules."""


def distributed(module: str, *, package: str, plugin: str) -> ModuleType:
    """Return *module*, which Debian's *package* has.  Raises `ConfigError` if it is not installed.

    *plugin* is the one that needs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        pass
    sys.path.append(_DEBIAN)  # last and only for now, so that its other modules hide none of ours
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"the {plugin} plugin needs the module {module!r} for this Python: install Debian's"
            f" package {package} (it is not on PyPI)"
        ) from None
    finally:
        sys.path.remove(_DEBIAN)
