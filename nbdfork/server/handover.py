"""What a program hands over to the one that takes its place in the same process.

It is one message in JSON, with a version, in a memfd that the environment names.  It tells which
descriptor is what, and all of them are inherited.  A rehearsal is given the same message in a
process of its own, and takes nothing over.
"""

import json
import os
import signal
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from nbdfork.server.errors import StartupError
from nbdfork.server.signals import STOP_SIGNALS

VERSION = 1
"""Of the message; a program that knows another one refuses it."""

_HANDOVER = "NBDFORK_HANDOVER"
_REHEARSAL = "NBDFORK_REHEARSAL"

PAUSES = (0.1, 0.5, 2.0, 5.0)
"""After how many seconds a program that could not take over is started again; then the last."""


class OldWorker(NamedTuple):
    """A worker of an earlier program: its slots on the scoreboard, and the descriptor of its line
    (-1: none).
    """

    pid: int
    first: int
    slots: int
    line: int


class OldGeneration(NamedTuple):
    """The workers of an earlier program, and the end of their leash."""

    number: int
    leash_end: int
    workers: list[OldWorker]


class Handover(NamedTuple):
    """The message.

    *listeners*: see `Listeners.hand_over`.  *changes* and *stacks*: both ends of the pipes by which
    workers speak to the supervisor.  *others*: children that are no workers, and only have to be
    reaped.  *shared*: pieces of shared state, whatever they are.  *demands*: what the new program
    must want as the old one did, in words.  *facts* are those that stay, *notify* what a service
    manager has said, *attempts* how many programs have failed to take over.
    """

    generation: int
    board: int
    slots: int
    listeners: dict[str, Any]
    generations: list[OldGeneration]
    changes: list[int]
    stacks: list[int]
    others: list[int]
    shared: list[list[Any]]
    demands: dict[str, Any]
    facts: dict[str, Any]
    notify: dict[str, str]
    control: int = -1
    attempts: int = 0

    def claimed(self) -> list[range]:
        """Return the slots of the scoreboard that workers have."""
        workers = (worker for one in self.generations for worker in one.workers)
        return [range(worker.first, worker.first + worker.slots) for worker in workers]

    def descriptors(self) -> list[int]:
        """Return all that the message speaks of."""
        found = [self.board, self.control, *self.changes, *self.stacks]
        found += [*self.listeners["sockets"], *(piece[-1] for piece in self.shared)]
        for one in self.generations:
            found += [one.leash_end, *(worker.line for worker in one.workers)]
        return [fd for fd in found if fd >= 0]

    def write(self) -> int:
        """Return a descriptor from which the message can be read."""
        message = {**self._asdict(), "version": VERSION}
        fd = os.memfd_create("nbdfork-handover", 0)
        os.write(fd, json.dumps(message).encode())
        return fd

    def let_be_inherited(self, inherited: bool) -> None:
        """Let the descriptors be inherited by another program, or by none."""
        for fd in self.descriptors():
            os.set_inheritable(fd, inherited)


