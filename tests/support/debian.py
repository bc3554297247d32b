"""A root directory with some of the Debian packages of this machine, made without a network."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.support.harness import output

_FORM = "${binary:Package}\t${Package}\t${Essential}\t${Pre-Depends},${Depends}\t${Provides}\n"

_MORE = ("etc/apt", "etc/alternatives", "etc/ssl/certs", "etc/pip.conf")
"""What packages do not have themselves: where apt-get and pip find more, and what links lead to."""

_UNUSED = re.compile(r"/usr/share/(doc|info|locale|man)/.|.*lto-dump|.*/lto1$|.*/config-3.*\.a$")
"""Files that only make the copy slower: texts, and the largest that nobody here compiles with."""


def make_root(directory: Path, names: Iterable[str]) -> None:
    """Copy what is essential, the packages *names*, and all that these need, to *directory*.

    apt-get takes them for installed there, and finds others where this machine does.
    """
    packages = _closure(names)
    for merged in ("bin", "sbin", "lib", "lib64"):  # as on a machine where /usr has them all
        (directory / "usr" / merged).mkdir(parents=True)
        (directory / merged).symlink_to(f"usr/{merged}")
    files = output("dpkg-query", "-L", *packages).splitlines()
    kept = [path[1:] for path in files if path[:1] == "/" != path[:2] and not _UNUSED.match(path)]
    _copy(directory, "--no-recursion", kept)
    _copy(directory, "--recursion", [path for path in _MORE if Path("/", path).exists()])
    for name in ("passwd", "group"):
        shutil.copy(f"/usr/share/base-passwd/{name}.master", directory / "etc" / name)
    state = directory / "var/lib/dpkg"
    (state / "status").write_text(output("dpkg-query", "-s", *packages).rstrip() + "\n")


def _closure(names: Iterable[str]) -> list[str]:
    """Return the packages that are essential or of *names*, with those that they depend on."""
    found: dict[str, tuple[str, str]] = {}  # by what they provide, or by their name
    wanted = list(names)
    for line in output("dpkg-query", "-W", "-f", _FORM).splitlines():
        binary, name, essential, needs, provides = line.split("\t")
        for word in _names(provides):
            found.setdefault(word, (binary, needs))
        found[name] = (binary, needs)
        if essential == "yes":
            wanted.append(name)
    packages: dict[str, None] = {}
    while wanted:
        binary, needs = found.get(wanted.pop(), ("", ""))
        if binary and binary not in packages:
            packages[binary] = None
            wanted += _names(needs)
    return list(packages)


def _names(relations: str) -> list[str]:
    """Return the names in a field of a package such as Depends."""
    return re.findall(r"[\w.+-]+", re.sub(r"\(.*?\)|:\w+", "", relations))


_COPY = """
tar -C / -c "$1" --ignore-failed-read -T - 2>/dev/null | tar -C "$2" -x --keep-directory-symlink
"""


def _copy(directory: Path, recursion: str, paths: Iterable[str]) -> None:
    """Copy *paths*, relative to the root, to the same places in *directory*."""
    output("sh", "-c", _COPY, "sh", recursion, directory, input="\n".join(paths))
