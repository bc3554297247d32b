"""The s3 plugin against a real object store (Ceph), side by side with nbdkit's."""

import errno
import json
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nbdfork.plugins.s3.locks import RangeLocks

from nbdfork.plugin import FAST_ZERO, REQ_ONE, ConfigError
from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    need,
    output,
    refused,
    run,
)
from tests.support.libnbd import connected, fails, libnbd
from tests.support.noise import CONTENT
from tests.support.s3 import OBJECT, SIZE, keys, many, opened, plugin, way
from tests.support.s3_server import BUCKET, S3Server

pytestmark = pytest.mark.usefixtures("no_keys_of_the_user")

MIB = 1 << 20


def names(store: S3Server, prefix: str) -> list[str]:
    """Return the keys of the objects of a disk."""
    found = store.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
    return [entry["Key"] for entry in found.get("Contents", [])]


# -- one object --------------------------------------------------------------------------------


def nbdkit_environment() -> dict[str, str]:
    """The environment in which nbdkit's plugin, which is Debian's Python, finds its modules."""
    need("nbdkit")
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    done = run("/usr/bin/python3", "-c", "import boto3", env={"PATH": path})
    if done.returncode and not os.environ.get("NBDFORK_CI"):
        pytest.skip("not installed: Debian's python3-boto3")
    return {**os.environ, "PATH": path, "AWS_DEFAULT_REGION": "us-east-1"}


def nbdkit(*arguments: str) -> str:
    return output("nbdkit", "-U", "-", "S3", *arguments, env=nbdkit_environment())


def test_the_same_bytes_as_nbdkit(store: S3Server, tmp_path: Path) -> None:
    need("nbdcopy")
    for key, content in {"disk": CONTENT, "dir/ä disk+1": CONTENT, "empty": b""}.items():
        arguments = way(store, f"key={key}")
        nbdkit("-r", *arguments, "--run", f'nbdcopy "$uri" {tmp_path}/theirs')
        output(
            *NBDFORK, "-n", "-U", "-", "s3", *arguments, "--run", f'nbdcopy "$uri" {tmp_path}/ours'
        )
        assert (tmp_path / "theirs").read_bytes() == content
        assert (tmp_path / "ours").read_bytes() == content


def test_any_range(store: S3Server) -> None:
    size = len(CONTENT)
    with opened(*way(store, "disk")) as export:
        assert not export.can_write()
        assert export.can_multi_conn()
        for offset, count in [(0, 1), (511, 3), (1, 2 * MIB), (0, size), (size - 1, 1)]:
            assert bytes(export.pread(count, offset)) == CONTENT[offset : offset + count]


def test_an_object_that_changes_under_a_client(store: S3Server) -> None:
    client = store.client()
    first, second = os.urandom(MIB), os.urandom(MIB)
    client.put_object(Bucket=BUCKET, Key="changing", Body=first)
    with Server("-n", "s3", *way(store, "changing")) as server:
        with connected(server.uri) as old:
            assert old.pread(512, 0) == first[:512]
            client.put_object(Bucket=BUCKET, Key="changing", Body=second)
            with fails("EIO"):
                old.pread(512, 512)
            with connected(server.uri) as new:
                assert new.pread(MIB, 0) == second
            client.delete_object(Bucket=BUCKET, Key="changing")
            with fails("EIO"):
                old.pread(512, 512)
        text = f"s3://{BUCKET}/changing: the object is no longer the one that the client"
        assert server.log.count(text) == 2


def test_many_requests_of_a_client_at_once(store: S3Server) -> None:
    assert plugin(*way(store, "disk")).waits()
    with opened(*way(store, "disk")) as export, ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda n: bytes(export.pread(1000, n * 1000)), range(300)))
    assert b"".join(read) == CONTENT[: 300 * 1000]


def test_tls(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"endpoint-url={store.tls_url}", f"bucket={BUCKET}", *keys(), "disk"]
    with refused(errno.EACCES, r"certificate.*AWS_CA_BUNDLE="):
        plugin(*words).open("", True)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(store.ca))
    with opened(*words) as export:
        assert bytes(export.pread(512, 512)) == CONTENT[512:1024]
    monkeypatch.setenv("AWS_CA_BUNDLE", "/none")
    with pytest.raises(ConfigError, match="AWS_CA_BUNDLE=/none: No such file"):
        plugin(*words)


# -- many objects ------------------------------------------------------------------------------


def test_names_and_sizes_of_objects(store: S3Server) -> None:
    with opened(*many(store, "named"), read_only=False) as export:
        export.pwrite(memoryview(b"x"), 17 * OBJECT + 5, 0)
        export.pwrite(memoryview(b"y"), SIZE - 1, 0)
    expected = ["named/0000000000000011", "named/0000000000000027"]
    assert names(store, "named") == expected
    body = store.client().get_object(Bucket=BUCKET, Key=expected[0])["Body"].read()
    assert body == bytes(5) + b"x" + bytes(OBJECT - 6)


