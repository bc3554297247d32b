"""Where a run took place: the machine, and the version of every program that took part."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from contrib.bench.servers import Server

CLIENTS = {"fio": "--version", "nbdcopy": "--version", "nbdinfo": "--version"}


def describe(directory: Path, servers: Iterable[Server]) -> dict[str, str]:
    """Return facts by name; *directory* is where the served files are."""
    facts = {
        "processor": _processor(),
        "cores": f"{len(os.sched_getaffinity(0))}, shared by clients and servers",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "files on": _file_system(directory),
        "Python": sys.version.split()[0],
    }
    for server in servers:
        if server.name not in facts and (server.peer or server.name == "nbdfork"):
            facts[server.name] = _version([*server.prefix, server.program, *server.version])
    for name, option in CLIENTS.items():
        facts[name] = _version([name, option])
    return facts


def _processor() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def _file_system(directory: Path) -> str:
    """Return the type of the file system that *directory* is on: its longest mount point's."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if directory.resolve().is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def _version(command: list[str]) -> str:
    """Return the first number with a dot in what a program prints as its version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "not installed"
    match = re.search(r"\d+\.\d[\w.+-]*", done.stdout + done.stderr)
    return match[0] if match else "unknown"
