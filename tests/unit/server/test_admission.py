"""Who gets in: rules, and how many of one party."""

import pytest

from nbdfork.server.admission import Admission, Door, Rule, Rules
from nbdfork.server.peers import Peer
from nbdfork.server.scoreboard import Scoreboard
from nbdfork.server.slots import Slot

V4 = Peer("10.1.2.3:5", 1, ip="10.1.2.3")
MAPPED = Peer("[::ffff:10.1.2.3]:5", 1, ip="::ffff:10.1.2.3")
V6 = Peer("[2001:db8::1]:5", 2, ip="2001:db8::1")
ROOT = Peer("unix pid 1 uid 0", 3, uid=0, gid=0)
USER = Peer("unix pid 2 uid 1000", 4, uid=1000, gid=100)
MACHINE = Peer("vsock 7:5", 5, cid=7)
EVERYBODY = [V4, MAPPED, V6, ROOT, USER, MACHINE]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10.1.2.3", [V4, MAPPED]),
        ("10.0.0.0/8", [V4, MAPPED]),
        ("10.1.2.4", []),
        ("2001:db8::/32", [V6]),
        ("0.0.0.0/0", [V4, MAPPED]),
        ("::/0", [V6]),
        ("uid:0", [ROOT]),
        ("uid:root", [ROOT]),
        ("gid:100", [USER]),
        ("gid:root", [ROOT]),
        ("cid:7", [MACHINE]),
        ("any", EVERYBODY),
    ],
)
def test_whom_a_rule_means(text: str, meant: list[Peer]) -> None:
    rule = Rule.parse(text)
    assert [peer for peer in EVERYBODY if rule.matches(peer, None)] == meant
    assert [peer for peer in EVERYBODY if Rules(allow=(rule,)).may_admit(peer)] == meant
    others = [peer for peer in EVERYBODY if peer not in meant]
    assert [peer for peer in EVERYBODY if Rules(deny=(rule,)).may_admit(peer)] == others


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.1.2.3/8", "beyond the length"),
        ("10.1.2", "neither an address"),
        ("", "neither an address"),
        ("host.example", "neither an address"),
        ("uid:nobody-of-this-name", "no such user|no user"),
        ("gid:nobody-of-this-name", "no group"),
        ("cid:x", "context"),
        ("dnn:x", "neither an address"),
    ],
)
def test_what_is_no_rule(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule.parse(text)


def test_deny_is_stronger_than_allow() -> None:
    rules = Rules(allow=(Rule.parse("10.0.0.0/8"),), deny=(Rule.parse("10.1.2.3"),))
    assert not rules.may_admit(V4)
    assert rules.may_admit(V4._replace(ip="10.1.2.4"))
    assert not rules.may_admit(V6)


def test_a_certificate_may_let_in_whom_no_address_does() -> None:
    rules = Rules(allow=(Rule.parse("dn:CN=qemu-*"),), deny=(Rule.parse("dn:*,O=Evil"),))
    assert rules.may_admit(V4)  # it has had no chance to show one yet
    assert not rules.admit(V4)
    assert rules.admit(V4, "CN=qemu-7,O=Good")
    assert not rules.admit(V4, "CN=qemu-7,O=Evil")
    assert not rules.admit(V4, "CN=other,O=Good")


@pytest.mark.parametrize(
    ("text", "export", "is_about"),
    [
        ("any", None, True),
        ("any", "db", False),
        ("any for db", None, False),
        ("any for db", "db", True),
        ("any for db", "db2", False),
        ("any for vm-*", "vm-7", True),
        ("any for *", "", True),
        ("dn:CN=one for all for db", "db", True),
    ],
)
def test_what_a_rule_is_about(text: str, export: str | None, is_about: bool) -> None:
    assert Rule.parse(text).is_about(export) == is_about


def test_what_stands_before_the_exports_is_the_party() -> None:
    assert Rule.parse("dn:CN=one for all for db") == Rule("dn", "CN=one for all", "db")
    assert Rule.parse("uid:0 for vm-*") == Rule("uid", 0, "vm-*")
    with pytest.raises(ValueError, match=r"'10\.1\.2' is neither"):
        Rule.parse("10.1.2 for db")


def test_exports_have_rules_of_their_own() -> None:
    allow = ("10.0.0.0/8", "uid:1000", "uid:1000 for db", "dn:CN=web for web*")
    deny = ("10.1.2.3 for secret",)
    rules = Rules(tuple(map(Rule.parse, allow)), tuple(map(Rule.parse, deny)))
    assert [rules.may_admit(peer) for peer in (V4, USER, ROOT)] == [True, True, False]
    assert [rules.admit(peer, None, "db") for peer in (V4, USER)] == [False, True]
    assert [rules.admit(peer, None, "secret") for peer in (V4, USER)] == [False, True]
    assert [rules.admit(peer, None, "other") for peer in (V4, USER)] == [True, True]
    assert [rules.admit(V4, subject, "web1") for subject in ("CN=web", None)] == [True, False]


@pytest.mark.parametrize(("most", "expected"), [(256, 224), (8, 7), (7, 7), (1, 1)])
def test_a_part_of_the_places_is_kept_for_others(most: int, expected: int) -> None:
    assert Admission.for_pool(most, None).most_per_party == expected
    assert Admission.for_pool(most, 3).most_per_party == 3


def test_how_many_of_one_party_get_in(caplog: pytest.LogCaptureFixture) -> None:
    board = Scoreboard(5)
    door = Door(Admission.for_pool(5, 2), board)
    slots = []
    for index in range(5):
        board.claim(1)
        slots.append(Slot(board.share(range(index, index + 1)), 0))
    assert [door.lets_in(V4, slot) for slot in slots[:3]] == [True, True, False]
    assert door.lets_in(V6, slots[3])
    board.free(range(1))
    assert door.lets_in(V4, slots[4])
    assert "client 10.1.2.3:5 is refused: there are 2 of its address or user" in caplog.text


def test_refused_clients_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    board = Scoreboard(1)
    board.claim(1)
    door = Door(Admission.for_pool(1, None, Rules(deny=(Rule.parse("any"),))), board)
    slot = Slot(board.share(range(1)), 0)
    for _ in range(10_000):
        assert not door.lets_in(V4, slot)
    assert 1 <= len(caplog.records) <= 3
