"""A worker's sandbox: which walls it has, and the steps in which it is entered.

The supervisor makes one `Sandbox`, which its workers inherit.  A worker enters it before any code
of a plugin runs there, so that all threads and processes which that starts are inside, too.

Where a disk needs certain files, the wall around these is raised when the client is there: a worker
may have waited for hours, and a file that has replaced another in the meantime is a different one
to Landlock.  That can be done if the worker serves one client, and no thread can have been started
by then; otherwise the directories that the files are in are open to it.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from nbdfork.server.errors import StartupError
from nbdfork.server.sandbox import (
    capabilities,
    landlock,
    limits,
    readable,
    seccomp,
    visibility,
)
from nbdfork.server.sandbox.calls import MACHINE
from nbdfork.server.sandbox.landlock import Ruleset
from nbdfork.server.sandbox.users import Users
from nbdfork.types import Needs

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """How sandboxes are to be.

    *mode*: "auto", with the walls that this kernel can raise; "require", with all of them, or the
    server does not start; "off", with none.  *limits* of what a worker may use hold in any case;
    *uid* is the user that it is going to be, unless each gets one of *users*.
    """

    mode: str
    limits: Mapping[str, int]
    uid: int
    users: Users | None = None


def missing() -> list[str]:
    """Return what this kernel lacks for all walls of a sandbox."""
    lacking = []
    version = landlock.version()
    if not version:
        lacking.append("Landlock")
    elif not landlock.scopes():
        lacking.append(f"signals kept in (Landlock is version {version} here, not 6)")
    if not seccomp.is_available():
        lacking.append("seccomp")
    return lacking


class Sandbox:
    """The sandbox that each worker of a pool is put into; *needs* are those of its disk.

    *one_client*: a worker serves only one, and no code of a plugin runs before that.  *workers*:
    so many there can be at the same time.
    *logs_to_syslog*: messages go to the system's log.  *for_programs*: the capabilities that
    another program, which this process becomes, has beside those for files, if it is root's; None:
    what it starts has none.  Raises `StartupError` if it cannot be as it has to.
    """

    def __init__(
        self,
        plan: Plan,
        needs: Needs,
        *,
        one_client: bool,
        workers: int = 1,
        logs_to_syslog: bool = False,
        for_programs: int | None = None,
    ) -> None:
        self._is_off = plan.mode == "off"
        self._is_required = plan.mode == "require"
        if self._is_required and (lacking := missing()):
            raise StartupError(f"--sandbox=require: this kernel lacks {' and '.join(lacking)}")
        self.may_stop = self._is_off or needs.stop or needs.anything
        self._needs = needs
        self._limits = plan.limits if self._is_off else {"core": 0, **plan.limits}
        limits.check(self._limits, plan.uid, own_users=plan.users is not None)
        self._users = plan.users
        if self._users is not None:
            self._users.check(workers)
        self._has_terminal = _has_terminal()
        self._programs = needs.programs or needs.anything
        self._network = needs.network or needs.anything
        self._has_file_wall = not self._programs and landlock.version() > 0
        self._is_exact = one_client and self._has_file_wall and bool(needs.read or needs.write)
        has_files = self._programs or needs.read or needs.write
        self._kept = (capabilities.FILES if has_files else 0) | (for_programs or 0)
        self._is_for_program = for_programs is not None
        self._rules: Ruleset | None = None
        self._file_rules: Ruleset | None = None
        if not self._is_off and landlock.version():
            self._rules = self._lasting_rules()
        self._filter: seccomp.Filter | None = None
        if not self._is_off and seccomp.is_available():
            sockets = seccomp.Sockets(network=self._network, log=logs_to_syslog)
            program = seccomp.program(MACHINE, programs=self._programs, sockets=sockets)
            self._filter = seccomp.Filter(program)

    # -- in the supervisor --------------------------------------------------------------

    def _lasting_rules(self) -> Ruleset:
        """Return the rules that are in force before there is a client."""
        files = self._has_file_wall and not self._is_exact
        rules = Ruleset(
            files=files,
            network=not self._network,
            signals=not self._needs.signals,
            sockets=True,
        )
        if self._is_exact:
            self._file_rules = Ruleset(files=True)
            self._allow_files(self._file_rules)
        elif files:
            self._allow_files(rules)
            for path, rights in self._paths():
                if not os.path.isdir(path):  # what replaces it is in the same directory
                    rules.allow(os.path.dirname(path), rights)
                    rules.allow(os.path.dirname(os.path.realpath(path)), rights)
        if not self._is_for_program:  # or it would stay open in all workers
            rules.fix()
        return rules

    def _allow_files(self, rules: Ruleset) -> None:
        for path in readable.paths(network=self._network):
            rules.allow(path, landlock.READ)
        for path in readable.DEVICES:
            rules.allow(path, landlock.READ_AND_WRITE)
        for path, rights in self._paths():
            rules.allow(path, rights, may_change=self._is_exact)

    def _paths(self) -> Iterator[tuple[str, frozenset[str]]]:
        yield from ((path, landlock.READ_DEVICE) for path in self._needs.read)
        yield from ((path, landlock.CHANGE) for path in self._needs.write)

    def describe(self) -> str:
        """Return in one line what is in force, for people."""
        if self._is_off:
            walls = ["off"]
        else:
            walls = [*self._walls(), *(f"not in this kernel: {what}" for what in missing())]
        if self._users is not None:
            walls.append(f"users: {self._users.first} to {self._users.last}")
        if self._limits:
            walls.append(f"limits: {limits.shown(self._limits)}")
        return "; ".join(walls)

    def _walls(self) -> Iterator[str]:
        yield "no new privileges"
        yield f"capabilities: {'those for files' if self._kept else 'none'}"
        if landlock.version():
            kept_in = landlock.scopes() and not self._needs.signals
            yield f"other processes: {'no signals' if kept_in else 'not traced'}"
            yield f"files: {self._files()}"
        if self._filter is not None:
            yield f"programs: {_yes(self._programs)}"
            yield f"network: {_yes(self._network)}"
            yield f"{len(seccomp.refused(MACHINE, programs=self._programs))} system calls refused"

    def _files(self) -> str:
        if not self._has_file_wall:
            return "any"
        parts = {"read": self._needs.read - self._needs.write, "write": self._needs.write}
        shown = [f"{word} {path}" for word, paths in parts.items() for path in sorted(paths)]
        if shown and not self._is_exact:
            shown.append("and what is beside them")
        return ", ".join(shown) or "none"

    def hide_others(self) -> None:
        """Before the first worker, let none of them see other processes, if root gives that."""
        if self._is_off or not landlock.version() or not visibility.can_hide():
            return
        try:
            visibility.hide_processes()
        except OSError as error:
            log.info("sandbox: workers see the names of other processes: %s", error)
        else:
            log.info("sandbox: workers see no other processes")

    def prepare(self) -> None:
        """Before a fork, do once for all what each worker would have to do."""
        if self._file_rules is not None:
            with suppress(OSError):  # the worker will tell of it
                self._file_rules.fix()

    # -- in a worker --------------------------------------------------------------------

    def enter(self, place: int = 0) -> None:
        """Take away what can be taken away before there is a client.

        *place* tells the worker from all others that there are.  Raises OSError, or ValueError of a
        limit, if the sandbox cannot be as it has to.
        """
        limits.enforce(self._limits)
        if self._is_off:
            self._become_user(place)
            return
        self._raise("no new privileges", capabilities.forbid_new_ones)
        if self._programs:
            bound = self._kept if self._is_for_program else 0
            self._raise("a small bounding set", lambda: capabilities.bound(bound))
        self._become_user(place)
        if not self._limits["core"]:
            self._raise("closing its memory", visibility.close_memory)
        kept = self._kept
        self._raise("giving up capabilities", lambda: capabilities.keep_only(kept))
        if self._rules is not None:
            self._raise("the wall of Landlock", self._rules.enforce)
        if self._filter is not None:
            self._raise("the wall around system calls", self._filter.enforce)

    def _become_user(self, place: int) -> None:
        if self._users is not None:
            self._users.become(place)

    def leave_group(self) -> None:
        """Get out of reach of the terminal, if there is one; and be a group of one's own, which can
        be killed with all that this process has started.

        A session of its own has a share of the processor of its own, too, which nobody asked for.
        """
        if self._has_terminal:
            os.setsid()
        else:
            os.setpgid(0, 0)

    def shut(self) -> None:
        """Take away all other files, now that there is a client.  Raises OSError, as `enter`."""
        if self._file_rules is not None:
            self._raise("the wall around files", self._file_rules.enforce)

    def _raise(self, wall: str, step: Callable[[], object]) -> None:
        """Raise a wall that this kernel has; if that fails all the same, it depends."""
        try:
            step()
        except OSError as error:
            if self._is_required:
                raise
            log.warning("sandbox: without %s: %s", wall, error)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True
