"""A plugin that overrides nothing, and what must not be overridden."""

from collections.abc import Mapping

import pytest

from nbdfork.plugin import Parameter, Plugin, ThreadModel


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
    assert [tuple(export) for export in plugin.list_exports(False)] == [(None, "")]
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


def test_a_key_that_is_not_declared_is_not_taken() -> None:
    with pytest.raises(NotImplementedError, match="Least does not implement config"):
        Least().config("key", "value")


@pytest.mark.parametrize("name", ["server", "debug_flags", "pread", "thread_model"])
def test_what_every_plugin_has_cannot_be_a_parameter(name: str) -> None:
    parameter = Parameter(str, metavar="X", help="clashes")
    with pytest.raises(TypeError, match=rf"Clash.{name} is a part of every plugin .* key='"):
        type("Clash", (Plugin,), {name: parameter})
