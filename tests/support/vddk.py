"""A stand-in for VMware's library, which is not to be had, compiled from `vddk_stand_in.c`.

It has the functions, the structs and the error codes of the real one, needs a library that only
its own directory has, and writes down each call.
"""

import os
from pathlib import Path

import pytest

from nbdfork.plugin import ConfigError
from tests.support.harness import need, output
from tests.support.paths import C_SOURCES
from tests.support.plugins import plugin

SOURCE = C_SOURCES / "vddk.c"


MIB = 1 << 20


CHUNK = 64 * 1024


class StandIn:
    """The compiled library in *directory*/lib64, and what it is told and tells."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trace = directory / "trace"
        self.fail = directory / "fail"
        self.environment = {
            "STAND_IN_TRACE": str(self.trace),
            "STAND_IN_FAIL": str(self.fail),
            "STAND_IN_DATASTORE": str(directory),
        }
        self.disk = directory / "disk.vmdk"

    def compile(self, version: int, *options: str) -> None:
        """Make lib64/libvixDiskLib.so.*version* and the library that it needs."""
        need("gcc")
        lib64 = self.directory / "lib64"
        lib64.mkdir(exist_ok=True)
        dependency = lib64 / "libvmwarestandin.so.1"
        warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
        link = ["gcc", "-O1", *warnings, "-shared", "-fPIC", str(SOURCE), *options]
        output(*link, "-DDEPENDENCY", f"-Wl,-soname,{dependency.name}", "-o", dependency)
        name = f"libvixDiskLib.so.{version}"
        words = [f"-Wl,-soname,{name}", "-Wl,-z,defs", "-o", str(lib64 / name)]
        output(*link, *words, dependency, "-lpthread")

    def calls(self) -> list[str]:
        """What has been called, without the processes and threads."""
        if not self.trace.exists():
            return []
        return [line.split(" ", 2)[2] for line in self.trace.read_text().splitlines()]

    def callers(self) -> dict[str, set[str]]:
        """The names of what each process has called; a process calls from one thread only."""
        found: dict[str, set[str]] = {}
        for line in self.trace.read_text().splitlines() if self.trace.exists() else ():
            process, thread, call = line.split(" ", 2)
            assert process == thread  # its first thread
            found.setdefault(process, set()).add(call.split(" ")[0])
        return found

    def words(self, *arguments: str | Path) -> list[str]:
        return ["vddk", f"libdir={self.directory}", *map(str, arguments)]


def clean(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Return *stand_in* as new, for one test, with a new disk."""
    for path in (stand_in.trace, stand_in.fail):
        path.unlink(missing_ok=True)
    stand_in.disk.write_bytes(bytes(CHUNK) + os.urandom(MIB - CHUNK))
    for name, value in stand_in.environment.items():
        monkeypatch.setenv(name, value)
    return stand_in


def refusal(*arguments: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        plugin("vddk", *map(str, arguments))
    return str(caught.value)