class Takeover:
    """In the new program: what it takes over, unless it only rehearses that."""

    def __init__(self, message: Handover, is_rehearsal: bool) -> None:
        self.message = message
        self.is_rehearsal = is_rehearsal
        self.is_over = is_rehearsal
        self._pending: list[int] = []
        message.let_be_inherited(False)

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> "Takeover | None":
        """Return what the *environment* speaks of, which is taken out of it.

        Raises `StartupError` for a message of another version.
        """
        rehearsal = environment.pop(_REHEARSAL, None)
        text = environment.pop(_HANDOVER, None) or rehearsal
        if text is None:
            return None
        message = _read(int(text))
        return cls(message, is_rehearsal=rehearsal is not None)

    def catch_signals(self) -> None:
        """From now on remember signals, which were held back since the old program has ended."""
        for signum in (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(signum, lambda signum, frame: self._pending.append(signum))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def demand(self, demands: Mapping[str, Any]) -> None:
        """Raise `StartupError` if something is wanted that only a restart can change."""
        for name, old in self.message.demands.items():
            if (new := demands.get(name)) != old:
                raise StartupError(
                    f"{name} is {_shown(new)} now, and was {_shown(old)}: that cannot be changed"
                    " while the server runs; restart it"
                )

    def finish(self) -> None:
        """The program has taken over: close what came with the message, and deliver signals."""
        self.is_over = True
        for fd in self.message.descriptors():
            with suppress(OSError):
                os.close(fd)
        for signum in self._pending:
            os.kill(os.getpid(), signum)

    def was_stopped(self) -> bool:
        """Return whether the server was told to end while this program was starting."""
        return any(signum in STOP_SIGNALS and signum != signal.SIGHUP for signum in self._pending)

    def wait(self) -> None:
        """The program cannot take over: wait before another attempt, or for a signal to end."""
        pause = PAUSES[min(self.message.attempts, len(PAUSES) - 1)]
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        signum = None if self.was_stopped() else signal.sigtimedwait(STOP_SIGNALS, pause)
        if signum is not None and signum.si_signo != signal.SIGHUP:
            self._pending.append(signum.si_signo)


def _read(fd: int) -> Handover:
    data = os.pread(fd, 1 << 30, 0)
    os.close(fd)
    message = json.loads(data)
    if message.pop("version") != VERSION:
        raise StartupError(
            "this version of nbdfork cannot take over from the one that runs: restart the server"
        )
    generations = [
        OldGeneration(number, leash_end, [OldWorker(*worker) for worker in workers])
        for number, leash_end, workers in message.pop("generations")
    ]
    return Handover(generations=generations, **message)


def _shown(value: object) -> str:
    return "not given" if value is None else repr(value)


# -- in the old program ------------------------------------------------------------------------


class Program(NamedTuple):
    """How this program was started: its words, the interpreter's included, and its directory."""

    interpreter: str
    words: list[str]
    directory: str

    def replace(self, message: Handover) -> NoReturn:
        """Become that program, as it is installed now.  Raises OSError; then all is as before."""
        message.let_be_inherited(True)
        fd = message.write()
        os.set_inheritable(fd, True)
        environment = {**os.environ, **message.notify, _HANDOVER: str(fd)}
        before = os.getcwd()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            os.chdir(self.directory)
            os.execve(self.interpreter, self.words, environment)
        except OSError:
            os.chdir(before)
            message.let_be_inherited(False)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def rehearse(self, message: Handover) -> "Rehearsal":
        """Start that program in a process of its own, to see whether it could take over.

        Raises OSError.
        """
        return Rehearsal(self, message)


class Rehearsal:
    """A rehearsal that is under way."""

    def __init__(self, program: Program, message: Handover) -> None:
        import subprocess  # and all that it imports

        fd = message.write()
        reading, writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                program.words,
                executable=program.interpreter,
                cwd=program.directory,
                env={**os.environ, _REHEARSAL: str(fd)},
                pass_fds=[fd, *message.descriptors()],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(fd)
            os.close(writing)
        self.output = reading
        self._said = b""

    def hear(self) -> bool:
        """Take note of what it says; return False when it has said all."""
        data = os.read(self.output, 65536)
        self._said = (self._said + data)[-65536:]
        return bool(data)

    def outcome(self) -> str:
        """Return why it cannot take over; empty if it can."""
        os.close(self.output)
        status = self._process.wait()
        said = self._said.decode(errors="replace").strip()
        if not status:
            return ""
        lines = [line for line in said.splitlines() if ": error: " in line]
        if lines:
            return lines[-1].partition(": error: ")[2]
        return said.splitlines()[-1] if said else f"it has ended with status {status}"

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self.output)


def reap(pids: set[int]) -> None:
    """Reap those of *pids*, children that are no workers, that have ended."""
    for pid in list(pids):
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended = pid
        if ended:
            pids.discard(pid)
