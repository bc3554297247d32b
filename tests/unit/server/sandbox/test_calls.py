"""Numbers of system calls are those of the kernel's headers, and calls fail with their errno."""

import errno
import re
from pathlib import Path

import pytest

from nbdfork.server.sandbox import calls

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)"),
    "aarch64": ("/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
}


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    path, pattern = HEADERS[machine]
    if not Path(path).exists():
        pytest.skip(f"{path} is not installed")
    known = {name: int(number) for name, number in re.findall(pattern, Path(path).read_text())}
    ours = calls.numbers_of(machine)
    common = ours.keys() & known.keys()
    assert len(common) > 60
    assert {name: ours[name] for name in common} == {name: known[name] for name in common}


def test_no_two_calls_have_one_number() -> None:
    for machine in calls.MACHINES:
        numbers = list(calls.numbers_of(machine).values())
        assert len(numbers) == len(set(numbers))


def test_of_another_machine_nothing_is_known() -> None:
    assert calls.numbers_of("pdp11") == {}


def test_errors() -> None:
    with pytest.raises(OSError, match="capget") as caught:
        calls.call("capget", None, None)
    assert caught.value.errno in (errno.EFAULT, errno.EINVAL)
    with pytest.raises(OSError, match="number of this call is not known") as caught:
        calls.call("fly")
    assert caught.value.errno == errno.ENOSYS
    with pytest.raises(OSError, match="prctl"):
        calls.prctl(-1, 0)
