"""Real clients: qemu, libnbd, fio, nbd-client and nbdkit, over both transports and protocols.

Where a client can do all of them it is run four ways: on a Unix domain socket and on TCP, in the
oldstyle protocol and in the newstyle one.
"""

import filecmp
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.harness import Server, eventually, need, output, run
from tests.support.libnbd import DISTRIBUTION, connected, libnbd
from tests.support.noise import noise
from tests.support.ways import MIB, SIZE, TCP, Way, make_disk


def allocated(path: Path) -> int:
    """Return how many bytes *path* occupies."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_blocks * 512


# -- qemu --------------------------------------------------------------------------------------


def qemu_io(uri: str, *commands: str) -> str:
    """Run commands of qemu-io that must all succeed, with a write cache as a guest has it.

    Without one (the default of qemu-io) every write is sent with FUA.
    """
    words = [word for command in commands for word in ("-c", command)]
    return output("qemu-io", "-t", "writeback", "-f", "raw", *words, uri)


def test_qemu_img_info(way: Way) -> None:
    need("qemu-img")
    with way.serve("memory", "12345K") as server:
        found = json.loads(output("qemu-img", "info", "--output=json", server.uri))
    assert found["virtual-size"] == 12345 * 1024
    assert found["format"] == "raw"


@pytest.mark.parametrize("plugin", ["file", "memory"])
def test_qemu_img_convert(way: Way, plugin: str, tmp_path: Path) -> None:
    """A disk goes into a server and out of it again."""
    need("qemu-img")
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(noise(3 * MIB) + bytes(2 * MIB) + noise(SIZE - 5 * MIB, seed=2))
    disk = make_disk(tmp_path, b"\xff" * SIZE)  # what must be zeroes afterwards is not yet
    served = ("file", disk) if plugin == "file" else ("memory", str(SIZE))
    raw = ("-f", "raw")
    with way.serve(*served) as server:
        output("qemu-img", "convert", "-n", *raw, "-O", "raw", source, server.uri)
        compared = output("qemu-img", "compare", *raw, "-F", "raw", source, server.uri)
        output("qemu-img", "convert", *raw, "-O", "raw", server.uri, copy)
    assert "Images are identical" in compared
    assert copy.read_bytes() == source.read_bytes()
    if plugin == "file":
        assert disk.read_bytes() == source.read_bytes()


def test_qemu_io_patterns(way: Way, tmp_path: Path) -> None:
    """Each kind of request does what it says: to qemu, and to the file on the host."""
    need("qemu-io")
    before = noise(SIZE)
    disk = make_disk(tmp_path, before)
    with way.serve("file", disk) as server:
        qemu_io(
            server.uri,
            "write -P 0xab 0 256k",
            "write -f -P 0xcd 1M 64k",
            "flush",
            "write -z 64k 32k",
            "write -z -u 128k 32k",
            "discard 2M 1M",
        )
        qemu_io(
            server.uri,
            "read -P 0xab 0 64k",
            "read -P 0 64k 32k",
            "read -P 0xab 96k 32k",
            "read -P 0 128k 32k",
            "read -P 0xab 160k 96k",
            "read -P 0xcd 1M 64k",
            "read -P 0 2M 1M",
        )
        wrong = run("qemu-io", "-f", "raw", "-c", "read -P 0xac 0 64k", server.uri)
        assert wrong.returncode != 0, "qemu-io does not tell one pattern from another"
    after = bytearray(before)
    after[: 256 * 1024] = b"\xab" * (256 * 1024)
    after[64 * 1024 : 96 * 1024] = bytes(32 * 1024)
    after[128 * 1024 : 160 * 1024] = bytes(32 * 1024)
    after[MIB : MIB + 64 * 1024] = b"\xcd" * (64 * 1024)
    after[2 * MIB : 3 * MIB] = bytes(MIB)
    assert disk.read_bytes() == bytes(after)


@pytest.mark.parametrize(
    ("request_", "freed"),
    [("discard 1M 4M", True), ("write -z -u 1M 4M", True), ("write -z 1M 4M", False)],
    ids=["discard", "zero-unmap", "zero"],
)
def test_qemu_io_sparseness(request_: str, freed: bool, tmp_path: Path) -> None:
    """A discarded range gives its blocks back; a zeroed one only if the client allows it."""
    need("qemu-io")
    disk = make_disk(tmp_path)
    before = allocated(disk)
    assert before >= SIZE
    with Server("file", disk) as server:
        qemu_io(server.uri, request_)
    after = allocated(disk)
    assert (after <= before - 4 * MIB) if freed else (after >= SIZE)
    assert disk.stat().st_size == SIZE
    assert disk.read_bytes() == noise(SIZE)[:MIB] + bytes(4 * MIB) + noise(SIZE)[5 * MIB :]


def test_qemu_io_fua_and_flush_arrive(tmp_path: Path) -> None:
    """FUA reaches the plugin with the write that asked for it, and with no other."""
    need("qemu-io")
    with Server("-v", "-n", "file", make_disk(tmp_path)) as server:
        qemu_io(server.uri, "write 0 4k", "write -f 8k 4k", "flush", "read 0 4k")
        log = server.log
    requests = [line.rsplit(": ", 1)[1] for line in log.splitlines() if line.endswith(")")]
    writes = ["pwrite(4096 bytes, 0, 0)", "pwrite(4096 bytes, 8192, 2)"]
    assert requests[:4] == [*writes, "flush()", "pread(4096, 0)"]


def test_qemu_io_cannot_write_to_a_read_only_export(tmp_path: Path) -> None:
    need("qemu-io")
    disk = make_disk(tmp_path)
    with Server("-n", "-r", "file", disk) as server:
        refused = run("qemu-io", "-f", "raw", "-c", "write 0 4k", server.uri)
        assert refused.returncode != 0
        output("qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", server.uri)
    assert disk.read_bytes() == noise(SIZE)


# -- libnbd's tools ----------------------------------------------------------------------------


READING = {"is_read_only": True, "can_trim": False, "can_zero": False, "can_fua": False}


READING |= {"can_fast_zero": False, "can_multi_conn": True}


WRITING = dict.fromkeys(READING, True) | {"is_read_only": False}


CACHING = {"can_flush": True, "can_cache": True}


FACTS: dict[str, tuple[tuple[str, ...], int, dict[str, bool]]] = {
    "file": (("file", "DISK"), SIZE, WRITING | CACHING),
    "file-r": (("-r", "file", "DISK"), SIZE, READING | CACHING),
    "memory": (("memory", "8M"), SIZE, WRITING | CACHING),
    "null": (("null", "1T"), 1 << 40, WRITING | CACHING),
    "null-r": (("-r", "null", "1T"), 1 << 40, READING | CACHING),
    "example1": (("example1",), 100 * MIB, READING | {"can_flush": False, "can_cache": False}),
}


@pytest.mark.parametrize(("arguments", "size", "flags"), FACTS.values(), ids=FACTS.keys())
def test_nbdinfo(
    way: Way, arguments: tuple[str, ...], size: int, flags: dict[str, bool], tmp_path: Path
) -> None:
    """What an export says of itself is the truth, and the same in both protocols."""
    need("nbdinfo")
    disk = str(make_disk(tmp_path))
    with way.serve(*(word.replace("DISK", disk) for word in arguments)) as server:
        found = json.loads(output("nbdinfo", "--json", server.uri))
        assert int(output("nbdinfo", "--size", server.uri)) == size
    (export,) = found["exports"]
    assert found["protocol"] == ("newstyle-fixed" if way.style else "oldstyle")
    assert export["export-size"] == size
    assert {flag: export[flag] for flag in flags} == flags
    assert ("block_size_minimum" in export) == bool(way.style)  # oldstyle has no way to say it


def test_nbdinfo_sees_the_partition_table() -> None:
    """The content that nbdinfo shows is what file(1) makes of the first sectors."""
    need("nbdinfo", "file")
    with Server("example1") as server:
        content = json.loads(output("nbdinfo", "--json", server.uri))["exports"][0]["content"]
    assert "DOS/MBR boot sector; partition 1 : ID=0x83" in content


@pytest.mark.parametrize("listen", [None, TCP], ids=["unix", "tcp"])
@pytest.mark.parametrize(
    ("arguments", "names"),
    [((), [""]), (("-e", "tom & jerry"), ["tom & jerry"]), (("-e", "größe"), ["größe"])],
    ids=["default", "spaces", "utf-8"],
)
def test_nbdinfo_list(
    listen: tuple[str, ...] | None, arguments: tuple[str, ...], names: list[str]
) -> None:
    need("nbdinfo")
    with Server("-n", *arguments, "memory", "8M", listen=listen) as server:
        found = json.loads(output("nbdinfo", "--list", "--json", server.uri))
    assert [export["export-name"] for export in found["exports"]] == names
    assert found["exports"][0]["export-size"] == SIZE


def test_nbdcopy(way: Way, tmp_path: Path) -> None:
    """Many connections are made, because the export says they may be, and see one disk.

    A thread copies pieces of 128 MiB: for more than one to have work the disk must be larger.
    It is mostly holes.  Which threads get the pieces is nbdcopy's affair.
    """
    need("nbdcopy")
    source, copy = tmp_path / "source", tmp_path / "copy"
    size = 300 * MIB
    with source.open("wb") as file:
        file.truncate(size)
        for seed, start in enumerate((0, 127 * MIB, 200 * MIB, size - 2 * MIB)):
            file.seek(start)
            file.write(noise(2 * MIB, seed))
    options = ("--connections=4", "--threads=4")
    with way.serve("-v", "memory", str(size)) as server:
        output("nbdcopy", *options, source, server.uri)
        output("nbdcopy", *options, server.uri, copy)
        # A connection that got nothing to do may end before its worker has told the log of it.
        eventually(lambda: server.log.count(": transmission: ") == 8)
    assert filecmp.cmp(source, copy, shallow=False)


def test_nbdcopy_between_two_servers(tmp_path: Path) -> None:
    need("nbdcopy")
    disk, empty = make_disk(tmp_path), tmp_path / "empty"
    empty.write_bytes(bytes(SIZE))
    with (
        Server("-r", "file", disk) as source,
        Server("-n", "file", empty, listen=TCP) as destination,
    ):
        output("nbdcopy", "--flush", source.uri, destination.uri)
    assert empty.read_bytes() == noise(SIZE)


def test_nbdsh(way: Way) -> None:
    need("nbdsh")
    script = (
        "h.pwrite(b'hello', 1000)",
        "h.flush()",
        "print(h.get_size(), h.is_read_only(), h.pread(7, 999))",
    )
    words = [word for line in script for word in ("-c", line)]
    with way.serve("memory", "8M") as server:
        environment = {**os.environ, "PYTHONPATH": DISTRIBUTION}
        printed = output("nbdsh", "-u", server.uri, *words, env=environment)
    assert printed.strip() == rf"{SIZE} False bytearray(b'\x00hello\x00')"


# -- other clients -----------------------------------------------------------------------------


def test_fio(way: Way, tmp_path: Path) -> None:
    """Every block is written once, 16 at a time in random order, and read back."""
    need("fio")
    with way.serve("memory", "16M") as server:
        report = output(
            "fio",
            "--name=verify",
            "--ioengine=nbd",
            f"--uri={server.uri}",
            "--rw=randwrite",
            "--bs=4k",
            "--size=16M",
            "--iodepth=16",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
            "--output-format=json",
            cwd=tmp_path,
        )
    (job,) = json.loads(report[report.index("{\n") :])["jobs"]
    assert job["error"] == 0
    assert job["write"]["total_ios"] == job["read"]["total_ios"] == 4096


@pytest.mark.parametrize(
    ("arguments", "name"), [((), ""), (("-e", "disk"), "disk")], ids=["default", "name"]
)
def test_nbd_client_lists_exports(arguments: tuple[str, ...], name: str) -> None:
    need("nbd-client")
    with Server("-n", *arguments, "null", listen=TCP) as server:
        printed = output("nbd-client", "-l", "127.0.0.1", "-p", str(server.port))
    # Its progress goes to the same place: "Negotiation: ..", then a line for each name.
    assert printed.split("\n", 1)[1].strip("\n") == name


def test_a_client_that_knows_no_oldstyle_is_told_of() -> None:
    need("nbd-client")
    with Server("null", listen=TCP) as server:
        run("nbd-client", "-l", "127.0.0.1", "-p", str(server.port))
        assert eventually(lambda: "left when it was greeted" in server.log)
        assert "serve it with -n" in server.log
    with Server("null") as server:
        with connected(server.uri) as client:
            assert client.get_size() == 0
        assert eventually(lambda: not server.serving())
        assert "left when it was greeted" not in server.log


def test_the_uri_of_a_server_for_ipv6_works() -> None:
    need("nbdinfo", "qemu-img")
    with Server("-6", "memory", "1M", listen=("-p", "0")) as server:
        assert output("nbdinfo", "--size", server.uri) == f"{MIB}\n"
        assert "1 MiB" in output("qemu-img", "info", "-f", "raw", server.uri)


def test_nbdkit_as_a_client(way: Way, tmp_path: Path) -> None:
    """The nbd plugin of nbdkit hands an export on, and all it can do with it."""
    need("nbdkit", "nbdinfo", "qemu-io")
    disk = make_disk(tmp_path)
    command = (
        'nbdinfo --json "$uri" && '
        "qemu-io -f raw -c 'write -P 7 1M 1M' -c 'discard 2M 1M' -c 'read -P 7 1M 1M' \"$uri\" >&2"
    )
    with way.serve("file", disk) as server:
        printed = output("nbdkit", "-U", "-", "nbd", f"uri={server.uri}", "--run", command)
    (export,) = json.loads(printed)["exports"]
    flags = WRITING | CACHING
    assert export["export-size"] == SIZE
    assert {flag: export[flag] for flag in flags} == flags
    expected = noise(SIZE)
    assert disk.read_bytes() == expected[:MIB] + b"\x07" * MIB + bytes(MIB) + expected[3 * MIB :]


# -- several clients ---------------------------------------------------------------------------


def test_clients_share_one_memory_disk(way: Way) -> None:
    """What one client writes another reads, although each has a worker of its own."""
    with (
        way.serve("memory", "8M") as server,
        connected(server.uri) as writer,
        connected(server.uri) as reader,
    ):
        eventually(lambda: len(server.serving()) == 2)
        for index in range(50):
            writer.pwrite(noise(5000, seed=index), index * 100_000)
            assert reader.pread(5000, index * 100_000) == noise(5000, seed=index)
        reader.zero(SIZE, 0)
        assert writer.pread(SIZE, 0) == bytes(SIZE)


def test_more_clients_than_spare_workers() -> None:
    """Clients that come all at once are all served, and at the same time."""
    nbd = libnbd()
    with Server("-n", "memory", "8M") as server:
        clients = [nbd.NBD() for _ in range(20)]
        for client in clients:
            client.connect_uri(server.uri)
        for index, client in enumerate(clients):
            client.pwrite(noise(4096, seed=index), index * 4096)
        everything = b"".join(noise(4096, seed=index) for index in range(20))
        assert all(client.pread(20 * 4096, 0) == everything for client in clients)
        eventually(lambda: len(server.serving()) == 20)
        for client in clients:
            client.shutdown()
        eventually(lambda: not server.serving())


def test_a_client_that_is_killed_harms_no_other(tmp_path: Path) -> None:
    """A client that vanishes takes its worker with it, and nothing else."""
    need("nbdcopy")
    with Server("memory", "8M") as server, connected(server.uri) as client:
        client.pwrite(b"still here", 0)
        # It has a connection, and waits for data that never come.
        with subprocess.Popen(["nbdcopy", "-", server.uri], stdin=subprocess.PIPE) as copier:
            try:
                eventually(lambda: len(server.serving()) == 2)
            finally:
                copier.kill()
        eventually(lambda: len(server.serving()) == 1)
        assert client.pread(10, 0) == b"still here"
