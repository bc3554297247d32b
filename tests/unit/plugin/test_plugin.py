"""A plugin that overrides nothing, and what must not be overridden."""

from collections.abc import Mapping

import pytest

from nbdfork.plugin import Parameter, Plugin, ThreadModel
from nbdfork.plugin.plugin import takes_any_key


class Least(Plugin):
    """a disk of nothing"""

    debug_flags: Mapping[str, str] = {"noise": "how much of it"}

    def get_size(self) -> int:
        return 0


def test_what_holds_for_a_plugin_that_says_nothing() -> None:
    plugin = Least()
    assert plugin.thread_model() is ThreadModel.PARALLEL
    assert not plugin.one_process()
    assert not plugin.waits()
    assert plugin.default_export(False) == ""
    assert [tuple(export) for export in plugin.list_exports(False)] == [("", "")]
    assert plugin.open("any", False) is plugin
    assert plugin.dump_plugin() == {}
    assert plugin.debug == {"noise": 0}


def test_its_life_needs_no_method() -> None:
    plugin = Least()
    plugin.config_complete()
    plugin.get_ready()
    plugin.after_fork()
    plugin.preconnect(False)
    plugin.cleanup()
    plugin.unload()
    plugin.finish()


def test_debug_flags_are_each_plugins_own() -> None:
    one, other = Least(), Least()
    one.debug["noise"] = 7
    assert other.debug["noise"] == 0


def test_any_key_is_taken_by_who_overrides_config() -> None:
    class Greedy(Least):
        def config(self, key: str, value: str) -> None:
            pass

    assert takes_any_key(Greedy())
    assert not takes_any_key(Least())
    with pytest.raises(NotImplementedError, match="Least does not implement config"):
        Least().config("key", "value")


def test_a_parameter_cannot_take_the_place_of_a_method() -> None:
    with pytest.raises(TypeError, match=r"Bad\.open is a part of every plugin"):

        class Bad(Plugin):
            open = Parameter(str, metavar="X", help="x")  # type: ignore[assignment]
