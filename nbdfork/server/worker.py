"""The worker: the child's side of the fork.

It waits on the listening sockets, serves one client at a time with what it was given, and
ends in the supervisor, which forked it, by returning an exit status.  It never returns to code
that belongs to the supervisor.
"""

import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from setproctitle import setproctitle, setthreadtitle

from nbdfork.server import linux, sockets
from nbdfork.server.scoreboard import Scoreboard, State

log = logging.getLogger(__name__)

EXIT_FAILED = 1

SHORT_OF_SECONDS = 0.1
"""How long to wait before trying again to accept a client, if the machine is short of something."""


def show_in_ps(name: str, title: str) -> None:
    """Let ps(1) and pgrep(1) show this process with *name* (15 bytes at most) and *title*."""
    setproctitle(f"nbdfork: {title}")
    setthreadtitle(name)


class Servable(Protocol):
    """A connected client, as the server wing sees it."""

    def serve(self) -> None:
        """Serve it until it leaves."""

    def stop(self) -> None:
        """From a signal handler: make `serve` answer what has been received and return."""


class Service(NamedTuple):
    """How clients are served; given to the server wing by its caller.

    *after_fork* is called in each worker before its first client, *cleanup* after its last.  The
    former is given a function that stops the whole server, and a descriptor that is readable once
    this process has been told to end.
    *connect* takes a stream and a function to be told the export's name.  A worker serves
    *clients_per_worker* clients (0: any number), *clients_at_once* of them at the same time.
    """

    after_fork: Callable[[Callable[[], None], int], None]
    connect: Callable[[socket.socket, Callable[[str], None]], Servable]
    cleanup: Callable[[], None]
    keepalive: bool
    clients_per_worker: int
    clients_at_once: int


class Stopper:
    """What a stop signal does in a process that serves clients: those being served are stopped,
    and no other is begun.

    `ending` is a descriptor that is readable from then on.  It becomes so in the signal handler of
    the interpreter, which does not have to wait for the main thread as Python's handlers do.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.ending, self._end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._clients: set[Servable] = set()

    def install(self, signals: Iterable[signal.Signals]) -> None:
        """Let *signals* stop this process."""
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        for signum in signals:
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, frame: object) -> None:
        self.stopped = True
        for client in tuple(self._clients):
            client.stop()

    def forget_other_signals(self) -> None:
        """Make `ending` unreadable again if it was a signal of a plugin's own that woke it."""
        if self.stopped:
            return
        with suppress(BlockingIOError):
            os.read(self.ending, 4096)
        if self.stopped:  # the stop signal came in this very moment, and its byte has been read
            os.write(self._end, b"\0")

    def serve(self, client: Servable) -> None:
        """Serve *client* to its end, or until stopped."""
        self._clients.add(client)
        if self.stopped:  # the signal came before there was a client to stop
            client.stop()
        try:
            client.serve()
        finally:
            self._clients.discard(client)


class Place(NamedTuple):
    """A worker's place among the others.

    *leash* is a pipe: its end-of-file tells all idle workers to end, a byte tells any one of
    them.  A byte on the pipe *news* tells the supervisor to look at the scoreboard.
    """

    slot: int
    board: Scoreboard
    listeners: list[socket.socket]
    leash: int
    news: int
    supervisor: int

    def report(self, state: State, note: str = "") -> None:
        """Tell the supervisor what this worker is doing now."""
        show_in_ps("nbdfork-worker", f"worker {state.name.lower()} {note}".rstrip())
        self.board.set(self.slot, state, note)
        try:
            os.write(self.news, b"n")
        except (BlockingIOError, BrokenPipeError):
            pass  # full, so it will look anyway; or gone, and the leash will say so

    def stop_server(self) -> None:
        """Tell the supervisor to end, with all its workers."""
        os.kill(self.supervisor, signal.SIGTERM)


def run(place: Place, service: Service) -> int:
    """Live as a worker; return the exit status.  All signals are blocked on entry."""
    stopper = Stopper()
    try:
        if not _prepare(place, stopper):
            return 0
        service.after_fork(place.stop_server, stopper.ending)
    except Exception as error:
        log.exception("the worker cannot start")
        place.report(State.FAILED, f"{type(error).__name__}: {error}")
        return EXIT_FAILED
    try:
        if service.clients_at_once > 1:
            _serve_in_threads(place, service, stopper)
        else:
            _serve_in_turn(place, service, stopper)
    except Exception:
        log.exception("the worker failed")
        return EXIT_FAILED
    finally:
        service.cleanup()
    return 0


def _prepare(place: Place, stopper: Stopper) -> bool:
    """The after-fork checklist.  Return False if there is no supervisor any more."""
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(
            signum, signal.SIG_IGN
        )  # a terminal sends them to all; the supervisor decides
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stopper.install([signal.SIGTERM])
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return linux.die_with_parent(signal.SIGTERM, place.supervisor)


