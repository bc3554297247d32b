"""One client, from its first byte to its last.

Here, and only here, what went wrong between a client and the server is turned into its
consequence: a line in the log and a closed connection.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from nbdfork.backend import client
from nbdfork.backend.errors import ClientRefused, PluginFailed, cause
from nbdfork.backend.exports import Served
from nbdfork.backend.gate import Gate
from nbdfork.protocol import handshake
from nbdfork.protocol.access import Access, Admits, Takes, admits_all, takes_any
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import CutShort, Disconnected, ProtocolError, Rejected, TlsFailed
from nbdfork.protocol.meter import Meter
from nbdfork.protocol.runs import RunChannel, RunTransmission
from nbdfork.protocol.stream import Stream
from nbdfork.protocol.transmission import Session, Transmission

log = logging.getLogger(__name__)


LEFT_OLDSTYLE = (
    "the client left when it was greeted: if it knows only the newstyle protocol, serve it with -n"
)


class Threads(NamedTuple):
    """How many requests of one client are carried out at the same time; if *adaptive*, only as long
    as that turns out to be worth it.
    """

    number: int
    adaptive: bool = False


class Settings(NamedTuple):
    """How clients are spoken to.

    *handshake_limit*: the seconds that a client may take to choose an export; 0 is for ever.
    *threads*: how many requests of one client are carried out at the same time.  *spins*: whether
    there are processors to spare for looking out for requests.  *idle_limit*: the seconds that a
    client may be silent afterwards, or not take its replies; 0 is for ever.  *threads_of* says how
    many of *threads* an export gets.
    """

    newstyle: bool
    handshake_limit: float
    offer: handshake.Offer
    threads: Threads
    spins: bool
    idle_limit: float = 0.0
    threads_of: Callable[[str], Threads] | None = None


class Connection:
    """A client being served.

    *admits* says which exports it may have, by its certificate, or without one; *takes*, whether
    there is room for it.
    *on_export* is told the export's name when the client has chosen it, *meter* what each batch of
    requests did.
    """

    def __init__(
        self,
        stream: Stream,
        exports: Served,
        settings: Settings,
        on_export: Callable[[str], None],
        meter: Meter,
        admits: Admits = admits_all,
        takes: Takes = takes_any,
    ) -> None:
        self._channel = _channel(stream, settings)
        self._stream = stream
        self._exports = exports
        self._settings = settings
        self._on_export = on_export
        self._meter = meter
        self._access = Access(admits, meter.peer, takes)

    def serve(self) -> None:
        """Serve the client until it leaves, and close its connection."""
        session: Session | None = None
        meter = self._meter
        served = client.Client(self._stream, self._end, meter.set_busy, meter.peer)
        client.set_serving(served)
        try:
            self._exports.preconnect()
            session = self._handshake()
            if session is not None:
                served.export = session.name
                self._transmit(session)
        except ProtocolError as error:
            # Before it has an export, it may be anything that has found an open port.
            level = logging.INFO if session is None else logging.WARNING
            log.log(level, "disconnecting the client: %s", error)
        except Rejected as error:
            log.info("disconnecting the client, which cannot be told why: %s", error)
        except ClientRefused as error:
            log.warning("the plugin refuses the client: %s", error)
        except PluginFailed as error:
            log.info("disconnecting the client: %s", error.strerror)
        except TlsFailed as error:
            log.warning("the client is refused: %s", error)
        except Disconnected as error:
            if session is None or self._channel.stopped or not isinstance(error, CutShort):
                log.info("lost the client: %s", error)
            else:
                log.warning("lost the client in the middle of a request: %s", error)
        finally:
            self._meter.set_closing()
            if session is not None:
                session.gate.close()
            client.set_serving(None)
            self._channel.close()

    def stop(self) -> None:
        """Answer what the client has already sent, then end.

        May be called from a signal handler while `serve` is running.
        """
        self._channel.stop()

    def _end(self, at_once: bool) -> None:
        """Do as a plugin wants: close the connection *at_once*, or when all is answered."""
        log.info("the plugin ends the connection")
        if at_once:
            self._channel.cut()
        else:
            self.stop()

    def _handshake(self) -> Session | None:
        self._channel.set_deadline(self._settings.handshake_limit or None)
        session: Session | None
        if self._settings.newstyle:
            offer = self._settings.offer
            negotiation = handshake.Newstyle(self._channel, self._exports, offer, self._access)
            try:
                session = negotiation.negotiate()
            finally:
                if negotiation.lacked_tls:
                    log.warning("the client is refused: it does not use TLS")
        else:
            session = self._greet_oldstyle()
        self._channel.set_idle_limit(self._settings.idle_limit or None)
        self._channel.set_deadline(None)
        if session is not None:
            log.debug(
                "transmission: export %r of %d bytes, %s",
                session.name,
                session.gate.size,
                session.replies.name,
            )
            self._on_export(session.name)
        return session

    def _greet_oldstyle(self) -> Session | None:
        """Let the client have an export, and wait for a request; return None if it leaves instead.

        It has not had to say anything yet: its first request is a part of the handshake.
        """
        session = handshake.oldstyle(self._channel, self._exports, self._access)
        stays = has_left = False
        try:
            stays = self._channel.receive(session.replies.request.size)
            has_left = not stays and not self._channel.stopped
        except Disconnected as error:
            has_left = isinstance(error.__cause__, ConnectionError)
            raise
        finally:
            if not stays:
                session.gate.close()
            if has_left:
                log.warning(LEFT_OLDSTYLE)
        return session if stays else None

    def _transmit(self, session: Session) -> None:
        """Serve requests; if it is the server that ends, flush, which the client cannot, and
        turn down what has come in the meantime.
        """
        transmission = _transmission(self._channel, session, self._meter, self._settings)
        try:
            transmission.serve()
        finally:
            if self._channel.stopped:
                self._meter.set_closing()
                with client.calling():
                    _flush(session.gate)
        if self._channel.stopped:
            self._channel.stop()
            transmission.refuse()


def _channel(stream: Stream, settings: Settings) -> Channel:
    if settings.threads.number == 1:
        return RunChannel(stream, settings.spins)
    from nbdfork.protocol.pipelined import PipelinedChannel  # most servers have no use for it

    return PipelinedChannel(stream, settings.spins)


def _transmission(
    channel: Channel, session: Session, meter: Meter, settings: Settings
) -> Transmission:
    threads = settings.threads
    if threads.number == 1:
        return RunTransmission(channel, session, meter)
    from nbdfork.backend.pipelined import pipeline_of
    from nbdfork.protocol.adaptive import AdaptiveTransmission
    from nbdfork.protocol.parallel import ParallelTransmission
    from nbdfork.protocol.pipelined import PipelinedChannel, PipelinedTransmission

    assert isinstance(channel, PipelinedChannel)
    if settings.threads_of is not None:
        threads = settings.threads_of(session.name)
    pipeline = pipeline_of(session.gate) if threads.number > 1 else None
    if pipeline is not None:
        return PipelinedTransmission(channel, session, meter, threads.number, pipeline)
    kind = AdaptiveTransmission if threads.adaptive else ParallelTransmission
    return kind(channel, session, meter, threads.number)


def _flush(gate: Gate) -> None:
    if gate.can_write and gate.can_flush:
        try:
            gate.flush()
        except OSError as error:
            log.error("flushing the export failed, writes may be lost: %s", cause(error))
        except Exception:
            log.exception("flushing the export failed: writes may be lost")
