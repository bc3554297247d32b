"""The libvirt plugin against a real libvirtd and a real guest, side by side with nbdkit's."""

import errno
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nbdfork.plugin import ConfigError, Export
from tests.support.harness import NBDFORK, Server, nbdfork, need, output, refused, run
from tests.support.libnbd import libnbd
from tests.support.libvirtd import Libvirtd, need_libvirt
from tests.support.plugins import plugin

MIB = 1 << 20
CONTENT = os.urandom(9 * MIB + 512)
"""More than libvirt gives at once, twice, and a rest."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Libvirtd]:
    libvirt = need_libvirt()
    with Libvirtd() as daemon:
        raw = daemon.image("raw.img", CONTENT)
        empty = daemon.image("empty.img", b"")
        output("qemu-img", "create", "-q", "-f", "qcow2", daemon.directory / "a.qcow2", "1M")
        qcow2 = daemon.directory / "a.qcow2"
        qcow2.chmod(0o666)
        connection = libvirt.open(daemon.uri)
        disks = {"vda": ("raw", raw), "vdb": ("qcow2", qcow2), "vdc": ("raw", empty)}
        daemon.define(connection, disks)
        connection.close()
        yield daemon


def arguments(daemon: Libvirtd, disk: str | Path = "vda", domain: str = "guest") -> list[str]:
    return ["libvirt", f"connect={daemon.uri}", f"domain={domain}", f"disk={disk}"]


@pytest.fixture
def export(daemon: Libvirtd) -> Iterator[Export]:
    export = plugin(*arguments(daemon)).open("", True)
    yield export
    export.close()


def boot(daemon: Libvirtd) -> Any:
    connection = need_libvirt().open(daemon.uri)
    domain = connection.lookupByName("guest")
    domain.create()
    assert domain.isActive()
    return domain


# -- reading ----------------------------------------------------------------------------------


def test_a_guest_that_is_shut_off_and_one_that_runs(daemon: Libvirtd, tmp_path: Path) -> None:
    need("nbdkit", "nbdcopy")
    image = tmp_path / "image"

    def copies() -> Iterator[bytes]:
        for disk in ("vda", daemon.directory / "raw.img"):
            for command in (["nbdkit"], NBDFORK):
                copy = f'nbdcopy "$uri" {image}'
                output(*command, "-r", "-U", "-", *arguments(daemon, disk), "--run", copy)
                yield image.read_bytes()

    assert all(copy == CONTENT for copy in copies())
    domain = boot(daemon)
    try:
        assert all(copy == CONTENT for copy in copies())
    finally:
        domain.destroy()


def test_any_range_and_the_most_that_libvirt_gives_at_once(export: Export) -> None:
    assert export.get_size() == len(CONTENT)
    for offset, count in [
        (0, 1),
        (511, 3),
        (1, 4 * MIB),
        (1, 4 * MIB + 1),
        (0, len(CONTENT)),
        (len(CONTENT) - 1, 1),
    ]:
        assert bytes(export.pread(count, offset)) == CONTENT[offset : offset + count]


def test_many_threads_of_one_client(daemon: Libvirtd, export: Export) -> None:
    assert plugin(*arguments(daemon)).waits()
    starts = range(0, 9 * MIB, 64 * 1024 + 1)
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda start: bytes(export.pread(1000, start)), starts))
    assert read == [CONTENT[start : start + 1000] for start in starts]


def test_it_is_read_only(daemon: Libvirtd) -> None:
    need("qemu-io", "nbdinfo")
    with Server(*arguments(daemon)) as server:
        assert '"is_read_only": true' in output("nbdinfo", "--json", server.uri)
        done = run("qemu-io", "-f", "raw", "-c", "write 0 512", server.uri)
        assert "Permission denied" in done.stderr


def test_an_empty_disk(daemon: Libvirtd) -> None:
    assert plugin(*arguments(daemon, "vdc")).open("", True).get_size() == 0


# -- what is wrong at the start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": "nobody"}, "no domain with matching name 'nobody' (try: virsh list --all)"),
        ({"disk": "vdz"}, "vdz not assigned to domain (try: virsh domblklist guest)"),
        ({"disk": "vdb"}, "'qcow2' (libvirt can show only disks of raw format)"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    daemon: Libvirtd, change: dict[str, str], message: str
) -> None:
    done = nbdfork("-f", "-U", "-", *arguments(daemon, **change))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("nbdfork: error: libvirt: ")
    assert done.stderr.endswith(f"{message}\n")
    assert done.stderr.count("\n") == 1  # libvirt itself prints none


def test_no_libvirtd(tmp_path: Path) -> None:
    need_libvirt()
    uri = f"qemu+unix:///session?socket={tmp_path}/none"
    with pytest.raises(ConfigError, match=f"Failed to connect .* \\(connect=.*{tmp_path}/none"):
        plugin("libvirt", f"connect={uri}", "domain=guest", "disk=vda")


def test_a_driver_that_cannot_peek() -> None:
    need_libvirt()
    with pytest.raises(ConfigError, match="not supported by the connection driver"):
        plugin("libvirt", "connect=test:///default", "domain=test", "disk=vda")


def test_without_libvirt_python(tmp_path: Path) -> None:
    (tmp_path / "libvirt.py").write_text("raise ImportError\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [*NBDFORK, "-U", "-", "libvirt", "domain=guest", "disk=vda"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "nbdfork: error: the libvirt plugin needs libvirt-python:"
        ' pip install "nbdfork[libvirt]"\n'
    )  # fmt: skip


# -- what goes wrong later --------------------------------------------------------------------


def test_a_domain_that_has_gone_since_the_start(daemon: Libvirtd) -> None:
    libvirt = need_libvirt()
    made = plugin(*arguments(daemon))
    connection = libvirt.open(daemon.uri)
    domain = connection.lookupByName("guest")
    description = domain.XMLDesc()
    domain.undefine()
    try:
        with pytest.raises(OSError, match="no domain with matching name") as caught:
            made.open("", True)
        assert caught.value.errno == errno.EIO
    finally:
        connection.defineXML(description)


def test_a_disk_that_has_shrunk(daemon: Libvirtd, export: Export) -> None:
    image = daemon.directory / "raw.img"
    os.truncate(image, MIB)
    try:
        with pytest.raises(OSError, match="bytes available") as caught:
            export.pread(512, 2 * MIB)
        assert caught.value.errno == errno.EIO
        assert bytes(export.pread(512, 0)) == CONTENT[:512]  # the connection has not suffered
    finally:
        image.write_bytes(CONTENT)


def test_libvirtd_dies_and_comes_back() -> None:
    """A client stays connected: its reads fail while there is no libvirtd, then go on."""
    libvirt = need_libvirt()
    with Libvirtd() as daemon:
        image = daemon.image("raw.img", CONTENT)
        connection = libvirt.open(daemon.uri)
        daemon.define(connection, {"vda": ("raw", image)})
        connection.close()
        with Server("-n", "-v", *arguments(daemon)) as server:
            client = libnbd().NBD()
            client.connect_uri(server.uri)
            assert client.pread(512, 0) == CONTENT[:512]
            daemon.kill()
            for _ in range(2):
                with pytest.raises(libnbd().Error) as caught:
                    client.pread(512, 0)
                assert caught.value.errnum == errno.EIO
            daemon.start()
            assert client.pread(5 * MIB, 512) == CONTENT[512 : 5 * MIB + 512]
            # Killed and restarted between two reads, the client sees nothing of it.
            daemon.kill()
            daemon.start()
            assert client.pread(512, MIB) == CONTENT[MIB : MIB + 512]
            client.shutdown()
            log = server.log
    assert "Failed to connect socket" in log
    # libvirt's own messages, "libvirt: XML-RPC error : ...", have come through our log.
    assert all(re.match(r"(\S+ )?nbdfork|  ", line) for line in log.splitlines())


def test_a_libvirtd_that_is_silent(tmp_path: Path) -> None:
    libvirt = need_libvirt()
    with Libvirtd() as daemon:
        image = daemon.image("raw.img", CONTENT)
        connection = libvirt.open(daemon.uri)
        daemon.define(connection, {"vda": ("raw", image)})
        connection.close()
        export: Any = plugin(*arguments(daemon), "timeout=0.5").open("", True)
        assert bytes(export.pread(512, 0)) == CONTENT[:512]
        assert daemon.process is not None
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            with refused(errno.ETIMEDOUT, f"{re.escape(daemon.uri)}: no answer for 0.5 s"):
                export.pread(512, 0)
            with refused(errno.ETIMEDOUT, "no answer for 0.5 s"):  # nor on another connection
                export.pread(512, 0)
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        assert bytes(export.pread(512, 512)) == CONTENT[512:1024]
        export.close()
    silent = tmp_path / "silent"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(silent))
        listening.listen()
        uri = f"qemu+unix:///session?socket={silent}"
        done = nbdfork("libvirt", f"connect={uri}", "domain=guest", "disk=vda", "timeout=0.2")
        assert done.returncode == 1
        assert f"libvirt: {uri}: no answer for 0.2 s" in done.stderr


def test_only_one_connection_replaces_a_lost_one() -> None:
    libvirt = need_libvirt()
    with Libvirtd() as daemon:
        image = daemon.image("raw.img", CONTENT)
        connection = libvirt.open(daemon.uri)
        daemon.define(connection, {"vda": ("raw", image)})
        connection.close()
        export: Any = plugin(*arguments(daemon)).open("", True)
        daemon.kill()
        daemon.start()
        first = export.domain
        with ThreadPoolExecutor(16) as pool:
            read = list(pool.map(lambda number: bytes(export.pread(512, number * 512)), range(64)))
        assert b"".join(read) == CONTENT[: 64 * 512]
        assert export.domain is not first
        again = export.domain
        assert bytes(export.pread(512, 0)) == CONTENT[:512]
        assert export.domain is again
        export.close()


def test_the_same_facts_as_nbdkit(daemon: Libvirtd) -> None:
    need("nbdkit", "nbdinfo")
    sizes = []
    for command in (["nbdkit"], NBDFORK):
        words = [*command, "-U", "-", *arguments(daemon), "--run", 'nbdinfo --size "$uri"']
        sizes.append(output(*words))
    assert sizes == [f"{len(CONTENT)}\n"] * 2
