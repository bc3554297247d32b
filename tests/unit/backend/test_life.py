"""The life of a chain: which methods are called where, and in which order."""

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.life import Life
from nbdfork.plugin import Plugin


def test_what_never_had_a_process_for_clients_is_unloaded_where_it_was_loaded() -> None:
    calls: list[str] = []

    class Noted(Plugin):
        def one_process(self) -> bool:
            return True

        def unload(self) -> None:
            calls.append("unload")

        def finish(self) -> None:
            calls.append("finish")

    life = Life(Chain(Layer("noted", Noted())))
    life.get_ready()
    life.finish()
    assert calls == ["unload", "finish"]
