"""The facts of an export, as nbdkit makes them of a plugin's callbacks in whatever language.

Where there is no callback that says, what a disk can do follows from the callbacks that do it.
"""

from abc import abstractmethod
from typing import Any

from nbdfork.plugin import Export, Support, ThreadModel

_SUPPORT = {0: Support.NONE, 1: Support.EMULATE, 2: Support.NATIVE}


class CallbackExport(Export):
    """One client's view of a disk that consists of callbacks; a subclass calls them."""

    _model: ThreadModel

    @abstractmethod
    def _has(self, callback: str) -> bool:
        """Return whether there is such a callback."""

    @abstractmethod
    def _ask(self, callback: str) -> Any:
        """Call a callback that is there, and return its answer.  Raises OSError."""

    @abstractmethod
    def _nonsense(self, callback: str, answer: object) -> OSError:
        """Return the error for an answer that means nothing."""

    def can_write(self) -> bool:
        return self._is("can_write", self._has("pwrite"))

    def can_flush(self) -> bool:
        return self._is("can_flush", self._has("flush"))

    def can_trim(self) -> bool:
        return self._is("can_trim", self._has("trim"))

    def can_zero(self) -> bool:
        return self._is("can_zero", self._has("zero"))

    def can_fast_zero(self) -> bool:
        return self._is("can_fast_zero", not self._has("zero"))

    def can_extents(self) -> bool:
        return self._is("can_extents", self._has("extents"))

    def can_multi_conn(self) -> bool:
        # One client at a time has no use for more connections; and they would wait for ever.
        return self._is("can_multi_conn", False) and (
            self._model is not ThreadModel.SERIALIZE_CONNECTIONS
        )

    def is_rotational(self) -> bool:
        return self._is("is_rotational", False)

    def can_fua(self) -> Support:
        default = Support.EMULATE if self._has("flush") else Support.NONE
        return self._support("can_fua", default)

    def can_cache(self) -> Support:
        default = Support.NATIVE if self._has("cache") else Support.NONE
        return self._support("can_cache", default)

    def _is(self, callback: str, default: bool) -> bool:
        return bool(self._ask(callback) != 0) if self._has(callback) else default

    def _support(self, callback: str, default: Support) -> Support:
        if not self._has(callback):
            return default
        answer = self._ask(callback)
        if answer not in _SUPPORT:
            raise self._nonsense(callback, answer)
        return _SUPPORT[answer]
