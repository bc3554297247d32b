"""Filters and plugins for compressed disks, over what the real tools have made, through clients."""

import errno
import gzip
import importlib.util
import lzma
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbdfork.backend.load import FILTER, find
from nbdfork.filters import _blocks, _source
from nbdfork.filters import gzip as gzip_filter
from nbdfork.filters._unpack import UnpackFilter
from nbdfork.plugin import BlockSize, Buffer, ConfigError, Export, Filter, PartialError
from nbdfork.plugin.descriptor import DescriptorExport
from tests.support.harness import NBDFORK, Server, nbdfork, need, output, run
from tests.support.libnbd import connected, fails

MIB = 1 << 20
SIZE = 6 * MIB + 1234

LIBRARIES = {
    "gzip": "indexed_gzip",
    "xz": "xz",
    "bzip2": "rapidgzip",
    "zstd": "backports.zstd",
    "lz4": "lz4",
}

COMMANDS = {
    "gzip": "gzip -1",
    "xz": "xz -1 --block-size=1MiB",
    "bzip2": "bzip2 -1",
    "zstd": "pzstd -q -p 2 -1",
    "lz4": "split -b 1M --filter=lz4",
}
"""What makes data of each format, from what it reads to what it writes; of many blocks."""


def missing(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is None
    except ModuleNotFoundError:  # not even the package that it is in
        return True


absent = [name for name, library in LIBRARIES.items() if missing(library)]
if absent and not os.environ.get("NBDFORK_CI"):
    pytest.skip(f"no libraries for: {', '.join(absent)}", allow_module_level=True)


def compressed(name: str, data: bytes, command: str = "") -> bytes:
    command = command or COMMANDS[name]
    need(command.split()[0], name)
    done = subprocess.run(
        ["sh", "-c", command], input=data, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def content() -> bytes:
    """A disk with noise, zeroes and text."""
    chance = random.Random(1)
    parts: list[bytes] = []
    while sum(len(part) for part in parts) < SIZE:
        words = b"".join(b"%d of the words\n" % chance.randrange(10**6) for _ in range(9000))
        parts += [chance.randbytes(300_000), bytes(500_000), words]
    return b"".join(parts)[:SIZE]


@pytest.fixture(scope="module")
def files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The disk in each format."""
    directory = tmp_path_factory.mktemp("compressed")
    found = {}
    for name in COMMANDS:
        found[name] = directory / f"disk.{name}"
        found[name].write_bytes(compressed(name, content))
    return found


class Below(Export):
    """A disk of *data* that counts what is read, and can fail."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read = 0
        self.broken = False
        self.closed = False

    def get_size(self) -> int:
        return len(self.data)

    def pread(self, count: int, offset: int) -> bytes:
        if self.broken:
            raise OSError(errno.ENETDOWN, "the cable is out")
        self.read += count
        return self.data[offset : offset + count]

    def close(self) -> None:
        self.closed = True


def filter_of(name: str, **parameters: object) -> UnpackFilter:
    made = find(name, FILTER).plugin_class(**parameters)
    assert isinstance(made, Filter)
    made.get_ready()
    assert isinstance(made, UnpackFilter)
    return made


OPEN: list[Export] = []
"""What a test has opened."""


@pytest.fixture(autouse=True)
def _close_all() -> Iterator[None]:
    """Close what was opened, or rapidgzip aborts the process in the end."""
    yield
    while OPEN:
        OPEN.pop().close()


def kept(export: Export) -> Export:
    OPEN.append(export)
    return export


def unpacked(name: str, data: bytes, **parameters: object) -> Export:
    return kept(filter_of(name, **parameters).unpack(Below(data), "disk"))


def all_of(export: Export) -> bytes:
    size = export.get_size()
    return b"".join(export.pread(min(MIB, size - offset), offset) for offset in range(0, size, MIB))


def refusal(name: str, data: bytes, **parameters: object) -> str:
    with pytest.raises(OSError) as caught:
        unpacked(name, data, **parameters)
    assert caught.value.errno in (errno.EINVAL, errno.EIO)
    return caught.value.strerror or ""


def read_error(export: Export, count: int, offset: int) -> tuple[str, int]:
    """Return what a read that must fail says, and how many bytes of it are good."""
    with pytest.raises(OSError) as caught:
        export.pread(count, offset)
    error = caught.value
    assert error.errno == errno.EIO
    return error.strerror or "", error.done if isinstance(error, PartialError) else 0


# -- through clients --------------------------------------------------------------------------


WAYS = [
    *([f"--filter={name}", "file", name] for name in COMMANDS),
    ["gzip", "gzip"],
    ["xz", "xz"],
]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_random_reads(way: list[str], files: dict[str, Path], content: bytes) -> None:
    chance = random.Random(" ".join(way))
    with Server(*way[:-1], files[way[-1]]) as server:
        with connected(server.uri) as first, connected(server.uri) as second:
            assert first.get_size() == second.get_size() == SIZE
            for client in (first, second) * 30:
                count = chance.choice([1, 512, 65536, 3 * MIB])
                offset = chance.randrange(SIZE - count)
                assert client.pread(count, offset) == content[offset : offset + count]
            assert first.pread(100, SIZE - 100) == content[-100:]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_clients_may_only_read(way: list[str], files: dict[str, Path]) -> None:
    with Server(*way[:-1], files[way[-1]]) as server, connected(server.uri, checked=False) as nbd:
        assert nbd.is_read_only()
        assert nbd.can_multi_conn()
        assert not nbd.can_trim()
        assert nbd.can_cache()
        nbd.cache(MIB, MIB)
        with fails("EPERM"):
            nbd.pwrite(b"x", 0)


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_side_by_side_with_nbdkit(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    need("nbdkit", "nbdcopy", "nbdinfo")
    shown = []
    for number, server in enumerate((["nbdkit"], NBDFORK)):
        image = tmp_path / f"side{number}"
        command = f'nbdinfo --size "$uri" && nbdcopy "$uri" {image}'
        words = [*server, "-U", "-", f"--filter={name}", "file", str(files[name])]
        shown.append((output(*words, "--run", command), image.read_bytes()))
    assert shown[0] == shown[1]


def test_many_connections_of_one_client(files: dict[str, Path], content: bytes) -> None:
    need("nbdcopy")
    for name, path in files.items():
        command = 'nbdcopy --connections=4 "$uri" -'
        done = subprocess.run(
            [*NBDFORK, "-U", "-", f"--filter={name}", "file", str(path), "--run", command],
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.stdout == content, done.stderr


def test_over_other_plugins(files: dict[str, Path], content: bytes, tmp_path: Path) -> None:
    data = files["gzip"].read_bytes()
    parts = [tmp_path / f"part{number}" for number in range(3)]
    for number, part in enumerate(parts):
        part.write_bytes(data[number * len(data) // 3 : (number + 1) * len(data) // 3])
    (tmp_path / "few.xz").write_bytes(lzma.compress(b"few words" * 1000))
    for words, wanted in (
        (["--filter=gzip", "split", *parts], content),
        (["--filter=xz", "data", f"<{tmp_path}/few.xz"], b"few words" * 1000),
        (["--filter=xz", "--filter=gzip", "data", f"<{tmp_path}/twice"], b"few words" * 1000),
        (["--filter=offset", "--filter=gzip", "split", *parts, "offset=1M"], content[MIB:]),
    ):
        (tmp_path / "twice").write_bytes(gzip.compress((tmp_path / "few.xz").read_bytes()))
        with Server(*words) as server, connected(server.uri) as nbd:
            assert nbd.get_size() == len(wanted)
            assert nbd.pread(9000, len(wanted) - 9000) == wanted[-9000:]


def test_every_export_is_a_disk_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(gzip.compress(name.encode() * 1000))
    with Server("-n", "--filter=gzip", "file", f"dir={tmp_path}") as server:
        for name in ("one", "two", "one"):
            with connected(server.uri.replace("///", f"///{name}")) as nbd:
                assert nbd.pread(3000, 0) == name.encode() * 1000


def test_what_is_not_compressed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"plain text" * 100)
    for name in ("gzip", "xz"):
        done = nbdfork("-U", "-", name, tmp_path / "disk", "--run", "true")
        assert done.returncode == 1
        assert done.stderr.startswith(f"nbdfork: error: {name}: {tmp_path}/disk: th")
        assert f"not {name} data" in done.stderr
    with Server("--filter=gzip", "memory", "1M") as server:
        assert run("nbdinfo", server.uri).returncode != 0
        assert "the disk below: this is not gzip data" in server.log


def test_the_plugins_look_at_the_file_at_once(tmp_path: Path) -> None:
    for name in ("gzip", "xz"):
        for path, problem in ((tmp_path / "none", "No such file"), (tmp_path, "neither a regular")):
            done = nbdfork("-U", "-", name, path, "--run", "true")
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)
            assert problem in done.stderr
            assert str(path) in done.stderr


def test_the_plugins_name_the_file_that_cannot_be_opened(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    plugin = find("xz").plugin_class(file=str(files["xz"]))
    plugin.config_complete()
    monkeypatch.setattr(os, "open", deny)  # root may open all
    with pytest.raises(ConfigError, match=f"xz: {files['xz']}: Permission denied"):
        plugin.get_ready()


# -- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_disk(name: str) -> None:
    command = name if name != "zstd" else "zstd -q"
    assert unpacked(name, compressed(name, b"", command)).get_size() == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_one_after_another(name: str) -> None:
    command = name if name != "zstd" else "zstd -q"
    parts = [b"first" * 5000, b"", b"second" * 99999]
    data = b"".join(compressed(name, part, command) for part in parts)
    export = unpacked(name, data)
    assert all_of(export) == b"".join(parts)
    assert bytes(export.pread(10, 24995)) == b"firstsecon"


def test_many_small_gzip_members(content: bytes) -> None:
    data = b"".join(gzip.compress(content[i : i + 9999], 1) for i in range(0, SIZE, 9999))
    known = gzip_filter.learn(_source.Source(Below(data), "disk"), 64)
    assert len(known.disk.blocks) <= SIZE // MIB + 1
    assert all_of(unpacked("gzip", data)) == content


def test_a_smaller_index_has_points_further_apart(files: dict[str, Path], content: bytes) -> None:
    source = _source.Source(Below(files["gzip"].read_bytes()), "disk")
    many = gzip_filter.learn(source, 64)
    few = gzip_filter.learn(source, 2)
    assert len(few.disk.blocks) <= 3 < len(many.disk.blocks)
    assert len(few.points) < len(many.points)
    assert sum(block.size for block in few.disk.blocks) == SIZE


def test_what_is_far_from_a_point_is_divided() -> None:
    export = unpacked("gzip", gzip.compress(bytes(40 * MIB), 9))
    assert isinstance(export, _blocks.BlocksExport)
    assert export.get_size() == 40 * MIB
    assert bytes(export.pread(MIB, 39 * MIB)) == bytes(MIB)
    parts = list(gzip_filter._blocks([(0, 10), (50 * MIB, 99)], MIB))
    assert [part.size // MIB for part in parts] == [16, 16, 16, 2]
    assert [part.offset // MIB for part in parts] == [0, 16, 32, 48]


def test_xz_streams_with_padding(content: bytes) -> None:
    parts = [content[:MIB], b"", content[MIB:]]
    streams = [compressed("xz", part) for part in parts]
    data = streams[0] + bytes(8) + streams[1] + streams[2] + bytes(5000)
    assert all_of(unpacked("xz", data)) == content


@pytest.mark.parametrize("check", ["none", "crc32", "crc64", "sha256"])
def test_xz_checks(check: str, content: bytes) -> None:
    data = compressed("xz", content[: 2 * MIB], f"xz -0 --check={check} --block-size=300KiB")
    assert all_of(unpacked("xz", data)) == content[: 2 * MIB]


def test_an_xz_disk_beyond_4_gib() -> None:
    stream = compressed("xz", bytes(32 * MIB), "xz -0")
    export = unpacked("xz", stream * 130 + compressed("xz", b"the end"))
    assert export.get_size() == 130 * 32 * MIB + 7
    assert bytes(export.pread(9, export.get_size() - 9)) == b"\0\0the end"


def test_zstd_with_a_seek_table_needs_no_pass(content: bytes) -> None:
    frames = [compressed("zstd", content[i : i + MIB], "zstd -q") for i in range(0, SIZE, MIB)]
    for checksums in (False, True):
        below = Below(b"".join(frames) + seek_table(frames, content, checksums))
        export = filter_of("zstd").unpack(below, "disk")
        assert export.get_size() == SIZE
        assert below.read < 200
        assert all_of(export) == content


def seek_table(frames: list[bytes], content: bytes, checksums: bool) -> bytes:
    """Return a table as contrib/seekable_format of zstd has it, with wrong checksums, if any."""
    entries = b""
    for number, frame in enumerate(frames):
        size = len(content[number * MIB : (number + 1) * MIB])
        entries += len(frame).to_bytes(4, "little") + size.to_bytes(4, "little")
        entries += bytes(4) if checksums else b""
    footer = len(frames).to_bytes(4, "little") + bytes([0x80 if checksums else 0])
    footer += 0x8F92EAB1.to_bytes(4, "little")
    length = len(entries) + len(footer)
    return 0x184D2A5E.to_bytes(4, "little") + length.to_bytes(4, "little") + entries + footer


def test_a_wrong_zstd_seek_table_is_refused(content: bytes) -> None:
    frames = [compressed("zstd", content[:MIB], "zstd -q")]
    table = seek_table(frames, content[:MIB], False)
    assert "does not match" in refusal("zstd", frames[0] + b"x" + table)
    assert "table is damaged" in refusal("zstd", frames[0] + b"y" + table[1:])
    assert "table is damaged" in refusal("zstd", table[-9:])


@pytest.mark.parametrize(
    ("name", "command"), [("xz", "xz -1"), ("zstd", "zstd -q"), ("lz4", "lz4")]
)
def test_blocks_that_are_too_large_are_refused(name: str, command: str, content: bytes) -> None:
    data = compressed(name, content, command)
    key = f"{name}_max_block"
    message = refusal(name, data, **{key: "6M"})
    assert f"unpacks to {SIZE} bytes, more than {name}-max-block={6 * MIB}: compress it" in message
    assert all_of(unpacked(name, data, **{key: "7M"})) == content


# -- damage -----------------------------------------------------------------------------------


def smashed(data: bytes, at: int) -> bytes:
    return data[:at] + b"\xff" * 2000 + data[at + 2000 :]


def test_damage_in_the_middle_of_gzip(
    files: dict[str, Path], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    data = files["gzip"].read_bytes()
    export = unpacked("gzip", smashed(data, len(data) // 2))
    assert export.get_size() == SIZE  # the trailer tells
    (good,) = (int(word) for word in caplog.messages[-1].split() if word.isdigit())
    assert SIZE // 4 < good < SIZE * 3 // 4
    assert bytes(export.pread(good, 0)) == content[:good]
    text, done = read_error(export, 100, good - 10)
    assert text.startswith("disk: damaged gzip data at or before byte ")
    assert done == 10


@pytest.mark.parametrize("lost", [1, 4, 8, 9, 100, 500_000])
def test_truncated_gzip(lost: int, files: dict[str, Path], content: bytes) -> None:
    data = files["gzip"].read_bytes()[:-lost]
    export = unpacked("gzip", data)
    assert isinstance(export, _blocks.BlocksExport)
    good = export._end
    assert good > SIZE - (lost * 300 if lost < 500 else SIZE // 2)
    assert all_of_first(export, good) == content[:good]
    assert export.get_size() > good  # so nobody can take what is there for all
    assert "truncated: they end at byte" in read_error(export, 1, export.get_size() - 1)[0]


def all_of_first(export: Export, size: int) -> bytes:
    return bytes(export.pread(size, 0))


def test_a_wrong_gzip_checksum_spoils_its_member(content: bytes) -> None:
    first, second = gzip.compress(content[:MIB]), bytearray(gzip.compress(content[MIB:]))
    second[-6] ^= 1  # of the CRC
    export = unpacked("gzip", first + second)
    assert export.get_size() == SIZE
    assert bytes(export.pread(MIB, 0)) == content[:MIB]
    text = f"disk: the checksum of the gzip data from byte {len(first)} on is wrong"
    assert read_error(export, 1, MIB) == (text, 0)
    message = refusal("gzip", bytes(second))
    assert message.endswith("from byte 0 on is wrong; nothing of it can be decoded")


@pytest.mark.parametrize("name", ["gzip", "bzip2", "zstd", "lz4"])
def test_what_follows_the_data_is_ignored(
    name: str, files: dict[str, Path], content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    data = files[name].read_bytes()
    assert all_of(unpacked(name, data + b"garbage" * 1000)) == content
    if name != "bzip2":  # its library prints its own
        assert caplog.messages == [f"disk: ignoring what follows the data at byte {len(data)}"]
    caplog.clear()
    assert all_of(unpacked(name, data + bytes(5000))) == content
    assert caplog.messages == []  # tapes and block devices have this


def test_xz_that_does_not_end_in_an_index_is_refused(files: dict[str, Path]) -> None:
    data = files["xz"].read_bytes()
    for wrong in (data[:-1], data[:-4], data[: len(data) // 2], data + b"garbage!", data[:20]):
        assert "disk: there is no xz index that ends at byte" in refusal("xz", wrong)
    inside = bytearray(data)
    inside[-30] ^= 1
    assert "crc32" in refusal("xz", bytes(inside))
    assert refusal("xz", b"") == "disk: these are not xz data"


@pytest.mark.parametrize("name", ["xz", "zstd"])
def test_a_damaged_block_spoils_no_other(name: str, files: dict[str, Path], content: bytes) -> None:
    data = files[name].read_bytes()
    if name == "zstd":
        frames = [compressed("zstd", content[i : i + MIB], "zstd -q") for i in range(0, SIZE, MIB)]
        data = b"".join(frames) + seek_table(frames, content, False)
    export = unpacked(name, smashed(data, len(data) // 2))
    assert isinstance(export, _blocks.BlocksExport)
    middle = len(data) // 2
    (bad,) = (b for b in export._disk.blocks if b.place <= middle < b.place + b.length)
    assert bytes(export.pread(bad.offset, 0)) == content[: bad.offset]
    after = bad.offset + bad.size
    assert bytes(export.pread(SIZE - after, after)) == content[after:]
    for _ in range(2):
        text, done = read_error(export, bad.size, bad.offset - 7)
        assert done == 7
        assert f"damaged {name} data in the" in text
        assert f" at byte {bad.place}" in text


@pytest.mark.parametrize("name", ["bzip2", "zstd", "lz4"])
@pytest.mark.parametrize("truncated", [False, True])
def test_what_is_before_the_damage_is_served(
    name: str, truncated: bool, files: dict[str, Path], content: bytes
) -> None:
    data = files[name].read_bytes()
    middle = len(data) // 2
    export = unpacked(name, data[:middle] if truncated else smashed(data, middle))
    assert isinstance(export, _blocks.BlocksExport)
    good = export._end
    assert SIZE // 5 < good < SIZE * 4 // 5
    assert all_of_first(export, good) == content[:good]
    assert good < export.get_size() <= good + 1024
    assert f"{name} data" in read_error(export, 1, good)[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_data_of_which_nothing_can_be_decoded_are_refused(
    name: str, files: dict[str, Path]
) -> None:
    data = files[name].read_bytes()
    first = data[:20] if name == "zstd" else data[:12]  # pzstd begins with a frame to skip
    assert f"{name} " in refusal(name, first)
    assert f"not {name} data" in refusal(name, b"")
    assert f"not {name} data" in refusal(name, b"nothing")


def test_a_client_reads_what_is_good(
    files: dict[str, Path], content: bytes, tmp_path: Path
) -> None:
    data = files["xz"].read_bytes()
    (tmp_path / "disk.xz").write_bytes(smashed(data, len(data) // 2))
    with Server("xz", tmp_path / "disk.xz") as server, connected(server.uri) as nbd:
        assert nbd.pread(MIB, 0) == content[:MIB]
        with fails("EIO"):
            for offset in range(0, SIZE - MIB, MIB):
                nbd.pread(MIB, offset)
        assert nbd.pread(MIB, SIZE - MIB) == content[-MIB:]
        assert f"{tmp_path}/disk.xz: damaged xz data in the block at byte" in server.log


# -- the disk below ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_of_the_disk_below_is_told_as_it_is(
    name: str, files: dict[str, Path], content: bytes
) -> None:
    below = Below(files[name].read_bytes())
    layer = filter_of(name)
    below.broken = True
    with pytest.raises(OSError) as caught:
        layer.unpack(below, "disk")
    assert caught.value.errno == errno.ENETDOWN
    below.broken = False
    export = kept(layer.unpack(below, "disk"))
    below.broken = True
    with pytest.raises(OSError) as caught:
        all_of(export)
    assert caught.value.errno == errno.ENETDOWN
    below.broken = False
    assert all_of(export) == content
    OPEN.pop().close()
    assert below.closed


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lz4"])
def test_only_the_first_client_waits_for_a_pass(
    name: str, files: dict[str, Path], content: bytes
) -> None:
    layer = filter_of(name)
    data = files[name].read_bytes()
    first, second, third = Below(data), Below(data), Below(data[: len(data) - 1])
    kept(layer.unpack(first, "disk"))
    assert first.read >= len(data)
    export = kept(layer.unpack(second, "disk"))
    assert second.read < 20000
    assert all_of(export) == content
    kept(layer.unpack(third, "disk"))  # it has changed
    assert third.read > len(data) / 2


def test_nobody_waits_for_what_is_learnt_of_another_disk() -> None:
    store = _source.IndexStore()
    names: dict[int, str] = {}  # of disks that do not share a lock by chance
    for number in range(100):
        key = _source.Source(Below(b"x"), str(number)).fingerprint()
        names.setdefault(key[0] % _source._LOCKS, str(number))
    slow, quick = (_source.Source(Below(b"x"), name) for name in list(names.values())[:2])
    begun, go_on = threading.Event(), threading.Event()

    def learn() -> bytes:
        begun.set()
        assert go_on.wait(30)
        return b"slow"

    def store_quick() -> None:
        assert store.get(quick, lambda: b"quick") == b"quick"
        done.set()

    done = threading.Event()
    threads = [threading.Thread(target=store.get, args=(slow, learn))]
    threads[0].start()
    assert begun.wait(30)
    threads.append(threading.Thread(target=store_quick))
    threads[1].start()
    was_quick = done.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert was_quick
    assert store.get(slow, lambda: b"again") == b"slow"
    assert store.get(quick, lambda: b"again") == b"quick"


def test_a_list_of_blocks_that_finds_no_space(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/var/tmp")
    layer = filter_of("lz4")
    store = layer.__dict__["_store"]
    store._log.close()
    store._log = DescriptorExport(os.open("/dev/full", os.O_RDWR), writable=True)
    with pytest.raises(OSError, match=r"cannot be kept: No space left.*/var/tmp") as caught:
        layer.unpack(Below(files["lz4"].read_bytes()), "disk")
    assert caught.value.errno == errno.ENOSPC


def test_a_pass_is_made_once_for_all_processes(files: dict[str, Path], tmp_path: Path) -> None:
    arguments = ("file", files["gzip"], f"logfile={tmp_path}/log")
    with Server("--filter=gzip", "--filter=log", *arguments) as server:
        command = ["nbdinfo", "--size", server.uri]
        clients = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
        assert [client.wait(30) for client in clients] == [0] * 4
    lines = (tmp_path / "log").read_text().splitlines()
    reads = [line for line in lines if " Read " in line and "count=0x1000 " not in line]
    a_pass = files["gzip"].stat().st_size // MIB + 1
    assert a_pass < len(reads) <= 3 * a_pass


class Blocky(Below):
    """A disk that insists on its block sizes."""

    def block_size(self) -> BlockSize:
        return BlockSize(512, 4096, 64 * 1024)

    def pread(self, count: int, offset: int) -> bytes:
        assert not (count | offset) % 512
        assert count <= 64 * 1024
        return super().pread(count, offset)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_block_sizes_below_are_respected(
    name: str, files: dict[str, Path], content: bytes
) -> None:
    data = files[name].read_bytes()
    padded = data + bytes(-len(data) % 512)
    assert all_of(kept(filter_of(name).unpack(Blocky(padded), "disk"))) == content


# -- blocks and threads -----------------------------------------------------------------------


class Counting(_blocks.BlocksExport):
    """Blocks of 10 bytes that are made of their number, and counted."""

    def __init__(self, capacity: int) -> None:
        blocks = [_blocks.Block(n * 10, 10, n, 1) for n in range(20)]
        source = _source.Source(Below(b"x"), "disk")
        super().__init__(source, _blocks.Disk(blocks, 200), capacity)
        self.decoded: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def decode(self, block: _blocks.Block) -> Buffer:
        self.decoded.append(block.place)
        assert self.may_go_on.wait(30)
        return bytes([block.place] * 10)


def test_the_blocks_used_last_are_kept() -> None:
    export = Counting(30)
    for number in (0, 1, 2, 0, 3, 0, 1):
        assert bytes(export.pread(4, number * 10 + 3)) == bytes([number] * 4)
    assert export.decoded == [0, 1, 2, 3, 1]
    assert bytes(export.pread(25, 8)) == bytes([0] * 2 + [1] * 10 + [2] * 10 + [3] * 3)


def test_one_block_is_kept_however_large() -> None:
    export = Counting(1)
    for _ in range(3):
        export.pread(10, 50)
    assert export.decoded == [5]


def test_threads_that_want_one_block_share_it() -> None:
    export = Counting(100)
    export.may_go_on.clear()
    threads = [threading.Thread(target=export.pread, args=(5, 0)) for _ in range(4)]
    for thread in threads:
        thread.start()
    export.may_go_on.set()
    for thread in threads:
        thread.join(30)
    assert export.decoded == [0]


@pytest.mark.parametrize("name", COMMANDS)
def test_threads_read_at_once(name: str, files: dict[str, Path], content: bytes) -> None:
    export = unpacked(name, files[name].read_bytes())
    wrong: list[int] = []

    def work(chance: random.Random) -> None:
        for _ in range(20):
            offset = chance.randrange(SIZE - 65536)
            if bytes(export.pread(65536, offset)) != content[offset : offset + 65536]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(random.Random(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


# -- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["gzip"], "file=FILENAME is required"),
        (["gzip", "f", "index-size=1k"], "an index takes at least 1M"),
        (["xz", "f", "maxdepth=0"], "expected a whole number from 1"),
        (["xz", "f", "maxblock=0"], "no block has 0 bytes"),
        (["--filter=xz", "null", "xz-max-block=x"], "not a size"),
        (["--filter=zstd", "null", "zstd-max-depth=-1"], "expected a whole number from 1"),
    ],
)
def test_wrong_parameters(words: list[str], problem: str) -> None:
    done = nbdfork("-U", "-", *words, "--run", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert problem in done.stderr


def test_the_limits_of_the_xz_plugin(files: dict[str, Path]) -> None:
    done = nbdfork("-U", "-", "xz", files["xz"], "maxblock=1000k", "--run", "true")
    assert done.returncode == 1
    assert "unpacks to 1048576 bytes, more than maxblock=1024000" in done.stderr


@pytest.mark.parametrize(("name", "library"), LIBRARIES.items())
def test_without_the_library(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [library, "compression.zstd"] if name == "zstd" else [library]
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'pip install "nbdfork\[{name}\]"'):
        filter_of(name)
