"""Passwords: given in themselves, or by where to read them; never shown."""

import os
from pathlib import Path

import pytest

from nbdfork.plugin import ConfigError
from nbdfork.plugin.password import read_password


def lines(data: bytes) -> int:
    """Return a descriptor to read *data* from."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What comes from standard input, byte by byte."""
    said: list[bytes] = []
    read = os.read

    def read_byte(fd: int, count: int) -> bytes:
        return (said.pop(0) if said else b"") if fd == 0 else read(fd, count)

    monkeypatch.setattr(os, "read", read_byte)
    monkeypatch.setattr(os, "isatty", lambda fd: False)
    return said


@pytest.mark.parametrize("text", ["", "hush", "a -b +c", "\u00e9"])
def test_the_secret_itself(text: str) -> None:
    assert read_password("password", text) == text


def test_the_first_line_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content, secret in ((b"hush\nrest", "hush"), (b"hush", "hush"), (b"", ""), (b"\n", "")):
        path.write_bytes(content)
        assert read_password("password", f"+{path}") == secret
    path.write_bytes(b"\xff\n")
    assert os.fsencode(read_password("password", f"+{path}")) == b"\xff"


def test_a_descriptor_is_read_to_the_end_of_a_line_and_no_further() -> None:
    fd = lines(b"first\nsecond\n")
    assert read_password("password", f"-{fd}") == "first"
    assert os.read(fd, 100) == b"second\n"
    os.close(fd)


def test_standard_input_gives_a_line(standard_input: list[bytes]) -> None:
    standard_input[:] = [b"h", b"i", b"\n", b"x"]
    assert read_password("password", "-") == "hi"
    assert standard_input == [b"x"]


def test_nothing_on_standard_input(standard_input: list[bytes]) -> None:
    with pytest.raises(ConfigError, match=r"password=-: there is nothing on standard input"):
        read_password("password", "-")


def test_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"answer to {prompt}")
    assert read_password("password", "-") == "answer to password: "


@pytest.mark.parametrize("text", ["-0", "-2", "-x", "--", "-\u0663", "-secret"])
def test_what_is_no_descriptor_is_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="FD must be the number of a file descriptor") as caught:
        read_password("password", text)
    assert text not in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"password=: cannot read it: .*No such file"):
        read_password("password", f"+{tmp_path}/none")
    with pytest.raises(ConfigError, match=r"password=: cannot read it: .*Bad file descriptor"):
        read_password("password", "-999999")


def test_a_device_by_mistake() -> None:
    with pytest.raises(ConfigError, match="its first line is longer than 65536 bytes"):
        read_password("password", "+/dev/zero")
