"""The error filter: which requests fail, and how often."""

import errno
import random
from pathlib import Path

import pytest

from tests.support.beside import EVERYTHING, compare
from tests.support.disks import SIZE, Disk, gate
from tests.support.harness import refused
from tests.support.noise import noise


@pytest.mark.parametrize("name", ["EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "ESHUTDOWN"])
def test_errors_as_nbdkit_makes_them(tmp_path: Path, name: str) -> None:
    arguments = ["--filter=error", f"error={name}", "error-rate=100%"]
    found = compare(tmp_path, arguments, EVERYTHING, noise(60000))
    assert found[:-1] == [name] * 5 + [None]


@pytest.mark.parametrize("operation", ["pread", "pwrite", "trim", "zero", "cache"])
@pytest.mark.parametrize("kind", ["of its own", "with a file", "with no file", "spared"])
def test_errors_of_one_operation_as_nbdkit_makes_them(
    tmp_path: Path, operation: str, kind: str
) -> None:
    (tmp_path / "exists").touch()
    file = tmp_path / ("exists" if kind == "with a file" else "missing")
    own = [f"error-{operation}-rate=1", f"error-{operation}=ENOSPC"]
    if kind == "spared":
        own = ["error-rate=1", f"error-{operation}-rate=0%"]
    elif kind != "of its own":
        own.append(f"error-{operation}-file={file}")
    found = compare(tmp_path, ["--filter=error", *own], EVERYTHING, noise(60000))
    failed = {
        request[0]
        for request, result in zip(EVERYTHING, found, strict=False)
        if isinstance(result, str)
    }
    everything = {"pread", "pwrite", "trim", "zero", "cache"}
    expected = {
        "of its own": {operation},
        "with a file": {operation},
        "with no file": set(),
        "spared": everything - {operation},
    }
    assert failed == expected[kind]


def test_a_rate_between_is_met_about_that_often() -> None:
    top = gate(Disk(noise(SIZE)), "error", "error-pread-rate=.25", "error-extents-rate=100%")
    random.seed(1)
    failed = 0
    for _ in range(2000):
        try:
            top.pread(1, 0)
        except OSError:
            failed += 1
    assert 400 < failed < 600
    with refused(errno.EIO):
        top.extents(1, 0, 0)
