"""The chain of a plugin and its filters: who takes which key, and which are secrets."""

from contextlib import nullcontext

import pytest

from nbdfork.backend.chain import Chain, Layer
from nbdfork.plugin import (
    ConfigError,
    Export,
    Filter,
    Parameter,
    Plugin,
    Secret,
    parse,
)


class Empty(Plugin):
    """no bytes"""

    def get_size(self) -> int:
        return 0

    def pread(self, count: int, offset: int) -> bytes:
        return b""


class Any(Empty):
    """takes any key"""

    first = Parameter(parse.size, magic=True, metavar="N", help="declared")
    files = Parameter(str, repeatable=True, metavar="FILE", help="any number")

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self.calls: list[tuple[str, str]] = []

    def config(self, key: str, value: str) -> None:
        self.calls.append((key, value))


class Keyed(Filter):
    """has keys"""

    level = Parameter(parse.whole(0, 9), default=1, metavar="N", help="its level")


def test_keys_go_where_they_are_declared() -> None:
    plugin, near, far = Any(), Keyed(), Keyed()
    chain = Chain(Layer("any", plugin), [Layer("near", near), Layer("far", far)])
    chain.configure(["1k", "level=3", "x=1", "files=a", "y=2", "files=b"])
    assert (plugin.first, plugin.files) == (1024, ("a", "b"))
    assert (near.level, far.level) == (3, 1)  # the first from the client's side takes it
    assert plugin.calls == [("x", "1"), ("y", "2")]


class Magic(Filter):
    """takes a word"""

    word = Parameter(str, magic=True, metavar="WORD", help="any")


def test_words_without_a_key_are_for_the_plugin_and_then_for_filters() -> None:
    plugin, keyed, near, far = Any(), Keyed(), Magic(), Magic()
    layers = [Layer("keyed", keyed), Layer("near", near), Layer("far", far)]
    Chain(Layer("any", plugin), layers).configure(["1k", "a", "b"])
    assert (plugin.first, near.word, far.word) == (1024, "a", "b")
    with pytest.raises(ConfigError, match="any: first= is given twice"):
        Chain(Layer("any", Any()), layers[:1]).configure(["1k", "2k"])
    near = Magic()
    Chain(Layer("plain", Empty()), [Layer("near", near)]).configure(["a"])
    assert near.word == "a"
    with pytest.raises(ConfigError, match="'b' is not of the form key=value"):
        Chain(Layer("plain", Empty()), [Layer("near", Magic())]).configure(["a", "b"])


def test_a_key_can_say_which_layer_it_is_for() -> None:
    plugin, one, two, three = Any(), Keyed(), Keyed(), Keyed()
    layers = [Layer("same", one), Layer("other", two), Layer("same", three)]
    chain = Chain(Layer("any", plugin), layers)
    chain.configure(["other.level=2", "same.2.level=3", "level=4", "any.files=x", "same.x=5"])
    assert (one.level, two.level, three.level) == (4, 2, 3)
    assert plugin.files == ("x",)
    assert plugin.calls == [("same.x", "5")]  # a key that the plugin may know
    with pytest.raises(ConfigError, match=r"same\.3\.level=: there are 2 layers"):
        Chain(Layer("any", Any()), layers).configure(["same.3.level=1"])
    with pytest.raises(ConfigError, match=r"unknown parameter same\.depth="):
        Chain(Layer("plain", Empty()), [Layer("same", Keyed())]).configure(["same.depth=1"])


def test_a_secret_stays_one_with_its_layer_before_it() -> None:
    class Hiding(Filter):
        """has a secret"""

        code = Secret(str, metavar="CODE", help="not shown")

    chain = Chain(Layer("plain", Empty()), [Layer("hiding", Hiding())])
    assert chain.without_secrets(["hiding.1.code=x", "y=1"]) == ["hiding.1.code=***", "y=1"]


def test_unknown_keys_name_those_of_all_layers() -> None:
    chain = Chain(Layer("plain", Empty()), [Layer("keyed", Keyed())])
    with pytest.raises(ConfigError, match="did you mean level="):
        chain.configure(["levle=3"])


def test_the_key_of_a_filter_that_is_not_there_is_known() -> None:
    with pytest.raises(ConfigError, match=r"plain: unknown .* it is one of --filter=cow$"):
        Chain(Layer("plain", Empty())).configure(["cow-on-cache=true"])


class Misspelt(Plugin):
    """a disk, almost"""

    def get_siz(self) -> int:
        return 0

    def pread(self, count: int, offset: int) -> bytes:
        return b""


class Sizeless(Plugin):
    """a disk without a size"""

    def pread_into(self, data: memoryview, offset: int) -> None:
        pass


class Unreadable(Plugin):
    """a disk that cannot be read"""

    def get_size(self) -> int:
        return 0


class Elsewhere(Plugin):
    """a disk for each client"""

    def open(self, export_name: str, read_only: bool) -> Export:
        return Empty()


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Misspelt(), r"the class Misspelt has no get_size\(\); is get_siz meant to be it\?"),
        (Sizeless(), r"Sizeless has no get_size\(\); every disk needs it"),
        (Unreadable(), r"Unreadable has no pread\(\)"),
        (Elsewhere(), None),
        (Empty(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Plugin) else "",
)
def test_a_plugin_without_what_every_disk_has_is_refused(
    plugin: Plugin, message: str | None
) -> None:
    with pytest.raises(ConfigError, match=message) if message else nullcontext():
        Chain(Layer("plain", plugin)).configure([])


@pytest.mark.parametrize("fact", ["needs", "one_process", "thread_model", "waits"])
def test_a_bug_in_a_fact_names_the_layer(fact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Plugin) -> None:
        raise KeyError("x")

    monkeypatch.setattr(Any, fact, fail)
    chain = Chain(Layer("any", Any()), [Layer("keyed", Keyed())])
    with pytest.raises(ConfigError, match=f"^any: {fact} failed: KeyError: 'x'"):
        getattr(chain, fact)()


def test_a_secret_is_not_shown() -> None:
    class Guarded(Empty):
        password = Secret(parse.whole(0, 9), metavar="PASSWORD", help="a number")

    chain = Chain(Layer("guarded", Guarded()))
    with pytest.raises(ConfigError, match=r"guarded: password=\*\*\*: expected a whole number"):
        chain.configure(["password=hush"])
    words = ["-f", "password=hush", "passwords=1", "a password=hush"]
    assert chain.without_secrets(words) == ["-f", "password=***", *words[2:]]


def test_what_may_be_a_secret_of_a_script_is_not_shown() -> None:
    class AnyKey(Plugin):
        def config(self, key: str, value: str) -> None:
            pass

    words = ["api_token=hush", "proxy-password=hush", "file=secret", "size=1"]
    shown = ["api_token=***", "proxy-password=***", *words[2:]]
    assert Chain(Layer("any", AnyKey())).without_secrets(words) == shown
    assert Chain(Layer("none", Plugin())).without_secrets(words) == words
