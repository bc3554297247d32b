"""What the ssh plugin makes of each way in which an SFTP server may lie, break or be slow."""

import errno
import os
import shlex
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from nbdfork.plugin import Export
from tests.support import lying_sftp
from tests.support.harness import SECONDS, Server, eventually, is_alive, refused
from tests.support.libnbd import connected, libnbd
from tests.support.lying_sftp import CONTENT, LIES
from tests.support.memory import growth
from tests.support.served import serving
from tests.support.ssh import plugin
from tests.support.sshd import Sshd
from tests.support.told import check_told

NONSENSE = "the far end says nonsense: "
LOST = "the connection is lost"
SILENT = f"{LOST}: the far end has been silent for 0.5 s"

AT_OPEN: dict[str, tuple[int, str]] = {
    "a banner": (errno.EIO, NONSENSE + r"a packet .* begins 'Welcome to \\x1b\[1m"),
    "version 2": (errno.EIO, "the server speaks version 2 of SFTP, and not 3"),
    "a version that is cut off": (errno.EIO, NONSENSE + "a packet of 2 bytes"),
    "a status instead of the version": (errno.EIO, NONSENSE),
    "silence instead of the version": (errno.ETIMEDOUT, SILENT),
    "no version": (errno.EIO, LOST),
    "an endless line": (errno.EIO, NONSENSE),
    "no such file": (errno.ENOENT, r"the server says: \\xff\\x1b\[31m no such"),
    "no permission": (errno.EACCES, r"the server says: \\xff\\x1b\[31m no such"),
    "no handle": (errno.EIO, NONSENSE + "a handle of 0 bytes"),
    "a handle of 257 bytes": (errno.EIO, NONSENSE + "a handle of 257 bytes"),
    "success instead of a handle": (errno.EIO, NONSENSE + "a reply of the unexpected type 101"),
    "silence instead of a handle": (errno.ETIMEDOUT, SILENT),
    "hanging up instead of a handle": (errno.EIO, LOST),
    "a size of 2^63": (errno.EIO, NONSENSE + "a size of 9223372036854775808 bytes"),
    "a size of 2^64-1": (errno.EIO, NONSENSE + "a size of 18446744073709551615 bytes"),
    "no size": (errno.EIO, "does not tell the file's size"),
    "a size that is cut off": (errno.EIO, NONSENSE + "a reply about the file that is cut off"),
    "a directory": (errno.EISDIR, "this is a directory"),
    "silence instead of the size": (errno.ETIMEDOUT, SILENT),
}

AT_READ: dict[str, tuple[int, str]] = {
    "a byte too many": (errno.EIO, f"{LOST}: {NONSENSE}4097 bytes for a request"),
    "data of no length": (errno.EIO, f"{LOST}: {NONSENSE}0 bytes for a request"),
    "data that is cut off": (errno.EIO, f"{LOST}: {NONSENSE}4096 bytes for a request"),
    "another number": (errno.EIO, f"{LOST}: {NONSENSE}a reply to a request that was never made"),
    "the end of the file": (errno.EIO, "the file has become shorter"),
    "a failure": (errno.EIO, r"the server says: \\xff\\x1b\[31m no such"),
    "status 4,000,000,000": (errno.EIO, "the server says: status 4000000000"),
    "success instead of data": (errno.EIO, NONSENSE + "a reply of the unexpected type 101"),
    "a status that is cut off": (errno.EIO, NONSENSE + "a reply of the unexpected type 101"),
    "a handle instead of data": (errno.EIO, NONSENSE + "a reply of the unexpected type 102"),
    "a packet of 0 bytes": (errno.EIO, f"{LOST}: {NONSENSE}a packet of 0 bytes"),
    "a packet of 4 GB": (errno.EIO, f"{LOST}: {NONSENSE}a packet of 4294967295 bytes"),
    "an unknown packet": (errno.EIO, NONSENSE + "a reply of the unexpected type 77"),
    "the version again": (errno.EIO, f"{LOST}: {NONSENSE}a reply to a request"),
    "endless data": (errno.EIO, LOST),
    "silence instead of data": (errno.ETIMEDOUT, SILENT),
    "hanging up instead of data": (errno.EIO, LOST),
}

HARMLESS = {"nothing", "a byte at a time"}

