"""The exportname filter: change the names of exports that clients are shown, and may use."""

import errno
import os
import subprocess
from collections.abc import Iterable

from nbdfork.plugin import (
    Export,
    ExportInfo,
    Filter,
    FilterExport,
    Needs,
    Parameter,
    parse,
)

_MOST_TEXT = 4096  # bytes of a name or a description that the protocol can carry
_SCRIPT_SECONDS = 30.0


def _name(text: str) -> str:
    if len(text.encode(errors="surrogateescape")) > _MOST_TEXT:
        raise ValueError(f"a name has at most {_MOST_TEXT} bytes")
    return text


def _description(text: str) -> str:
    if text in ("keep", "none") or text.startswith(("fixed:", "script:")):
        return text
    raise ValueError("expected keep, none, fixed:STRING or script:SCRIPT")


class ExportName(Filter):
    """change the list of exports"""

    default_name = Parameter(
        _name,
        default="",
        key="default-export",
        metavar="NAME",
        help="the export of clients that name none",
    )
    exportname_list = Parameter(
        parse.choice("keep", "error", "empty", "defaultonly", "explicit"),
        default="keep",
        metavar="keep|error|empty|defaultonly|explicit",
        help="what clients are shown",
    )
    exportname_strict = Parameter(
        parse.boolean, default=False, metavar="BOOL", help="refuse names that are not given"
    )
    exportname = Parameter(_name, repeatable=True, metavar="NAME", help="a name for the list")
    exportdesc = Parameter(
        _description,
        default="keep",
        metavar="keep|none|fixed:STRING|script:SCRIPT",
        help="what is said of an export",
    )

    def needs(self) -> Needs:
        return Needs(programs=self.exportdesc.startswith("script:"))

    def has_named_exports(self) -> bool:
        return self.exportname_strict or bool(self.exportname)

    def default_export(self, read_only: bool) -> str:
        return self.default_name or self.next.default_export(read_only)

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        if self.exportname_list == "error":
            raise OSError(errno.EINVAL, "exportname-list=error: no list of exports")
        if self.exportname_list == "keep":
            found = list(self.next.list_exports(read_only))
        elif self.exportname_list == "explicit":
            found = [ExportInfo(name) for name in self.exportname]
        elif self.exportname_list == "defaultonly":
            found = [ExportInfo()]
        else:
            found = []
        return [
            info._replace(description=self._said(self._named(info, read_only), info.description))
            for info in found
        ]

    def _named(self, info: ExportInfo, read_only: bool) -> str:
        return self.default_export(read_only) if info.name is None else info.name

    def open(self, export_name: str, read_only: bool) -> Export:
        # A client that names nothing has got the default by now.
        if self.exportname_strict and export_name not in self.exportname:
            raise OSError(errno.ENOENT, "exportname-strict=true: this name is not given")
        return super().open(export_name, read_only)

    def wrap(self, next: Export, export_name: str, read_only: bool) -> Export:
        if self.exportdesc == "keep":
            return next
        return DescribedExport(next, self._said(export_name, next.description()))

    def _said(self, name: str, below: str) -> str:
        """Return the description of the export *name*, of which the plugin says *below*."""
        way, _, rest = self.exportdesc.partition(":")
        if way == "keep":
            return below
        if way == "script":
            return _output(rest, name)
        return rest


class DescribedExport(FilterExport):
    """*next* with another description."""

    def __init__(self, next: Export, text: str) -> None:
        super().__init__(next)
        self._text = text

    def description(self) -> str:
        return self._text

    def can_resize(self) -> bool:
        return self.next.can_resize()


def _output(script: str, name: str) -> str:
    """Return what *script* prints about the export *name*, in one line."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            env={**os.environ, "name": name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_SCRIPT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"exportdesc: the script took {_SCRIPT_SECONDS} s") from None
    if done.returncode:
        raise OSError(errno.EIO, f"exportdesc: the script ended with status {done.returncode}")
    text = done.stdout[:_MOST_TEXT].decode(errors="replace")
    return text.removesuffix("\n")
