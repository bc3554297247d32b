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

from nbdfork import assembly, cli, info, logs, uri
from nbdfork.backend import load
from nbdfork.backend.backend import Backend, Layer
from nbdfork.options import Options
from nbdfork.plugin.errors import ConfigError
from nbdfork.protocol.connection import Connection
from nbdfork.server import daemon, linux, privileges, processes, sockets, stdio
from nbdfork.server.errors import StartupError
from nbdfork.server.inheritance import show_in_ps
from nbdfork.server.scoreboard import Scoreboard, Slot
from nbdfork.server.sockets import Listeners
from nbdfork.server.stopper import Stopper
from nbdfork.server.supervisor import STOP_SIGNALS

if TYPE_CHECKING:
    from nbdfork.server.captive import Captive

log = logging.getLogger(__name__)


class _Start(NamedTuple):
    """How the process found the world when it began."""

    descriptors: set[int]
    parent: int
    activated: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `nbdfork` command and return its exit status."""
    start = _Start(daemon.open_descriptors(), os.getppid(), sockets.is_activated(os.environ))
    try:
        options = cli.parse_arguments(sys.argv[1:] if argv is None else argv, start.activated)
        if info.is_asked_for(options):
            info.show(options)
            return 0
        if options.plugin is None:
            raise cli.UsageError("no plugin is given")
        for signum in STOP_SIGNALS:  # until there is more to end than this
            signal.signal(signum, _exit_by_signal)
        serve = _serve_single if options.single else _serve
        return serve(options, start)
    except cli.UsageError as error:
        return _fail(f"{error}\nUse 'nbdfork --help' or read nbdfork(1) for the usage.")
    except (ConfigError, StartupError) as error:
        return _fail(str(error))


def _fail(message: str) -> int:
    print(f"nbdfork: error: {message}", file=sys.stderr)
    return 1


def _exit_by_signal(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _serve(options: Options, start: _Start) -> int:
    """Serve many clients with a pool of workers, in the background if so asked."""
    _set_up_logs(options, options.log or "stderr")
    identity = privileges.look_up(options.user, options.group)
    backend = _backend(options)
    _show_in_ps("supervisor", backend)
    listeners = _listen(options, start.activated)
    try:
        backend.get_ready()
        if not options.foreground:  # soon there will be nobody to tell
            _announce(options, listeners)
        launch = _detach(options, start)
        try:
            return _run(options, start, backend, listeners, identity, launch)
        except StartupError as error:
            launch.tell_failed(error)
        except OSError as error:  # the machine is short of something
            launch.tell_failed(StartupError(str(error)))
        return 1
    finally:
        listeners.close()
        listeners.remove_private()


def _run(
    options: Options,
    start: _Start,
    backend: Backend,
    listeners: Listeners,
    identity: privileges.Identity | None,
    launch: daemon.Foreground | daemon.Background,
) -> int:
    """Run the pool; return the exit status, which is the captive command's if there is one."""
    if options.pidfile is not None:
        daemon.write_pidfile(options.pidfile)
    supervisor = assembly.supervisor(options, backend, listeners)
    if options.foreground:  # now that a signal, which who reads this may send, ends it cleanly
        _announce(options, listeners)
    # The command keeps the privileges of its user; it can connect already, and will be served.
    captive = _start_captive(options, listeners) if options.run else None
    if identity is not None:
        processes.load()
        listeners.give_private_to(identity.uid, identity.gid)
        privileges.drop_to(identity)
    if options.exit_with_parent and not linux.die_with_parent(STOP_SIGNALS[0], start.parent):
        return 0
    supervisor.run(launch.tell_ready, captive)
    backend.finish()
    return captive.status() if captive is not None else 0


def _serve_single(options: Options, start: _Start) -> int:
    """Serve the one client that is on stdin and stdout."""
    client = stdio.take_over()
    _set_up_logs(options, options.log or ("syslog" if stdio.is_null(2) else "stderr"))
    identity = privileges.look_up(options.user, options.group)
    backend = _backend(options)
    _show_in_ps("single", backend)
    backend.get_ready()
    spoken = assembly.settings(options, backend)
    if options.pidfile is not None:
        daemon.write_pidfile(options.pidfile)
    if identity is not None:
        privileges.drop_to(identity)
    stopper = Stopper()
    stopper.install(STOP_SIGNALS)
    if options.exit_with_parent and not linux.die_with_parent(STOP_SIGNALS[0], start.parent):
        return 0
    if isinstance(client, socket.socket):
        sockets.prepare_client(client, options.keepalive)
    process = os.getpid()
    backend.after_fork(lambda: os.kill(process, signal.SIGTERM), stopper.ending)
    board = Scoreboard(1)
    meter = Slot(board.share(range(1)), 0)
    stopper.serve(Connection(client, backend, spoken, lambda name: None, meter))
    stopper.announce_end()
    backend.cleanup()
    backend.finish()
    return 0


