"""The server, for a plugin that nothing serves."""

from nbdfork.plugin import Plugin


def test_it_answers_and_does_nothing() -> None:
    server = Plugin().server
    assert not server.single
    assert not server.one_process
    assert tuple(server.stdio) == (False, False, False)
    assert server.ending == -1
    server.stop()
    server.disconnect()
    server.disconnect(force=True)
