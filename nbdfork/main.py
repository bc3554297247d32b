"""The life of the server, from argv to the exit status.

The calls stand in the order in which things happen, and the order matters: what can fail for
the user to see comes before the server detaches; what needs root comes before that is given
up; the foreground hears "ready" last.  Here, too, every error becomes a message and a status.
"""

import logging
import os
import resource
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from nbdfork import assembly, cli, disks, info, layers, logs, manners, succession, translation
from nbdfork.assembly import Shelf
from nbdfork.backend.life import Life
from nbdfork.launch import Listening, Start, check_as, endpoint
from nbdfork.options import Options
from nbdfork.plugin import ConfigError
from nbdfork.server import (
    daemon,
    departures,
    linux,
    parent,
    privileges,
    processes,
    signals,
    sockets,
    stdio,
)
from nbdfork.server.errors import StartupError
from nbdfork.server.handover import Program, Takeover
from nbdfork.server.inheritance import show_in_ps, show_program
from nbdfork.server.notify import Notifier
from nbdfork.server.pool import PoolSize
from nbdfork.server.sandbox.programs import confinement
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.signals import STOP_SIGNALS
from nbdfork.server.slots import Slot
from nbdfork.server.sockets import Listeners
from nbdfork.server.stopper import Stopper
from nbdfork.server.watchdog import HangLimits
from nbdfork.uri import Endpoint

log = logging.getLogger(__name__)

_DESCRIPTORS, _EACH = 512, 8
"""So many descriptors a server with a config file may need, and so many more for each export: its
plugin and filters have some, and at a reload there are two of each."""


