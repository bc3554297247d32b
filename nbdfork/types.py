"""The types that all parts of nbdfork speak in."""

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes.  Memoryviews are one-dimensional, of format "B"."""
