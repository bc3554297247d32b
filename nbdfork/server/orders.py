"""Orders from the control socket: a table of verbs, and what each is answered.

The process that takes them is `control`'s; it is started again if it ends.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from nbdfork.server.control import Control, Settings
from nbdfork.server.generations import Generations
from nbdfork.server.scoreboard import Scoreboard

log = logging.getLogger(__name__)

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
"""How much may be logged."""

_Order: TypeAlias = Mapping[str, Any]


class Obeying(Protocol):
    """The supervisor, as orders see it."""

    @property
    def is_draining(self) -> bool:
        """Whether nobody is let in any more."""

    has_taken_over: bool
    """Whether new clients get workers of this program."""

    def drain(self) -> None:
        """Let nobody in any more."""

    def reload(self) -> str:
        """Let another program take over; return why it cannot, as far as that is known now."""

    def watch(self, fd: int, handler: Callable[[], object]) -> None:
        """Call *handler* whenever *fd* is readable."""

    def unwatch(self, fd: int) -> None:
        """Leave *fd* alone."""


class Orders:
    """What operators want of *supervisor* and its *generations*.

    Without *settings* there is no socket, and nobody who wants anything.
    """

    def __init__(
        self,
        supervisor: Obeying,
        generations: Generations,
        board: Scoreboard,
        settings: Settings | None,
    ) -> None:
        self._supervisor = supervisor
        self._generations = generations
        self._waits_for_reload = False
        self._is_ending = False
        self._verbs: dict[str, Callable[[_Order], _Order | None]] = {
            "state": self._state,
            "drain": self._drain,
            "disconnect": self._disconnect,
            "log-level": self._log_level,
            "reload": self._reload,
        }
        self._control = None if settings is None else Control(settings, board, self._carry_out)

    @property
    def listening(self) -> int:
        """The descriptor of the socket that operators connect to; -1 if there is none."""
        return -1 if self._control is None else self._control.listening

    def start(self) -> None:
        """Let the socket be served."""
        if self._control is not None:
            self._supervisor.watch(self._control.start(), self._hear)

    def _hear(self) -> None:
        assert self._control is not None
        fd = self._control.fileno()
        if not self._control.hear():
            self._supervisor.unwatch(fd)
            self._control.reap()
            if not self._is_ending:
                log.error("the process of the control socket has ended: another one is started")
                self.start()

    def reload_failed(self, reason: str) -> None:
        """Tell who waits for a reload why there is none."""
        self._answer_reload({"error": reason})

    def reload_begins(self) -> None:
        """Tell who waits for a reload that another program takes over now."""
        self._answer_reload({"generation": self._generations.current.number})

    def _answer_reload(self, answer: _Order) -> None:
        if self._waits_for_reload and self._control is not None:
            self._control.answer(answer)
        self._waits_for_reload = False

    def stop(self) -> None:
        """Serve the socket no more, and leave it to another program."""
        self._is_ending = True
        if self._control is not None:
            self._control.stop()

    def close(self) -> None:
        """The server ends: remove the socket."""
        self._is_ending = True
        if self._control is not None:
            self._control.close()

    # -- the verbs ----------------------------------------------------------------------

    def _carry_out(self, order: _Order) -> _Order | None:
        verb = self._verbs.get(str(order.get("verb")))
        return {"error": "there is no such order"} if verb is None else verb(order)

    def _state(self, order: _Order) -> _Order:
        number = self._generations.current.number
        return {
            "generation": number if self._supervisor.has_taken_over else number - 1,
            "draining": self._supervisor.is_draining,
        }

    def _drain(self, order: _Order) -> _Order:
        self._supervisor.drain()
        return {"clients": self._generations.clients()}

    def _disconnect(self, order: _Order) -> _Order:
        identity = str(order.get("id"))
        if not (identity.isascii() and identity.isdecimal()):
            return {"error": f"there is no client {identity}"}
        pid = int(identity)
        error = self._generations.of(pid).disconnect(pid)
        return {"error": error} if error else {}

    def _log_level(self, order: _Order) -> _Order:
        level = LEVELS.get(str(order.get("level")))
        if level is None:
            return {"error": f"a level is one of: {', '.join(LEVELS)}"}
        logging.getLogger().setLevel(level)
        self._generations.current.renew_spares()
        return {}

    def _reload(self, order: _Order) -> _Order | None:
        error = self._supervisor.reload()
        self._waits_for_reload = not error
        return {"error": error} if error else None
