"""The chain of a plugin and its filters: who takes which key, and which are secrets."""

import pytest

from nbdfork.backend.chain import Chain, Layer
from nbdfork.plugin import (
    ConfigError,
    Filter,
    Parameter,
    Plugin,
    Secret,
    parse,
)


class Any(Plugin):
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


def test_unknown_keys_name_those_of_all_layers() -> None:
    chain = Chain(Layer("plain", Plugin()), [Layer("keyed", Keyed())])
    with pytest.raises(ConfigError, match="did you mean level="):
        chain.configure(["levle=3"])


def test_a_secret_is_not_shown() -> None:
    class Guarded(Plugin):
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
