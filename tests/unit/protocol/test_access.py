"""Who may have an export, by certificate and by its name: in both styles of the handshake."""

import pytest

from nbdfork.backend.exports import Exports
from nbdfork.plugin import Export
from nbdfork.protocol import wire
from nbdfork.protocol.access import ABOUT_EXPORTS, Access, NotAdmitted, admits_all
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import Rejected
from nbdfork.protocol.handshake import Newstyle, Offer, oldstyle
from tests.support.conversation import FIXED, chosen, exports_of, option, option_replies, queries
from tests.support.disks import Disk
from tests.support.stream import Recorder


def nobody(subject: str | None, export: str | None) -> bool:
    assert subject is None  # it has no certificate
    return False


@pytest.fixture
def exports() -> Exports:
    return exports_of(Disk(bytes(512)))


def test_without_rules_everybody_is_admitted() -> None:
    assert admits_all(None, None)
    assert admits_all("CN=anybody", "db")


@pytest.mark.parametrize("number", sorted(ABOUT_EXPORTS))
def test_one_that_is_not_admitted_learns_nothing_of_exports(number: int, exports: Exports) -> None:
    data = {wire.OPT_LIST: b""}.get(number)
    if data is None:
        asks = (wire.OPT_INFO, wire.OPT_GO)
        data = chosen() if number in asks else queries("", "base:allocation")
    stream = Recorder(FIXED, option(wire.OPT_STRUCTURED_REPLY), option(number, data))
    assert (
        Newstyle(Channel(stream), exports, Offer(), Access(nobody, "somebody")).negotiate() is None
    )
    replies = option_replies(stream.sent)
    assert replies[-1] == (number, wire.REP_ERR_POLICY, b"this client is not allowed")
    assert len(replies) == 2


def only_db(subject: str | None, export: str | None) -> bool:
    return export in (None, "db")


@pytest.mark.parametrize("number", sorted(ABOUT_EXPORTS - {wire.OPT_LIST}))
def test_an_export_that_one_may_not_have_is_not_opened(number: int) -> None:
    opened: list[str] = []

    class Watched(Disk):
        def open(self, exportname: str, readonly: bool) -> Export:
            opened.append(exportname)
            return super().open(exportname, readonly)

    def data(name: str) -> bytes:
        asks = (wire.OPT_INFO, wire.OPT_GO)
        return chosen(name) if number in asks else queries(name, "base:allocation")

    options = [option(number, data("web")), option(number, data("db"))]
    stream = Recorder(FIXED, option(wire.OPT_STRUCTURED_REPLY), *options)
    exports = exports_of(Watched(bytes(512)))
    Newstyle(Channel(stream), exports, Offer(), Access(only_db, "somebody")).negotiate()
    _, refused, *others = option_replies(stream.sent)
    text = b"this client is not allowed to have the export 'web'"
    assert refused == (number, wire.REP_ERR_POLICY, text)
    assert others[-1] == (number, wire.REP_ACK, b"")
    assert opened == ["db"]


def test_it_is_not_listed() -> None:
    access = Access(only_db, "somebody")
    assert access.shown([("db", "the first"), ("web", ""), ("", "")]) == [("db", "the first")]


def test_rules_are_asked_with_the_certificate() -> None:
    access = Access(lambda subject, export: subject == "CN=me" and export == "db", "somebody")
    with pytest.raises(NotAdmitted, match="not allowed to have the export 'db'"):
        access.check("db")
    access.subject = "CN=me"
    access.check("db")
    with pytest.raises(NotAdmitted, match=r"this client is not allowed$"):
        access.check()


def test_the_default_export_is_known_by_its_name() -> None:
    def not_the_default(subject: str | None, export: str | None) -> bool:
        return export != "main"

    class Named(Disk):
        def default_export(self, readonly: bool) -> str:
            return "main"

    exports = exports_of(Named(bytes(512)))
    with pytest.raises(Rejected, match="not allowed to have the export 'main'"):
        oldstyle(Channel(Recorder()), exports, Access(not_the_default, "somebody"))
    stream = Recorder(FIXED, option(wire.OPT_GO, chosen("")))
    assert (
        Newstyle(Channel(stream), exports, Offer(), Access(not_the_default, "somebody")).negotiate()
        is None
    )
    assert option_replies(stream.sent)[-1][1] == wire.REP_ERR_POLICY


def test_a_name_that_one_may_not_have_ends_the_connection(exports: Exports) -> None:
    stream = Recorder(FIXED, option(wire.OPT_EXPORT_NAME))
    with pytest.raises(Rejected, match="not allowed"):
        Newstyle(Channel(stream), exports, Offer(), Access(nobody, "somebody")).negotiate()


def test_the_oldstyle_protocol_has_no_certificates(exports: Exports) -> None:
    stream = Recorder()
    with pytest.raises(Rejected, match="not allowed"):
        oldstyle(Channel(stream), exports, Access(nobody, "somebody"))
    assert stream.sent == b""
