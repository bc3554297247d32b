"""VMware's library in this process: it is found, loaded, initialised, and called, here.

It has threads, so it is initialised in a worker and never before the fork; loading it starts
none.  What it has to say goes to our log, and what it returns as an error becomes `OSError`.
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
    """VixDiskLib, loaded; its functions are attributes, without the prefix.

    One that this version does not have is None, if we can do without.
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
        self._loggers = [_logger(level) for level in levels]  # as long as the library may call them

    def __getattr__(self, name: str) -> Any:
        """All functions have been set: only for those who check types."""
        raise AttributeError(name)

    def initialise(self, directory: str | None, config: str | None) -> None:
        """Start the library.  Raises OSError."""
        # What it is asked for is what nbdkit asks for, or did for the oldest ones.
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

    If *directory* is the default, it may also be where the system looks for libraries.  Raises
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
        except OSError as error:  # disks in local files can be had without
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
    """Load *path*, and before it whatever it needs that the system does not have.

    VDDK brings libraries of its own, and does not say where they are.  LD_LIBRARY_PATH would, but
    must be set before a process begins, and be seen by all that it runs.  A library that is loaded
    already, though, is found by its name; so those that are missed are loaded first.  Symbols stay
    private (RTLD_LOCAL), lest VMware's OpenSSL be taken for Python's.
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
    """Return the name of the library whose absence is what *error* of dlopen says."""
    match = _NOT_FOUND.match(str(error))
    return match[1] if match else None


# -- what the library has to say --------------------------------------------------------------

_libc = ctypes.CDLL(None)
_libc.vasprintf.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p, ctypes.c_void_p]
_libc.free.argtypes = [ctypes.c_void_p]


def _logger(level: int) -> Any:
    """Return a function for the library to call, from any of its threads, with printf's words."""

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
