"""The options, as the values that the wings take."""

import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbdfork import launch, logs
from nbdfork.assembly import Shelf, Terms
from nbdfork.options import Options
from nbdfork.protocol import wire
from nbdfork.protocol.handshake import Offer
from nbdfork.server import control, privileges
from nbdfork.server.admission import Rules
from nbdfork.server.handover import Takeover
from nbdfork.server.sandbox.sandbox import Plan
from nbdfork.server.sandbox.users import Users
from nbdfork.server.sockets import Listeners
from nbdfork.uri import Endpoint

if TYPE_CHECKING:
    from nbdfork.protocol.tls import Tls
    from nbdfork.server.captive import Captive


def facts(
    options: Options,
    shelf: Shelf,
    listeners: Listeners,
    activated: bool,
    takeover: Takeover | None,
) -> dict[str, Any]:
    """Return what is told of the server, and does not change while this program runs."""
    return {
        "program": options.manners.program,
        "version": options.manners.version,
        "pid": os.getpid(),
        "started": time.time() if takeover is None else takeover.message.facts["started"],
        "listening": listeners.describe(),
        "activated": activated,
        "config": options.config,
        "exports": [disk.name for disk in shelf.disks if disk.name is not None],
        "max_clients": options.max_clients,
        "one_process": shelf.life.one_process(),
    }


def controlled(
    options: Options,
    facts: Mapping[str, Any],
    identity: privileges.Identity | None,
    takeover: Takeover | None,
) -> control.Settings | None:
    """Return how the server is controlled, on a socket that is its user's."""
    if options.control is None:
        return None
    if takeover is None:
        listener = control.listen(options.control)
    else:
        listener = socket.socket(fileno=os.dup(takeover.message.control))
    if identity is not None and os.geteuid() == 0:
        os.chown(options.control, identity.uid, identity.gid)

    def serve(*arguments: Any) -> None:
        from nbdfork import controlhttp  # in its own process alone

        controlhttp.serve(*arguments)

    return control.Settings(listener, options.control, serve, facts, logs.keep_in_child)


def plan(options: Options, identity: privileges.Identity | None) -> Plan:
    """Return how the sandboxes of the processes that serve clients are to be."""
    uid = os.geteuid() if identity is None else identity.uid
    users = None
    if options.worker_uids is not None:
        users = Users(*options.worker_uids, None if identity is None else identity.gid)
    return Plan(options.sandbox, dict(options.limits), uid, users)


def client_side(
    options: Options, identity: privileges.Identity | None
) -> privileges.Identity | None:
    """Return as whom clients are served, of all such users the first; None is who we are."""
    if options.worker_uids is None:
        return identity
    first = options.worker_uids[0]
    return privileges.Identity(first, first if identity is None else identity.gid, None)


def terms(options: Options, newstyle: bool) -> Terms:
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
        options.swap,
    )


def _tls_wanted(options: Options) -> str:
    """Return "off", "on" or "require"."""
    if options.tls != "auto":
        return options.tls
    from nbdfork import credentials  # and all that it imports

    return "on" if credentials.found(options.manners.program) else "off"


def _tls(options: Options) -> "Tls | None":
    if _tls_wanted(options) == "off":
        return None
    from nbdfork import credentials  # and all that it imports

    return credentials.load(
        certificates=options.tls_certificates,
        psk=options.tls_psk,
        verify_peer=options.tls_verify_peer,
        required=options.tls == "require",
        priority=options.tls_priority,
        program=options.manners.program,
    )


def tls_parameters(options: Options) -> dict[str, str] | None:
    """Return what a client on this machine needs for TLS; None if it can do without."""
    if options.tls != "require":
        return None
    return launch.tls_parameters(options.tls_certificates, options.tls_psk)


def start_captive(options: Options, where: Endpoint) -> "Captive":
    """Start the command of `--run`, which finds the server at *where*."""
    from nbdfork.server.captive import Captive  # and all that it imports

    command = options.run or ""
    variables = {
        "nbd": where.uri() if options.manners.nbd_is_uri else where.for_command(command),
        "uri": where.uri(),
        "port": "" if where.port is None else str(where.port),
        "unixsocket": where.unix_path or "",
        "exportname": where.export_name,
        "tls": {"off": "", "on": "1", "require": "2"}[_tls_wanted(options)],
        "tls_certificates": options.tls_certificates or "",
        "tls_psk": options.tls_psk or "",
    }
    return Captive(command, variables)
