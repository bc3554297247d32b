"""What the data plugin's language reads from elsewhere: files, and the output of scripts.

All that is read is kept in memory until the disk has been made, so it has a limit.
"""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_PIECE = 1024 * 1024


class Sources:
    """Reads files and scripts, up to *most* bytes in all; the parameter *key* sets that."""

    def __init__(self, most: int, key: str) -> None:
        self._most = self._left = most
        self._key = key

    def file(self, path: str, limit: int | None) -> bytes:
        """Return the content of a file, or its first *limit* bytes.

        Raises OSError with the file's name, and ValueError for more than is left.
        """
        with _named(path), open(path, "rb") as file:
            if limit is None and stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"<{path} has no end: take a slice of it, as in <{path}[:512]")
            return self._read(file, limit, f"<{path}")

    def script(self, script: str, limit: int | None) -> bytes:
        """Return the output of a script, or its first *limit* bytes.

        Raises OSError with its text for one that cannot be run, ValueError for one that fails, if
        all of its output is wanted, and for more than is left.
        """
        shown = f"<({script.strip()})"
        command = ["/bin/sh", "-c", script]
        with _named(shown), _output_of(command) as process:
            assert process.stdout is not None
            try:
                content = self._read(process.stdout, limit, shown)
            except ValueError:
                process.kill()
                raise
            if limit is not None:
                process.kill()  # its output may be endless
        if limit is None and process.returncode:
            raise ValueError(f"{shown} failed with status {process.returncode}")
        return content

    def _read(self, file: IO[bytes], limit: int | None, shown: str) -> bytes:
        """Return the content of *file*, or its first *limit* bytes.

        It may be shorter than *limit*, and then no memory is taken for the rest.
        """
        content = bytearray()
        most = self._left + 1 if limit is None else min(limit, self._left + 1)
        while piece := file.read(min(_PIECE, most - len(content))):
            content += piece
        if len(content) > self._left:
            raise ValueError(
                f"{shown} has more than {self._left} bytes, all that is left of"
                f" {self._key}={self._most}: take a slice of it, as in {shown}[:512],"
                f" or raise {self._key}"
            )
        self._left -= len(content)
        return bytes(content)


def _output_of(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let an OSError say what it is about: one that comes from reading does not know."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error