class _Threads:
    """The threads that serve clients at the same time, one each."""

    def __init__(self, place: Place, service: Service, stopper: Stopper) -> None:
        self._place = place
        self._service = service
        self._stopper = stopper
        self._free = threading.Semaphore(service.clients_at_once)
        self._threads: set[threading.Thread] = set()
        self._notes: dict[int, str] = {}

    def wait_for_one(self) -> None:
        """Wait until another client could be served."""
        if not self._free.acquire(blocking=False):
            most = self._service.clients_at_once
            log.warning("all %d clients are taken: others have to wait", most)
            self._free.acquire()

    def serve(self, client: socket.socket) -> None:
        """Serve *client* in the thread that was waited for."""
        thread = threading.Thread(target=self._run, args=(client,))
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # there may be no more of them
            log.error("cannot serve a client: %s", error)
            client.close()
            self._threads.discard(thread)
            self._free.release()

    def _run(self, client: socket.socket) -> None:
        key = id(client)
        try:
            _serve(client, self._service, self._stopper, lambda note: self._report(key, note))
        except Exception:
            log.exception("a client's thread failed")
        finally:
            self._report(key, None)
            self._threads.discard(threading.current_thread())
            self._free.release()

    def _report(self, key: int, note: str | None) -> None:
        self._notes.pop(key, None)
        if note is not None:
            self._notes[key] = note
        state = State.SERVING if self._notes else State.IDLE
        self._place.report(state, "; ".join(tuple(self._notes.values())))

    def join(self) -> None:
        """Wait until all clients have been served."""
        for thread in tuple(self._threads):
            thread.join()


def _serve_in_threads(place: Place, service: Service, stopper: Stopper) -> None:
    """Serve clients at the same time, each in a thread, until told to end."""
    threads = _Threads(place, service, stopper)
    place.report(State.IDLE)
    with _waiting(place, stopper) as epoll:
        threads.wait_for_one()
        while (client := _accept(place, stopper, epoll)) is not None:
            threads.serve(client)
            threads.wait_for_one()
    threads.join()


def _serve_in_turn(place: Place, service: Service, stopper: Stopper) -> None:
    served = 0
    while not stopper.stopped:
        place.report(State.IDLE)
        with _waiting(place, stopper) as epoll:
            client = _accept(place, stopper, epoll)
        if client is None:
            return
        served += 1
        if served == service.clients_per_worker:
            for listener in place.listeners:
                listener.close()
        _serve(client, service, stopper, lambda note: place.report(State.SERVING, note))
        if served == service.clients_per_worker:
            return


def _serve(
    client: socket.socket, service: Service, stopper: Stopper, report: Callable[[str], None]
) -> None:
    """Serve one client to its end; *report* is told who it is, and what it is served."""
    try:
        peer = sockets.prepare_client(client, service.keepalive)
    except OSError as error:  # it has left already
        log.info("lost a client at once: %s", error)
        client.close()
        return
    report(peer)
    log.info("client %s connected", peer)

    def on_export(name: str) -> None:
        report(f"{peer} export {name!r}" if name else peer)

    stopper.serve(service.connect(client, on_export))
    log.info("client %s is gone", peer)


@contextmanager
def _waiting(place: Place, stopper: Stopper) -> Iterator[select.epoll]:
    """What a worker waits for: clients, and to be told to end."""
    with select.epoll() as epoll:
        for listener in place.listeners:
            # Of all workers that wait, the kernel wakes one for each connection.
            epoll.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        epoll.register(place.leash, select.EPOLLIN)
        epoll.register(stopper.ending, select.EPOLLIN)
        yield epoll


def _accept(place: Place, stopper: Stopper, epoll: select.epoll) -> socket.socket | None:
    """Wait for a client; return None if the worker is to end instead."""
    while not stopper.stopped:
        # Before looking at the leash: the connection that woke us wakes nobody else.
        for listener in place.listeners:
            client = _accept_from(listener)
            if client is not None:
                return client
        if _is_let_go(place.leash):
            return None
        epoll.poll()
        stopper.forget_other_signals()
    return None


def _accept_from(listener: socket.socket) -> socket.socket | None:
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None  # another worker was faster
    except ConnectionError:
        return None  # the client gave up while it was waiting
    except OSError as error:  # short of descriptors or of memory: those that are served go on
        log.error("cannot accept a client: %s", error)
        time.sleep(SHORT_OF_SECONDS)
        return None


def _is_let_go(leash: int) -> bool:
    try:
        os.read(leash, 1)
    except BlockingIOError:
        return False
    return True
