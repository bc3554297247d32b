"""An export whose reads and writes go through its pipeline, as they do in a server."""

import os
import queue
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext

from nbdfork.plugin import Export, FilterExport, Pipeline, Unfinished
from nbdfork.types import Buffer

_Result = Buffer | Exception | None


class PipedExport(FilterExport):
    """Passes reads and writes on to *pipeline*; what it leaves unfinished, the export does."""

    def __init__(self, next: Export, pipeline: Pipeline) -> None:
        super().__init__(next)
        self._pipeline = pipeline
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)
        self._is_over = False
        self.unfinished = 0
        """How many requests the export had to do."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._is_over:
            poll = select.poll()
            poll.register(self._bell, select.POLLIN)
            for fd, events in self._pipeline.awaits().items():
                poll.register(fd, events)
            ready = dict(poll.poll())
            if ready.pop(self._bell, 0):
                os.eventfd_read(self._bell)
            self._pipeline.proceed(ready)
            while not self._todo.empty():
                self._todo.get()()
        self._pipeline.close()

    def pread(self, count: int, offset: int) -> Buffer:
        found = self._carried_out(lambda ended: self._pipeline.read(count, offset, ended))
        if isinstance(found, Unfinished):
            return self.next.pread(count, offset)
        assert not isinstance(found, Exception)
        assert found is not None
        return found

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        found = self._carried_out(lambda ended: self._pipeline.write(data, offset, flags, ended))
        if isinstance(found, Unfinished):
            self.next.pwrite(data, offset, flags)

    def _carried_out(self, begin: Callable[[Callable[[_Result], None]], bool]) -> _Result:
        future: Future[_Result] = Future()

        def ended(result: _Result) -> None:
            if isinstance(result, Exception | None):
                future.set_result(result)
            else:
                future.set_result(bytes(result))  # its memory will be used again

        def start() -> None:
            if not begin(ended):
                future.set_result(Unfinished())

        self._todo.put(start)
        os.eventfd_write(self._bell, 1)
        found = future.result(60)
        if isinstance(found, Unfinished):
            self.unfinished += 1
        elif isinstance(found, Exception):
            raise found
        return found

    def end(self) -> None:
        """Let threads call the export's methods from now on."""
        self._is_over = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()
        os.close(self._bell)


@contextmanager
def piped(export: Export) -> Iterator[PipedExport]:
    """Yield *export*, which has a pipeline, with reads and writes through that."""
    pipeline = export.pipeline()
    assert pipeline is not None
    made = PipedExport(export, pipeline)
    try:
        yield made
    finally:
        made.end()


WAYS: dict[str, Callable[[Export], AbstractContextManager[Export]]] = {
    "methods": nullcontext,
    "pipeline": piped,
}
"""The ways in which a read or a write may reach a far end."""
