"""The manual pages: what they say of options and parameters is so, and their examples work."""

import ctypes
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nbdfork.backend import load
from nbdfork.backend.arguments import takes_any_key
from nbdfork.options import TABLE
from nbdfork.plugin import parameters_of
from tests.support.harness import SECONDS, nbdfork, need, run
from tests.support.manual import MANUAL, render, rendered, runs, source, unescaped
from tests.support.paths import ROOT

PAGES = sorted(page.name for page in MANUAL.iterdir())
LAYER_PAGE = re.compile(r"nbdfork-([\w-]+)-(plugin|filter)\.[13]")
LAYER_PAGES = [page for page in PAGES if LAYER_PAGE.fullmatch(page)]
KINDS = {"plugin": load.PLUGIN, "filter": load.FILTER}

NOT_RUN = {"guestfish", "nbd-client", "qemu-system-x86_64", "/dev/sda1"} | {
    *("vms", "vms/guest"),  # test_rbd runs these,
    "10810",  # and test_several that
}
"""What needs a guest, a device of the kernel, or a disk that may not be there.  Examples with one
of these are not run here; all others are."""

FILE = re.compile(
    r"^\.Bd -literal(?: -offset \w+)?\n(# (\S+\.(?:cfg|py|toml))\n.*?)^\.Ed\n",
    re.MULTILINE | re.DOTALL,
)
"""A display that is a whole file: its first line is a comment with the file's name."""


TOOLS = (
    "bzip2",
    "cmp",
    "gzip",
    "haproxy",
    "install",
    "logrotate",
    "lz4",
    "lzip",
    "nbdcopy",
    "nbdinfo",
    "nbdkit",
    "nbdsh",
    "nft",
    "ocamlopt",
    "od",
    "openssl",
    "perl",
    "psktool",
    "pzstd",
    "qemu-img",
    "qemu-io",
    "qemu-nbd",
    "ruby",
    "split",
    "ssh-keygen",
    "systemctl",
    "systemd-sysusers",
    "truncate",
    "useradd",
    "xz",
)
"""The clients that examples need."""

PR_SET_CHILD_SUBREAPER = 36


# -- reading pages ----------------------------------------------------------------------------


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


def files(page: str) -> list[tuple[str, str]]:
    """Return (name, content) of each file on *page*, in their order."""
    return [(match[2], unescaped(match[1])) for match in FILE.finditer(source(page))]


def examples(page: str) -> Iterator[tuple[str, str, int]]:
    """Yield (prompt, script, files) for each run of lines of *page* that has a prompt in front.

    *files* is how many files stand before it.  Lines without a prompt, such as output, are left
    out; a backslash joins the next line.
    """
    parts = FILE.split(source(page))[::3]  # what is around the files
    seen: list[tuple[str, str]] = []
    for number in range(len(parts)):
        found = list(runs(render("".join(parts[: number + 1]))))
        yield from ((*run, number) for run in found[len(seen) :])
        seen = found


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


def explanations() -> dict[str, str]:
    """Return what the manual says of each option, by the first of its names."""
    found: dict[str, str] = {}
    name = ""
    for line in section("nbdfork.1", "OPTIONS").splitlines():
        if re.match(r" {5}\S", line):
            name = re.split(r"[ ,]+", line.strip())[0]
        found[name] = f"{found.get(name, '')} {line.strip()}"
    return found


def test_defaults_and_what_is_implied_are_in_the_manual() -> None:
    need("mandoc")
    said = explanations()
    for option in TABLE:
        text = said[option.names[0]]
        if option.tells_default:
            assert re.search(rf"default is {re.escape(option.field.show_default({}))}\b", text), (
                text
            )
        if option.implies is not None:
            assert re.search(rf"impl(y|ies) {re.escape(option.implies)}(?![\w-])", text), text


def test_help_mentions_every_option() -> None:
    text = nbdfork("--help").stdout
    assert option_names(text) == {name for option in TABLE for name in option.names}


@pytest.mark.parametrize("word", KINDS)
def test_every_plugin_and_filter_has_a_page_and_every_page_one_of_them(word: str) -> None:
    kind = KINDS[word]
    shipped = sorted(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules([load.directory(kind)])
        if not module.name.startswith("_")
    )
    assert [
        name for name, kind_of_page in map(layer, LAYER_PAGES) if kind_of_page is kind
    ] == shipped


def test_there_are_no_other_pages() -> None:
    others = set(PAGES) - set(LAYER_PAGES)
    assert others == {
        "nbdfork-filter.3",
        "nbdfork-plugin.3",
        "nbdfork-from-nbdkit.1",
        "nbdfork-security.1",
        "nbdfork-service.1",
        "nbdfork-several.1",
        "nbdfork-start.1",
        "nbdfork-testing.1",
        "nbdfork-tls.1",
        "nbdfork-troubleshooting.1",
        "nbdfork-writing.1",
        "nbdfork.1",
        "nbdfork.3",
        "nbdfork.conf.5",
        "nbdforkctl.1",
    }


def layer(page: str) -> tuple[str, load.Kind]:
    """Return the name and the kind of what *page* is about."""
    match = LAYER_PAGE.fullmatch(page)
    assert match is not None
    return match[1], KINDS[match[2]]


