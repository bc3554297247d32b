"""A sandbox, put together from what a disk needs.  That walls hold is in faults/test_sandbox.py."""

import os
from pathlib import Path

import pytest

from nbdfork.server.errors import StartupError
from nbdfork.server.sandbox import calls, capabilities, landlock, limits, seccomp
from nbdfork.server.sandbox.sandbox import Plan, Sandbox, missing
from nbdfork.types import Needs
from tests.support.forks import in_a_fork

NOBODY = 65534


def sandbox(needs: Needs, mode: str = "auto", **settings: bool) -> Sandbox:
    return Sandbox(Plan(mode, {}, NOBODY), needs, **({"one_client": True} | settings))


def test_what_kernels_lack_is_told_and_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() == []
    monkeypatch.setattr(landlock, "version", lambda: 5)
    monkeypatch.setattr(seccomp, "is_available", lambda: False)
    assert missing() == ["signals kept in (Landlock is version 5 here, not 6)", "seccomp"]
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert missing() == ["Landlock", "seccomp"]
    with pytest.raises(StartupError, match="this kernel lacks Landlock and seccomp"):
        sandbox(Needs(), "require")
    made = sandbox(Needs())
    assert made.describe() == (
        "no new privileges; capabilities: none; not in this kernel: Landlock;"
        " not in this kernel: seccomp; limits: core 0"
    )
    in_a_fork(made.enter)


def test_a_wall_that_fails_is_an_error_only_if_it_is_required(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise OSError("the kernel is in a bad mood")

    made = {mode: sandbox(Needs(), mode) for mode in ("auto", "require")}
    monkeypatch.setattr(limits, "enforce", lambda _: None)  # or this process would be limited
    monkeypatch.setattr(capabilities, "forbid_new_ones", fail)
    with pytest.raises(OSError, match="bad mood"):
        made["require"].enter()
    monkeypatch.setattr(calls, "call", lambda *_: fail())  # or this process would be confined
    monkeypatch.setattr(os, "setpgid", lambda *_: None)
    made["auto"].enter()
    assert "sandbox: without no new privileges: the kernel is in a bad mood" in caplog.text
    assert "sandbox: without the wall around system calls" in caplog.text


@pytest.mark.parametrize(
    ("needs", "parts"),
    [
        (Needs(), ("capabilities: none", "files: none", "programs: no", "network: no")),
        (Needs(network=True), ("capabilities: none", "files: none", "network: yes")),
        (Needs(programs=True), ("those for files", "files: any", "programs: yes", "network: no")),
        (Needs(anything=True), ("those for files", "files: any", "programs: yes", "network: yes")),
        (
            Needs(read=frozenset({"/a", "/b"}), write=frozenset({"/b"})),
            ("those for files", "files: read /a, write /b;"),
        ),
        (Needs(signals=True), ("other processes: not traced",)),
    ],
)
def test_it_is_described(needs: Needs, parts: tuple[str, ...]) -> None:
    described = sandbox(needs).describe()
    for part in parts:
        assert part in described


def test_off_is_off() -> None:
    made = Sandbox(Plan("off", {"files": 9}, NOBODY), Needs(), one_client=True)
    assert made.describe() == "off; limits: files 9"
    group = os.getpgid(0)

    def enter() -> list[int]:
        made.enter()
        made.shut()
        return [os.getpgid(0)]

    assert in_a_fork(enter) == [group]


def test_who_may_stop_the_server() -> None:
    assert sandbox(Needs(stop=True)).may_stop
    assert sandbox(Needs(anything=True)).may_stop
    assert sandbox(Needs(), "off").may_stop
    assert not sandbox(Needs(network=True)).may_stop


def test_a_worker_for_several_clients_reaches_what_is_beside_its_file(tmp_path: Path) -> None:
    file, beside, other = tmp_path / "file", tmp_path / "beside", tmp_path.parent / "other"
    for path in (file, beside, other):
        path.write_bytes(b"")

    def reached(made: Sandbox) -> list[bool]:
        def enter() -> list[bool]:
            made.enter()
            made.shut()
            found = []
            for path in (file, beside, other):
                try:
                    path.read_bytes()
                    found.append(True)
                except PermissionError:
                    found.append(False)
            return found

        outcomes: list[bool] = in_a_fork(enter)
        return outcomes

    needs = Needs(read=frozenset({str(file)}))
    assert reached(sandbox(needs)) == [True, False, False]
    assert reached(sandbox(needs, one_client=False)) == [True, True, False]
