"""Which exports clients are shown and get, and what becomes of what a plugin raises."""

import errno
import logging
from collections.abc import Iterable

import pytest

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.client import Client, set_serving
from nbdfork.backend.errors import ClientRefused, PluginFailed, UnknownExport
from nbdfork.backend.exports import Catalogue, Exports
from nbdfork.backend.life import Life
from nbdfork.plugin import Export, ExportInfo, Filter, Plugin, ThreadModel


class Shelf(Plugin):
    """a shelf of disks; *error* is raised by all its methods"""

    def __init__(self, error: Exception | None = None, default: str = "first") -> None:
        super().__init__()
        self.calls: list[str] = []
        self.error = error
        self.default = default

    def note(self, call: str) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def preconnect(self, read_only: bool) -> None:
        self.note("preconnect")

    def default_export(self, read_only: bool) -> str:
        self.note("default_export")
        return self.default

    def open(self, export_name: str, read_only: bool) -> Export:
        self.note(f"open {export_name}")
        return self

    def get_size(self) -> int:
        return 512


class Listing(Shelf):
    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        self.note("list_exports")
        return [ExportInfo("other"), ExportInfo(None, "what you get"), ExportInfo("", "no name")]


class Passing(Filter):
    """passes all on"""


def exports(plugin: Plugin, name: str | None = None, *filters: Filter) -> Exports:
    chain = Chain(Layer("shelf", plugin), [Layer("passing", one) for one in filters])
    Life(chain).get_ready()
    return Exports(chain, name=name)


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shelf", [Shelf(), Listing()], ids=["default list", "own list"])
def test_a_client_makes_the_plugin_say_once_which_is_the_default(shelf: Shelf) -> None:
    catalogue = Catalogue(exports(shelf))
    for _ in range(2):
        assert catalogue.canonical_name("") == "first"
        assert "first" in [name for name, _ in catalogue.listed()]
    assert shelf.calls.count("default_export") == 1
    assert Catalogue(exports(shelf)).canonical_name("") == "first"  # another client
    assert shelf.calls.count("default_export") == 2


def test_a_list_may_name_the_default_and_the_empty_name() -> None:
    found = [("other", ""), ("first", "what you get"), ("", "no name")]
    assert Catalogue(exports(Listing(), None, Passing())).listed() == found


def test_a_name_that_the_client_gives_is_taken_as_it_is() -> None:
    shelf = Shelf()
    assert Catalogue(exports(shelf)).canonical_name("second") == "second"
    assert shelf.calls == []


def test_where_one_name_is_served_the_plugin_is_not_asked() -> None:
    shelf = Listing()
    catalogue = Catalogue(exports(shelf, "only"))
    assert catalogue.canonical_name("") == catalogue.canonical_name("only") == "only"
    assert catalogue.listed() == [("only", "")]
    catalogue.open("only")
    with pytest.raises(UnknownExport, match="there is no export 'first'"):
        catalogue.canonical_name("first")
    with pytest.raises(UnknownExport):
        catalogue.open("first")
    assert shelf.calls == ["open only"]


# -- errors -----------------------------------------------------------------------------------


def test_a_plugin_that_refuses_a_client_and_one_that_fails_are_two_things(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ClientRefused, match="not from there"):
        exports(Shelf(OSError(errno.EPERM, "not from there"))).preconnect()
    assert caplog.records == []
    with pytest.raises(PluginFailed, match="KeyError in the plugin"):
        exports(Shelf(KeyError("/etc/secret"))).preconnect()
    assert "shelf: preconnect: KeyError in the plugin (reference " in caplog.text
    assert "KeyError: '/etc/secret'" in caplog.text


@pytest.mark.parametrize("method", ["default", "listed", "open"])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (PermissionError(errno.EACCES, "no"), PermissionError),
        (ValueError("hush"), PluginFailed),
        (MemoryError(), PluginFailed),
    ],
    ids=repr,
)
def test_an_error_is_handed_on_and_a_bug_is_logged(
    method: str, raised: Exception, expected: type[OSError], caplog: pytest.LogCaptureFixture
) -> None:
    served = exports(Listing(raised))
    with pytest.raises(expected) as caught, caplog.at_level(logging.ERROR):
        served.open("x") if method == "open" else getattr(served, method)()
    assert "hush" not in str(caught.value)
    assert ("Traceback" in caplog.text) == (expected is PluginFailed)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "none"), OSError(errno.ENOENT, "none")], ids=repr
)
def test_what_is_not_there_is_unknown_and_the_log_says_why_once(
    error: OSError, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(OSError):
        """Of a class of its own, which Python does not make a FileNotFoundError."""

    for one in (error, Own(errno.ENOENT, "none")):
        caplog.clear()
        with pytest.raises(UnknownExport):
            exports(Shelf(one)).open("x")
        [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert record.getMessage() == "the export 'x' cannot be opened: none"


def test_an_export_whose_facts_are_wrong_is_closed() -> None:
    class Wrong(Shelf):
        def get_size(self) -> int:
            return -1

        def close(self) -> None:
            self.calls.append("close")

    wrong = Wrong()
    with pytest.raises(OSError, match="its size is -1"):
        exports(wrong).open("x")
    assert wrong.calls == ["open x", "close"]


class Held:
    """A lock that can be looked at."""

    is_held = False

    def __enter__(self) -> None:
        self.is_held = True

    def __exit__(self, *error: object) -> None:
        self.is_held = False


@pytest.mark.parametrize("method", ["preconnect", "default", "listed", "open"])
def test_the_lock_is_held_in_every_call(method: str) -> None:
    class Serial(Listing):
        def thread_model(self) -> ThreadModel:
            return ThreadModel.SERIALIZE_ALL_REQUESTS

        def note(self, call: str) -> None:
            assert lock.is_held
            super().note(call)

    shelf = Serial()
    chain = Chain(Layer("shelf", shelf))
    Life(chain).get_ready()
    assert chain.lock is not None
    lock = chain.lock = Held()
    served = Exports(chain)
    served.open("x") if method == "open" else getattr(served, method)()
    assert shelf.calls
    assert not lock.is_held


def test_each_call_for_a_client_is_one_that_may_hang() -> None:
    noted: list[tuple[str, bool]] = []
    plugin = Listing()
    busy = [0]
    plugin.note = lambda call: noted.append((call, busy[0] > 0))  # type: ignore[method-assign]

    def tell(since: int) -> None:
        busy[0] = since

    set_serving(Client(None, lambda at_once: None, tell))  # type: ignore[arg-type]
    shown = exports(plugin)
    shown.preconnect()
    shown.default()
    shown.listed()
    gate = shown.open("first")
    plugin.close = lambda: plugin.note("close")  # type: ignore[method-assign]
    gate._close = plugin.close  # as it was bound at the opening
    gate.close()
    set_serving(None)
    calls = ["preconnect", "default_export", "list_exports", "open first", "close"]
    assert noted == [(call, True) for call in calls]
    assert busy == [0]
