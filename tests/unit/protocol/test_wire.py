"""The numbers of the protocol: sizes and magics, as the document has them."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.protocol import wire


def test_magics_spell_what_they_should() -> None:
    assert wire.UINT64.pack(wire.INIT_MAGIC) == b"NBDMAGIC"
    assert wire.UINT64.pack(wire.OPTION_MAGIC) == b"IHAVEOPT"


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("OLDSTYLE_GREETING", 152),
        ("NEWSTYLE_GREETING", 18),
        ("CLIENT_FLAGS", 4),
        ("OPTION", 16),
        ("OPTION_REPLY", 20),
        ("EXPORT_NAME_REPLY", 10),
        ("INFO_EXPORT_DATA", 12),
        ("INFO_BLOCK_SIZE_DATA", 14),
        ("REQUEST", 28),
        ("EXTENDED_REQUEST", 32),
        ("SIMPLE_REPLY", 16),
        ("CHUNK", 20),
        ("EXTENDED_CHUNK", 32),
        ("DATA_CHUNK", 28),
        ("EXTENDED_DATA_CHUNK", 40),
        ("HOLE", 12),
        ("ERROR", 6),
        ("BLOCK_STATUS_EXT", 8),
    ],
)
def test_a_struct_has_the_size_of_the_document(name: str, size: int) -> None:
    assert getattr(wire, name).size == size


def test_flags_of_a_kind_are_bits_of_their_own() -> None:
    for prefix in ("TRANSMIT_", "CMD_FLAG_"):
        flags = [value for name, value in vars(wire).items() if name.startswith(prefix)]
        assert len(flags) > 5
        assert sum(flags) == (1 << len(flags)) - 1


def test_every_command_has_a_name() -> None:
    commands = {
        value: name.removeprefix("CMD_")
        for name, value in vars(wire).items()
        if name.startswith("CMD_") and not name.startswith("CMD_FLAG_")
    }
    assert commands == wire.COMMAND_NAMES


def test_errors_are_those_of_linux_under_the_same_names() -> None:
    for name, value in vars(wire).items():
        if name.startswith("E") and name in errno.errorcode.values():
            assert value == getattr(errno, name), name
    assert all(value in (1, 5, 12, 28, 108) for value in wire.WIRE_ERRORS.values())
    assert os.strerror(wire.ESHUTDOWN)


def test_a_far_end_that_fails_is_no_mistake_of_the_client() -> None:
    """EINVAL, which stands for all that is not listed, would say so."""
    lost = (errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENOENT)
    assert {wire.WIRE_ERRORS[number] for number in lost} == {wire.EIO}
    assert wire.WIRE_ERRORS[errno.EACCES] == wire.EPERM


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_numbers_are_packed_one_after_another(values: list[int]) -> None:
    packed = wire.numbers(values, wire.UINT32)
    assert [value for (value,) in wire.UINT32.iter_unpack(packed)] == values
    packed = wire.numbers(values, wire.UINT64)
    assert [value for (value,) in wire.UINT64.iter_unpack(packed)] == values
