"""A disk whose facts are in the name of its export, as JSON: one server has them in all states.

It is a plugin as well as what tests import, so it knows nothing of other tests.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbdfork.plugin import BlockSize, Export, Extent, Plugin, Support

STATES: Mapping[str, Sequence[Any]] = {
    "get_size": (1 << 20, 3 << 20),
    "can_write": (True, False),
    "can_flush": (True, False),
    "can_fua": ("native", "emulate", "none"),
    "can_trim": (True, False),
    "can_zero": (True, False, "native", "emulate", "none"),
    "can_fast_zero": (True, False),
    "can_cache": ("native", "emulate", "none"),
    "can_extents": (True, False),
    "can_resize": (True, False),
    "can_multi_conn": (True, False),
    "is_rotational": (True, False),
    "block_size": ((1, 4096, 1 << 25), (512, 65536, 1 << 16), (4096, 4096, 0xFFFFFFFF)),
    "is_lenient": (False, True),
    "description": ("a disk", ""),
    "contexts": (("x-test:age", "x-test:color"), ()),
}
"""Every fact of an export in each state that it can have, as it stands in a name."""

EVERYTHING = {fact: states[0] for fact, states in STATES.items()}
NOTHING = {fact: states[-1] for fact, states in STATES.items()}


def cases() -> Iterator[dict[str, Any]]:
    """Yield a disk that can do everything, and one that can do nothing; and both of them with
    each fact in each other state.
    """
    for base in (EVERYTHING, NOTHING):
        yield base
        for fact, states in STATES.items():
            for state in states:
                if state != base[fact] or type(state) is not type(base[fact]):
                    yield {**base, fact: state}


def name_of(facts: Mapping[str, Any]) -> str:
    """Return the name of the export that has *facts*."""
    return json.dumps(facts)


def facts_of(export: Export) -> dict[str, Any]:
    """Return what *export* says of itself, in the form of `STATES`."""
    return {fact: _plain(getattr(export, fact)()) for fact in STATES}


def _plain(value: Any) -> Any:
    if isinstance(value, Support):
        return value.value
    return tuple(value) if isinstance(value, tuple | list) else value


class Facts(Plugin):
    """a disk with the facts that are in its name"""

    def open(self, export_name: str, read_only: bool) -> Export:
        return FactsExport(json.loads(export_name))


class FactsExport(Export):
    """A disk with *facts*; `calls` has what it was asked to do."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self.calls: list[tuple[Any, ...]] = []

    def _support(self, fact: str) -> Any:
        value = self.facts[fact]
        return Support(value) if isinstance(value, str) else value

    def get_size(self) -> int:
        return int(self.facts["get_size"])

    def can_write(self) -> bool:
        return bool(self.facts["can_write"])

    def can_flush(self) -> bool:
        return bool(self.facts["can_flush"])

    def can_fua(self) -> Support:
        return Support(self.facts["can_fua"])

    def can_trim(self) -> bool:
        return bool(self.facts["can_trim"])

    def can_zero(self) -> bool | Support:
        found: bool | Support = self._support("can_zero")
        return found

    def can_fast_zero(self) -> bool:
        return bool(self.facts["can_fast_zero"])

    def can_cache(self) -> Support:
        return Support(self.facts["can_cache"])

    def can_extents(self) -> bool:
        return bool(self.facts["can_extents"])

    def can_resize(self) -> bool:
        return bool(self.facts["can_resize"])

    def can_multi_conn(self) -> bool:
        return bool(self.facts["can_multi_conn"])

    def is_rotational(self) -> bool:
        return bool(self.facts["is_rotational"])

    def block_size(self) -> BlockSize:
        return BlockSize(*self.facts["block_size"])

    def is_lenient(self) -> bool:
        return bool(self.facts["is_lenient"])

    def description(self) -> str:
        return str(self.facts["description"])

    def contexts(self) -> list[str]:
        return list(self.facts["contexts"])

    def pread(self, count: int, offset: int) -> bytes:
        self.calls.append(("pread", count, offset))
        return bytes(count)

    def view(self, count: int, offset: int) -> bytes:
        self.calls.append(("view", count, offset))
        return bytes(count)

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.calls.append(("pwrite", len(data), offset, flags))

    def flush(self) -> None:
        self.calls.append(("flush",))

    def trim(self, count: int, offset: int, flags: int) -> None:
        self.calls.append(("trim", count, offset, flags))

    def zero(self, count: int, offset: int, flags: int) -> None:
        self.calls.append(("zero", count, offset, flags))

    def write_zeroes(self, count: int, offset: int, flags: int) -> None:
        self.calls.append(("write_zeroes", count, offset, flags))

    def cache(self, count: int, offset: int) -> None:
        self.calls.append(("cache", count, offset))

    def extents(self, count: int, offset: int, flags: int) -> Iterator[Extent]:
        self.calls.append(("extents", count, offset, flags))
        yield Extent(offset, count, 0)

    def context_extents(
        self, context: str, count: int, offset: int, flags: int
    ) -> Iterator[Extent]:
        self.calls.append(("context_extents", context, count, offset, flags))
        yield Extent(offset, count, 5)

    def resize(self, size: int) -> None:
        self.calls.append(("resize", size))

    def close(self) -> None:
        self.calls.append(("close",))
