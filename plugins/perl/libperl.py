"""The system's Perl as a library, libperl, by ctypes: as much of it as `interpreter` needs.

Most of Perl's C API consists of macros, which need its headers.  The functions used here do not,
and have been the same for decades: perlembed(1), perlapi(1).
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from ctypes import c_char, c_char_p, c_int, c_size_t, c_void_p
from typing import Any

from nbdfork.plugin import ConfigError

_XS_INIT = ctypes.CFUNCTYPE(None, c_void_p)


class Libperl:
    """A Perl interpreter that has run nothing but its command line, *arguments*.

    Raises `ConfigError` if there is no Perl.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        library, file, has_threads = _found()
        self._library = library
        self._perl = c_void_p(library.perl_alloc())
        # A Perl with threads takes the interpreter as first argument of every Perl_ function.
        self._first = (self._perl,) if has_threads else ()
        library.perl_construct(self._perl)
        # Otherwise it would free an environment that Python may have replaced meanwhile.
        ctypes.c_bool.in_dll(library, "PL_use_safe_putenv").value = True
        words = [os.fsencode(word) for word in ("perl", *arguments)]
        self._argv = (c_char_p * (len(words) + 1))(*words, None)  # Perl keeps pointers into it
        self._xs_init = _XS_INIT(self._offer_dynamic_loading)
        if library.perl_parse(self._perl, self._xs_init, len(words), self._argv, None):
            raise ConfigError(f"perl: {file} cannot be started")

    def _offer_dynamic_loading(self, _perl: int) -> None:
        """Make modules that are partly written in C usable (perlembed(1))."""
        boot = ctypes.cast(self._library.boot_DynaLoader, c_void_p)
        name = b"DynaLoader::boot_DynaLoader"
        self._library.Perl_newXS(*self._first, name, boot, __file__.encode())

    def run(self, text: str) -> str:
        """Run Perl code, and return the message it died with, or "" if it did not."""
        self._library.Perl_eval_pv(*self._first, text.encode(), 0)
        return bytes(self.string("@")).decode(errors="backslashreplace")

    def string(self, name: str) -> "ctypes.Array[c_char]":
        """Return the memory of the scalar variable *name*, which must be a string."""
        length = c_size_t()
        address = self._library.Perl_sv_2pv_flags(
            *self._first, self._scalar(name), ctypes.byref(length), 0
        )
        return (c_char * length.value).from_address(address)

    def _scalar(self, name: str) -> c_void_p:
        return c_void_p(self._library.Perl_get_sv(*self._first, name.encode(), 1))

    def getter(self, name: str) -> tuple[Any, tuple[c_void_p, ...]]:
        """Return the C function, and its arguments, that reads the tied variable *name*."""
        return self._library.Perl_mg_get, (*self._first, self._scalar(name))

    def freer(self) -> tuple[Any, tuple[c_void_p, ...]]:
        """Return the C function, and its arguments, that frees temporary values."""
        return self._library.Perl_free_tmps, self._first

    def enter(self) -> None:
        """Let this thread use the interpreter from now on; only one thread may at a time."""
        self._library.Perl_set_context(self._perl)

    def run_end_blocks(self) -> None:
        """Run the END blocks: perl_run runs the program, which is empty, and then them."""
        self._library.perl_run(self._perl)

    def destroy(self) -> None:
        """Destroy all objects, and flush all files.  The interpreter cannot be used afterwards."""
        self._library.perl_destruct(self._perl)


_loaded: tuple[ctypes.CDLL, str, bool] | None = None


def _found() -> tuple[ctypes.CDLL, str, bool]:
    """Return the library of the perl in the PATH, its file name, and whether it has threads."""
    global _loaded
    if _loaded is None:
        _loaded = _load()
    return _loaded


def _load() -> tuple[ctypes.CDLL, str, bool]:
    perl = shutil.which("perl")
    if perl is None:
        raise ConfigError("perl: there is no perl in the PATH: install it (Debian: perl)")
    ask = 'use Config; print map { "$_\\n" } @Config{qw(libperl archlibexp usethreads)}'
    done = subprocess.run([perl, "-e", ask], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"perl: {perl} does not show its configuration: {done.stderr.strip()}")
    name, directory, threads = done.stdout.splitlines()
    for file in (name, os.path.join(directory, "CORE", name)):
        try:
            # Perl modules written in C expect Perl's own functions to be global in the process.
            library = ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            reason = str(error)
        else:
            _declare(library)
            library.Perl_sys_init3(ctypes.byref(c_int()), None, None)
            return library, file, threads == "define"
    raise ConfigError(f"perl: {name}, the library of {perl}, is needed (Debian: perl): {reason}")


def _declare(library: ctypes.CDLL) -> None:
    """Declare the functions that return pointers; ctypes assumes int."""
    for name in ("perl_alloc", "Perl_eval_pv", "Perl_get_sv", "Perl_sv_2pv_flags", "Perl_newXS"):
        getattr(library, name).restype = c_void_p
