"""Metadata contexts: ids, lists of them, and which are selected."""

from collections.abc import Iterable

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.protocol import metacontexts
from tests.support.exports import Filling


class Told(Filling):
    def contexts(self) -> Iterable[str]:
        return ["x-test:age", "x-test:colour", "x-other:age"]


OFFERED = {1: "base:allocation", 2: "x-test:age", 3: "x-test:colour", 4: "x-other:age"}


def test_an_export_offers_its_own_after_the_one_of_the_protocol() -> None:
    assert metacontexts.offered(Gate(Told(), read_only=True)) == OFFERED
    assert metacontexts.offered(Gate(Filling(), read_only=True)) == {1: "base:allocation"}


@pytest.mark.parametrize(
    ("queries", "ids"),
    [
        ([], [1, 2, 3, 4]),
        (["base:"], [1]),
        (["x-test:"], [2, 3]),
        (["x-test:age", "x-other:"], [2, 4]),
        (["x-test"], []),
        ([":"], []),
        (["qemu:dirty-bitmap:b"], []),
    ],
)
def test_a_list_is_of_all_of_a_namespace_or_of_names(queries: list[str], ids: list[int]) -> None:
    assert metacontexts.listed(OFFERED, queries) == [OFFERED[number] for number in ids]


@pytest.mark.parametrize(
    ("queries", "ids"),
    [
        ([], []),
        (["base:"], []),
        (["x-test:colour", "base:allocation"], [1, 3]),
        (["x-test:age", "x-test:age"], [2]),
        (["x-none:such"], []),
    ],
)
def test_only_full_names_are_selected(queries: list[str], ids: list[int]) -> None:
    assert metacontexts.selected(OFFERED, queries) == {n: OFFERED[n] for n in ids}
