"""A plugin whose method `where` does not return, once: until a FIFO is written to, or never."""

import os
import subprocess
from collections.abc import Iterable

from nbdfork.plugin import Export, ExportInfo, Needs, Parameter, Plugin, ThreadModel, parse


class Waiting(Plugin):
    """wait in one method, the first time that it is called"""

    where = Parameter(str, required=True, metavar="METHOD", help="where to wait")
    begun = Parameter(parse.path, required=True, metavar="FILE", help="is made then")
    until = Parameter(parse.path, required=True, metavar="FIFO", help="what to wait for")
    child = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="wait for a process of its own instead"
    )
    in_one = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="one process serves all clients"
    )
    in_turn = Parameter(parse.boolean, default=False, metavar="BOOL", help="one client at a time")

    def needs(self) -> Needs:
        return Needs(anything=True)

    def thread_model(self) -> ThreadModel:
        return ThreadModel.SERIALIZE_CONNECTIONS if self.in_turn else ThreadModel.PARALLEL

    def one_process(self) -> bool:
        return self.in_one

    def wait(self, where: str) -> None:
        if where != self.where:
            return
        try:
            os.close(os.open(self.begun, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if self.child:
            subprocess.run(["sh", "-c", "sleep 1000; true"], check=False)
        with open(self.until) as fifo:
            fifo.read()

    def preconnect(self, read_only: bool) -> None:
        self.wait("preconnect")

    def default_export(self, read_only: bool) -> str:
        self.wait("default_export")
        return ""

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        self.wait("list_exports")
        return [ExportInfo("")]

    def open(self, export_name: str, read_only: bool) -> Export:
        self.wait("open")
        return self

    def get_size(self) -> int:
        self.wait("get_size")
        return 1 << 20

    def pread(self, count: int, offset: int) -> bytes:
        self.wait("pread")
        return b"x" * count

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.wait("pwrite")

    def flush(self) -> None:
        self.wait("flush")

    def close(self) -> None:
        self.wait("close")
