"""The ssh plugin against a real sshd, side by side with nbdkit's."""

import errno
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbdfork.plugin import PartialError, Support
from tests.support.harness import NBDFORK, Server, need, output, refused, run
from tests.support.libnbd import connected
from tests.support.noise import CONTENT
from tests.support.ssh import MIB, opened, plugin, write
from tests.support.sshd import Sshd

# -- the same as nbdkit ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["-r"]], ids=["writable", "read-only"])
def test_the_same_bytes_and_facts_as_nbdkit(host: Sshd, options: list[str], tmp_path: Path) -> None:
    need("nbdkit", "nbdcopy", "nbdinfo")
    seen = {}
    for name, command in {"nbdkit": ["nbdkit"], "nbdfork": [*NBDFORK, "-n"]}.items():
        script = f'nbdcopy "$uri" {tmp_path}/{name} && nbdinfo --json "$uri"'
        words = [*options, "-U", "-", "ssh", *host.way, f"{host.directory}/disk", "--run", script]
        [export] = json.loads(output(*command, *words))["exports"]
        seen[name] = {
            key: value
            for key, value in export.items()
            if key.startswith(("can_", "is_", "export-size")) and key not in OURS
        }
    assert (tmp_path / "nbdfork").read_bytes() == CONTENT
    assert (tmp_path / "nbdkit").read_bytes() == CONTENT
    if not options:
        seen["nbdkit"]["can_multi_conn"] = False  # see the page for why it is not offered
    assert seen["nbdfork"] == seen["nbdkit"]
    assert seen["nbdfork"]["can_flush"]


OURS = {"can_df", "can_fast_zero", "can_cache", "export-size-str"}
"""What each server decides for plugins that do not say anything of it."""


def test_the_same_writes_as_nbdkit(host: Sshd) -> None:
    need("nbdkit", "qemu-io")
    writes = ["write -P 1 0 4096", "write -P 2 1000 70000", "write -z 5000 99999", "write -f 0 1M"]
    words = [word for write in [*writes, "flush"] for word in ("-c", write)]
    found = []
    for name, command in {"nbdkit": ["nbdkit"], "nbdfork": NBDFORK}.items():
        path = host.file(name, CONTENT)
        script = f"qemu-io -f raw $nbd {' '.join(map(repr, words))}"
        output(*command, "-U", "-", "ssh", *host.way, f"path={path}", "--run", script)
        found.append(path.read_bytes())
    assert found[0] == found[1] != CONTENT


@pytest.mark.parametrize("name", ["none", ""], ids=["missing", "directory"])
def test_nothing_to_serve_as_with_nbdkit(host: Sshd, name: str) -> None:
    need("nbdkit", "nbdinfo")
    words = ["-U", "-", "ssh", *host.way, f"{host.directory}/{name}", "--run", 'nbdinfo "$uri"']
    for command in (["nbdkit"], [*NBDFORK, "-n"]):
        assert run(*command, *words).returncode != 0, command


# -- reading and writing -----------------------------------------------------------------------


def test_any_range(host: Sshd) -> None:
    size = len(CONTENT)
    with opened(*host.way, host.directory / "disk") as export:
        assert export.get_size() == size
        for offset, count in [(0, 1), (511, 3), (1, 2 * MIB), (0, size), (size - 1, 1)]:
            assert bytes(export.pread(count, offset)) == CONTENT[offset : offset + count]


def test_a_path_is_relative_to_the_home_directory(host: Sshd) -> None:
    home = Path(output("sh", "-c", 'eval echo "~$(id -un)"').strip())
    relative = os.path.relpath(host.directory / "disk", os.path.realpath(home))
    with opened(*host.way, f"path={relative}") as export:
        assert bytes(export.pread(9, 9)) == CONTENT[9:18]


