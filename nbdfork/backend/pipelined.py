"""The gate's checks for requests that an export only begins: see `nbdfork.plugin.pipeline`.

Whatever would have to be refused or emulated is left to the gate.
"""

import logging

from nbdfork.backend.gate import Gate
from nbdfork.plugin import Ended, Pipeline, Support

log = logging.getLogger(__name__)


class CheckedPipeline:
    """The *pipeline* of the export behind *gate*."""

    def __init__(self, gate: Gate, pipeline: Pipeline) -> None:
        self._gate = gate
        self._read = pipeline.read
        self._write = pipeline.write
        self._misaligned = gate.block_size.minimum - 1
        self._is_traced = log.isEnabledFor(logging.DEBUG)
        self.awaits = pipeline.awaits
        self.proceed = pipeline.proceed
        self.close = pipeline.close

    def read(self, count: int, offset: int, ended: Ended) -> bool:
        """Begin what `Gate.pread` does, and return True; *ended* is told what becomes of it.

        Return False if it is to be done, or refused, by that.
        """
        if not count or offset + count > self._gate.size or (offset | count) & self._misaligned:
            return False
        if self._is_traced:
            log.debug("begin to read %d bytes at %d", count, offset)
        return self._read(count, offset, ended)

    def write(self, data: memoryview, offset: int, fua: bool, ended: Ended) -> bool:
        """Begin what `Gate.pwrite` does, as `read`."""
        gate = self._gate
        count = len(data)
        if not count or offset + count > gate.size or (offset | count) & self._misaligned:
            return False
        if not gate.can_write or (fua and gate.fua is not Support.NATIVE):
            return False
        if self._is_traced:
            log.debug("begin to write %d bytes at %d", count, offset)
        return self._write(data, offset, gate.fua_flag if fua else 0, ended)


def pipeline_of(gate: Gate) -> CheckedPipeline | None:
    """Return the pipeline of an export, if it has one and its requests need no lock."""
    pipeline = gate.open_pipeline() if gate.open_pipeline is not None else None
    return None if pipeline is None else CheckedPipeline(gate, pipeline)
