"""The worker: the child's side of the fork.

It waits on the listening sockets, serves one client at a time with what it was given, and
ends in the generation that forked it, by returning an exit status.  It never returns to code
that belongs to the supervisor.
"""

import faulthandler
import logging
import os
import signal
import threading
import time

from nbdfork.server import linux
from nbdfork.server.admission import Door
from nbdfork.server.entrance import Entrance
from nbdfork.server.errors import CannotAccept, StartupError
from nbdfork.server.inheritance import STACK_SIGNAL, Inheritance
from nbdfork.server.service import Service, admit, serve
from nbdfork.server.slots import State
from nbdfork.server.stopper import Stopper
from nbdfork.server.threads import Threads

log = logging.getLogger(__name__)

EXIT_FAILED = 1

ORPHAN_SECONDS = 10
"""How long a worker whose supervisor is dead may take to finish with its client."""


def run(inherited: Inheritance, service: Service) -> int:
    """Live as a worker; return the exit status.  All signals are blocked on entry."""
    stopper = Stopper(lambda: _limit_orphan(inherited.supervisor))
    try:
        if not _prepare(inherited, service, stopper):
            inherited.slot(0).set(State.ENDED)
            return 0
        service.after_fork(inherited.stop_server, stopper.ending)
    except StartupError as error:  # the supervisor tells it
        return _fail(inherited, str(error))
    except BaseException as error:  # SystemExit, too: a plugin must not end a worker silently
        log.exception("the worker cannot start")
        return _fail(inherited, f"{type(error).__name__}: {error}")
    try:
        if service.clients_at_once > 1:
            Threads(inherited, service, stopper).run()
        else:
            _serve_in_turn(inherited, service, stopper)
    except CannotAccept as error:
        log.error("%s", error)
        return _fail(inherited, f"{type(error).__name__}: {error}")
    except BaseException as error:
        log.exception("the worker failed")
        return _fail(inherited, f"{type(error).__name__}: {error}")
    finally:
        stopper.announce_end()
        service.cleanup()
    inherited.slot(0).set(State.ENDED)
    return 0


def _limit_orphan(supervisor: int) -> None:
    """In the handler of the stop signal: if the supervisor is dead, nobody else sets a limit.

    A client that takes no reply would keep the worker, and with it the port, for ever.
    """
    if os.getppid() != supervisor:
        threading.Thread(target=_kill_group, args=(ORPHAN_SECONDS,), daemon=True).start()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(ORPHAN_SECONDS + 1)  # if no other thread can run


def _kill_group(seconds: float) -> None:
    """After so many *seconds*, kill this process, and with it those that it has started."""
    time.sleep(seconds)
    os.killpg(0, signal.SIGKILL)


def _fail(inherited: Inheritance, reason: str) -> int:
    """Say why this worker cannot go on; return the exit status."""
    inherited.slot(0).set(State.FAILED, reason=reason)
    inherited.announce()
    return EXIT_FAILED


def _prepare(inherited: Inheritance, service: Service, stopper: Stopper) -> bool:
    """The after-fork checklist.  Return False if there is no supervisor any more."""
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        # A terminal sends them to all processes; the supervisor decides.
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.register(STACK_SIGNAL, inherited.stacks)
    stopper.install([signal.SIGTERM])
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if service.locked:
        linux.lock_memory()  # a fork does not inherit it
    service.sandbox.leave_group()
    service.sandbox.enter(inherited.slots.start // len(inherited.slots))
    return linux.die_with_parent(signal.SIGTERM, inherited.supervisor)


def _serve_in_turn(inherited: Inheritance, service: Service, stopper: Stopper) -> None:
    slot = inherited.slot(0)
    door = Door(service.admission, inherited.board)
    served = 0
    while not stopper.stopped:
        slot.set(State.IDLE)
        inherited.announce()
        with Entrance(inherited, stopper, has_clients=False) as entrance:
            admitted = None
            while admitted is None:
                client = entrance.accept()
                if client is None:
                    return
                admitted = admit(client, service, door, slot)
        served += 1
        if served == service.clients_per_worker:
            for listener in inherited.listeners:
                listener.close()
        service.sandbox.shut()
        serve(*admitted, service, stopper, slot, inherited.announce, inherited.line)
        if served == service.clients_per_worker:
            return
