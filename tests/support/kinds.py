"""The filters with the parameters that change what they say of a disk, and what they say."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nbdfork.backend import load
from nbdfork.backend.chain import Layer
from nbdfork.plugin import Filter

All = Mapping[str, Any]
Change = Callable[[All], All]


def takes_all(below: All, read_only: bool) -> bool:
    return False


def without_zero(below: All, read_only: bool) -> bool:
    """Refuse a disk that can be written and has no zero of its own."""
    return below["can_zero"] not in (True, "native") and below["can_write"] and not read_only


def without_flush(below: All, read_only: bool) -> bool:
    return not below["can_flush"] and below["can_write"] and not read_only


def without_fua(below: All, read_only: bool) -> bool:
    return below["can_fua"] == "none" and below["can_write"] and not read_only


class Kind(NamedTuple):
    """A filter with its parameters, what becomes of the facts of the disk below, and whether it
    *refuses* that, told what it can do and whether it is only to be read.
    """

    name: str
    parameters: Mapping[str, Any]
    change: Change
    refuses: Callable[[All, bool], bool] = takes_all

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
        "is_lenient": below["is_lenient"],
        "description": below["description"],
        "contexts": (),
    }


def checked(below: All) -> All:
    writable = ("can_write", "can_flush", "can_trim", "can_zero", "can_fast_zero", "can_multi_conn")
    return {**below, **dict.fromkeys(writable, True), "can_fua": "native", "can_resize": False}


def emulating(below: All) -> All:
    """What multi-conn makes of a disk by default."""
    if below["can_multi_conn"] or not below["can_flush"]:
        return below
    fua = "emulate" if below["can_fua"] == "native" else below["can_fua"]
    return {**below, "can_multi_conn": True, "can_fua": fua}


def cached(below: All) -> All:
    minimum, preferred, maximum = below["block_size"]
    return {
        **below,
        "can_cache": "native",
        "can_zero": False,
        "can_fast_zero": True,
        "can_multi_conn": True,
        "can_resize": False,
        "block_size": (minimum, max(preferred, 1 << 16), maximum),
    }


def cached_unsafely(below: All) -> All:
    return {**cached(below), "can_fua": "native", "can_flush": True}


def in_bytes(below: All) -> All:
    preferred = below["block_size"][1]
    return {**below, "block_size": (1, preferred, 2**32 - 1), "can_resize": False}


def in_words(below: All) -> All:
    minimum, preferred, maximum = below["block_size"]
    sizes = (max(minimum, 2), preferred, maximum)
    return {**below, "block_size": sizes, "can_resize": False, "is_lenient": False}


def in_pages(below: All) -> All:
    _, preferred, maximum = below["block_size"]
    return {**below, "block_size": (4096, preferred, maximum), "is_lenient": True}


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
    Kind("nozero", {"zeromode": "notrim"}, same, refuses=without_zero),
    Kind(
        "nozero",
        {"zeromode": "plugin", "fastzeromode": "none"},
        but(can_fast_zero=False),
        refuses=without_zero,
    ),
    Kind(
        "nozero",
        {"zeromode": "plugin", "fastzeromode": "slow"},
        but(can_fast_zero=True),
        refuses=without_zero,
    ),
    Kind("offset", {"offset": "65536"}, second_part),
    Kind("truncate", {"truncate": "4194304"}, longer),
    Kind("cow", {}, overlaid),
    Kind("nofilter", {}, same),
    Kind("rotational", {}, but(is_rotational=True)),
    Kind("rotational", {"rotational": "false"}, but(is_rotational=False)),
    Kind("nocache", {}, but(can_cache="none")),
    Kind("nocache", {"cache_mode": "emulate"}, but(can_cache="emulate")),
    Kind("nocache", {"cachemode": "nop"}, but(can_cache="native")),
    Kind("noparallel", {}, same),
    Kind("noparallel", {"serialize": "connections"}, but(can_multi_conn=False)),
    Kind("readonly", {}, but(can_write=False, can_resize=False)),
    Kind("readonly", {"readonly_file": "/nonexistent"}, same),
    Kind("fua", {}, but(can_fua="none")),
    Kind("fua", {"fua_mode": "pass"}, same),
    Kind("fua", {"fua_mode": "emulate"}, but(can_fua="emulate"), refuses=without_flush),
    Kind("fua", {"fuamode": "native"}, but(can_fua="native"), refuses=without_fua),
    Kind("fua", {"fua_mode": "force"}, but(can_fua="native", can_flush=True), refuses=without_fua),
    Kind("fua", {"fua_mode": "discard"}, but(can_fua="native", can_flush=True)),
    Kind("exportname", {}, same),
    Kind("exportname", {"exportdesc": "fixed:other"}, but(description="other")),
    Kind("multi-conn", {}, emulating),
    Kind("multi-conn", {"multi_conn_mode": "disable"}, but(can_multi_conn=False)),
    Kind("multi-conn", {"multi_conn_mode": "plugin"}, same),
    Kind("multi-conn", {"multi_conn_mode": "unsafe"}, but(can_multi_conn=True)),
    Kind("blocksize", {}, in_bytes),
    Kind("blocksize-policy", {"blocksize_minimum": "4096"}, in_pages),
    Kind("blocksize-policy", {"blocksize_error_policy": "strict-error"}, but(is_lenient=False)),
    Kind("checkwrite", {}, checked),
    Kind("swab", {}, in_words),
    Kind("swab", {"swab_bits": "8"}, same),
    Kind("limit", {"limit": "0"}, same),
    Kind("limit", {"limit": "1000000"}, same),
    Kind("exitlast", {}, same),
    Kind("exitwhen", {}, same),
    Kind("time-limit", {}, same),
    Kind("time-limit", {"time_limit": "0"}, same),
    Kind("openonce", {}, same),
    Kind("protect", {}, same),
    Kind("protect", {"protect": "0-511"}, but(can_resize=False)),
    Kind("extentlist", {"extentlist": "/dev/null"}, but(can_extents=True)),
    Kind("cache", {}, cached),
    Kind("cache", {"cache": "unsafe"}, cached_unsafely),
    Kind("cacheextents", {}, but(can_resize=False)),
    Kind("readahead", {}, same),
    Kind("scan", {}, same),
    Kind("rate", {}, same),
    Kind("rate", {"rate": "1T", "connection_rate": "1T"}, same),
    Kind("spinning", {}, but(is_rotational=True, can_resize=False)),
    Kind("evil", {}, same),
    Kind(
        "xor",
        {"xor": "0xff", "xorlen": "1"},
        but(can_zero=False, can_extents=False, can_fast_zero=True),
    ),
    Kind("retry", {"retry_delay": "0"}, but(can_resize=False)),
    Kind("retry-request", {"retry_request_delay": "0"}, same),
    Kind("count", {}, same),
    Kind("stats", {"statsfile": "/dev/null"}, same),
    Kind("ip", {"allow": "all"}, same),
    Kind("map", {}, but(can_resize=False)),
    Kind("map", {"map_size": "65536"}, but(can_resize=False, get_size=65536)),
    Kind(
        "ddrescue",
        {"ddrescue_mapfile": "/dev/null"},
        but(can_write=False, can_resize=False, can_cache="none"),
    ),
]


NEEDING_CONTENT = {
    *("bitmap", "ext2", "luks", "partition", "pause", "qcow2dec", "tar", "tls-fallback"),
}
"""Filters that need something on the disk, of the client or in a folder, and have tests for that.
"""

READING = {"cow", "checkwrite", "ddrescue"}
"""Filters that open what is below them read-only."""


def ids(kind: Kind) -> str:
    return " ".join(kind.arguments()).removeprefix("--filter=")


def expected(kinds: list[Kind], below: All) -> All | None:
    """Return the facts that *kinds* make of those of a disk, or None if one of them refuses it."""
    found = below
    for number in reversed(range(len(kinds))):
        read_only = any(kind.name in READING for kind in kinds[:number])
        below_it = found
        if kinds[number].refuses(found, read_only):
            return None
        found = kinds[number].change(found)
        alone = any("connections" in kind.parameters.values() for kind in kinds[number + 1 :])
        if alone and kinds[number].change is emulating:  # there is no second connection
            found = {**below_it, "can_multi_conn": False}
    return found
