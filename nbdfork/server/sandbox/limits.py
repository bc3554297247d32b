"""Limits of what one worker may use; see setrlimit(2)."""

import resource
import signal
from collections.abc import Mapping
from typing import NamedTuple

from nbdfork.server.errors import StartupError

LIMITS = ("core", "cpu", "files", "memory", "processes")
"""core: the size of a file with its memory, if it crashes.  cpu: seconds of work.  files: the
number of the highest descriptor.  memory: the address space beyond what is inherited, in bytes.
processes: those of its user, and their threads, before it can start no more.
"""


SIZES = frozenset({"core", "memory"})


class _Limit(NamedTuple):
    resource: int
    enforced_on_root: bool = True


_RESOURCES = {
    "core": _Limit(resource.RLIMIT_CORE),
    "cpu": _Limit(resource.RLIMIT_CPU),
    "files": _Limit(resource.RLIMIT_NOFILE),
    "memory": _Limit(resource.RLIMIT_AS),
    "processes": _Limit(resource.RLIMIT_NPROC, enforced_on_root=False),
}
UNLIMITED = resource.RLIM_INFINITY


def check(limits: Mapping[str, int], uid: int, *, own_users: bool = False) -> None:
    """Raise `StartupError` if a limit could not be set by, or would not hold for, user *uid*.

    *own_users*: it gives each worker another user.
    """
    for name, value in limits.items():
        number, enforced_on_root = _RESOURCES[name]
        hard = resource.getrlimit(number)[1]
        too_much = hard != UNLIMITED and (value == UNLIMITED or value > hard)
        if too_much and name != "memory" and uid != 0:
            raise StartupError(f"--limit {name}={value}: the system allows no more than {hard}")
        if not enforced_on_root and uid == 0 and not own_users:
            raise StartupError(
                f"--limit {name}={value} does not hold for root: use -u or --worker-uids"
            )


def shown(limits: Mapping[str, int]) -> str:
    """Return *limits* for people."""
    return ", ".join(
        f"{name} {'any' if value == UNLIMITED else value}" for name, value in limits.items()
    )


def enforce(limits: Mapping[str, int]) -> None:
    """Limit this process, and all that it starts.  Raises OSError or ValueError."""
    for name, value in limits.items():
        number = _RESOURCES[name].resource
        if name == "memory" and value != UNLIMITED:
            value += _address_space()
        hard = value
        if name == "cpu" and value != UNLIMITED:  # first comes a signal that tells what it is
            most = resource.getrlimit(number)[1]
            hard = value + 1 if most == UNLIMITED else min(value + 1, most)
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)  # the supervisor has no use for it
        resource.setrlimit(number, (value, hard))


def _address_space() -> int:
    """Return the size of this process, in bytes."""
    with open("/proc/self/statm") as sizes:
        return int(sizes.read().split()[0]) * resource.getpagesize()
