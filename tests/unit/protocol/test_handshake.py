"""The handshake: what each option is answered with, and what is asked of the plugin for it."""

import errno
from collections.abc import Iterable

import pytest

from nbdfork.plugin import BlockSize, Export, ExportInfo, Plugin
from nbdfork.protocol import wire
from nbdfork.protocol.handshake import MAX_OPTIONS, Offer
from nbdfork.protocol.tls import Tls
from tests.support.conversation import (
    FIXED,
    chosen,
    converse,
    exports_of,
    option,
    option_replies,
    queries,
)
from tests.support.requests import request

LIST, INFO, GO = wire.OPT_LIST, wire.OPT_INFO, wire.OPT_GO
STRUCTURED, EXTENDED = wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS
LIST_CONTEXTS, SET_CONTEXTS = wire.OPT_LIST_META_CONTEXT, wire.OPT_SET_META_CONTEXT

Reply = tuple[int, int]
"""An option, and the type of a reply to it."""


class Shelf(Plugin):
    """disks that differ in their names"""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        return [ExportInfo("one", "the first"), ExportInfo("two"), ExportInfo("\udcff")]

    def default_export(self, read_only: bool) -> str:
        self.asked.append("default")
        return "one"

    def open(self, export_name: str, read_only: bool) -> Export:
        self.asked.append(f"open {export_name}")
        if export_name == "none":
            raise FileNotFoundError(errno.ENOENT, "no such disk")
        if export_name == "broken":
            raise OSError(errno.EIO, "the shelf has fallen over")
        if export_name == "foreign":
            raise OSError(errno.EIO, "/disk-\udcff has fallen over")
        if export_name == "buggy":
            raise KeyError("/etc/secret")
        return Book(self)


class Book(Export):
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def get_size(self) -> int:
        return 4096

    def pread(self, count: int, offset: int) -> bytes:
        return bytes(count)

    def block_size(self) -> BlockSize:
        return BlockSize(1, 4096, 65536)

    def description(self) -> str:
        return "a book"

    def close(self) -> None:
        self._shelf.asked.append("close")


def talk(
    *options: bytes,
    offer: Offer | None = None,
    shelf: Shelf | None = None,
    export_name: str | None = None,
) -> list[tuple[int, int, bytes]]:
    exports = exports_of(shelf or Shelf(), export_name)
    return option_replies(converse([FIXED, *options], exports, offer or Offer()))


def types(
    *options: bytes, offer: Offer | None = None, export_name: str | None = None
) -> list[Reply]:
    told = talk(*options, offer=offer, export_name=export_name)
    return [(number, kind) for number, kind, _ in told]


def test_an_option_without_an_entry_is_unsupported() -> None:
    for number in (0, 4, 12, 99, 0xFFFFFFFF):
        assert types(option(number, b"data")) == [(number, wire.REP_ERR_UNSUP)]


@pytest.mark.parametrize(
    ("offer", "numbers"),
    [
        (Offer(), []),
        (Offer(extended_headers=False), [EXTENDED]),
        (Offer(structured_replies=False, extended_headers=False), [STRUCTURED, EXTENDED]),
        (Offer(meta_contexts=False), [LIST_CONTEXTS, SET_CONTEXTS]),
    ],
)
def test_what_is_not_offered_is_unsupported(offer: Offer, numbers: list[int]) -> None:
    asked = [option(STRUCTURED), option(EXTENDED)]
    asked += [option(number, queries("one")) for number in (LIST_CONTEXTS, SET_CONTEXTS)]
    told = types(*asked, offer=offer)
    assert [number for number, kind in told if kind == wire.REP_ERR_UNSUP] == numbers


def test_the_list_has_what_can_be_sent() -> None:
    told = talk(option(LIST))
    assert [(kind, data[4:]) for _, kind, data in told] == [
        (wire.REP_SERVER, b"onethe first"),
        (wire.REP_SERVER, b"two"),
        (wire.REP_ACK, b""),
    ]


def test_a_list_with_data_is_invalid() -> None:
    assert types(option(LIST, b"x")) == [(LIST, wire.REP_ERR_INVALID)]


def test_an_export_tells_what_it_is_asked_for() -> None:
    told = talk(option(INFO, chosen("", wire.INFO_NAME, wire.INFO_DESCRIPTION)))
    assert [data[:2].hex() for _, kind, data in told if kind == wire.REP_INFO] == [
        "0000",
        "0003",  # not asked for, but it has something to say
        "0001",
        "0002",
    ]
    assert told[2][2][2:] == b"one"
    assert told[3][2][2:] == b"a book"
    assert told[-1][1] == wire.REP_ACK


