"""What the tests of the sh and eval plugins share."""

from pathlib import Path

from tests.support.scripting import facts, operations

MIB = 1 << 20


DISK = {
    "get_ready": "truncate -s 1M $tmpdir/disk",
    "open": "mktemp -d $tmpdir/client-XXXXXX",
    "close": 'rm -r "$2"',
    "get_size": "echo 1M",
    "pread": "dd if=$tmpdir/disk skip=$4 count=$3 iflag=count_bytes,skip_bytes",
    "pwrite": "dd of=$tmpdir/disk seek=$4 conv=notrunc oflag=seek_bytes",
    "flush": "sync $tmpdir/disk",
    "trim": "fallocate -p -o $4 -l $3 -n $tmpdir/disk",
    "zero": "fallocate -z -o $4 -l $3 -n $tmpdir/disk",
    "cache": "test -d $2",
    "extents": "echo 0 512K; echo 512K 512K hole,zero",
    "can_write": "exit 0",
    "can_flush": "exit 0",
    "can_trim": "exit 0",
    "can_zero": "exit 0",
    "can_extents": "exit 0",
    "can_cache": "echo native",
}
"""A disk in a file of the temporary directory, by methods."""


MINIMUM = {"get_size": "echo 1M", "pread": "head -c $3 /dev/zero"}


def script(directory: Path, methods: dict[str, str], name: str = "script") -> Path:
    """Write a script with *methods* and return its path."""
    path = directory / name
    cases = "\n".join(f"{method})\n{text}\n;;" for method, text in methods.items())
    path.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\n*) exit 2 ;;\nesac\n')
    path.chmod(0o700)
    return path


def as_eval(methods: dict[str, str]) -> list[str | Path]:
    """Return the arguments that make the eval plugin have *methods*."""
    return ["eval", *(f"{method}={text}" for method, text in methods.items())]


def ends(uri: str) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Return all that a client finds out."""
    return facts(uri), operations(uri)
