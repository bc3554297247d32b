"""VMware's library in this process: finding, loading, initialising and calling it.

It has threads, so it is initialised in workers and never before the fork; loading it starts none.
Its messages go to the log, and the errors that it returns become OSError.
"""

import ctypes
import errno
import logging
import os
import re
import threading
from typing import Any

from nbdfork.plugin import ConfigError

from .structs import ERRNOS, OPTIONAL, REQUIRED, LogFunction, error_code

log = logging.getLogger(__name__)

DEFAULT_DIRECTORY = "/usr/lib/vmware-vix-disklib"

_NEWEST, _OLDEST = 8, 5
_PLUGIN = "libdiskLibPlugin.so"  # the library loads it when it is initialised, to go to servers
_NOT_FOUND = re.compile(r"(\S+): cannot open shared object file")


class Library:
    """VixDiskLib, loaded.  Its functions are attributes, without their prefix.

    An optional function that this version lacks is None.
    """

    def __init__(self, dll: ctypes.CDLL, version: int) -> None:
        self.version = version
        self.path = dll._name
        for name, (result, arguments) in (REQUIRED | OPTIONAL).items():
            function: Any = getattr(dll, f"VixDiskLib_{name}", None)
            if function is not None:
                function.restype = result
                function.argtypes = arguments
            elif name in REQUIRED:
                raise ConfigError(
                    f"vddk: {self.path}: there is no function VixDiskLib_{name} in it"
                )
            setattr(self, name, function)
        self.one_at_a_time = threading.Lock()
        """Held while disks are opened or closed (VDDK guide, "Multithreading")."""
        levels = (logging.DEBUG, logging.WARNING, logging.CRITICAL)
        self._loggers = [_logger(level) for level in levels]  # kept, because the library calls them

    def __getattr__(self, name: str) -> Any:
        """Only for type checkers: all functions have been set."""
        raise AttributeError(name)

    def initialise(self, directory: str | None, config: str | None) -> None:
        """Start the library.  Raises OSError."""
        # The API versions are those that nbdkit asks for, or did with the oldest library.
        major, minor = (5, 1) if self.version == _OLDEST else (6, 5)
        places = (_encoded(directory), _encoded(config))
        self.check(self.InitEx(major, minor, *self._loggers, *places), "VixDiskLib_InitEx")

    def check(self, error: int, what: str) -> None:
        """Raise OSError if *error*, which *what* has returned, is one."""
        if error == 0:
            return
        code = error_code(error)
        raise OSError(ERRNOS.get(code, errno.EIO), f"{what}: {self._text(error)} (error {code})")

    def _text(self, error: int) -> str:
        address = self.GetErrorText(error, None)
        if not address:
            return "no description"
        try:
            return _decoded(address).strip()
        finally:
            self.FreeErrorText(address)


def load(directory: str) -> Library:
    """Load the newest version there is in *directory*/lib64.

    If *directory* is the default, it may also be where the system has its libraries.  Raises
    `ConfigError`.
    """
    lib64 = os.path.join(directory, "lib64")
    try:
        for version in range(_NEWEST, _OLDEST - 1, -1):
            path = os.path.join(lib64, f"libvixDiskLib.so.{version}")
            if os.path.exists(path):
                return _loaded(path, version)
        for version in range(_NEWEST, _OLDEST - 1, -1) if directory == DEFAULT_DIRECTORY else ():
            dll = _installed(f"libvixDiskLib.so.{version}")
            if dll is not None:
                return Library(dll, version)
    except OSError as error:
        raise ConfigError(f"vddk: cannot load VMware's library: {error}") from error
    raise ConfigError(
        f"vddk: there is no libvixDiskLib.so.{_OLDEST} to .{_NEWEST} in {lib64}: install VMware's"
        " VDDK, which is not part of nbdfork, and give its directory with libdir=DIRECTORY"
    )


def _loaded(path: str, version: int) -> Library:
    library = Library(_open(path), version)
    plugin = os.path.join(os.path.dirname(path), _PLUGIN)
    if os.path.exists(plugin):
        try:
            _open(plugin)
        except OSError as error:  # local files do not need it
            log.warning("vddk: %s", error)
    return library


def _installed(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        if _missing(error) == name:
            return None
        raise


def _open(path: str) -> ctypes.CDLL:
    """Load *path*, and before it the libraries that it needs and the system lacks.

    VDDK brings libraries of its own, which the loader does not find.  LD_LIBRARY_PATH would help,
    but it has to be set before the process starts, and every program that is run inherits it.  A
    library that is already loaded is found by its name, though, so the missing ones are loaded
    first.  Symbols stay private (RTLD_LOCAL), so that VMware's OpenSSL does not replace Python's.
    """
    loaded = set()
    while True:
        try:
            return ctypes.CDLL(path)
        except OSError as error:
            name = _missing(error)
            needed = os.path.join(os.path.dirname(path), name or "")
            if name is None or name in loaded or not os.path.isfile(needed):
                raise
        loaded.add(name)
        _open(needed)


def _missing(error: OSError) -> str | None:
    """Return the name of the library that is missing, according to *error* of dlopen."""
    match = _NOT_FOUND.match(str(error))
    return match[1] if match else None


# -- messages ---------------------------------------------------------------------------------

_libc = ctypes.CDLL(None)
_libc.vasprintf.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_void_p]
_libc.free.argtypes = [ctypes.c_void_p]


def _logger(level: int) -> Any:
    """Return a function that the library can call from any thread, like vprintf(3)."""

    def write(format: int, arguments: int) -> None:
        text = ctypes.c_void_p()
        if _libc.vasprintf(ctypes.byref(text), format, arguments) >= 0 and text.value:
            log.log(level, "vddk: %s", _decoded(text.value).rstrip())
            _libc.free(text)

    return LogFunction(write)


def _decoded(address: int) -> str:
    return ctypes.string_at(address).decode(errors="replace")


def _encoded(path: str | None) -> bytes | None:
    return None if path is None else os.fsencode(path)
