"""Every request by libnbd's module, and the names of exports."""

import json
import os
from pathlib import Path

import pytest

from tests.support.harness import Server, need, output, run
from tests.support.libnbd import connected, fails, libnbd
from tests.support.noise import noise
from tests.support.ways import MIB, SIZE, TCP, Way, make_disk


def uri_of(server: Server, export_name: str) -> str:
    """Return the URI of one export of *server*."""
    if "?socket=" in server.uri:
        return f"nbd+unix:///{export_name}?socket={server.socket}"
    return f"nbd://127.0.0.1:{server.port}/{export_name}"


# -- every request, by libnbd's module ---------------------------------------------------------


def test_every_request(way: Way, tmp_path: Path) -> None:
    nbd = libnbd()
    expected = bytearray(noise(SIZE))
    disk = make_disk(tmp_path)
    with way.serve("file", disk) as server, connected(server.uri) as client:
        client.pwrite(b"odd", 12345)
        client.pwrite(b"durable" * 1000, 1 * MIB + 1, nbd.CMD_FLAG_FUA)
        client.zero(100_001, 2 * MIB + 1)
        client.zero(4096, 3 * MIB, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
        client.zero(MIB, 4 * MIB, nbd.CMD_FLAG_FAST_ZERO)
        client.trim(65536, 6 * MIB, nbd.CMD_FLAG_FUA)
        client.cache(SIZE, 0)
        client.flush()
        expected[12345:12348] = b"odd"
        expected[MIB + 1 : MIB + 7001] = b"durable" * 1000
        for start, count in [
            (2 * MIB + 1, 100_001),
            (3 * MIB, 4096),
            (4 * MIB, MIB),
            (6 * MIB, 65536),
        ]:
            expected[start : start + count] = bytes(count)
        assert client.pread(SIZE, 0) == expected
        assert client.pread(1, SIZE - 1) == expected[-1:]
    assert disk.read_bytes() == expected


def test_requests_in_flight(way: Way) -> None:
    """Many requests at once, in one connection: each reply belongs to its request."""
    nbd = libnbd()
    with way.serve("memory", "8M") as server, connected(server.uri) as client:
        for index in range(256):
            buffer = nbd.Buffer.from_bytearray(bytearray(noise(4096, seed=index)))
            client.aio_pwrite(buffer, index * 8192)
        while client.aio_in_flight():
            client.poll(-1)
        buffers = [nbd.Buffer(4096) for _ in range(256)]
        cookies = [client.aio_pread(buffer, i * 8192) for i, buffer in enumerate(buffers)]
        while client.aio_in_flight():
            client.poll(-1)
        assert all(client.aio_command_completed(cookie) for cookie in cookies)
    assert [bytes(buffer.to_bytearray()) for buffer in buffers] == [
        noise(4096, seed=index) for index in range(256)
    ]


def test_large_requests(way: Way) -> None:
    """32 MiB, the most that a client may send without asking, goes through at once."""
    size = 32 * MIB
    data = noise(size)
    with way.serve("memory", str(size)) as server, connected(server.uri) as client:
        client.pwrite(data, 0)
        assert client.pread(size, 0) == data


def test_out_of_bounds(way: Way) -> None:
    """A range that does not lie on the disk is refused, and the client can go on."""
    with way.serve("memory", "8M") as server, connected(server.uri, checked=False) as client:
        for offset in (SIZE, SIZE - 511, SIZE * 2**20):
            with fails("EINVAL"):
                client.pread(512, offset)
            with fails("ENOSPC"):
                client.pwrite(bytes(512), offset)
            with fails("ENOSPC"):
                client.zero(512, offset)
            with fails("EINVAL"):
                client.trim(512, offset)
            with fails("EINVAL"):
                client.cache(512, offset)
        assert client.pread(512, SIZE - 512) == bytes(512)


def test_writing_to_a_read_only_export(way: Way, tmp_path: Path) -> None:
    disk = make_disk(tmp_path)
    with way.serve("-r", "file", disk) as server, connected(server.uri, False) as client:
        with fails("EPERM"):
            client.pwrite(bytes(512), 0)
        with fails("EPERM"):
            client.zero(512, 0)
        with fails("EPERM"):
            client.trim(512, 0)
        assert client.pread(SIZE, 0) == noise(SIZE)
    assert disk.read_bytes() == noise(SIZE)


def test_flags_that_were_not_offered() -> None:
    nbd = libnbd()
    with Server("-n", "example1") as server, connected(server.uri, checked=False) as client:
        with fails("EPERM"):  # read-only comes first
            client.pwrite(bytes(512), 0, nbd.CMD_FLAG_FUA)
        with fails("EINVAL"):
            client.pread(512, 0, nbd.CMD_FLAG_FUA)
        with fails("EINVAL"):
            client.flush()
        with fails("EINVAL"):
            client.cache(512, 0)
        assert client.pread(2, 510) == b"\x55\xaa"


# -- export names ------------------------------------------------------------------------------


def is_refused(uri: str) -> bool:
    """Return whether the server has no export for *uri*."""
    done = run("nbdinfo", "--size", uri)
    assert done.returncode == 0 or "server has no export named" in done.stderr
    return done.returncode != 0


@pytest.mark.parametrize("listen", [None, TCP], ids=["unix", "tcp"])
def test_one_export_name(listen: tuple[str, ...] | None) -> None:
    """With -e the server has that name, and the empty one for it, and no other."""
    need("nbdinfo", "qemu-img")
    with Server("-e", "disk", "memory", "8M", listen=listen) as server:
        for name in ("disk", ""):
            assert not is_refused(uri_of(server, name))
        for name in ("other", "dis", "disk2", "DISK", "disk/"):
            assert is_refused(uri_of(server, name))
        qemu = run("qemu-img", "info", uri_of(server, "other"))
        assert qemu.returncode != 0
        assert "Requested export not available" in qemu.stderr
        with connected(uri_of(server, "")) as client:
            client.pwrite(b"one disk", 0)
        with connected(uri_of(server, "disk")) as client:
            assert client.pread(8, 0) == b"one disk"


def test_any_export_name() -> None:
    """Without -e, and with a plugin that has only one disk, the name does not matter."""
    need("nbdinfo")
    with Server("-n", "memory", "8M") as server:
        for name in ("", "disk", "a/b", "gr%C3%B6%C3%9Fe", "x" * 4000):
            assert not is_refused(uri_of(server, name))


def test_export_name_unknown_to_libnbd() -> None:
    nbd = libnbd()
    with Server("-e", "disk", "null") as server:
        handle = nbd.NBD()
        handle.set_export_name("other")
        with fails("ENOENT"):
            handle.connect_unix(str(server.socket))


def test_files_of_a_directory(tmp_path: Path) -> None:
    """The export name chooses among the files of dir=, and reaches nothing else."""
    need("nbdinfo")
    (tmp_path / "secret").write_bytes(bytes(512))
    directory = tmp_path / "served"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "inner").write_bytes(bytes(512))
    (directory / "one").write_bytes(noise(MIB, seed=1))
    (directory / "two").write_bytes(noise(2 * MIB, seed=2))
    (directory / "dangling").symlink_to("nowhere")
    os.mkfifo(directory / "fifo")
    with Server("file", f"dir={directory}") as server:
        found = json.loads(output("nbdinfo", "--list", "--json", server.uri))
        exports = {export["export-name"]: export["export-size"] for export in found["exports"]}
        assert exports == {"one": MIB, "two": 2 * MIB}
        for seed, name in enumerate(exports, start=1):
            with connected(uri_of(server, name)) as client:
                assert client.pread(client.get_size(), 0) == noise(seed * MIB, seed)
        for name in ("", "three", "sub", "fifo", "dangling", ".", ".."):
            assert is_refused(uri_of(server, name)), name
        for path in (directory / "one", directory / "sub" / "inner", tmp_path / "secret"):
            for name in (str(path), os.path.relpath(path, directory / "sub")):
                assert is_refused(uri_of(server, name.replace("/", "%2F"))), name
        assert is_refused(uri_of(server, "sub%2Finner"))
        assert is_refused(uri_of(server, ".%2Fone"))
