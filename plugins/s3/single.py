"""A disk that is one object, read-only.

All of a client's reads are of the version of the object that was there when it came: should the
object be replaced, they fail.
"""

import errno

from nbdfork.plugin import Buffer, Export

from .store import Changed, Missing, Store


class Object(Export):
    """One client's view of the object *key*.  Making it raises OSError if there is none."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._facts = store.head(key)

    def get_size(self) -> int:
        return self._facts.size

    def can_multi_conn(self) -> bool:
        return True

    def pread(self, count: int, offset: int) -> Buffer:
        try:
            return self._store.get(self._key, offset, offset + count, *self._facts)
        except (Changed, Missing) as error:
            text = "the object is not the one any more that was there when the client came"
            raise OSError(errno.EIO, f"{self._store.shown(self._key)}: {text}") from error
