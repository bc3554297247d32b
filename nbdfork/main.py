"""The life of the server, from argv to the exit status.

The calls stand in the order in which things happen, and the order matters: what can fail for
the user to see comes before the server detaches; what needs root comes before that is given
up; the foreground hears "ready" last.  Here, too, every error becomes a message and a status.
"""

import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from nbdfork import assembly, cli, disks, info, layers, logs, manners
from nbdfork.assembly import Shelf, Terms
from nbdfork.backend.life import Life
from nbdfork.launch import Listening, Start, endpoint, tls_parameters
from nbdfork.options import Options
from nbdfork.plugin import ConfigError
from nbdfork.protocol import wire
from nbdfork.protocol.handshake import Offer
from nbdfork.server import (
    daemon,
    departures,
    parent,
    privileges,
    processes,
    signals,
    sockets,
    stdio,
)
from nbdfork.server.admission import Rules
from nbdfork.server.errors import StartupError
from nbdfork.server.inheritance import show_in_ps, show_program
from nbdfork.server.notify import Notifier
from nbdfork.server.pool import PoolSize
from nbdfork.server.sandbox.sandbox import Plan
from nbdfork.server.sandbox.users import Users
from nbdfork.server.scoreboard import Scoreboard, Slot
from nbdfork.server.signals import STOP_SIGNALS
from nbdfork.server.sockets import Listeners
from nbdfork.server.stopper import Stopper
from nbdfork.server.watchdog import HangLimits
from nbdfork.uri import Endpoint

if TYPE_CHECKING:
    from nbdfork.protocol.tls import Tls
    from nbdfork.server.captive import Captive

log = logging.getLogger(__name__)


