"""The life of a chain: its layers' methods in their order, in the supervisor and in workers.

What is called for a client is in `exports`.
"""

import logging
import mmap
from collections.abc import Callable
from threading import Lock

from nbdfork.backend.chain import Chain
from nbdfork.backend.errors import cause, starting
from nbdfork.plugin import Plugin, SharedLock, ThreadModel

log = logging.getLogger(__name__)


class Life:
    """The life of *chain*, which has been configured."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._has_begun = mmap.mmap(-1, 1)  # 1, in all processes, once one can have clients

    # -- in the supervisor --------------------------------------------------------------

    def get_ready(self) -> None:
        """Let the layers make what all clients share.  Raises `ConfigError`."""
        chain = self.chain
        log.debug("%s: get_ready", chain.name)
        if chain.one_process():
            chain.server.serve_in_one_process()
        for layer in reversed(chain.layers):
            with starting(layer.name, "get_ready"):
                layer.plugin.get_ready()
        if chain.thread_model() is ThreadModel.SERIALIZE_ALL_REQUESTS:
            chain.lock = Lock() if chain.one_process() else SharedLock()

    def finish(self) -> None:
        """The server ends.  Where one process has served all clients, the layers are unloaded."""
        if not (self.chain.one_process() and self._has_begun[0]):
            self._each("unload", lambda plugin: plugin.unload())
        self._each("finish", lambda plugin: plugin.finish())

    # -- in a process that serves -------------------------------------------------------

    def after_fork(self, stop: Callable[[], None], ending: int) -> None:
        """A worker has been forked; see `Handle.attach` for what it is given."""
        chain = self.chain
        chain.server.attach(stop, ending)
        for layer in reversed(chain.layers):
            layer.plugin.after_fork()
        self._has_begun[0] = 1
        chain.server.stop_if_wanted()

    def cleanup(self) -> None:
        """A worker ends; with it, perhaps, all that is known of clients."""
        self._each("cleanup", lambda plugin: plugin.cleanup())
        if self.chain.one_process():
            self._each("unload", lambda plugin: plugin.unload())

    def _each(self, what: str, call: Callable[[Plugin], None]) -> None:
        """Call all layers, whatever one of them raises."""
        for layer in self.chain.layers:
            try:
                call(layer.plugin)
            except OSError as error:
                log.error("%s: %s failed: %s", layer.name, what, cause(error))
            except Exception:
                log.exception("%s: %s failed:", layer.name, what)