def test_a_go_after_an_info_sees_the_same_export() -> None:
    shelf = Shelf()
    talk(option(INFO, chosen()), option(INFO, chosen("one")), option(GO, chosen()), shelf=shelf)
    assert shelf.asked == ["default", "open one", "close"]


def test_another_export_is_opened_for_another_name() -> None:
    shelf = Shelf()
    talk(option(INFO, chosen("one")), option(INFO, chosen("two")), shelf=shelf)
    assert shelf.asked == ["open one", "close", "open two", "close"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", b"there is no export 'none'"),
        ("broken", b"the export cannot be opened: the shelf has fallen over"),
        ("foreign", rb"the export cannot be opened: /disk-\udcff has fallen over"),
        ("buggy", b"the export cannot be opened: KeyError in the plugin (reference "),
    ],
)
def test_an_export_that_cannot_be_had(name: str, text: bytes) -> None:
    ((_, kind, told),) = talk(option(GO, chosen(name)))
    assert kind == wire.REP_ERR_UNKNOWN
    assert told.startswith(text)
    assert b"secret" not in told


def test_one_name_may_be_served_and_no_other() -> None:
    assert types(option(INFO, chosen("two")), export_name="one") == [(INFO, wire.REP_ERR_UNKNOWN)]
    assert types(option(GO, chosen("")), export_name="one")[-1] == (GO, wire.REP_ACK)
    assert len(types(option(LIST), export_name="one")) == 2


def test_contexts_need_chunks() -> None:
    asked = option(SET_CONTEXTS, queries("one", "base:allocation"))
    assert types(asked) == [(SET_CONTEXTS, wire.REP_ERR_INVALID)]
    for dialect in (STRUCTURED, EXTENDED):
        told = types(option(dialect), asked)
        assert told[1:] == [(SET_CONTEXTS, wire.REP_META_CONTEXT), (SET_CONTEXTS, wire.REP_ACK)]


@pytest.mark.parametrize(("name", "error"), [("one", 0), ("two", 22)])
def test_contexts_are_those_of_one_export(name: str, error: int) -> None:
    asked = option(SET_CONTEXTS, queries("one", "base:allocation"))
    said = [FIXED, option(STRUCTURED), asked, option(GO, chosen(name)), request(7, 0, 512)]
    told = converse(said, exports_of(Shelf()), Offer())
    after = told[told.rindex(bytes.fromhex("668e33ef")) :]
    assert int.from_bytes(after[6:8], "big") == (0x8001 if error else 5)
    assert not error or after[20:24] == error.to_bytes(4, "big")


def test_extended_headers_are_the_last_word() -> None:
    told = types(option(EXTENDED), option(STRUCTURED), option(EXTENDED))
    assert [kind for _, kind in told] == [
        wire.REP_ACK,
        wire.REP_ERR_EXT_HEADER_REQD,
        wire.REP_ERR_INVALID,
    ]


def test_an_option_that_is_too_long_is_dropped() -> None:
    long = option(SET_CONTEXTS, bytes(70_000))
    assert types(long, option(LIST))[0] == (SET_CONTEXTS, wire.REP_ERR_TOO_BIG)
    assert types(long, option(LIST))[-1] == (LIST, wire.REP_ACK)


def test_a_client_may_ask_about_each_export_that_it_was_shown() -> None:
    some = [option(99)] * (MAX_OPTIONS - 1)
    assert len(types(*some, option(99), option(99))) == MAX_OPTIONS
    told = types(*some, option(LIST), option(99), option(99))
    assert told[-1] == (99, wire.REP_ERR_UNSUP)


def test_without_the_fixed_newstyle_there_is_one_option() -> None:
    old = [bytes(4), option(LIST)]
    assert option_replies(converse(old, exports_of(Shelf()), Offer())) == []
    told = converse([bytes(4), option(wire.OPT_EXPORT_NAME)], exports_of(Shelf()), Offer())
    assert len(told) == 18 + 10 + 124
    told = converse([FIXED, option(wire.OPT_EXPORT_NAME)], exports_of(Shelf()), Offer())
    assert len(told) == 18 + 10


