"""A fixture for people who test NBD clients.

def test_my_client(nbd_server):
server = nbd_server(MyDisk(size="1M"))
my_client(server.uri)
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from nbdfork.embed import Server, serve
from nbdfork.plugin.plugin import Plugin


@pytest.fixture
def nbd_server() -> Iterator[Callable[..., Server]]:
    """Return a function that serves a plugin until the test ends; see `nbdfork.serve`."""
    with ExitStack() as stack:

        def start(plugin: Plugin, **settings: Any) -> Server:
            return stack.enter_context(serve(plugin, **settings))

        yield start
