"""A disk that is one object, read-only.

All reads of a client are of the version of the object that existed when it connected; if the object
is replaced, they fail.
"""

import errno

from nbdfork.plugin import Buffer, Export

from .meaning import NoSuchObject, ObjectChanged
from .store import Store


class Object(Export):
    """One client's view of the object *key*.  Raises OSError if there is none."""

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
        except (ObjectChanged, NoSuchObject) as error:
            text = "the object is no longer the one that the client connected to"
            raise OSError(errno.EIO, f"{self._store.shown(self._key)}: {text}") from error

    def close(self) -> None:
        self._store.close()
