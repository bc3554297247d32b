"""A file of 4 KiB that clients may resize; each gets one of its own."""

import os

from nbdfork.plugin import DescriptorExport, Export, Plugin


class Resizable(Plugin):
    """a disk that clients may resize"""

    def open(self, export_name: str, read_only: bool) -> Export:
        fd = os.memfd_create("resizable")
        os.ftruncate(fd, 4096)
        return DescriptorExport(fd, writable=True, resizable=True)
