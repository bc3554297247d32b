"""What clients say when something is wrong is explained, in their words, by a manual page."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import SECONDS, Server, need, run
from tests.support.manual import rendered
from tests.support.paths import ROOT

PAGE = "nbdfork-troubleshooting.1"

CASES: dict[str, tuple[list[str], Callable[[Server], list[str | Path]]]] = {
    "It looks like you're trying to connect to an oldstyle server": (
        ["memory", "1M"],
        lambda server: ["nbd-client", "-l", "-unix", server.socket],
    ),
    "Server does not support non-empty export names": (
        ["memory", "1M"],
        lambda server: ["qemu-img", "info", uri(server, "x")],
    ),
    "connection is closed": (
        ["-n", "memory", "1M"],
        lambda server: ["nbdinfo", uri(server).replace("nbd", "nbds", 1)],
    ),
    "Failed to read initial magic": (
        ["-n", "--deny", "any", "memory", "1M"],
        lambda server: ["qemu-img", "info", uri(server)],
    ),
    "Requested export not available": (
        ["-n", "file", "dir=."],
        lambda server: ["qemu-img", "info", uri(server, "nope")],
    ),
    "for the default export": (
        ["-n", "file", "dir=."],
        lambda server: ["nbdinfo", uri(server)],
    ),
    "the destination is read-only": (
        ["-n", "-r", "memory", "1M"],
        lambda server: ["nbdcopy", ROOT / "LICENSE", uri(server)],
    ),
    "Could not open image: Permission denied": (
        ["-n", "-r", "memory", "1M"],
        lambda server: ["qemu-io", "-f", "raw", "-c", "write 0 512", uri(server)],
    ),
    "No space left on device": (
        ["-n", "full", "1M"],
        lambda server: ["qemu-io", "-f", "raw", "-c", "write 0 512", uri(server)],
    ),
    "Input/output error": (
        ["-n", "--filter=error", "memory", "1M", "error=EIO", "error-rate=100%"],
        lambda server: ["qemu-io", "-f", "raw", "-c", "read 0 512", uri(server)],
    ),
}
"""The words, the server, and the client that says them."""


def uri(server: Server, name: str = "") -> str:
    return f"nbd+unix:///{name}?socket={server.socket}"


@pytest.mark.parametrize("words", CASES)
def test_a_client_says_it(words: str) -> None:
    arguments, command = CASES[words]
    with Server(*arguments) as server:
        said = failing(*command(server))
    assert words in said
    assert is_explained(words)


def test_there_is_no_server(tmp_path: Path) -> None:
    for words, where in {
        "Connection refused": "nbd://127.0.0.1:1",
        "No such file or directory": f"nbd+unix:///?socket={tmp_path}/none",
    }.items():
        assert words in failing("nbdinfo", where)
        assert words in failing("qemu-img", "info", where)
        assert is_explained(words)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    need("psktool")
    (tmp_path / "keys").mkdir(mode=0o700)
    path = tmp_path / "keys" / "keys.psk"
    assert run("psktool", "-u", "alice", "-p", path).returncode == 0
    return path


def test_a_client_has_no_tls_or_another_name(keys: Path) -> None:
    with Server("--tls=require", f"--tls-psk={keys}", "memory", "1M") as server:
        where = with_keys(server, keys).replace("///", "//bob@/")
        unknown = failing("nbdinfo", where)
        plain = failing("qemu-img", "info", uri(server))
    for words, said in {
        "was not found in PSK file": unknown,
        "this server demands TLS": plain,
        "Did you forget a valid tls-creds?": plain,
    }.items():
        assert words in said
        assert is_explained(words)


def test_who_a_client_is_cannot_be_asked(keys: Path) -> None:
    """Where nobody has logged in."""
    try:
        os.getlogin()
    except OSError:
        pass
    else:
        pytest.skip("the system knows who runs the tests")
    with Server("--tls=require", f"--tls-psk={keys}", "memory", "1M") as server:
        said = failing("nbdinfo", with_keys(server, keys))
    assert "getlogin_r: " in said
    assert is_explained("getlogin_r: ")


def with_keys(server: Server, keys: Path) -> str:
    return uri(server).replace("nbd", "nbds", 1) + f"&tls-psk-file={keys}"


def failing(*command: str | Path) -> str:
    """Return what a client says that fails."""
    need(str(command[0]))
    done = run(*command, timeout=SECONDS)
    said = done.stdout + done.stderr
    assert done.returncode != 0 or "failed" in said, said
    return said


def is_explained(words: str) -> bool:
    """Return whether the page has the *words* of a client."""
    text = " ".join(rendered(PAGE).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
    return words in text
