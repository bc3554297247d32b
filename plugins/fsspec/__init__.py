"""The fsspec plugin: a file of any file system that the library fsspec knows.

Nothing is opened before a client connects.  Only a recipe is made here, by which each worker makes
its own file systems, because one that is in use does not survive a fork.
"""

import itertools
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from nbdfork.plugin import (
    ConfigError,
    Export,
    LostWrites,
    Needs,
    Parameter,
    Plugin,
    Secret,
    parse,
    read_password,
)

from .._link.timeout import SILENCE, some_seconds
from .._parts.files import check_disk, check_servable, open_disk
from .recipe import LINK, Recipe


def _url(text: str) -> str:
    if not text or any(character < " " for character in text):
        raise ValueError("the URL of a file is expected")
    return text


def _assignment(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator or "" in key.split("."):
        raise ValueError("write KEY=VALUE")
    return key, value


def _option(text: str) -> tuple[str, Any]:
    """Parse KEY=VALUE; the value is text unless it is JSON, as numbers, true and {...} are."""
    key, value = _assignment(text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _secret_option(text: str) -> tuple[str, str]:
    try:
        return _assignment(text)
    except ValueError:
        raise ValueError("write KEY=VALUE, KEY=-, KEY=+FILENAME or KEY=-FD") from None


class Fsspec(Plugin):
    """a file of any file system that fsspec knows"""

    url = Parameter(_url, required=True, magic=True, metavar="URL", help="the file to serve")
    option = Parameter(
        _option, repeatable=True, metavar="KEY=VALUE", help="an option of the file system"
    )
    secret_option = Secret[tuple[tuple[str, str], ...]](
        _secret_option,
        repeatable=True,
        metavar="KEY=VALUE|-|+FILENAME|-FD",
        help="one that is secret, or where to read it",
    )
    check = Parameter(
        parse.boolean,
        default=True,
        metavar="true|false",
        help="ask after each read whether the file is still the same",
    )

    timeout = Parameter(
        some_seconds, default=SILENCE, metavar="SECONDS", help="how long a request may take"
    )

    def dump_plugin(self) -> Mapping[str, str]:
        try:
            library = _library()
        except ConfigError:
            return {}
        return {
            "fsspec_version": library.__version__,
            "fsspec_protocols": " ".join(sorted(library.available_protocols())),
        }

    def waits(self) -> bool:
        return True

    def one_process(self) -> bool:
        # That file system is in the memory of one process.
        return bool(self.url) and self.url.startswith("memory:")

    def config_complete(self) -> None:
        """Read the secrets."""
        self._secrets = [
            (key, read_password(f"fsspec: secret-option={key}", text))
            for key, text in self.secret_option
        ]

    def get_ready(self) -> None:
        """Import the file systems, to find out now if one is missing."""
        self._lost = LostWrites()
        library = _library()
        parts = self.url.split(LINK)
        protocols = [_protocol(part, library) for part in parts]
        classes = [_file_system(protocol, library) for protocol in protocols]
        if protocols[-1] in ("file", "local"):  # an absolute path: a daemon changes its directory
            parts[-1] = f"file://{classes[-1]._strip_protocol(parts[-1])}"
        self._local_path: str | None = None
        if len(parts) == 1 and protocols[0] in ("file", "local"):
            self._local_path = parts[0].removeprefix("file://")
            check_servable("fsspec", self._local_path)
        self._is_memory = protocols == ["memory"]
        self._recipe = Recipe(
            parts=tuple(parts),
            protocols=tuple(protocols),
            named=_first_named(parts, protocols),
            options=_nested([*self.option, *self._secrets]),
            secrets=tuple(secret for _, secret in self._secrets),
        )

    def needs(self) -> Needs:
        if self._local_path is not None:
            return Needs(write=frozenset({self._local_path}))
        if self._is_memory:
            return Needs()
        if {*self._recipe.protocols} <= {"http", "https"}:
            return Needs(network=True)
        return Needs(anything=True)

    def check_access(self, read_only: bool) -> None:
        if self._local_path is not None:
            check_disk("fsspec", self._local_path, read_only)

    def open(self, export_name: str, read_only: bool) -> Export:
        if self._local_path is not None:
            return open_disk(self._local_path, read_only, self._lost)
        if self._is_memory:
            from .memory import MemoryExport

            return MemoryExport(self._recipe)
        from .export import FileExport

        return FileExport(self._recipe, self.server, check=self.check, timeout=self.timeout)


def _library() -> ModuleType:
    try:
        import fsspec
    except ImportError:
        message = 'the fsspec plugin needs fsspec: pip install "nbdfork[fsspec]"'
        raise ConfigError(message) from None
    module: ModuleType = fsspec
    return module


def _protocol(part: str, library: ModuleType) -> str:
    """Return the protocol of a part of a URL, which may be only that, as in simplecache::."""
    if part in library.available_protocols():
        return part
    protocol: str | None = library.core.split_protocol(part)[0]
    return protocol or "file"


def _first_named(parts: list[str], protocols: list[str]) -> int:
    """Return the number of the first part of a chain that has a path."""
    pairs = zip(parts, protocols, strict=True)
    bare = itertools.takewhile(lambda pair: pair[0] in (pair[1], f"{pair[1]}://"), pairs)
    return sum(1 for _ in bare)


def _file_system(protocol: str, library: ModuleType) -> Any:
    try:
        return library.get_filesystem_class(protocol)
    except ValueError as error:
        known = " ".join(sorted(library.available_protocols()))
        raise ConfigError(
            f"fsspec: {protocol}:// is not known; these file systems are: {known}"
        ) from error
    except ImportError as error:
        why = " ".join(str(error.__cause__ if error.args in ((), (None,)) else error).split())
        raise ConfigError(f"fsspec: {protocol}:// needs what is not installed: {why}") from error


def _nested(options: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the options as a dictionary; "a.b" is the option "b" of the part "a" of a chain."""
    found: dict[str, Any] = {}
    for key, value in options:
        *outer, last = key.split(".")
        inside = found
        for name in outer:
            inside = inside.setdefault(name, {})
            if not isinstance(inside, dict):
                raise ConfigError(f"fsspec: option={name}= is given both with and without parts")
        inside[last] = value
    return found
