"""Ports of the loopback address for servers that have to be told theirs, and who listens."""

import os
import random
import socket
from pathlib import Path

_taken: list[socket.socket] = []
"""What says to other tests that ports are taken, for as long as this process runs."""


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on, and that nobody gets before the test's server does.

    They are none of those that the kernel gives to whoever asks for any; and of tests that run at
    the same time, each takes a name before a port.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(10000, 1 << 16) if not first <= port <= last]
    found: list[int] = []
    for port in random.sample(ports, len(ports)):
        if len(found) == count:
            break
        if not is_listening(port) and _take(port):
            found.append(port)
    assert len(found) == count, "no port is free"
    return found


def _take(port: int) -> bool:
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0nbdfork-test-port-{port}")
    except OSError:
        name.close()
        return False
    _taken.append(name)
    return True


def is_listening(where: int | Path) -> bool:
    """Return whether a process listens on a port, or on a Unix domain socket.

    It is the kernel that is asked: who listens does not see a client.
    """
    if isinstance(where, Path):
        listening = "00010000"  # the third field: __SO_ACCEPTCON
        lines = [line.split(maxsplit=7) for line in _lines("unix")]
        return any(line[7:] == [str(where)] and line[3] == listening for line in lines)
    listening = "0A"  # the third field: TCP_LISTEN
    lines = [line.split()[1:4] for name in ("tcp", "tcp6") for line in _lines(name)]
    return any(line[2] == listening and int(line[0][-4:], 16) == where for line in lines)


def _lines(name: str) -> list[str]:
    path = Path("/proc/net") / name
    # An abstract socket of somebody else may have any bytes for a name, an end of line, too.
    return os.fsdecode(path.read_bytes()).split("\n")[1:-1] if path.exists() else []