class _World(NamedTuple):
    """How the process found the world when it began.

    *closed*: those of the standard descriptors that were.
    """

    argv: Sequence[str]
    closed: set[int]
    descriptors: set[int]
    parent: int
    activated: bool
    program: Program
    takeover: Takeover | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `nbdfork` command and return its exit status."""
    called = manners.of(sys.argv[0])
    logs.set_program(called.program, called.plain_log)
    show_program(called.program)
    closed = daemon.open_standard_streams()
    try:
        takeover = Takeover.of(os.environ)
    except StartupError as error:
        return _fail(str(error))
    world = _World(
        sys.argv[1:] if argv is None else argv,
        closed,
        daemon.open_descriptors(),
        os.getppid(),
        sockets.is_activated(os.environ)
        or (takeover is not None and bool(takeover.message.facts["activated"])),
        succession.program(),
        takeover,
    )
    if takeover is None or takeover.is_rehearsal:
        return _run(world, called)
    takeover.catch_signals()
    try:
        return _run_or_raise(world, called)
    except Exception as error:
        if takeover.is_over:
            raise
        return succession.try_again(takeover, world.program, error)


def _run(world: _World, called: manners.Manners) -> int:
    """Do what the command line asks for, and say what goes wrong; return the exit status."""
    try:
        return _run_or_raise(world, called)
    except cli.UsageError as error:
        return _fail(f"{error}\nUse '{called.program} --help' or read nbdfork(1) for the usage.")
    except (ConfigError, StartupError) as error:
        return _fail(str(error))
    except OSError as error:  # the machine lacks something
        log.debug("the server failed:", exc_info=True)
        return _fail(str(error))


def _run_or_raise(world: _World, called: manners.Manners) -> int:
    options = cli.parse_arguments(world.argv, world.activated, called)
    logs.set_instance(options.name)
    if info.is_asked_for(options):
        info.show(options)
        return 0
    if options.plugin is None and options.config is None:
        raise cli.UsageError("no plugin is given")
    if options.dump_config_file:
        from nbdfork import configdump

        print(configdump.config_file(options, world.argv), end="")
        return 0
    if options.check:
        return _check(options)
    if world.takeover is None:
        for signum in STOP_SIGNALS:  # until there is more to end than this
            signal.signal(signum, _exit_by_signal)
    serve = _serve_single if options.single else _serve
    return serve(options, world)


def _fail(message: str) -> int:
    print(f"{logs.prefix()}: error: {message}", file=sys.stderr)
    if stdio.is_null(2):
        log.error("%s", message)  # --log may lead somewhere
    return 1


def _allow_descriptors(options: Options) -> None:
    if options.exports:
        daemon.allow_descriptors(_DESCRIPTORS + _EACH * len(options.exports))


def _listening(options: Options, world: _World) -> Listening:
    return Listening(
        options.address,
        options.port,
        options.family,
        options.unix,
        options.unix_mode,
        world.activated,
        options.vsock,
        options.selinux_label,
    )


class _EndedBySignal(SystemExit):
    """Told apart from a plugin that calls sys.exit; see `refuse_exit`."""


def _exit_by_signal(signum: int, frame: object) -> None:
    raise _EndedBySignal(128 + signum)


def _serve(options: Options, world: _World) -> int:
    """Serve many clients with a pool of workers, in the background if so asked."""
    takeover = world.takeover
    is_daemon = takeover is not None and not options.foreground
    _set_up_logs(options, options.log or ("syslog" if is_daemon else "stderr"))
    notifier = Notifier(os.environ)
    identity = privileges.look_up(options.user, options.group)
    plan = translation.plan(options, identity)
    _allow_descriptors(options)
    shelf = disks.shelf(options, confinement(plan))
    life = shelf.life
    _show_in_ps("supervisor", shelf, world)
    terms = translation.terms(options, layers.is_newstyle(life.chains, options))
    if takeover is not None:
        takeover.demand(succession.demands(options))
        succession.inherit(takeover)
        if takeover.is_rehearsal:
            return succession.rehearse(life)
        listeners = Listeners.take_over(takeover.message.listeners)
    else:
        listeners = _listening(options, world).listen()
    with Start(listeners, options.pidfile, is_first=takeover is None) as start:
        where = endpoint(listeners, options.export_name, translation.tls_parameters(options))
        life.get_ready()
        check_as(translation.client_side(options, identity), shelf.check_access)
        if is_daemon:
            os.chdir("/")
        elif not options.foreground:
            _announce(options, where, listeners)  # soon there will be nobody to tell
            start.go_into_background(world.descriptors, _keeps_stderr(options))
            _set_up_logs(options, options.log or "syslog")
        try:
            start.write_pidfile()
            facts = translation.facts(options, shelf, listeners, world.activated, takeover)
            size = PoolSize(options.max_clients, options.spare_workers, options.clients_per_worker)
            limit = options.shutdown_limit
            hangs = HangLimits(options.hang_warning, options.hang_limit)
            supervisor = assembly.supervisor(
                shelf,
                listeners,
                terms,
                size,
                limit,
                plan,
                hangs,
                notifier,
                translation.controlled(options, facts, identity, takeover),
                options.drain_limit,
                succession.reloadable(options, shelf, world.program, facts, notifier.variables),
                takeover,
            )
            supervisor.on_signal(signal.SIGUSR1, logs.reopen)
            if options.swap:
                _lock_memory()
            supervisor.on_signal(signal.SIGUSR2, supervisor.reload)
            if options.run is None and not daemon.has_terminal():
                supervisor.on_signal(signal.SIGHUP, supervisor.reload)
            # A signal, which the reader of this may send now, ends it cleanly.
            if options.foreground and takeover is None:
                _announce(options, where, listeners)
            # The command keeps the privileges of its user; it can connect already, and will be
            # served.
            captive = translation.start_captive(options, where) if options.run is not None else None
            if identity is not None:
                processes.load()
                listeners.give_private_to(identity.uid, identity.gid)
                privileges.drop_to(identity)
            if options.exit_with_parent:
                supervisor.end_with(parent.watch(world.parent))
            logs.begin_service()
            supervisor.run(start.tell_ready, captive)
            return captive.status() if captive is not None else 0
        finally:
            life.finish()
    return 1  # the process that waited has said why


def _serve_single(options: Options, world: _World) -> int:
    """Serve the one client that is on stdin and stdout."""
    client = stdio.take_over(world.closed)
    _set_up_logs(options, options.log or ("syslog" if stdio.is_null(2) else "stderr"))
    identity = privileges.look_up(options.user, options.group)
    plan = translation.plan(options, identity)
    shelf = disks.shelf(options, confinement(plan))
    life = shelf.life
    _show_in_ps("single", shelf, world)
    terms = translation.terms(options, layers.is_newstyle(life.chains, options))
    with Start(None, options.pidfile) as start:
        life.get_ready()
        check_as(identity, shelf.check_access)
        try:
            connect = assembly.connector(shelf, terms)
            start.write_pidfile()
            if identity is not None:
                privileges.drop_to(identity)
            stopper = Stopper()
            stopper.install(STOP_SIGNALS)
            signals.ignore_meaningless()
            if options.exit_with_parent:
                parent.stop_with(parent.watch(world.parent), STOP_SIGNALS[0])
            if isinstance(client, socket.socket):
                sockets.prepare_client(client, options.keepalive)
            sandbox = assembly.sandbox(shelf, plan, clients=1)
            if options.swap:
                _lock_memory()
            sandbox.hide_others()
            sandbox.enter()
            _after_fork(life, stopper)
            sandbox.shut()
            start.tell_ready()
            logs.begin_service()
            board = Scoreboard(1)
            meter = Slot(board.share(range(1)), 0)
            departures.on_departure(client, lambda: _give_up_if_busy(meter, life))
            stopper.serve(connect(client, None, lambda name: None, meter))
            stopper.announce_end()
            life.cleanup()
        finally:
            life.finish()
    return 0


def _give_up_if_busy(meter: Slot, life: Life) -> None:
    """The client has left: if the plugin is still at work for it, end."""
    if meter.entry().has_been_busy(departures.GRACE_SECONDS):
        log.info("the client has left: the plugin, which is busy with it, is given up")
        processes.kill_descendants()
        life.finish()
        os._exit(0)


def _check(options: Options) -> int:
    """Say whether a server could be started so: all but what it takes to listen is tried."""
    plan = translation.plan(options, privileges.look_up(options.user, options.group))
    shelf = disks.shelf(options, confinement(plan))
    terms = translation.terms(options, layers.is_newstyle(shelf.life.chains, options))
    what = options.config or options.plugin
    count = f"{len(shelf.disks)} exports" if len(shelf.disks) > 1 else "1 export"
    style = "newstyle" if terms.newstyle else "oldstyle"
    print(f"{what}: {count}, {style}: no fault was found")
    return 0


# -- the steps ------------------------------------------------------------------------------


def _show_in_ps(role: str, shelf: Shelf, world: _World) -> None:
    words = shelf.life.chains[0].without_secrets(world.argv)
    show_in_ps(f"{role} {shlex.join(words)}")


def _set_up_logs(options: Options, destination: str) -> None:
    try:
        logs.set_up(destination, options.verbose)
    except OSError as error:
        raise StartupError(f"--log {destination}: {error.strerror}") from error


def _keeps_stderr(options: Options) -> bool:
    """Return whether there may be something to say on standard error in the background, too."""
    debugging = options.verbose and options.log in (None, "syslog", "null")
    return debugging or options.log == "stderr"


def _lock_memory() -> None:
    """Lock the memory of this process, and let those that it forks lock theirs."""
    with suppress(ValueError, OSError):  # only root may raise it: then it has to suffice
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    try:
        linux.lock_memory()
    except OSError as error:
        raise StartupError(
            f"--swap: {error}: start the server as root, or raise the limit of locked memory"
            " (ulimit -l)"
        ) from error


def _after_fork(life: Life, stopper: Stopper) -> None:
    process = os.getpid()
    try:
        life.after_fork(lambda: os.kill(process, signal.SIGTERM), stopper.ending)
    except ConfigError as error:
        raise StartupError(str(error)) from error
    except Exception as error:
        log.debug("after_fork failed:", exc_info=True)
        raise StartupError(f"cannot start to serve: {type(error).__name__}: {error}") from error


def _announce(options: Options, where: Endpoint, listeners: Listeners) -> None:
    watched = options.foreground and options.run is None and sys.stdout.isatty()
    if options.print_uri or watched or log.isEnabledFor(logging.INFO):
        uri = where.uri()
        log.info("listening on %s: %s", listeners.describe(), uri)
        if options.print_uri or watched:
            print(options.manners.announcement(uri), flush=True)