MOST_MEMORY = 16 << 20
"""How much may be taken at the most, in bytes, whatever is announced or sent."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass between attempts."""
    monkeypatch.setattr("nbdfork.plugins.ssh.export._PAUSES", (0.0,))


@pytest.fixture
def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in place of ssh(1) that has the file "lie" name what it does."""
    program, lie = tmp_path / "bin" / "ssh", tmp_path / "lie"
    program.parent.mkdir()
    words = shlex.join([sys.executable, "-ISE", lying_sftp.__file__])
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *" -G "*) exit;; esac\nexec {words} $(cat {lie})\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return lie


def opened(lie: str, liar: Path, timeout: str = "0.5") -> Export:
    liar.write_text(lie)
    return plugin("host=host.example", "/a/disk", f"timeout={timeout}").open("", False)


def check(caught: OSError, number: int) -> None:
    check_told(caught, "host.example:/a/disk: ", number)


def test_each_lie_is_listed() -> None:
    assert LIES.keys() == AT_OPEN.keys() | AT_READ.keys() | HARMLESS


@pytest.mark.parametrize("lie", AT_OPEN)
def test_a_client_that_opens_the_file_is_lied_to(lie: str, liar: Path) -> None:
    number, text = AT_OPEN[lie]
    with growth() as grown, pytest.raises(OSError, match=text) as caught:
        opened(lie, liar)
    check(caught.value, number)
    assert grown() < MOST_MEMORY


@pytest.mark.parametrize("lie", AT_READ)
def test_a_read_is_lied_to(lie: str, liar: Path) -> None:
    number, text = AT_READ[lie]
    with closing(opened(lie, liar)) as export, growth() as grown:
        with pytest.raises(OSError, match=text) as caught:
            export.pread(4096, 4096)
        check(caught.value, number)
        assert grown() < MOST_MEMORY


@pytest.mark.parametrize("lie", sorted(HARMLESS))
def test_a_lie_that_harms_nobody(lie: str, liar: Path) -> None:
    with closing(opened(lie, liar)) as export:
        assert bytes(export.pread(100_000, 4096)) == CONTENT[4096:104_096]
        assert bytes(export.pread(512, 0)) == CONTENT[:512]


@pytest.mark.parametrize("lie", ["silence instead of data", "silence instead of a handle"])
def test_a_client_that_leaves_while_the_server_is_silent(lie: str, liar: Path) -> None:
    with serving() as client:
        opening = client.begin(lambda: opened(lie, liar, "60"))
        if lie.endswith("data"):
            with closing(opening.result(SECONDS)) as export:
                reading = client.begin(lambda: export.pread(512, 0))
                client.leave()
                with refused(errno.ESHUTDOWN, "the client has left"):
                    reading.result(SECONDS)
        else:
            eventually(lambda: psutil.Process().children())
            client.leave()
            with refused(errno.ESHUTDOWN, "the client has left"):
                opening.result(SECONDS)
    assert not [one for one in psutil.Process().children() if one.name() in ("ssh", "python")]


def test_ssh_ends_with_its_worker_when_the_client_has_left() -> None:
    lie = "silence instead of data"
    words = shlex.join([sys.executable, "-ISE", lying_sftp.__file__, lie])
    with Sshd(words) as host, Server("-n", "ssh", *host.way, "/a/disk", "timeout=60") as server:
        client = libnbd().NBD()
        client.connect_uri(server.uri)
        [worker] = server.serving()
        [ssh] = worker.children()
        client.aio_pread(bytearray(512), 0)
        del client
        eventually(lambda: not is_alive(worker) and not is_alive(ssh))
        with connected(server.uri) as later:
            assert later.get_size() == len(CONTENT)


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("no such file", r"/a/disk: the server says: \xff\x1b[31m no such"),
        ("a size of 2^63", "/a/disk: the far end says nonsense: a size of 9223372036854775808"),
        ("silence instead of a handle", "the far end has been silent for 0.5 s"),
    ],
)
def test_the_log_says_once_why_there_is_no_export(lie: str, said: str, liar: Path) -> None:
    liar.write_text(lie)
    with Server("-n", "ssh", "host=host.example", "/a/disk", "timeout=0.5") as server:
        with pytest.raises(Exception, match="nbd_connect_uri"), connected(server.uri):
            pass
        eventually(lambda: said in server.log)
        assert server.log.count(said) == 1
        assert "a bug" not in server.log
