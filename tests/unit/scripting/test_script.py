"""A script's callbacks fail with their own words, and the log says where."""

import errno
from typing import Unpack

import pytest

from nbdfork.scripting import CallbackFailed
from nbdfork.scripting.script import RequestFields, Script, ScriptError


class Failing:
    """Calls nothing: whatever is asked for fails."""

    def __init__(self, text: str) -> None:
        self.text = text

    def call(
        self, operation: str, payload: bytes | memoryview = b"", **fields: Unpack[RequestFields]
    ) -> tuple[int, bytes]:
        raise CallbackFailed(errno.ENOSPC, self.text)

    def pread(self, handle: int, count: int, offset: int) -> bytes:
        raise CallbackFailed(errno.EIO, self.text)


PATH = "/srv/disk.lua"


@pytest.mark.parametrize(
    ("text", "told", "logged"),
    [
        (f"{PATH}:7: full", "full", f"pwrite: {PATH}:7: full"),
        (f"full at {PATH} line 7.", "full", f"pwrite: full at {PATH} line 7."),
        (f"full at {PATH} line 7", "full", f"pwrite: full at {PATH} line 7"),
        ("full", "full", f"{PATH}: pwrite: full"),
        (f"{PATH} is full", f"{PATH} is full", f"pwrite: {PATH} is full"),
        ("", "", f"{PATH}: pwrite: "),
    ],
)
def test_the_client_is_told_why_and_the_log_where(text: str, told: str, logged: str) -> None:
    script = Script(Failing(text), PATH, frozenset({"pwrite"}))
    with pytest.raises(ScriptError) as caught:
        script.call("pwrite", b"data")
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, told)
    assert str(caught.value) == logged


def test_a_read_fails_likewise() -> None:
    script = Script(Failing("broken"), PATH, frozenset())
    with pytest.raises(ScriptError, match=r"disk\.lua: pread: broken") as caught:
        script.pread(1, 512, 0)
    assert caught.value.errno == errno.EIO


def test_an_answer_without_sense_is_an_error_of_the_callback() -> None:
    error = Script(Failing(""), PATH, frozenset()).error("get_size", "returned -1")
    assert (error.errno, str(error)) == (errno.EIO, f"{PATH}: get_size: returned -1")
