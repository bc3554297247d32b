"""The facts of an export, as nbdkit makes them of a plugin's callbacks, in whatever language.

A callback that says what the disk can do may be missing: then it follows from the callbacks that
do it.
"""

from abc import ABC, abstractmethod
from typing import Any

from nbdfork.plugin import Export, Support, ThreadModel

_SUPPORT = {0: Support.NONE, 1: Support.EMULATE, 2: Support.NATIVE}


class CallbackExport(Export, ABC):
    """One client's view of a disk that consists of callbacks; a subclass knows how to call them."""

    model: ThreadModel
    """The thread model of the disk; a subclass sets it."""

    @abstractmethod
    def has(self, callback: str) -> bool:
        """Return whether there is such a callback."""

    @abstractmethod
    def ask(self, callback: str) -> Any:
        """Return what a callback answers that `has` says is there.  Raises OSError."""

    @abstractmethod
    def bad_answer(self, callback: str, answer: object) -> OSError:
        """Return the error for an answer that has no meaning."""

    def says_yes(self, callback: str, default: bool) -> bool:
        """Return whether a callback answers anything but 0; *default* if it is missing."""
        return bool(self.ask(callback) != 0) if self.has(callback) else default

    def can_write(self) -> bool:
        return self.says_yes("can_write", self.has("pwrite"))

    def can_flush(self) -> bool:
        return self.says_yes("can_flush", self.has("flush"))

    def can_trim(self) -> bool:
        return self.says_yes("can_trim", self.has("trim"))

    def can_zero(self) -> bool:
        return self.says_yes("can_zero", self.has("zero"))

    def can_fast_zero(self) -> bool:
        return self.says_yes("can_fast_zero", not self.has("zero"))

    def can_extents(self) -> bool:
        return self.says_yes("can_extents", self.has("extents"))

    def can_multi_conn(self) -> bool:
        # Where clients take turns, a second connection of one would wait for the first to end.
        return self.says_yes("can_multi_conn", False) and (
            self.model is not ThreadModel.SERIALIZE_CONNECTIONS
        )

    def is_rotational(self) -> bool:
        return self.says_yes("is_rotational", False)

    def can_fua(self) -> Support:
        default = Support.EMULATE if self.has("flush") else Support.NONE
        return self._support("can_fua", default)

    def can_cache(self) -> Support:
        default = Support.NATIVE if self.has("cache") else Support.NONE
        return self._support("can_cache", default)

    def _support(self, callback: str, default: Support) -> Support:
        if not self.has(callback):
            return default
        answer = self.ask(callback)
        if answer not in _SUPPORT:
            raise self.bad_answer(callback, answer)
        return _SUPPORT[answer]
