"""The iso plugin: an image of directories, as other programs read it."""

import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbdfork.plugins import iso

from tests.support.harness import Server, need, output, run
from tests.support.plugins import MIB, plugin, refusal


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with names that are hard for ISO 9660."""
    tree = tmp_path / "tree"
    deep = tree.joinpath(*"abcdefghij")
    deep.mkdir(parents=True)
    (deep / "deep").write_text("deep")
    for name in ("plain.txt", "PLAIN.TXT", ".hidden", "two.dots.tar.gz", "Ü ?*", "n" * 200):
        (tree / name).write_text(name)
    for number in range(2):
        (tree / f"{'日本語' * 20}{number}").write_text("long, and longer in UTF-8")
    (tree / "plain.txt").chmod(0o750)
    (tree / "a dir.d").mkdir()
    (tree / "a dir.d" / "large").write_bytes(os.urandom(MIB))
    (tree / "empty").touch()
    (tree / "link").symlink_to("plain.txt")
    os.mkfifo(tree / "fifo")
    return tree


def files_below(directory: Path) -> dict[str, bytes]:
    return dict(_files_below(directory))


def _files_below(directory: Path) -> Iterator[tuple[str, bytes]]:
    for path in directory.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode):
            yield str(path.relative_to(directory)), path.read_bytes()


def test_iso(tmp_path: Path, tree: Path) -> None:
    """What another program finds on the image."""
    pytest.importorskip("pycdlib")
    need("osirrox", "nbdcopy")
    more = tmp_path / "more"
    (more / "a").mkdir(parents=True)
    (more / "a" / "merged").write_text("merged")
    image, found = tmp_path / "image", tmp_path / "found"
    with Server("iso", tree, more, "label=LABEL_1") as server:
        output("nbdcopy", server.uri, image)
        assert json.loads(output("nbdinfo", "--json", server.uri))["exports"][0]["is_read_only"]
    done = run("osirrox", "-indev", image, "-extract", "/", found)
    assert stat.S_IMODE((found / "plain.txt").stat().st_mode) == 0o750
    assert (found / "a").stat().st_mode == (tree / "a").stat().st_mode
    output("chmod", "-R", "u+w", found)
    assert "LABEL_1" in done.stderr
    assert files_below(found) == files_below(tree) | {"a/merged": b"merged"}
    assert os.readlink(found / "link") == "plain.txt"


def plugin_image(tree: Path) -> bytes:
    fd = plugin("iso", tree).__dict__["_scratch"].fd
    return os.pread(fd, os.fstat(fd).st_size, 0)


def test_iso_has_names_for_every_reader(tree: Path) -> None:
    pycdlib = pytest.importorskip("pycdlib")
    made = plugin("iso", tree)
    image = pycdlib.PyCdlib()
    with open(os.dup(made.__dict__["_scratch"].fd), "rb") as file:
        image.open_fp(file)
        joliet = [child.file_identifier() for child in image.list_children(joliet_path="/")]
        names = {name.decode("utf-16-be") for name in joliet if len(name) > 1}
        short = [child.file_identifier() for child in image.list_children(iso_path="/")]
        image.close()
    assert {"PLAIN.TXT", "plain.txt_1", ".hidden", "Ü __", "n" * 64, "a dir.d"} <= names
    assert {"日本語" * 7, "日本語" * 6 + "日本_1"} <= names
    assert len(short) == len(set(short))
    assert {b"PLAIN.TXT;1", b"PLAIN_1.TXT;1", b"TWO_DOTS_TAR.GZ;1", b"A_DIR_D"} <= set(short)


def test_iso_has_short_names_for_very_many_that_begin_alike() -> None:
    content: Any = iso._Content(None)
    alike = "a long name that is cut off before"
    places = [content._choose("", f"{alike}, {number}") for number in range(20_000)]
    assert len(set(places)) == len({place.iso for place in places}) == 20_000
    assert places[-1].iso == "/A_LONG_NAME_TH_19999.;1"


def test_iso_refuses(tmp_path: Path, tree: Path) -> None:
    assert "there is no directory" in refusal("iso", tree / "empty")
    assert "use up to 16 of" in refusal("iso", tree, "label=lower")
    pytest.importorskip("pycdlib")
    assert "more than one of the directories" in refusal("iso", tree, tree)


def test_iso_of_names_that_are_not_utf_8(tmp_path: Path) -> None:
    pytest.importorskip("pycdlib")
    need("osirrox")
    tree, found = tmp_path / "tree", tmp_path / "found"
    for name in (b"caf\xe9", b"caf\xe8", b"caf_", b"\xff" * 255, b"new\nline", b"\x1b[31m"):
        folder = tree / "d" / os.fsdecode(b"in " + name)[:255]
        folder.mkdir(parents=True)
        (tree / os.fsdecode(name)).write_bytes(name)
        (folder / os.fsdecode(name)).write_bytes(name)
    (tree / "link").symlink_to(os.fsdecode(b"caf\xe9"))
    (tmp_path / "image").write_bytes(plugin_image(tree))
    run("osirrox", "-indev", tmp_path / "image", "-extract", "/", found)
    output("chmod", "-R", "u+w", found)
    contents = files_below(found)
    assert sorted(contents.values()) == sorted(files_below(tree).values())
    assert contents["caf_"] == b"caf_"
    assert {contents["caf__1"], contents["caf__2"]} == {b"caf\xe9", b"caf\xe8"}
    assert os.readlink(found / "link") == "caf_"


def test_iso_without_pycdlib(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycdlib", None)
    assert refusal("iso", tree) == 'the iso plugin needs pycdlib: pip install "nbdfork[iso]"'


def test_a_program_makes_the_image(tree: Path) -> None:
    need("xorriso", "nbdcopy")
    with Server("iso", tree, "prog=xorriso", "params=-J -r -V OF_A_PROGRAM") as server:
        image = tree.parent / "image"
        output("nbdcopy", server.uri, image)
    shown = output("xorriso", "-indev", image, "-pvd_info", "-find", "/", "-name", "plain.txt")
    assert "OF_A_PROGRAM" in shown
    assert "'/plain.txt'" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prog=/nonexistent/mkisofs"], "not found"),
        (["prog=xorriso", "params=--no-such-option"], "no-such-option"),
    ],
)
def test_a_program_that_fails_is_quoted(tree: Path, words: list[str], message: str) -> None:
    need("xorriso")
    assert message in refusal("iso", str(tree), *words)
