"""A plugin that takes its worker down, or the sockets it listens on, where it is told to."""

import os
import socket
import threading
from collections.abc import Callable

from nbdfork.plugin import Parameter, Plugin, parse

SECTOR = 512


class Desertion(BaseException):
    """Something that nobody expects."""


def _raise(error: BaseException) -> None:
    raise error


WAYS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(0),
    "failure": lambda: os._exit(1),
    "SystemExit": lambda: _raise(SystemExit(0)),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "GeneratorExit": lambda: _raise(GeneratorExit()),
    "Desertion": lambda: _raise(Desertion("goodbye")),
    "hang": lambda: threading.Event().wait(),
}


def _listening_sockets() -> list[int]:
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as one:
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(fd)
        except OSError:
            pass  # this is no socket, or is closed by now
    return found


def _remove(path: str) -> bool:
    """Remove a file; return whether it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class Deserting(Plugin):
    """end the worker when the first sector is read"""

    way = Parameter(str, default="exit", metavar="WAY", help="how the worker ends")
    fork_way = Parameter(str, metavar="WAY", help="how it ends before its first client")
    listeners = Parameter(str, metavar="close|shutdown", help="what becomes of the sockets, once")
    mark = Parameter(parse.path, metavar="FILE", help="is there until that has been done")

    def after_fork(self) -> None:
        if self.fork_way:
            WAYS[self.fork_way]()
        if self.listeners and self.mark and _remove(self.mark):
            for fd in _listening_sockets():
                if self.listeners == "close":
                    os.close(fd)
                else:
                    with socket.socket(fileno=os.dup(fd)) as one:
                        one.shutdown(socket.SHUT_RDWR)

    def get_size(self) -> int:
        return 2 * SECTOR

    def pread(self, count: int, offset: int) -> bytes:
        if offset < SECTOR:
            WAYS[self.way]()
        return bytes(count)
