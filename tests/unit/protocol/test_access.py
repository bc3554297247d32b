"""Who may have an export, by certificate: in both styles of the handshake."""

import pytest

from nbdfork.backend.exports import Exports
from nbdfork.protocol import wire
from nbdfork.protocol.access import ABOUT_EXPORTS, admits_all
from nbdfork.protocol.channel import Channel
from nbdfork.protocol.errors import Rejected
from nbdfork.protocol.handshake import Newstyle, Offer, oldstyle
from tests.support.conversation import FIXED, chosen, exports_of, option, option_replies, queries
from tests.support.disks import Disk
from tests.support.stream import Recorder


def nobody(subject: str | None) -> bool:
    assert subject is None  # it has no certificate
    return False


@pytest.fixture
def exports() -> Exports:
    return exports_of(Disk(bytes(512)))


def test_without_rules_everybody_is_admitted() -> None:
    assert admits_all(None)
    assert admits_all("CN=anybody")


@pytest.mark.parametrize("number", sorted(ABOUT_EXPORTS))
def test_one_that_is_not_admitted_learns_nothing_of_exports(number: int, exports: Exports) -> None:
    data = {wire.OPT_LIST: b""}.get(number)
    if data is None:
        asks = (wire.OPT_INFO, wire.OPT_GO)
        data = chosen() if number in asks else queries("", "base:allocation")
    stream = Recorder(FIXED, option(wire.OPT_STRUCTURED_REPLY), option(number, data))
    assert Newstyle(Channel(stream), exports, Offer(), nobody).negotiate() is None
    replies = option_replies(stream.sent)
    assert replies[-1] == (number, wire.REP_ERR_POLICY, b"this client is not allowed")
    assert len(replies) == 2


def test_a_name_that_one_may_not_have_ends_the_connection(exports: Exports) -> None:
    stream = Recorder(FIXED, option(wire.OPT_EXPORT_NAME))
    with pytest.raises(Rejected, match="not allowed"):
        Newstyle(Channel(stream), exports, Offer(), nobody).negotiate()


def test_the_oldstyle_protocol_has_no_certificates(exports: Exports) -> None:
    stream = Recorder()
    with pytest.raises(Rejected, match="not allowed"):
        oldstyle(Channel(stream), exports, nobody)
    assert stream.sent == b""
