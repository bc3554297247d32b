"""libnbd as a client in the process of the tests."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.harness import need

DISTRIBUTION = "/usr/lib/python3/dist-packages"
"""Where Debian keeps libnbd's Python module; a virtual environment does not look there."""


def libnbd() -> Any:
    """Return libnbd's module; skip the test if it is not installed, or fails to load."""
    need("nbdsh")  # of the same package
    if DISTRIBUTION not in sys.path:
        sys.path.append(DISTRIBUTION)  # last, because its other modules must not hide ours
    try:
        return importlib.import_module("nbd")
    except ImportError:
        if os.environ.get("NBDFORK_CI"):
            raise
        pytest.skip("libnbd's module is not for this Python")


@contextmanager
def connected(uri: str, checked: bool = True, contexts: Iterable[str] = ()) -> Iterator[Any]:
    """Connect to *uri*; unless *checked*, libnbd sends requests that it knows to be wrong.

    The metadata *contexts* are asked for.
    """
    handle = libnbd().NBD()
    for context in contexts:
        handle.add_meta_context(context)
    if not checked:
        handle.set_strict_mode(0)
    handle.set_uri_allow_local_file(True)  # with certificates or keys
    handle.connect_uri(uri)
    yield handle
    handle.shutdown()


@contextmanager
def fails(error: str) -> Iterator[None]:
    """Expect that the server answers a request with *error*."""
    with pytest.raises(libnbd().Error) as caught:
        yield
    assert caught.value.errno == error


def connect(uri: str) -> Any:
    """Connect to *uri*, for as long as the handle is kept; it sends what it knows to be wrong."""
    handle = libnbd().NBD()
    handle.set_strict_mode(0)
    handle.connect_uri(uri)
    return handle


def attempt(operation: Callable[[], object]) -> object:
    """Return what *operation* returns, or the name of the errno that it fails with."""
    try:
        result = operation()
    except libnbd().Error as error:
        return error.errno
    return bytes(result) if isinstance(result, bytearray) else result
