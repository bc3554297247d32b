"""The manual pages: what they say of options and parameters is so, and their examples work."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from nbdfork.options import TABLE
from nbdfork.plugin import load
from nbdfork.plugin.parameters import ParameterSet
from tests.harness import SECONDS, nbdfork, need, output, run

MANUAL = Path(__file__).parent.parent / "man"
PAGES = sorted(page.name for page in MANUAL.glob("*.1"))

NOT_RUN = {"guestfish", "nbd-client", "qemu-system-x86_64", "/dev/sda1"}
"""What needs a guest, a device of the kernel, or a disk that may not be there.  Examples with one
of these are not run; all others are."""

TOOLS = ("cmp", "nbdcopy", "nbdinfo", "nbdsh", "od", "qemu-img", "qemu-io", "truncate")
"""The clients that examples need."""

PR_SET_CHILD_SUBREAPER = 36


# -- reading pages ----------------------------------------------------------------------------


@cache
def rendered(page: str) -> str:
    """Return *page* as a reader sees it, but with lines that are never broken."""
    text = output("mandoc", "-Tutf8", "-Owidth=1000", MANUAL / page)
    return re.sub(".\b", "", text)


def section(page: str, title: str) -> str:
    """Return the section *title* of *page*, or "" if it has none."""
    match = re.search(rf"^{title}\n(.*?)^\S", rendered(page), re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def list_heads(text: str) -> list[str]:
    """Return what the lists of *text* explain; the explanation may begin in the same line."""
    found = [line.strip() for line in text.splitlines() if re.match(r" {5}\S", line)]
    return [re.split(" {2,}", line)[0] for line in found]


def option_names(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])-(?:-[a-z][\w-]*|\w)(?![\w-])", text))


def examples(page: str) -> Iterator[tuple[str, str]]:
    """Yield (prompt, script) for each run of lines of *page* that has a prompt in front.

    Lines without a prompt, such as output, are left out; a backslash joins the next line.
    """
    for block in rendered(page).replace("\\\n", "").split("\n\n"):
        lines = re.findall(r"^ +([$#]) (.*)", block, re.MULTILINE)
        if lines:
            yield lines[0][0], "\n".join(line for _, line in lines)


# -- what pages say ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_finds_nothing_wrong(page: str) -> None:
    need("mandoc")
    done = run("mandoc", "-Tlint", "-Wwarning", MANUAL / page)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_name_of_every_option_is_explained_and_no_other() -> None:
    need("mandoc")
    text = section("nbdfork.1", "OPTIONS")
    heads = {name for line in list_heads(text) for name in option_names(line)}
    known = {name for option in TABLE for name in option.names}
    assert heads == known
    assert option_names(text) == known


def test_every_option_has_its_argument_and_its_names_together() -> None:
    need("mandoc")
    heads = list_heads(section("nbdfork.1", "OPTIONS"))
    expected = []
    for option in TABLE:
        names = ", ".join(option.names)
        expected.append(f"{names} {option.metavar}" if option.metavar else names)
    assert [head.replace(" | ", "|") for head in heads] == expected


def test_help_mentions_every_option() -> None:
    text = nbdfork("--help").stdout
    assert option_names(text) == {name for option in TABLE for name in option.names}


def test_every_plugin_has_a_page_and_every_page_a_plugin() -> None:
    pages = {page.removeprefix("nbdfork-").removesuffix("-plugin.1") for page in PAGES}
    shipped = {path.stem for path in Path(load.plugin_directory()).glob("[!_]*.py")}
    assert pages == shipped | {"nbdfork.1"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith("-plugin.1")])
def test_the_parameters_of_a_plugin_are_on_its_page_and_no_other(page: str) -> None:
    need("mandoc")
    name = page.removeprefix("nbdfork-").removesuffix("-plugin.1")
    declared = ParameterSet(load.find(name).plugin_class).by_key
    heads = {}
    for line in list_heads(section(page, "PARAMETERS")):
        if match := re.match(r"(\[?)([\w-]+)=(\]?)(.*)", line):
            heads[match[2]] = (bool(match[1] and match[3]), match[4].replace(" | ", "|"))
    assert heads == {key: (found.magic, found.metavar) for key, found in declared.items()}
    keys_in_synopsis = set(re.findall(r"([\w-]+)=", section(page, "SYNOPSIS")))
    assert keys_in_synopsis == declared.keys()


@pytest.mark.parametrize("page", [page for page in PAGES if page.endswith("-plugin.1")])
def test_the_debug_flags_of_a_plugin_are_on_its_page_and_no_other(page: str) -> None:
    need("mandoc")
    name = page.removeprefix("nbdfork-").removesuffix("-plugin.1")
    flags = load.find(name).plugin_class.debug_flags
    heads = list_heads(section(page, "DEBUG FLAGS"))
    assert heads == [f"{name}.{flag}=1" for flag in flags]


# -- running the examples ---------------------------------------------------------------------


def all_examples() -> list[tuple[str, str, str]]:
    if shutil.which("mandoc") is None:
        return []
    return [(page, *example) for page in PAGES for example in examples(page)]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a disk.img, and nbdfork in `bin`, that any user can reach."""
    with tempfile.TemporaryDirectory(prefix="nbdfork-example") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "disk.img").write_bytes(os.urandom(4 * 1024 * 1024))
        (directory / "disk.img").chmod(0o666)
        yield directory


@pytest.fixture
def path() -> Iterator[str]:
    """The PATH of the examples: nbdfork and the system's programs, and not the Python of a
    virtual environment, in which the system's programs would miss their modules.
    """
    with tempfile.TemporaryDirectory(prefix="nbdfork-bin") as name:
        Path(name, "nbdfork").symlink_to(Path(sys.executable).parent / "nbdfork")
        yield f"{name}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def namespace() -> list[str]:
    """Return the command that runs another where port 10809 is free, if that is possible."""
    alone = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    alone += ["sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if shutil.which("unshare") is None or run(*alone, "true").returncode != 0:
        return []
    return alone


@pytest.fixture
def _nothing_left_running() -> Iterator[None]:
    """Have every process that a test leaves behind become our child, and demand that all end."""
    libc = ctypes.CDLL(None)
    before = psutil.Process().children()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
        new = [process for process in psutil.Process().children() if process not in before]
        _, alive = psutil.wait_procs(new, timeout=SECONDS)
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    for process in alive:
        process.kill()
    assert not alive


def test_the_pages_have_examples() -> None:
    need("mandoc")
    assert {page for page, _, _ in all_examples()} == set(PAGES)


@pytest.mark.usefixtures("_nothing_left_running")
@pytest.mark.parametrize(("page", "prompt", "script"), all_examples())
def test_example(page: str, prompt: str, script: str, place: Path, path: str) -> None:
    words = set(re.findall(r"[\w/-]+", script))
    if unrunnable := words & NOT_RUN:
        pytest.skip(f"not run: {', '.join(unrunnable)}")
    if prompt == "#" and os.geteuid() != 0:
        pytest.skip("only root can do this")
    need(*words.intersection(TOOLS))
    # Not through pipes: a server that was left behind would hold them open.
    with (place / "output").open("w+") as log:
        done = subprocess.run(
            [*namespace(), "sh", "-e", "-c", script],
            check=False,
            cwd=place,
            env={"PATH": path, "HOME": str(place), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        log.seek(0)
        assert done.returncode == 0, f"{page}:\n{script}\n{log.read()}"
