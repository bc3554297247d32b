"""What an export may say of itself."""

import pytest

from nbdfork.backend.facts import check_block_size, check_contexts, check_size
from nbdfork.plugin import BlockSize, parse


@pytest.mark.parametrize("size", [0, 1, parse.MAX_SIZE])
def test_sizes_that_a_disk_can_have(size: int) -> None:
    check_size(size)


@pytest.mark.parametrize("size", [-1, parse.MAX_SIZE + 1])
def test_sizes_that_no_disk_can_have(size: int) -> None:
    with pytest.raises(OSError, match=f"its size is {size} bytes"):
        check_size(size)


@pytest.mark.parametrize(
    "sizes",
    [
        BlockSize(),
        BlockSize(1, 512, 512),
        BlockSize(65536, 65536, 65536),
        BlockSize(512, 32 << 20, 32 << 20),
        BlockSize(512, 4096, 0xFFFFFFFF),
    ],
)
def test_block_sizes_that_the_protocol_allows(sizes: BlockSize) -> None:
    check_block_size(sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        BlockSize(0, 4096, 4096),
        BlockSize(3, 4096, 4098),
        BlockSize(131072, 131072, 131072),
        BlockSize(1, 256, 4096),
        BlockSize(1, 64 << 20, 64 << 20),
        BlockSize(4096, 512, 4096),
        BlockSize(512, 4096, 2048),
        BlockSize(512, 4096, 4097),
        BlockSize(512, 4096, 1 << 32),
    ],
)
def test_block_sizes_that_it_does_not(sizes: BlockSize) -> None:
    with pytest.raises(OSError, match="block sizes are invalid"):
        check_block_size(sizes)


def test_names_of_contexts() -> None:
    check_contexts([])
    check_contexts(["x-backup:changed", "qemu:dirty-bitmap:one", "x-\u20ac:\u20ac"])


@pytest.mark.parametrize(
    "name", ["", "plain", ":leaf", "space:", "base:allocation", "x-a:\udcff", "x-a:b\0", "x-a:\n"]
)
def test_what_is_none(name: str) -> None:
    with pytest.raises(OSError, match="is not named x-NAMESPACE:NAME"):
        check_contexts(["x-good:one", name])
