"""What filters say of a disk, and what they pass on: every filter, over a disk with each fact in
each state, alone and one over the other.

A filter that only watches, or changes something else, must not lose or invent what the disk below
can do.
"""

import errno
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbdfork.backend import load
from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.errors import ClientRefused
from nbdfork.backend.exports import Catalogue, Exports
from nbdfork.backend.gate import Gate
from nbdfork.backend.life import Life
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import (
    FAST_ZERO,
    FUA,
    MAY_TRIM,
    REQ_ONE,
    Export,
    ExportInfo,
    FilterExport,
    ThreadModel,
)
from tests.support import facts
from tests.support.facts import EVERYTHING, STATES, Facts, FactsExport, facts_of, name_of
from tests.support.kinds import KINDS, NEEDING_CONTENT, All, Kind, expected, ids, same

every_kind = pytest.mark.parametrize("kind", KINDS, ids=ids)


def test_no_filter_is_left_out() -> None:
    """Those that unpack, or read a table, say nothing of the disk below: it is another one."""
    known = {
        name
        for name in load.available(load.FILTER)
        if not issubclass(load.find(name, load.FILTER).plugin_class, UnpackFilter)
    } - NEEDING_CONTENT
    assert {kind.name for kind in KINDS} == known


def test_no_fact_is_left_out() -> None:
    """What an export has is a fact, an operation, or something that is made of these."""
    methods = {name for name in vars(Export) if not name.startswith("_")}
    operations = {name for name, _ in OPERATIONS} | {
        "pread_into",
        "close",
        "file_range",
        "pipeline",
    }
    assert methods == STATES.keys() | operations


def opened(kinds: list[Kind], below: All) -> Export:
    """Return the export that *kinds*, the first of them uppermost, make of a disk."""
    made = Chain(Layer("facts", Facts()), [kind.layer() for kind in kinds])
    made.configure([])
    Life(made).get_ready()
    return made.top.open(name_of(below), read_only=False)


def seen_at_gate(export: Export, read_only: bool) -> dict[str, Any]:
    gate = Gate(export, read_only)
    return {
        name: value
        for name, value in vars(gate).items()
        if not name.startswith("_") and not callable(value)
    }


def check(kinds: list[Kind], below: All) -> None:
    """Compare the facts, and what the server makes of them, with those of a disk that has them."""
    facts_above = expected(kinds, below)
    if facts_above is None:
        with pytest.raises(OSError) as caught:
            opened(kinds, below)
        assert caught.value.errno in (errno.EOPNOTSUPP, errno.EINVAL)
        return
    top = opened(kinds, below)
    assert facts_of(top) == facts_above
    for read_only in (False, True):
        plain = FactsExport(facts_above)
        assert seen_at_gate(top, read_only) == seen_at_gate(plain, read_only)


@every_kind
def test_a_filter_over_a_disk_with_each_fact_in_each_state(kind: Kind) -> None:
    for below in facts.cases():
        check([kind], below)


@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=5),
    below=st.fixed_dictionaries({fact: st.sampled_from(states) for fact, states in STATES.items()}),
)
def test_filters_one_over_the_other(kinds: list[Kind], below: All) -> None:
    check(kinds, below)


# -- what a plugin says of itself, apart from its exports -------------------------------------


class Telling(Facts):
    """a plugin that serves in a way of its own"""

    def __init__(self, model: ThreadModel, one_process: bool, waits: bool) -> None:
        super().__init__()
        self.says = (model, one_process, waits)

    def thread_model(self) -> ThreadModel:
        return self.says[0]

    def one_process(self) -> bool:
        return self.says[1]

    def waits(self) -> bool:
        return self.says[2]

    def preconnect(self, read_only: bool) -> None:
        raise ConnectionRefusedError(f"read_only={read_only}")

    def list_exports(self, read_only: bool) -> list[ExportInfo]:
        return [ExportInfo("a", "the first"), ExportInfo(f"read_only={read_only}")]

    def default_export(self, read_only: bool) -> str:
        return f"default read_only={read_only}"


OWN_MODELS = {
    "noparallel": ThreadModel.SERIALIZE_REQUESTS,
    "noparallel serialize=connections": ThreadModel.SERIALIZE_CONNECTIONS,
}
"""Filters that are there to make the thread model stricter."""

IN_ONE_PROCESS = {"multi-conn", "openonce"}
"""Filters whose clients have to share a process, as it is with these parameters."""

UNPACKING = [
    Kind(name, {}, same)
    for name in load.available(load.FILTER)
    if issubclass(load.find(name, load.FILTER).plugin_class, UnpackFilter)
]


@pytest.mark.parametrize("kind", [*KINDS, *UNPACKING], ids=ids)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_a_plugin_says_of_itself_is_passed_on(kind: Kind, read_only: bool) -> None:
    delays = kind.name == "spinning" or (kind.name in ("delay", "rate") and bool(kind.parameters))
    for model, one, waits in itertools.product(ThreadModel, (False, True), (False, True)):
        plugin = Telling(model, one, waits)
        filters = [kind.layer()] if kind in UNPACKING else [kind.layer(), kind.layer()]
        made = Chain(Layer("telling", plugin), filters)
        made.configure([])
        plain = Chain(Layer("telling", plugin))
        assert plain.thread_model() is model
        assert made.thread_model() is min(model, OWN_MODELS.get(ids(kind), model))
        alone = made.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS
        assert made.one_process() == (plain.one_process() or alone or ids(kind) in IN_ONE_PROCESS)
        assert made.waits() == (waits or delays)
    if kind not in UNPACKING:
        Life(made).get_ready()
    exports = Exports(made, read_only=read_only)
    if "exportdesc" not in kind.parameters:
        assert exports.listed() == plugin.list_exports(read_only)
    assert Catalogue(exports).canonical_name("") == plugin.default_export(read_only)
    with pytest.raises(ClientRefused, match=f"read_only={read_only}"):
        exports.preconnect()