class _World(NamedTuple):
    """How the process found the world when it began.

    *closed*: those of the standard descriptors that were.
    """

    argv: Sequence[str]
    closed: set[int]
    descriptors: set[int]
    parent: int
    activated: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `nbdfork` command and return its exit status."""
    called = manners.of(sys.argv[0])
    logs.set_program(called.program, called.plain_log)
    show_program(called.program)
    closed = daemon.open_standard_streams()
    world = _World(
        sys.argv[1:] if argv is None else argv,
        closed,
        daemon.open_descriptors(),
        os.getppid(),
        sockets.is_activated(os.environ),
    )
    try:
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
        for signum in STOP_SIGNALS:  # until there is more to end than this
            signal.signal(signum, _exit_by_signal)
        serve = _serve_single if options.single else _serve
        return serve(options, world)
    except cli.UsageError as error:
        return _fail(f"{error}\nUse '{called.program} --help' or read nbdfork(1) for the usage.")
    except (ConfigError, StartupError) as error:
        return _fail(str(error))
    except OSError as error:  # the machine lacks something
        log.debug("the server failed:", exc_info=True)
        return _fail(str(error))


def _fail(message: str) -> int:
    print(f"{logs.prefix()}: error: {message}", file=sys.stderr)
    if stdio.is_null(2):
        log.error("%s", message)  # --log may lead somewhere
    return 1


class _EndedBySignal(SystemExit):
    """Told apart from a plugin that calls sys.exit; see `refuse_exit`."""


def _exit_by_signal(signum: int, frame: object) -> None:
    raise _EndedBySignal(128 + signum)


def _serve(options: Options, world: _World) -> int:
    """Serve many clients with a pool of workers, in the background if so asked."""
    _set_up_logs(options, options.log or "stderr")
    notifier = Notifier(os.environ)
    identity = privileges.look_up(options.user, options.group)
    shelf = disks.shelf(options)
    life = shelf.life
    _show_in_ps("supervisor", shelf, world)
    terms = _terms(options, layers.is_newstyle(life.chains, options))
    listening = Listening(
        options.address,
        options.port,
        options.family,
        options.unix,
        options.unix_mode,
        world.activated,
    )
    listeners = listening.listen()
    with Start(listeners, options.pidfile) as start:
        where = endpoint(listeners, options.export_name, _tls_parameters(options))
        life.get_ready()
        if not options.foreground:
            _announce(options, where, listeners)  # soon there will be nobody to tell
            start.go_into_background(world.descriptors, _keeps_stderr(options))
            _set_up_logs(options, options.log or "syslog")
        try:
            start.write_pidfile()
            size = PoolSize(options.max_clients, options.spare_workers, options.clients_per_worker)
            limit = options.shutdown_limit
            hangs = HangLimits(options.hang_warning, options.hang_limit)
            plan = _plan(options, identity)
            supervisor = assembly.supervisor(
                shelf, listeners, terms, size, limit, plan, hangs, notifier
            )
            supervisor.on_signal(signal.SIGUSR1, logs.reopen)
            if options.foreground:  # a signal, which the reader may send now, ends it cleanly
                _announce(options, where, listeners)
            # The command keeps the privileges of its user; it can connect already, and will be
            # served.
            captive = _start_captive(options, where) if options.run is not None else None
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
    shelf = disks.shelf(options)
    life = shelf.life
    _show_in_ps("single", shelf, world)
    terms = _terms(options, layers.is_newstyle(life.chains, options))
    with Start(None, options.pidfile) as start:
        life.get_ready()
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
            plan = _plan(options, identity)
            sandbox = assembly.sandbox(shelf, plan, clients=1)
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
    privileges.look_up(options.user, options.group)
    shelf = disks.shelf(options)
    terms = _terms(options, layers.is_newstyle(shelf.life.chains, options))
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


def _after_fork(life: Life, stopper: Stopper) -> None:
    process = os.getpid()
    try:
        life.after_fork(lambda: os.kill(process, signal.SIGTERM), stopper.ending)
    except ConfigError as error:
        raise StartupError(str(error)) from error
    except Exception as error:
        log.debug("after_fork failed:", exc_info=True)
        raise StartupError(f"cannot start to serve: {type(error).__name__}: {error}") from error


def _plan(options: Options, identity: privileges.Identity | None) -> Plan:
    """Return how the sandboxes of the processes that serve clients are to be."""
    uid = os.geteuid() if identity is None else identity.uid
    users = None
    if options.worker_uids is not None:
        users = Users(*options.worker_uids, None if identity is None else identity.gid)
    return Plan(options.sandbox, dict(options.limits), uid, users)


def _terms(options: Options, newstyle: bool) -> Terms:
    """Return how clients are to be served.  Raises `StartupError` if TLS cannot be had."""
    flags = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
    offer = Offer(
        flags=flags & options.mask_handshake,
        extended_headers=not (options.no_extended_headers or options.no_structured_replies),
        structured_replies=not options.no_structured_replies,
        meta_contexts=not options.no_meta_contexts,
        tls=_tls(options),
    )
    return Terms(
        newstyle,
        offer,
        options.handshake_limit,
        options.idle_limit,
        options.keepalive,
        options.max_clients_per_address,
        Rules(options.allow, options.deny),
        options.memory_budget,
    )


def _tls(options: Options) -> "Tls | None":
    if options.tls == "off":
        return None
    from nbdfork import credentials  # and all that it imports

    return credentials.load(
        certificates=options.tls_certificates,
        psk=options.tls_psk,
        verify_peer=options.tls_verify_peer,
        required=options.tls == "require",
    )


def _tls_parameters(options: Options) -> dict[str, str] | None:
    """Return what a client on this machine needs for TLS; None if it can do without."""
    if options.tls != "require":
        return None
    return tls_parameters(options.tls_certificates, options.tls_psk)


def _announce(options: Options, where: Endpoint, listeners: Listeners) -> None:
    watched = options.foreground and options.run is None and sys.stdout.isatty()
    if options.print_uri or watched or log.isEnabledFor(logging.INFO):
        uri = where.uri()
        log.info("listening on %s: %s", listeners.describe(), uri)
        if options.print_uri or watched:
            print(options.manners.announcement(uri), flush=True)


def _start_captive(options: Options, where: Endpoint) -> "Captive":
    from nbdfork.server.captive import Captive  # and all that it imports

    command = options.run or ""
    variables = {
        "nbd": where.uri() if options.manners.nbd_is_uri else where.for_command(command),
        "uri": where.uri(),
        "port": "" if where.port is None else str(where.port),
        "unixsocket": where.unix_path or "",
        "exportname": where.export_name,
        "tls": {"off": "", "on": "1", "require": "2"}[options.tls],
        "tls_certificates": options.tls_certificates or "",
        "tls_psk": options.tls_psk or "",
    }
    return Captive(command, variables)