def test_what_many_threads_write_and_read_by_one_connection(host: Sshd) -> None:
    before = len(host.sessions())
    path = host.file("threads", bytes(4 * MIB))
    assert plugin(*host.way, path).waits()
    sizes = [1, 511, 4096, 100_000]
    with opened(*host.way, path) as export:
        one = len(host.sessions()) - before

        def exchange(number: int) -> None:
            data = os.urandom(sizes[number % 4])
            write(export, data, number * 128 * 1024)
            assert bytes(export.pread(len(data), number * 128 * 1024)) == data

        with ThreadPoolExecutor(16) as pool:
            for _ in range(3):
                list(pool.map(exchange, range(32)))
        assert len(host.sessions()) - before == one


def test_through_a_server(host: Sshd) -> None:
    need("nbdcopy")
    source, target = host.file("source", CONTENT), host.file("target", bytes(len(CONTENT)))
    with Server("-n", "-r", "ssh", *host.way, source) as first:
        with Server("-n", "ssh", *host.way, target) as second:
            copy = "--requests=16", "--connections=2", "--request-size=65536", "--flush"
            output("nbdcopy", *copy, first.uri, second.uri)
    assert target.read_bytes() == CONTENT


def test_read_only(host: Sshd) -> None:
    with opened(*host.way, host.directory / "disk", read_only=True) as export:
        assert not export.can_write()
        assert export.can_multi_conn()


def test_a_server_that_lets_nobody_write_nor_flush() -> None:
    with Sshd("internal-sftp -R") as host:
        path = host.directory / "disk"
        with opened(*host.way, path) as export:
            assert not export.can_write()
            assert bytes(export.pread(9, 9)) == CONTENT[9:18]
    with Sshd("internal-sftp -P fsync") as host:
        path = host.directory / "disk"
        with opened(*host.way, path) as export:
            assert (export.can_write(), export.can_flush()) == (True, False)
            assert export.can_fua() is Support.NONE


def test_a_file_that_shrinks(host: Sshd) -> None:
    path = host.file("shrinking", CONTENT)
    with opened(*host.way, path) as export:
        os.truncate(path, MIB)
        with refused(errno.EIO, "shrinking: the file has become shorter") as _:
            export.pread(4096, MIB - 512)
        with pytest.raises(PartialError) as caught:
            export.pread(2 * MIB, 0)
        assert caught.value.done == MIB


def test_what_cannot_be_served(host: Sshd) -> None:
    with refused(errno.ENOENT, "/none: the server says: No such file"):
        plugin(*host.way, host.directory / "none").open("", False)
    with refused(errno.EISDIR, "this is a directory"):
        plugin(*host.way, host.directory).open("", True)


# -- making the file ---------------------------------------------------------------------------


def test_a_file_is_made_once(host: Sshd) -> None:
    path = host.file("made", b"old" * 1000)
    path.chmod(0o600)
    path.unlink()
    words: list[str | Path] = [*host.way, path, "create=true", "create-size=1M", "create-mode=0640"]
    with Server("-n", "ssh", *words) as server:
        assert not path.exists()
        for expected in (bytes(3), b"new"):
            with connected(server.uri) as client:
                assert client.get_size() == MIB
                assert client.pread(3, 1000) == expected
                client.pwrite(b"new", 1000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_is_replaced(host: Sshd) -> None:
    path = host.file("replaced", CONTENT)
    with opened(*host.way, path, "create=true", "create-size=512") as export:
        assert export.get_size() == 512
    assert path.read_bytes() == bytes(512)


def test_a_file_that_cannot_be_made(host: Sshd) -> None:
    words: list[str | Path] = [
        *host.way,
        host.directory / "none/made",
        "create=true",
        "create-size=512",
    ]
    made = plugin(*words)
    for _ in range(2):
        with refused(errno.ENOENT, "No such file"):
            made.open("", False)
    (host.directory / "none").mkdir()
    made.open("", False).close()
    assert (host.directory / "none/made").stat().st_size == 512
