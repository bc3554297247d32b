"""An export: what it need not override."""

import pytest

from nbdfork.backend.gate import Gate
from nbdfork.plugin import (
    Export,
)
from tests.support.exports import Filling


def test_an_export_may_fill_a_buffer() -> None:
    assert Gate(Filling(), True).pread(3, 7) == b"\7\7\7"


def test_an_export_that_cannot_read_says_so() -> None:
    class Nothing(Export):
        def get_size(self) -> int:
            return 4096

    with pytest.raises(
        NotImplementedError, match=r"Nothing does not implement pread \(or pread_into\)"
    ):
        Gate(Nothing(), True).pread(1, 0)
