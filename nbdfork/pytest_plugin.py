"""The pytest fixture `nbd_server`, for people who test NBD clients.

def test_my_client(nbd_server):
    server = nbd_server(MyDisk(size="1M"))
    my_client(server.uri)
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nbdfork.embed import Server


@pytest.fixture
def nbd_server() -> "Iterator[Callable[..., Server]]":
    """Return a function that serves a plugin until the test ends; see `nbdfork.serve`."""
    from nbdfork.embed import serve  # every pytest run loads this file; few use the fixture

    with ExitStack() as stack:

        def start(*layers: Any, **settings: Any) -> "Server":
            return stack.enter_context(serve(*layers, **settings))

        yield start
