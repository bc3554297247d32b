"""A disk in a plain variable: each process that has a copy of it has a disk of its own."""

import os

from nbdfork.plugin import Parameter, Plugin, SharedCounter, ThreadModel, parse


class Local(Plugin):
    """a disk in a bytearray"""

    model = Parameter(
        parse.choice(*(model.name.lower() for model in ThreadModel)),
        default="parallel",
        metavar="MODEL",
        help="the thread model",
    )
    one = Parameter(parse.choice("yes", "no"), default="no", metavar="YES|NO", help="one process")
    log = Parameter(parse.path, metavar="FILE", help="where the calls are noted")

    def note(self, call: str) -> None:
        """Append a line to the log."""
        if self.log is not None:
            fd = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.write(fd, f"{call} {os.getpid()}\n".encode())
            os.close(fd)

    def thread_model(self) -> ThreadModel:
        return ThreadModel[self.model.upper()]

    def one_process(self) -> bool:
        return self.one == "yes"

    def config_complete(self) -> None:
        self.note("config_complete")

    def get_ready(self) -> None:
        self.note("get_ready")
        self.data = bytearray(8192)
        self.inside = SharedCounter()

    def after_fork(self) -> None:
        self.note("after_fork")

    def preconnect(self, read_only: bool) -> None:
        self.note("preconnect")

    def cleanup(self) -> None:
        self.note("cleanup")

    def unload(self) -> None:
        self.note("unload")

    def finish(self) -> None:
        self.note("finish")

    def close(self) -> None:
        self.note("close")

    def get_size(self) -> int:
        return len(self.data)

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + count])

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        """Write; and notice if another write is going on at the same time."""
        if self.inside.add() != 1:
            self.note("overlap")
        self.data[offset : offset + len(data)] = data
        os.sched_yield()
        self.inside.add(-1)