def test_nbdkit_can_go_on(store: S3Server, tmp_path: Path) -> None:
    """What either has written the other one reads."""
    need("nbdcopy")
    image = bytearray(os.urandom(SIZE))
    image[3 * OBJECT : 9 * OBJECT] = bytes(6 * OBJECT)
    (tmp_path / "image").write_bytes(image)
    arguments = many(store, "shared")
    theirs = [word if "=" in word else f"key={word}" for word in arguments]
    request = f"--request-size={OBJECT}"  # nbdkit's takes whole objects, and no other requests
    ours = [*NBDFORK, "-n", "-U", "-", "s3", *arguments, "--run"]
    output(*ours, f'nbdcopy {tmp_path}/image "$uri"')
    nbdkit(*theirs, "--run", f'nbdcopy {request} "$uri" {tmp_path}/theirs')
    assert (tmp_path / "theirs").read_bytes() == image
    image.reverse()
    (tmp_path / "image").write_bytes(image)
    nbdkit(*theirs, "--run", f'nbdcopy --destination-is-zero {request} {tmp_path}/image "$uri"')
    output(*ours, f'nbdcopy "$uri" {tmp_path}/ours')
    with_old = bytearray((tmp_path / "ours").read_bytes())
    assert with_old[: 3 * OBJECT] == image[: 3 * OBJECT]
    assert with_old[-3 * OBJECT :] == image[-3 * OBJECT :]


