"""Users and groups: looked up by name or number; the change is in the tests of the daemon."""

import grp
import os
import pwd

import pytest

from nbdfork.server.errors import StartupError
from nbdfork.server.privileges import Identity, drop_to, look_up

NOBODY = pwd.getpwnam("nobody")
UNUSED = next(uid for uid in range(60_000, 65_000) if uid not in {p.pw_uid for p in pwd.getpwall()})
GROUP = grp.getgrall()[0]


def test_nothing_to_change() -> None:
    assert look_up(None, None) is None


def test_a_user_brings_a_group() -> None:
    expected = Identity(NOBODY.pw_uid, NOBODY.pw_gid, "nobody")
    assert look_up("nobody", None) == expected
    assert look_up(str(NOBODY.pw_uid), None) == expected


def test_a_group_of_its_own() -> None:
    for group in (GROUP.gr_name, str(GROUP.gr_gid)):
        assert look_up("nobody", group) == Identity(NOBODY.pw_uid, GROUP.gr_gid, "nobody")
    assert look_up(None, "12345") == Identity(os.geteuid(), 12345, None)


def test_a_number_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert look_up(str(UNUSED), "7") == Identity(UNUSED, 7, None)
    monkeypatch.setattr(os, "getegid", lambda: 7)
    assert look_up(str(UNUSED), None) == Identity(UNUSED, 7, None)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    with pytest.raises(StartupError, match="name one with -g"):
        look_up(str(UNUSED), None)


@pytest.mark.parametrize(
    ("user", "group", "message"),
    [
        ("no-such-user", None, "-u no-such-user: there is no such user"),
        ("-1", None, "-u -1: there is no such user"),
        ("\u0663", None, "there is no such user"),
        (str(2**32 - 1), None, "there is no such user"),  # which chown(2) takes for "leave it"
        (None, "no-such-group", "-g no-such-group: there is no such group"),
        ("nobody", "1.5", "-g 1.5: there is no such group"),
    ],
)
def test_who_is_unknown_is_named(user: str | None, group: str | None, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        look_up(user, group)


def test_without_permission_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "initgroups", deny)
    with pytest.raises(StartupError, match="the server must be started as root"):
        drop_to(Identity(NOBODY.pw_uid, NOBODY.pw_gid, "nobody"))


def test_the_order_is_groups_group_user(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("initgroups", "setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, lambda *_, name=name: calls.append(name))
    drop_to(Identity(UNUSED, 7, None))
    drop_to(Identity(NOBODY.pw_uid, 7, "nobody"))
    assert calls == ["setgroups", "setresgid", "setresuid", "initgroups", "setresgid", "setresuid"]


def test_an_ordinary_user_may_be_told_to_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getresuid", lambda: (1000,) * 3)
    monkeypatch.setattr(os, "getresgid", lambda: (1000,) * 3)
    drop_to(Identity(1000, 1000, "somebody"))  # without trying anything