# -- the steps ------------------------------------------------------------------------------


def _show_in_ps(role: str, backend: Backend) -> None:
    show_in_ps("nbdfork", f"{role} {shlex.join(backend.without_secrets(sys.argv[1:]))}")


def _set_up_logs(options: Options, destination: str) -> None:
    try:
        logs.set_up(destination, options.verbose)
    except OSError as error:
        raise StartupError(f"--log {destination}: {error.strerror}") from error


def _backend(options: Options) -> Backend:
    """Load and configure the plugin."""
    filters = [_layer(load.find(name, load.FILTER)) for name in options.filters]
    backend = Backend(
        _layer(load.find(options.plugin or "")),
        filters,
        read_only=options.readonly,
        export_name=options.exportname,
        single=options.single,
    )
    for owner, flag, value in options.debug:
        if owner == "nbdfork":
            _set_server_flag(flag, value)
        else:
            backend.set_debug_flag(owner, flag, value)
    backend.configure(options.arguments)
    return backend


def _layer(found: load.Found) -> Layer:
    return Layer(found.name, found.plugin_class())


def _set_server_flag(flag: str, value: int) -> None:
    try:
        logs.set_debug_flag(flag, value)
    except KeyError:
        known = ", ".join(logs.DEBUG_FLAGS)
        raise ConfigError(f"-D nbdfork.{flag}: no such debug flag; there is: {known}") from None


def _listen(options: Options, activated: bool) -> Listeners:
    if activated:
        return sockets.listen_activated(os.environ)
    if options.unix == "-":
        return sockets.listen_private()
    if options.unix is not None:
        return sockets.listen_unix(options.unix)
    family = socket.AF_UNSPEC
    if options.ipv4_only:
        family = socket.AF_INET
    elif options.ipv6_only:
        family = socket.AF_INET6
    return sockets.listen_tcp(options.ipaddr, options.port, family)


def _detach(options: Options, start: _Start) -> daemon.Foreground | daemon.Background:
    if options.foreground:
        return daemon.Foreground()
    debugging = options.verbose and options.log in (None, "syslog", "null")
    keep_stderr = debugging or options.log == "stderr"
    launch = daemon.detach(start.descriptors, keep_stderr)
    _set_up_logs(options, options.log or "syslog")
    return launch


def _announce(options: Options, listeners: Listeners) -> None:
    if options.print_uri or log.isEnabledFor(logging.INFO):
        where = _uri(options, listeners)
        log.info("listening on %s: %s", listeners.describe(), where)
        if options.print_uri:
            print(where, flush=True)


def _start_captive(options: Options, listeners: Listeners) -> "Captive":
    from nbdfork.server.captive import Captive  # and all that it imports

    return Captive(options.run or "", _variables(options, listeners))


def _uri(options: Options, listeners: Listeners) -> str:
    return uri.nbd_uri(*_where(options, listeners))


def _where(
    options: Options, listeners: Listeners
) -> tuple[str, int | None, str | None, str, dict[str, str] | None]:
    name = options.exportname or ""
    tls = uri.tls_parameters(options)
    return listeners.host, listeners.port, listeners.unix_path, name, tls


def _variables(options: Options, listeners: Listeners) -> dict[str, str]:
    """Return the shell variables of the captive command."""
    where = _where(options, listeners)
    tls = {"off": "", "on": "1", "require": "2"}[options.tls]
    return {
        "nbd": uri.for_command(options.run or "", *where),
        "uri": uri.nbd_uri(*where),
        "port": "" if listeners.port is None else str(listeners.port),
        "unixsocket": listeners.unix_path or "",
        "exportname": options.exportname or "",
        "tls": tls,
        "tls_certificates": options.tls_certificates or "",
        "tls_psk": options.tls_psk or "",
    }
