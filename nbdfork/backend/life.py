"""The life of chains: their layers' methods in their order, in the supervisor and in workers.

What is called for a client is in `exports`.
"""

import logging
import mmap
from collections.abc import Callable, Iterable
from threading import Lock

from nbdfork.backend import kept
from nbdfork.backend.chain import Chain
from nbdfork.backend.errors import cause, starting
from nbdfork.plugin import ConfigError, Plugin, SharedLock, ThreadModel

log = logging.getLogger(__name__)


class Life:
    """The life of all *chains* of a server, which have been configured and have one handle."""

    def __init__(self, *chains: Chain) -> None:
        self.chains = chains
        self._has_begun = mmap.mmap(-1, 1)  # 1, in all processes, once one can have clients
        self._begun: list[Chain] = []  # those whose clients this process can serve
        self._beginning = Lock()

    def one_process(self) -> bool:
        """Return whether one process must serve all clients; one chain can be the reason."""
        return any(chain.one_process() for chain in self.chains)

    # -- in the supervisor --------------------------------------------------------------

    def get_ready(self) -> None:
        """Let the layers make what all clients share.  Raises `ConfigError`."""
        one_process = self.one_process()
        for chain in self.chains:
            self._demand_company(chain)
            if one_process:
                chain.server.serve_in_one_process()
        for chain in self.chains:
            log.debug("%s: get_ready", chain.name)
            for place, layer in reversed(list(enumerate(chain.layers))):
                kept.begin(f"{chain.label}/{place}", layer.name, chain.configuration)
                with starting(layer.name, "get_ready"):
                    layer.plugin.get_ready()
            if chain.thread_model() is ThreadModel.SERIALIZE_ALL_REQUESTS:
                kept.begin(chain.label, chain.name, chain.configuration)
                chain.lock = Lock() if one_process else SharedLock(name="requests")
        kept.end()

    def _demand_company(self, chain: Chain) -> None:
        """Raise `ConfigError` if *chain* cannot be one of several."""
        alone = chain.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS
        if alone and len(self.chains) > 1:
            raise ConfigError(
                f"{chain.name}: it serves one client at a time, and those of all others would"
                " have to wait for that one: give it a server of its own"
            )

    def check_access(self, chain: Chain, read_only: bool) -> None:
        """Let the layers of *chain* try to open what clients will get.  Raises `ConfigError`."""
        log.debug("%s: check_access", chain.name)
        with starting(chain.name, "check_access"):
            chain.top.check_access(read_only)

    def finish(self) -> None:
        """The server ends.  Where one process has served all clients, the layers are unloaded."""
        if not (self._has_begun[0] and self.one_process()):
            self._each(self.chains, "unload", lambda plugin: plugin.unload())
        self._each(self.chains, "finish", lambda plugin: plugin.finish())

    # -- in a process that serves -------------------------------------------------------

    def after_fork(self, stop: Callable[[], None], ending: int) -> None:
        """A worker has been forked; see `Handle.attach` for what it is given.

        Of several chains, most have nothing to do in this worker: each is begun when a client
        wants it.
        """
        server = self.chains[0].server
        server.attach(stop, ending)
        if len(self.chains) == 1:
            self.begin(self.chains[0])
        self._has_begun[0] = 1
        server.stop_if_wanted()

    def begin(self, chain: Chain) -> None:
        """A client of this process wants *chain*: let its layers prepare, if they have not yet."""
        with self._beginning:
            if chain not in self._begun:
                for layer in reversed(chain.layers):
                    layer.plugin.after_fork()
                self._begun.append(chain)

    def cleanup(self) -> None:
        """A worker ends; with it, perhaps, all that is known of clients."""
        begun = self.chains if len(self.chains) == 1 else self._begun
        self._each(begun, "cleanup", lambda plugin: plugin.cleanup())
        if self.one_process():
            self._each(self.chains, "unload", lambda plugin: plugin.unload())

    def _each(self, chains: Iterable[Chain], what: str, call: Callable[[Plugin], None]) -> None:
        """Call all layers, whatever one of them raises."""
        for layer in [layer for chain in chains for layer in chain.layers]:
            try:
                call(layer.plugin)
            except OSError as error:
                log.error("%s: %s failed: %s", layer.name, what, cause(error))
            except Exception:
                log.exception("%s: %s failed:", layer.name, what)
