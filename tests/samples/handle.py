"""A disk that tells what its server handle says, and uses it when it is read.

It is empty but for the first block, which has the facts; what is done when it is read depends on
the offset.
"""

import os
import select
import threading

from nbdfork.plugin import Parameter, Plugin, parse

WHEN = ("never", "config_complete", "get_ready", "after_fork", "open", "thread")

STOP, DISCONNECT, FORCE, WAIT = (number * 4096 for number in (1, 2, 3, 4))
"""Where a read stops the server, ends the client in one way or the other, or waits for the end."""


class Handle(Plugin):
    """uses its server handle"""

    stop = Parameter(parse.choice(*WHEN), default="never", metavar="WHEN", help="stop the server")
    log = Parameter(parse.path, metavar="FILE", help="where the calls are noted")
    one = Parameter(parse.boolean, default=False, metavar="YES|NO", help="one process")

    def note(self, what: str) -> None:
        if self.log is not None:
            with open(self.log, "a") as log:
                log.write(f"{what}\n")

    def do_if(self, when: str) -> None:
        if self.stop == when:
            self.server.stop()

    def one_process(self) -> bool:
        return self.one

    def config_complete(self) -> None:
        self.note(f"at start: {self.facts()}")
        self.do_if("config_complete")

    def get_ready(self) -> None:
        self.do_if("get_ready")

    def after_fork(self) -> None:
        self.do_if("after_fork")
        self.released, self.release = os.pipe()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()

    def watch(self) -> None:
        """Wait for the end, and let those that wait in `pread` go on."""
        self.do_if("thread")
        poll = select.poll()
        poll.register(self.server.ending, select.POLLIN)
        poll.poll()
        self.note("ending")
        os.write(self.release, b"x")

    def preconnect(self, read_only: bool) -> None:
        self.do_if("open")

    def cleanup(self) -> None:
        self.server.disconnect(force=True)  # there is no client: nothing happens
        self.watcher.join()
        self.note("cleanup")

    def unload(self) -> None:
        self.note("unload")

    def facts(self) -> str:
        stdio = "".join("-+"[usable] for usable in self.server.stdio)
        return f"single={self.server.single} stdio={stdio} ending={self.server.ending >= 0}"

    def get_size(self) -> int:
        return 1 << 20

    def pread(self, count: int, offset: int) -> bytes:
        if offset == STOP:
            self.server.stop()
        elif offset in (DISCONNECT, FORCE):
            self.server.disconnect(force=offset == FORCE)
        elif offset == WAIT:
            os.read(self.released, 1)
        return self.facts().encode().ljust(count, b"\0")[:count]
