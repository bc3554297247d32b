"""The iso plugin: the files of directories as an ISO 9660 image, a CD-ROM.

The image is made when the server starts, in a scratch file that all clients read.  Files keep their
names in the Rock Ridge and Joliet extensions, for Unix and Windows; readers that know neither see
shortened names.  All three are text, so bytes of a name that are not UTF-8 become "_".  On demand
a program that is installed makes it instead.
"""

import itertools
import logging
import os
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from nbdfork.plugin import (
    ConfigError,
    DescriptorExport,
    Export,
    Needs,
    Parameter,
    Plugin,
    ScratchFile,
    parse,
)

if TYPE_CHECKING:
    from pycdlib import PyCdlib

log = logging.getLogger(__name__)

PROGRAMS = ("xorriso", "genisoimage", "mkisofs")
"""Those that can make an image, with options of mkisofs."""

_MAX_JOLIET = 64  # of a name; Joliet means UTF-16 code units, but pycdlib UTF-8 bytes
_NOT_IN_JOLIET = re.compile(r"[*/:;?\\]")
_NOT_IN_ISO = re.compile("[^A-Z0-9_]")
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # what Python makes of such bytes
_MAX_NAME = 255  # bytes, in Rock Ridge as on most file systems


class Iso(Plugin):
    """the files of directories as a CD-ROM"""

    dir = Parameter(
        parse.path,
        required=True,
        repeatable=True,
        magic=True,
        metavar="DIRECTORY",
        help="a directory whose files are on it",
    )
    prog = Parameter(
        str, metavar="PROGRAM", help="make it by this program: xorriso, genisoimage or mkisofs"
    )
    params = Parameter(
        str, metavar="PARAMETERS", help="what that program is to be told, as a shell has it"
    )
    label = Parameter(str, default="NBDFORK", metavar="LABEL", help="the name of the volume")

    def config_complete(self) -> None:
        for path in self.dir:
            if not os.path.isdir(path):
                raise ConfigError(f"iso: {path}: there is no directory of this name")
        if self.prog is None and self.params is not None:
            found = next(filter(shutil.which, PROGRAMS), None)
            if found is None:
                raise ConfigError(f"iso: params= is for one of: {', '.join(PROGRAMS)}; install one")
            self.prog = found
        if not re.fullmatch("[A-Z0-9_]{1,16}", self.label):
            raise ConfigError(f"iso: label={self.label}: use up to 16 of A-Z, 0-9 and _")

    def needs(self) -> Needs:
        return Needs()

    def dump_plugin(self) -> Mapping[str, str]:
        return {"iso_prog": self.prog or "pycdlib"}

    def get_ready(self) -> None:
        if self.prog is not None:
            self._scratch = ScratchFile(name=f"of {time.monotonic_ns()}")
            self._run(self.prog)
            return
        try:
            from pycdlib import PyCdlib
            from pycdlib.pycdlibexception import PyCdlibException
        except ImportError:
            message = 'the iso plugin needs pycdlib: pip install "nbdfork[iso]"'
            raise ConfigError(message) from None
        image = PyCdlib()
        image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=self.label)
        self._scratch = ScratchFile(name=f"of {time.monotonic_ns()}")  # each program makes its own
        content = _Content(image)
        try:
            for path in self.dir:
                content.add_all_of(path)
            with open(self._scratch.fd, "r+b", closefd=False) as file:
                image.write_fp(file)
        except PyCdlibException as error:
            raise ConfigError(f"iso: {content.last!a}: {error}") from error
        finally:
            image.close()

    def _run(self, program: str) -> None:
        """Let *program* write the image.  Raises `ConfigError`."""
        command = "xorriso -as mkisofs" if program == "xorriso" else program
        label = "" if self.label == "NBDFORK" else f" -V {self.label}"
        places = " ".join(map(shlex.quote, self.dir))
        line = f"{command} -quiet{label} {self.params or ''} {places}"
        log.debug("iso: %s", line)
        done = subprocess.run(
            line,
            shell=True,
            stdout=self._scratch.fd,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip() or f"it ended with status {done.returncode}"
            raise ConfigError(f"iso: {line}: {said}")

    def open(self, export_name: str, read_only: bool) -> Export:
        return DescriptorExport(os.dup(self._scratch.fd), writable=False)


class _Place(NamedTuple):
    """The paths of a file or directory for readers without Rock Ridge, and the name for others."""

    iso: str
    joliet: str
    name: str


class _Content:
    """What has been added to the image so far, by the paths in the directories it comes from."""

    def __init__(self, image: "PyCdlib") -> None:
        self._image = image
        self._places = {"": _Place("", "", "")}
        self._taken: set[str] = set()
        self._names: set[tuple[str, str]] = set()
        self._tails: Counter[str] = Counter()
        self.last = ""
        """The path on the image of what was added last, or could not be added."""

    def add_all_of(self, directory: str, inside: str = "") -> None:
        """Add what is in *directory* to the directory *inside* of the image."""
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=_in_utf_8_first):
                self.last = path = f"{inside}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if path not in self._places:
                        iso, joliet, name = self._choose(inside, entry.name, is_directory=True)
                        mode = entry.stat(follow_symlinks=False).st_mode
                        self._image.add_directory(iso, name, joliet, mode)
                    self.add_all_of(entry.path, path)
                elif path in self._places:
                    raise ConfigError(f"iso: {path} is in more than one of the directories")
                else:
                    self._add(entry, inside)

    def _add(self, entry: os.DirEntry[str], inside: str) -> None:
        """Add a file or a symbolic link; devices, fifos and sockets are left out."""
        if entry.is_symlink():
            iso, _, name = self._choose(inside, entry.name)  # Joliet has no links
            self._image.add_symlink(iso, name, _NOT_UTF_8.sub("_", os.readlink(entry.path)))
        elif entry.is_file():
            iso, joliet, name = self._choose(inside, entry.name)
            mode = entry.stat().st_mode
            self._image.add_file(entry.path, iso, name, joliet, mode)

    def _choose(self, inside: str, name: str, is_directory: bool = False) -> _Place:
        """Return a place that nothing else in the directory has."""
        parent = self._places[inside]
        clean = _NOT_UTF_8.sub("_", name)
        stem, dot, extension = name.upper().rpartition(".") if not is_directory else ("", "", "")
        stem, extension = (stem, extension[:8]) if dot else (name.upper(), "")
        end = "" if is_directory else f".{_NOT_IN_ISO.sub('_', extension)};1"
        stem = _NOT_IN_ISO.sub("_", stem)
        kind = f"{parent.iso}/{stem[:20]}{end}"
        for number in itertools.count(self._tails[kind]):  # or large directories take long
            suffix = f"_{number}" if number else ""
            short = stem[: 20 - len(suffix)] + suffix + end
            long = _cut(_NOT_IN_JOLIET.sub("_", clean), _MAX_JOLIET - len(suffix)) + suffix
            paths = (f"{parent.iso}/{short}", f"{parent.joliet}/{long}")
            if self._taken.isdisjoint(paths):
                break
        self._tails[kind] = number
        self._taken.update(paths)
        place = _Place(*paths, self._choose_name(inside, name))
        self._places[f"{inside}/{name}"] = place
        return place

    def _choose_name(self, inside: str, name: str) -> str:
        """Return *name*, or one like it in UTF-8 that nothing else in the directory has."""
        cleaned = _NOT_UTF_8.sub("_", name)
        for number in itertools.count():
            suffix = f"_{number}" if number else ""
            chosen = _cut(cleaned, _MAX_NAME - len(suffix)) + suffix
            if (inside, chosen) not in self._names:
                break
        self._names.add((inside, chosen))
        return chosen


def _in_utf_8_first(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Sort names that can stay as they are before those that may become like them."""
    return bool(_NOT_UTF_8.search(entry.name)), entry.name


def _cut(text: str, limit: int) -> str:
    """Return the start of *text*, up to *limit* bytes in UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")
