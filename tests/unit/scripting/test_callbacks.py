"""What a disk can do, by the callbacks that it has and by what they say."""

from typing import Any

import pytest

from nbdfork.plugin import Support, ThreadModel
from nbdfork.scripting import CallbackExport


class Answers(CallbackExport):
    """A disk with the callbacks of which the answers are given."""

    model = ThreadModel.PARALLEL

    def __init__(self, **answers: object) -> None:
        self.answers = answers

    def has(self, callback: str) -> bool:
        return callback in self.answers

    def ask(self, callback: str) -> Any:
        return self.answers[callback]

    def bad_answer(self, callback: str, answer: object) -> OSError:
        return OSError(5, f"{callback}: {answer}")


@pytest.mark.parametrize(
    ("question", "operation"),
    [
        ("can_write", "pwrite"),
        ("can_flush", "flush"),
        ("can_trim", "trim"),
        ("can_zero", "zero"),
        ("can_extents", "extents"),
    ],
)
def test_what_is_not_said_follows_from_the_callback_that_does_it(
    question: str, operation: str
) -> None:
    for answers, expected in (
        ({}, False),
        ({operation: None}, True),
        ({operation: None, question: 0}, False),
        ({question: 1}, True),
        ({question: -7}, True),
    ):
        assert getattr(Answers(**answers), question)() is expected


def test_zeroing_is_fast_where_it_is_refused_at_once() -> None:
    assert Answers().can_fast_zero()
    assert not Answers(zero=None).can_fast_zero()
    assert Answers(zero=None, can_fast_zero=1).can_fast_zero()


def test_several_connections_need_somebody_to_serve_them() -> None:
    assert not Answers().can_multi_conn()
    assert Answers(can_multi_conn=1).can_multi_conn()
    in_turn = Answers(can_multi_conn=1)
    in_turn.model = ThreadModel.SERIALIZE_CONNECTIONS
    assert not in_turn.can_multi_conn()


@pytest.mark.parametrize(
    ("question", "operation", "default"),
    [("can_fua", "flush", Support.EMULATE), ("can_cache", "cache", Support.NATIVE)],
)
def test_how_something_is_supported(question: str, operation: str, default: Support) -> None:
    assert getattr(Answers(), question)() is Support.NONE
    assert getattr(Answers(**{operation: None}), question)() is default
    for answer, support in enumerate((Support.NONE, Support.EMULATE, Support.NATIVE)):
        assert getattr(Answers(**{question: answer}), question)() is support
    with pytest.raises(OSError, match=f"{question}: 3"):
        getattr(Answers(**{question: 3}), question)()


def test_what_turns() -> None:
    assert not Answers().is_rotational()
    assert Answers(is_rotational=1).is_rotational()
