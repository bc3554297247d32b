"""The smallest exports, for tests of what is made of them."""

from nbdfork.plugin import Export, Extent


class Filling(Export):
    """4 KiB whose bytes tell the offset that was asked for."""

    def get_size(self) -> int:
        return 4096

    def pread_into(self, data: memoryview, offset: int) -> None:
        data[:] = bytes([offset & 255]) * len(data)


class Mapped(Filling):
    """The same, with extents that are given."""

    def __init__(self, *extents: tuple[int, int, int]) -> None:
        self.found = [Extent(*extent) for extent in extents]

    def extents(self, count: int, offset: int, flags: int) -> list[Extent]:
        return self.found