# -- what is passed on ------------------------------------------------------------------------

DATA = memoryview(b"data")

OPERATIONS: list[tuple[str, tuple[Any, ...]]] = [
    ("pread", (512, 4096)),
    ("view", (512, 4096)),
    ("pwrite", (DATA, 4096, FUA)),
    ("flush", ()),
    ("trim", (512, 4096, FUA)),
    ("zero", (512, 4096, FUA | MAY_TRIM | FAST_ZERO)),
    ("write_zeroes", (512, 4096, FUA | MAY_TRIM | FAST_ZERO)),
    ("cache", (512, 4096)),
    ("extents", (512, 4096, REQ_ONE)),
    ("context_extents", ("x-test:age", 512, 4096, REQ_ONE)),
    ("resize", (1 << 20,)),
]

WATCHING = [
    Kind("log", {"logfile": "/dev/null"}, same),
    Kind("delay", {"delay_close": "0.1ms"}, same),
    Kind("error", {"error_pread_rate": "0.0000001%"}, same),
    Kind("noextents", {}, same),
    Kind("nozero", {"zeromode": "plugin"}, same),
    Kind("nofilter", {}, same),
    Kind("rotational", {}, same),
    Kind("noparallel", {"serialize": "connections"}, same),
    Kind("readonly", {"readonly_file": "/nonexistent"}, same),
    Kind("fua", {"fua_mode": "pass"}, same),
    Kind("limit", {"limit": "1000000"}, same),
    Kind("time-limit", {}, same),
    Kind("openonce", {}, same),
    Kind("retry-request", {"retry_request_delay": "0"}, same),
    Kind("count", {}, same),
    Kind("stats", {"statsfile": "/dev/null"}, same),
    Kind("ip", {"allow": "all"}, same),
]
"""Filters that, so configured, pass on all they are asked."""


def called(kinds: list[Kind], operation: str, arguments: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return what the disk below is asked when *operation* is called on *kinds*."""
    export = opened(kinds, EVERYTHING)
    disk = export
    while isinstance(disk, FilterExport):
        disk = disk.next
    assert isinstance(disk, FactsExport)
    answer = getattr(export, operation)(*arguments)
    if "extents" in operation:
        list(answer)
    return disk.calls


@pytest.mark.parametrize(("operation", "arguments"), OPERATIONS)
def test_filters_that_watch_pass_on_what_they_are_asked(
    operation: str, arguments: tuple[Any, ...]
) -> None:
    stacks = [[], *([kind] for kind in WATCHING), WATCHING, [*reversed(WATCHING)]]
    asked = [called(stack, operation, arguments) for stack in stacks]
    if operation == "view":  # who watches reads sees them only if no view is given
        sees = {"log", "delay", "error", "time-limit", "retry-request", "count", "stats"}
        for stack, calls in zip(stacks, asked, strict=True):
            assert bool(calls) == (not sees & {kind.name for kind in stack})
        return
    assert asked == [asked[0]] * len(stacks)
    assert len(asked[0]) == 1


@pytest.mark.parametrize(
    ("kind", "moved"),
    [
        (Kind("offset", {"offset": "65536"}, same), 65536),
        (Kind("truncate", {"truncate": "65536"}, same), 0),
        (Kind("map", {"map": "4096-8191:65536"}, same), 61440),
    ],
    ids=["offset", "truncate", "map"],
)
def test_filters_that_move_the_disk_pass_on_the_same_of_another_place(
    kind: Kind, moved: int
) -> None:
    def place(call: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(word + moved if word == 4096 else word for word in call)

    for operation, arguments in OPERATIONS:
        if operation != "resize":
            plain = called([], operation, arguments)
            assert called([kind], operation, arguments) == [place(call) for call in plain]


class Inverting(FilterExport):
    """A filter that changes what is stored, and says nothing of zeroes."""

    def pread_into(self, data: memoryview, offset: int) -> None:
        data[:] = bytes(255 - byte for byte in bytes(self.next.pread(len(data), offset)))

    def pwrite(self, data: memoryview, offset: int, flags: int) -> None:
        self.next.pwrite(memoryview(bytes(255 - byte for byte in bytes(data))), offset, flags)


def test_what_is_made_of_overridden_methods_is_made_of_them() -> None:
    disk = FactsExport({**EVERYTHING, "block_size": (1, 512, 4096)})
    top = Inverting(disk)
    assert bytes(top.pread(3, 0)) == b"\xff" * 3
    assert top.view(3, 0) is None
    top.write_zeroes(10000, 5, FUA | MAY_TRIM)
    assert disk.calls[1:] == [
        ("pwrite", 4096, 5, FUA),
        ("pwrite", 4096, 4101, FUA),
        ("pwrite", 1808, 8197, FUA),
    ]
