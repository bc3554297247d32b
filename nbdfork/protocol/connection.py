"""One client, from its first byte to its last.

Here, and only here, what went wrong between a client and the server is turned into its
consequence: a line in the log and a closed connection.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from nbdfork.plugin.backend import Backend
from nbdfork.plugin.gate import Gate
from nbdfork.protocol import handshake
from nbdfork.protocol.channel import Channel, Stream
from nbdfork.protocol.errors import Disconnected, ProtocolError
from nbdfork.protocol.transmission import Transmission

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How clients are spoken to.

    *handshake_limit*: the seconds that a client may take to choose an export; 0 is for ever.
    """

    newstyle: bool
    handshake_limit: float


class Connection:
    """A client being served.

    *on_export* is told the export's name when the client has chosen it.
    """

    def __init__(
        self,
        stream: Stream,
        backend: Backend,
        settings: Settings,
        on_export: Callable[[str], None],
    ) -> None:
        self._channel = Channel(stream)
        self._backend = backend
        self._settings = settings
        self._on_export = on_export
        self._stopped = False

    def serve(self) -> None:
        """Serve the client until it leaves, and close its connection."""
        gate: Gate | None = None
        try:
            self._backend.preconnect()
            gate = self._handshake()
            if gate is not None:
                Transmission(self._channel, gate).serve()
        except ProtocolError as error:
            log.info("disconnecting the client: %s", error)
        except OSError as error:
            log.info("the plugin does not want the client: %s", error)
        except Disconnected as error:
            log.info("lost the client: %s", error)
        finally:
            if gate is not None:
                self._close_export(gate)
            self._channel.close()

    def stop(self) -> None:
        """Answer what the client has already sent, then end.

        May be called from a signal handler while `serve` is running.
        """
        self._stopped = True
        self._channel.stop()

    def _handshake(self) -> Gate | None:
        self._channel.set_deadline(self._settings.handshake_limit or None)
        gate: Gate | None
        if self._settings.newstyle:
            negotiation = handshake.Newstyle(self._channel, self._backend)
            gate, name = negotiation.negotiate(), negotiation.export_name
        else:
            gate, name = handshake.oldstyle(self._channel, self._backend), ""
        self._channel.set_deadline(None)
        if gate is not None:
            log.debug("transmission: export %r of %d bytes", name, gate.size)
            self._on_export(name)
        return gate

    def _close_export(self, gate: Gate) -> None:
        """Close the export; if it was the server that ended the connection, flush it first,
        because the client could not.
        """
        if self._stopped and gate.can_write and gate.can_flush:
            try:
                gate.flush()
            except Exception:
                log.exception("flushing the export failed: writes may be lost")
        gate.close()
