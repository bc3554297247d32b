"""The filters with the parameters that change what they say of a disk, and what they say."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nbdfork.backend import load
from nbdfork.backend.chain import Layer
from nbdfork.plugin import Filter

All = Mapping[str, Any]
Change = Callable[[All], All]


class Kind(NamedTuple):
    """A filter with its parameters, and what becomes of the facts of the disk below.

    If it *needs_zero*, it refuses one that can be written and has no zero of its own.
    """

    name: str
    parameters: Mapping[str, Any]
    change: Change
    needs_zero: bool = False

    def refuses(self, below: All, read_only: bool) -> bool:
        is_native = below["can_zero"] in (True, "native")
        return self.needs_zero and not is_native and below["can_write"] and not read_only

    def layer(self) -> Layer:
        made = load.find(self.name, load.FILTER).plugin_class(**self.parameters)
        assert isinstance(made, Filter)
        return Layer(self.name, made)

    def arguments(self) -> list[str]:
        """Return it as words of a command line, the filter first."""
        words = [f"{key.replace('_', '-')}={text}" for key, text in self.parameters.items()]
        return [f"--filter={self.name}", *words]


def same(below: All) -> All:
    return below


def but(**changes: Any) -> Change:
    return lambda below: {**below, **changes}


def longer(below: All) -> All:
    return {**below, "get_size": 4 << 20, "can_resize": False, "can_fast_zero": True}


def second_part(below: All) -> All:
    return {**below, "get_size": below["get_size"] - (1 << 16), "can_resize": False}


def overlaid(below: All) -> All:
    minimum, preferred, maximum = below["block_size"]
    return {
        "get_size": below["get_size"],
        "can_write": True,
        "can_flush": True,
        "can_fua": "native",
        "can_trim": True,
        "can_zero": True,
        "can_fast_zero": True,
        "can_cache": "native",
        "can_extents": True,
        "can_resize": False,
        "can_multi_conn": True,
        "is_rotational": below["is_rotational"],
        "block_size": (minimum, max(preferred, 1 << 16), maximum),
        "description": below["description"],
        "contexts": (),
    }


KINDS = [
    Kind("log", {"logfile": "/dev/null"}, same),
    Kind("log", {}, same),
    Kind("delay", {"delay_cache": "1ms"}, same),
    Kind("delay", {}, same),
    Kind("delay", {"delay_zero": "1ms", "delay_fast_zero": "false"}, but(can_fast_zero=True)),
    Kind("error", {"error_cache_rate": "50%"}, same),
    Kind("error", {}, same),
    Kind("noextents", {}, but(can_extents=False)),
    Kind("nozero", {}, but(can_zero="none", can_fast_zero=False)),
    Kind("nozero", {"zeromode": "emulate"}, but(can_zero="emulate", can_fast_zero=True)),
    Kind(
        "nozero",
        {"zeromode": "emulate", "fastzeromode": "none"},
        but(can_zero="emulate", can_fast_zero=False),
    ),
    Kind("nozero", {"zeromode": "notrim"}, same, needs_zero=True),
    Kind(
        "nozero",
        {"zeromode": "plugin", "fastzeromode": "none"},
        but(can_fast_zero=False),
        needs_zero=True,
    ),
    Kind(
        "nozero",
        {"zeromode": "plugin", "fastzeromode": "slow"},
        but(can_fast_zero=True),
        needs_zero=True,
    ),
    Kind("offset", {"offset": "65536"}, second_part),
    Kind("truncate", {"truncate": "4194304"}, longer),
    Kind("cow", {}, overlaid),
]


def ids(kind: Kind) -> str:
    return " ".join(kind.arguments()).removeprefix("--filter=")


def expected(kinds: list[Kind], below: All) -> All | None:
    """Return the facts that *kinds* make of those of a disk, or None if one of them refuses it."""
    found = below
    for number in reversed(range(len(kinds))):
        read_only = any(kind.name == "cow" for kind in kinds[:number])
        if kinds[number].refuses(found, read_only):
            return None
        found = kinds[number].change(found)
    return found
