"""The pytest fixture `nbd_server`, for people who test NBD clients.

def test_my_client(nbd_server):
    server = nbd_server(MyDisk(size="1M"))
    my_client(server.uri)

What the server and the plugin log, an exception's traceback for example, is shown with a test that
fails, as what it has written to standard error at its teardown.
"""

import logging
import sys
import tempfile
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

    with tempfile.TemporaryFile("a+", errors="backslashreplace") as log, ExitStack() as stack:

        def start(*layers: Any, **settings: Any) -> "Server":
            handler = logging.StreamHandler(log)
            handler.setFormatter(
                logging.Formatter("nbdfork[%(process)d] %(levelname)s: %(message)s")
            )
            root = logging.getLogger()
            root.addHandler(handler)  # for the server, which is forked from this process
            try:
                return stack.enter_context(serve(*layers, **settings))
            finally:
                root.removeHandler(handler)

        yield start
        stack.close()
        log.seek(0)
        sys.stderr.write(log.read())