@pytest.mark.parametrize(
    "said",
    [
        b"\0\0\0\x07",  # flags that nobody knows
        FIXED + b"IHAVEOPS" + bytes(8),
        FIXED + option(wire.OPT_EXPORT_NAME, b"none"),
        FIXED + option(wire.OPT_EXPORT_NAME, b"x" * 5000),
        FIXED + option(EXTENDED) + option(wire.OPT_EXPORT_NAME),
        FIXED + option(99, bytes(10))[:-10].replace(b"\0\0\0\x0a", b"\x7f\0\0\0"),
    ],
    ids=["flags", "magic", "no such export", "long name", "after extended headers", "endless"],
)
def test_what_cannot_be_answered_ends_the_connection(said: bytes) -> None:
    told = converse([said, option(LIST)], exports_of(Shelf()), Offer())
    assert all(number == EXTENDED for number, _, _ in option_replies(told))


def test_tls_that_is_demanded_comes_first() -> None:
    demanded = Offer(tls=Tls(None, required=True))  # type: ignore[arg-type]
    told = types(option(LIST), option(GO, chosen()), option(wire.OPT_ABORT), offer=demanded)
    assert [kind for _, kind in told] == [*[wire.REP_ERR_TLS_REQD] * 2, wire.REP_ACK]
    assert types(option(wire.OPT_STARTTLS)) == [(wire.OPT_STARTTLS, wire.REP_ERR_POLICY)]


def test_a_default_that_is_no_string_of_the_protocol_is_an_error() -> None:
    class Odd(Shelf):
        def default_export(self, read_only: bool) -> str:
            return "\udcff"

    ((_, kind, told),) = talk(option(GO, chosen()), shelf=Odd())
    assert kind == wire.REP_ERR_UNKNOWN
    assert b"the name of the default export is not UTF-8" in told


# -- texts of the plugin ----------------------------------------------------------------------


class Foreign(Shelf):
    """one whose texts are not UTF-8"""

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        return [ExportInfo("one", "in /dir-\udcff"), ExportInfo("a\0b")]

    def default_export(self, read_only: bool) -> str:
        return "/disk-\udcff"

    def get_size(self) -> int:
        return 512

    def description(self) -> str:
        return "in /dir-\udcff"

    def open(self, export_name: str, read_only: bool) -> Export:
        return self


class Unspeakable(Foreign):
    def contexts(self) -> Iterable[str]:
        return ["x-test:\udcff"]


def test_texts_that_cannot_be_sent_are_escaped_and_names_left_out() -> None:
    told = talk(option(LIST), option(INFO, chosen("one", wire.INFO_DESCRIPTION)), shelf=Foreign())
    assert [data for number, kind, data in told if (number, kind) == (LIST, wire.REP_SERVER)] == [
        b"\0\0\0\3one" + rb"in /dir-\udcff"
    ]
    assert (INFO, wire.REP_INFO, b"\0\2" + rb"in /dir-\udcff") in told


def test_a_default_export_that_no_client_could_name_is_none() -> None:
    ((_, kind, told),) = talk(option(GO, chosen("")), shelf=Foreign())
    assert kind == wire.REP_ERR_UNKNOWN
    assert told.startswith(b"the export cannot be opened: the name of the default export is not")


def test_a_context_that_no_client_could_name_is_a_mistake_of_the_plugin() -> None:
    ((_, kind, told),) = talk(option(GO, chosen("one")), shelf=Unspeakable())
    assert kind == wire.REP_ERR_UNKNOWN
    assert rb"metadata context 'x-test:\udcff' is not named" in told


def test_exports_that_cannot_be_listed() -> None:
    class Broken(Shelf):
        def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
            raise OSError(errno.EIO, "the label has come off")

    class Buggy(Shelf):
        def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
            raise KeyError("/etc/secret")

    ((_, kind, told),) = talk(option(LIST), shelf=Broken())
    assert (kind, told) == (
        wire.REP_ERR_PLATFORM,
        b"the exports cannot be listed: the label has come off",
    )
    ((_, kind, told),) = talk(option(LIST), shelf=Buggy())
    assert kind == wire.REP_ERR_PLATFORM
    assert told.startswith(b"the exports cannot be listed: KeyError in the plugin (reference ")


def test_the_plugin_says_once_which_export_is_the_default() -> None:
    class Plain(Shelf):
        def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
            return Plugin.list_exports(self, read_only)

    shelf = Plain()
    talk(option(LIST), option(INFO, chosen("")), option(LIST), option(GO, chosen("")), shelf=shelf)
    assert shelf.asked == ["default", "open one", "close"]
