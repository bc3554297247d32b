"""The twin in C of the request loop, where tests need it."""

import os

import pytest

from nbdfork import speedups


def need_speedups() -> None:
    """Skip the test where the twin was not built, or is not wanted; in CI it was."""
    if speedups.AVAILABLE:
        return
    if os.environ.get("NBDFORK_CI") and os.environ.get(speedups.VARIABLE) != "0":
        pytest.fail("nbdfork.speedups was not built")
    pytest.skip("there is no nbdfork.speedups")
