"""Which loader takes a file that is not Python; with real files, in the tests of the plugins."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbdfork.backend import loaders
from nbdfork.plugin import ConfigError, LoadedFile, Plugin


class Zig(Plugin):
    """a disk"""


def no_loader(path: str) -> object:
    raise AssertionError("it was called")


def declared(suffix: str, load: Callable[[str], object], package: str) -> SimpleNamespace:
    """Return what a package declares, as importlib.metadata gives it."""
    return SimpleNamespace(
        name=suffix,
        value="x:load",
        dist=SimpleNamespace(name=package, version="2.0"),
        load=lambda: load,
    )


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    found: list[SimpleNamespace] = []
    monkeypatch.setattr(loaders, "_entry_points", lambda: found)
    return found


def test_a_package_may_declare_a_loader(points: list[SimpleNamespace], tmp_path: Path) -> None:
    seen: list[str] = []

    def load(path: str) -> LoadedFile:
        seen.append(path)
        return LoadedFile("disk", Zig)

    points.append(declared(".zig", load, "zigdisks"))
    assert loaders.is_declared(".zig")
    assert not loaders.is_declared(".cob")
    assert loaders.load_file(f"{tmp_path}/../disk.zig").plugin_class is Zig
    assert seen == [f"{tmp_path.parent}/disk.zig"]


def test_one_of_nbdforks_own_cannot_be_replaced(points: list[SimpleNamespace]) -> None:
    points.append(declared(".so", no_loader, "evil"))
    with pytest.raises(ConfigError) as caught:
        loaders.load_file("/nonexistent/disk.so")
    assert "evil" not in str(caught.value)


def test_two_that_want_the_same_are_named(points: list[SimpleNamespace]) -> None:
    points += [declared(".zig", no_loader, name) for name in ("one", "two")]
    with pytest.raises(ConfigError, match=r"each of one 2\.0 and two 2\.0 declares a loader"):
        loaders.load_file("disk.zig")


@pytest.mark.parametrize("path", ["disk.cob", "disk", "dir.d/disk"])
def test_what_nothing_loads_is_told_with_what_would(
    path: str, points: list[SimpleNamespace]
) -> None:
    points.append(declared(".zig", no_loader, "zigdisks"))
    with pytest.raises(ConfigError, match=r"nothing loads .* one of .*\.lua.*\.py.*\.zig"):
        loaders.load_file(path)


def test_a_loader_that_fails_or_returns_nonsense_is_named(points: list[SimpleNamespace]) -> None:
    def fail(path: str) -> object:
        raise ZeroDivisionError("a bug")

    points.append(declared(".zig", fail, "zigdisks"))
    with pytest.raises(ConfigError, match=r"of zigdisks 2\.0, cannot load .*ZeroDivisionError"):
        loaders.load_file("disk.zig")
    points[:] = [declared(".zig", lambda path: 7, "zigdisks")]
    with pytest.raises(ConfigError, match=r"returned 7 for 'disk\.zig'; return a LoadedFile"):
        loaders.load_file("disk.zig")