@pytest.mark.parametrize("page", LAYER_PAGES)
def test_the_parameters_are_on_the_page_and_no_other(page: str) -> None:
    need("mandoc")
    plugin_class = load.find(*layer(page)).plugin_class
    declared = parameters_of(plugin_class)
    heads = {}
    for line in list_heads(section(page, "PARAMETERS")):
        if match := re.match(r"(\[?)([\w-]+)=(\]?)(.*)", line):
            heads[match[2]] = (bool(match[1] and match[3]), match[4].replace(" | ", "|"))
    assert heads == {key: (found.magic, found.metavar) for key, found in declared.items()}
    keys_in_synopsis = set(re.findall(r"(?<![\w-])(\w[\w-]*)=", section(page, "SYNOPSIS")))
    if takes_any_key(plugin_class()):
        keys_in_synopsis.discard("key")
    assert keys_in_synopsis == declared.keys()


@pytest.mark.parametrize("page", LAYER_PAGES)
def test_the_debug_flags_are_on_the_page_and_no_other(page: str) -> None:
    need("mandoc")
    name, kind = layer(page)
    flags = load.find(name, kind).plugin_class.debug_flags
    heads = list_heads(section(page, "DEBUG FLAGS"))
    assert heads == [f"{name}.{flag}=1" for flag in flags]


# -- running the examples ---------------------------------------------------------------------


def all_examples() -> list[tuple[str, str, str, int]]:
    if shutil.which("mandoc") is None:
        return []
    return [(page, *example) for page in PAGES for example in examples(page)]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that any user can reach, with a disk.img and the template of a plugin."""
    with tempfile.TemporaryDirectory(prefix="nbdfork-example") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "disk.img").write_bytes(os.urandom(4 * 1024 * 1024))
        (directory / "disk.img").chmod(0o666)
        shutil.copytree(ROOT / "contrib" / "examples", directory / "contrib" / "examples")
        yield directory


@pytest.fixture
def path() -> Iterator[str]:
    """The PATH of the examples: nbdfork, and the system's programs.

    Of a virtual environment there are only `python` and `pytest`, and not `python3`: with that,
    the system's programs would miss their modules.
    """
    with tempfile.TemporaryDirectory(prefix="nbdfork-bin") as name:
        for command, words in {"python": "", "pytest": "-m pytest"}.items():
            script = Path(name, command)
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            script.chmod(0o755)
        for command in ("nbdfork", "nbdforkctl"):
            Path(name, command).symlink_to(Path(sys.executable).parent / command)
        yield f"{name}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


ALONE = """
ip link set lo up
if [ "$SYSTEM" ]; then
    mount -t tmpfs none "$SYSTEM"
    for part in etc opt run usr var; do
        mkdir "$SYSTEM/$part" "$SYSTEM/$part/upper" "$SYSTEM/$part/work"
        layers=lowerdir=/$part,upperdir=$SYSTEM/$part/upper,workdir=$SYSTEM/$part/work
        mount -t overlay -o "$layers" none "/$part"
    done
    ln -s "$(command -v nbdfork)" /usr/local/bin/
fi
exec "$@"
"""


def namespace() -> list[str]:
    """Return the command that runs another where port 10809 is free, if that is possible.

    If the variable SYSTEM is the path of a directory, what the command changes of the system's
    files is in there, and nobody else sees it.
    """
    alone = ["unshare", "-n", "-m"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    alone += ["sh", "-e", "-c", ALONE, "sh"]
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
    assert {page for page, *_ in all_examples()} == set(PAGES)


def test_every_file_on_a_page_is_run() -> None:
    need("mandoc")
    for page in PAGES:
        last = max((count for _, _, count in examples(page)), default=0)
        assert last == len(files(page)), f"{page}: no example after the last file"


@pytest.mark.usefixtures("_nothing_left_running")
@pytest.mark.parametrize(("page", "prompt", "script", "count"), all_examples())
def test_example(page: str, prompt: str, script: str, count: int, place: Path, path: str) -> None:
    words = set(re.findall(r"[\w/-]+", script))
    if unrunnable := words & NOT_RUN:
        pytest.skip(f"not run: {', '.join(unrunnable)}")
    alone = namespace()
    if prompt == "#" and (os.geteuid() != 0 or not alone):
        pytest.skip("only root can do this, and where it changes nothing of the machine")
    written = files(page)[:count]
    for _, content in written:
        words |= set(re.findall(r"[\w-]+", content))
    need(*words.intersection(TOOLS))
    for name, content in written:
        (place / name).write_text(content)
    environment = {"PATH": path, "HOME": str(place), "LC_ALL": "C.UTF-8"}
    if prompt == "#":
        environment["SYSTEM"] = str(place / "system")
        (place / "system").mkdir()
    # Not through pipes: a server that was left behind would hold them open.
    with (place / "output").open("w+") as log:
        done = subprocess.run(
            [*alone, "sh", "-e", "-c", script],
            check=False,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        log.seek(0)
        assert done.returncode == 0, f"{page}:\n{script}\n{log.read()}"