def test_any_write_trim_and_zero_by_any_client(store: S3Server) -> None:
    """A disk that does not end with an object, beside a model of it."""
    size = SIZE - 1000
    model = bytearray(size)
    chance = random.Random(3)
    with Server("-n", "s3", *many(store, "model", size)) as server:
        with connected(server.uri) as one, connected(server.uri) as other:
            assert one.get_size() == size
            assert one.get_block_size(1) == OBJECT  # preferred
            for _ in range(60):
                handle = chance.choice([one, other])
                offset = chance.choice([chance.randrange(size), OBJECT * chance.randrange(39)])
                count = min(chance.choice([1, 777, OBJECT, 3 * OBJECT, 7 * OBJECT]), size - offset)
                what = chance.randrange(4)
                if what == 0:
                    data = chance.randbytes(count)
                elif what == 1:
                    data = bytes(count)
                if what <= 1:
                    handle.pwrite(data, offset)
                    model[offset : offset + count] = data
                elif what == 2:
                    handle.zero(count, offset)
                    model[offset : offset + count] = bytes(count)
                else:
                    handle.trim(count, offset)
                    first = -(-offset // OBJECT) * OBJECT
                    end = (
                        offset + count
                        if offset + count == size
                        else (offset + count) // OBJECT * OBJECT
                    )
                    if first < end:
                        model[first:end] = bytes(end - first)
                other.flush()
                assert other.pread(count, offset) == model[offset : offset + count]
            assert one.pread(size, 0) == model
    present = {int(name[-16:], 16) for name in names(store, "model")}
    expected = {n for n in range(40) if any(model[n * OBJECT : (n + 1) * OBJECT])}
    assert expected <= present  # one that a part was zeroed of may be there without need
    assert len(present) < 40


def test_zeroes_are_no_objects(store: S3Server) -> None:
    with opened(*many(store, "zeroes"), read_only=False) as export:
        data = memoryview(b"\1" * 4 * OBJECT)
        export.pwrite(data, 0, 0)
        assert len(names(store, "zeroes")) == 4
        export.pwrite(memoryview(bytes(OBJECT)), 0, 0)
        assert len(names(store, "zeroes")) == 3
        export.trim(2 * OBJECT, OBJECT - 10, 0)  # one wholly, and parts of none
        assert names(store, "zeroes") == [f"zeroes/{n:016x}" for n in (2, 3)]
        export.zero(OBJECT + 100, 2 * OBJECT, 0)
        assert names(store, "zeroes") == ["zeroes/0000000000000003"]
        assert bytes(export.pread(101, 3 * OBJECT)) == bytes(100) + b"\1"
        with refused(errno.EOPNOTSUPP, "zeroed by writing"):
            export.zero(100, 3 * OBJECT, FAST_ZERO)
        export.zero(OBJECT - 100, 3 * OBJECT + 100, 0)  # now all of it is zero
        export.zero(100, 7 * OBJECT, 0)
        export.pwrite(memoryview(bytes(100)), 8 * OBJECT, 0)
        assert names(store, "zeroes") == []


def test_extents(store: S3Server, tmp_path: Path) -> None:
    need("nbdinfo", "qemu-img")
    with Server("-n", "s3", *many(store, "extents")) as server:
        with connected(server.uri) as handle:
            for start, count in ((1, 2), (5, 1), (38, 2)):
                handle.pwrite(b"\1" * count * OBJECT, start * OBJECT)
        found = json.loads(output("nbdinfo", "--json", "--map", server.uri))
        assert [(e["offset"] // OBJECT, e["length"] // OBJECT, e["type"]) for e in found] == [
            *((0, 1, 3), (1, 2, 0), (3, 2, 3), (5, 1, 0), (6, 32, 3), (38, 2, 0)),
        ]
        output("qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri, tmp_path / "copy")
    expected = bytearray(SIZE)
    for start, count in ((1, 2), (5, 1), (38, 2)):
        expected[start * OBJECT : (start + count) * OBJECT] = b"\1" * count * OBJECT
    assert (tmp_path / "copy").read_bytes() == expected


def test_extents_and_trim_of_more_objects_than_a_listing_has(store: S3Server) -> None:
    count = 1100
    words = [*way(store, "small"), f"size={2 * count * 512}", "object-size=512"]
    with opened(*words, read_only=False) as export:
        client = store.client()
        client.put_object(Bucket=BUCKET, Key="small/README", Body=b"not a part of the disk")
        with ThreadPoolExecutor(8) as pool:
            data = memoryview(b"\1" * 512)
            list(pool.map(lambda n: export.pwrite(data, n * 512, 0), range(count)))
    with opened(*words, read_only=False) as export:

        def seen() -> list[tuple[int, int]]:
            extents = export.extents(2 * count * 512, 0, 0)
            return [(found.length // 512, found.type) for found in extents]

        assert seen() == [(1000, 0), (count - 1000, 0), (count, 3)]
        assert list(export.extents(2 * count * 512, 512, REQ_ONE)) == [(512, (count - 1) * 512, 0)]
        export.trim(1050 * 512, 512, 0)
        assert seen() == [(1, 0), (1050, 3), (count - 1051, 0), (count, 3)]
    assert "small/README" in names(store, "small")


def test_parts_of_one_object_written_by_many_at_once(store: S3Server) -> None:
    """By threads of several workers: nobody undoes what another one has written."""
    slots = 64
    part = OBJECT // slots
    with Server("-n", "s3", *many(store, "parts")) as server:

        def write(first: int) -> None:
            with connected(server.uri) as handle:
                under_way = []
                for slot in range(first, slots, 4):
                    data = bytearray([slot + 1]) * part
                    buffer = libnbd().Buffer.from_bytearray(data)
                    under_way.append(handle.aio_pwrite(buffer, slot * part))
                while under_way:
                    handle.poll(-1)
                    under_way = [c for c in under_way if not handle.aio_command_completed(c)]

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        with connected(server.uri) as handle:
            expected = b"".join(bytes([slot + 1]) * part for slot in range(slots))
            assert handle.pread(OBJECT, 0) == expected


def test_a_worker_that_dies_lets_go_of_its_lock() -> None:
    locks = RangeLocks()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with locks.held(3, 4):
                os.write(write, b"x")
                signal.pause()
        finally:
            os._exit(1)
    got = threading.Event()

    def take() -> None:
        with locks.held(6):
            got.set()

    thread = threading.Thread(target=take, daemon=True)
    try:
        assert os.read(read, 1) == b"x"
        with locks.held(2), locks.held(7):
            thread.start()  # these were free
        was_free = got.wait(0.2)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
    assert not was_free
    assert got.wait(SECONDS)


def test_objects_of_another_size(store: S3Server) -> None:
    with opened(*many(store, "sizes"), read_only=False) as export:
        export.pwrite(memoryview(b"1"), 0, 0)
        store.client().put_object(Bucket=BUCKET, Key="sizes/0000000000000001", Body=b"12345")
        with refused(errno.EIO, f"0001: the object has 5 bytes, and not {OBJECT}"):
            export.pread(512, OBJECT + 2)
        with refused(errno.EIO, "0001: the object is shorter than it should be"):
            export.pread(512, OBJECT + 512)
    with refused(errno.EIO, f"0001: the object has 5 bytes, and not {OBJECT}"):
        plugin(*many(store, "sizes")).open("", False)


def test_read_only(store: S3Server) -> None:
    with Server("-n", "-r", "s3", *many(store, "read-only")) as server:
        with connected(server.uri, checked=False) as handle:
            assert handle.is_read_only()
            with fails("EPERM"):
                handle.pwrite(b"x", 0)
