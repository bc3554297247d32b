"""What holds for every filter that unpacks a compressed disk, with each of them."""

import bz2
import errno
import gzip
import itertools
import lzma
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nbdfork.filters import _blocks, _unpack
from nbdfork.plugin import BlockSize, ConfigError
from tests.support.compressed import (
    COMMANDS,
    LIBRARIES,
    MIB,
    OPEN,
    SIZE,
    Below,
    all_of,
    all_of_first,
    compressed,
    filter_of,
    kept,
    need_libraries,
    read_error,
    refusal,
    seek_table,
    smashed,
    unpacked,
)
from tests.support.harness import NBDFORK, Server, nbdfork, need, output
from tests.support.libnbd import connected, fails

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
    need_libraries("gzip")
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(gzip.compress(name.encode() * 1000))
    with Server("--filter=gzip", "file", f"dir={tmp_path}") as server:
        for name in ("one", "two", "one"):
            with connected(server.uri.replace("///", f"///{name}")) as nbd:
                assert nbd.pread(3000, 0) == name.encode() * 1000


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


@pytest.mark.parametrize(
    ("name", "command"), [("xz", "xz -1"), ("zstd", "zstd -q"), ("lz4", "lz4")]
)
def test_blocks_that_are_too_large_are_refused(name: str, command: str, content: bytes) -> None:
    data = compressed(name, content, command)
    key = f"{name}_max_block"
    message = refusal(name, data, **{key: "6M"})
    assert f"unpacks to {SIZE} bytes, more than {name}-max-block={6 * MIB}: compress it" in message
    assert all_of(unpacked(name, data, **{key: "7M"})) == content


@pytest.mark.parametrize("name", ["gzip", "bzip2"])
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


@pytest.mark.parametrize("name", COMMANDS)
def test_an_error_of_the_disk_below_is_told_as_it_is(
    name: str, files: dict[str, Path], content: bytes
) -> None:
    below = Below(files[name].read_bytes())
    layer = filter_of(name, **{f"{name}_scratch": "0"})
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


@pytest.mark.parametrize("name", [name for name in LIBRARIES if name != "gzip"])
def test_without_the_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = LIBRARIES[name]
    modules = [library, "compression.zstd"] if name == "zstd" else [library]
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'pip install "nbdfork\[{name}\]"'):
        filter_of(name)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--filter=xz", "null", "xz-max-block=x"], "not a size"),
        (["--filter=zstd", "null", "zstd-max-depth=-1"], "expected a whole number from 1"),
    ],
)
def test_wrong_parameters(words: list[str], problem: str) -> None:
    done = nbdfork("-U", "-", *words, "--run", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert problem in done.stderr


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_people_are_told_of_the_disk_below(name: str) -> None:
    need_libraries(name)
    made = filter_of(name)
    below = Below(compressed(name, bytes(MIB)))
    assert kept(made.wrap(below, "", read_only=True)).description() == ""
    below.description = lambda: "a disk"  # type: ignore[method-assign]
    unpacked_disk = kept(made.wrap(below, "", read_only=True))
    assert unpacked_disk.description() == f"expansion of {name}-compressed image: a disk"


def test_blocks_are_only_counted_where_there_can_be_too_many() -> None:
    need_libraries("bzip2")
    data = bz2.compress(b"x")
    read = []
    for most in (len(data) // 6 - 1, len(data) // 6 + 1):
        below = Below(data)
        kept(filter_of("bzip2", bzip2_max_index=most).unpack(below, "disk"))
        read.append(below.read)
    assert read[0] - read[1] == len(data)


@pytest.mark.parametrize("name", ["bzip2", "zstd", "lz4"])
def test_a_great_many_tiny_members_are_refused(name: str) -> None:
    """They would take far more memory than they have bytes."""
    member = {
        "bzip2": lambda: bz2.compress(b"x"),
        "zstd": lambda: b"\x50\x2a\x4d\x18" + bytes(4),  # a skippable frame
        "lz4": lambda: compressed("lz4", b"x", "lz4"),
    }[name]()
    limits = {f"{name}_max_index": 4096}
    text = refusal(name, member * 4097, **limits)
    assert f"there are more than 4096 blocks, too many for {name}-max-index" in text
    if name != "zstd":
        half = 2000 if name == "bzip2" else 4096
        assert unpacked(name, member * half, **limits).get_size() == half


@pytest.mark.parametrize("name", ["gzip", "bzip2", "zstd", "lz4"])
def test_the_log_tells_how_far_a_long_first_look_has_come(
    name: str,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seconds = itertools.count(0, 20)
    monkeypatch.setattr(_unpack, "monotonic", lambda: next(seconds))
    unpacked(name, files[name].read_bytes())
    words = [text for text in caplog.messages if "of the compressed data have been read" in text]
    assert words[0].startswith("disk: 0% of the compressed data have been read in 20 seconds;")
    assert "read in 80 seconds" in words[1]
    if name != "bzip2":  # it has read all before the second word
        assert int(words[-1].split()[1].rstrip("%")) > 10
