"""The s3 plugin against a real object store (Ceph), side by side with nbdkit's."""

import errno
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nbdfork.plugins.s3.locks import RangeLocks

from nbdfork.plugin import FAST_ZERO, REQ_ONE, ConfigError
from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    eventually,
    nbdfork,
    need,
    output,
    refused,
    run,
    title,
)
from tests.support.libnbd import connected, fails, libnbd
from tests.support.noise import CONTENT
from tests.support.s3 import keys, opened, plugin
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, STRANGER, S3Server

pytestmark = pytest.mark.usefixtures("no_keys_of_the_user")

KIB = 1 << 10
MIB = 1 << 20
BUCKET = "disks"
OBJECT = 64 * KIB
SIZE = 40 * OBJECT


@pytest.fixture(scope="module")
def store() -> Iterator[S3Server]:
    with S3Server() as store:
        client = store.client()
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="disk", Body=CONTENT)
        client.put_object(Bucket=BUCKET, Key="dir/ä disk+1", Body=CONTENT)
        client.put_object(Bucket=BUCKET, Key="empty", Body=b"")
        yield store


@pytest.fixture
def running(store: S3Server) -> Iterator[S3Server]:
    """The store, for a test that kills its gateway."""
    yield store
    store.stop_gateway()
    store.start_gateway()


def way(store: S3Server, *more: str, bucket: str = BUCKET) -> list[str]:
    """The parameters that lead to the store, with keys that are good."""
    return [f"endpoint-url={store.url}", f"bucket={bucket}", *keys(), *more]


def many(store: S3Server, prefix: str, size: int = SIZE) -> list[str]:
    return way(store, prefix, f"size={size}", f"object-size={OBJECT}")


def names(store: S3Server, prefix: str) -> list[str]:
    """Return the keys of the objects of a disk."""
    found = store.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
    return [entry["Key"] for entry in found.get("Contents", [])]


# -- one object -------------------------------------------------------------------------------


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
    with refused(errno.EIO, "certificate"):
        plugin(*words).open("", True)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(store.ca))
    with opened(*words) as export:
        assert bytes(export.pread(512, 512)) == CONTENT[512:1024]
    monkeypatch.setenv("AWS_CA_BUNDLE", "/none")
    with pytest.raises(ConfigError, match="AWS_CA_BUNDLE=/none: No such file"):
        plugin(*words)


# -- many objects -----------------------------------------------------------------------------


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


# -- what the store refuses, and when it is away ----------------------------------------------


@pytest.mark.parametrize("is_many", [False, True], ids=["one", "many"])
def test_what_the_store_refuses(store: S3Server, is_many: bool) -> None:
    more = ["disk", f"size={SIZE}", f"object-size={OBJECT}"] if is_many else ["disk"]
    endpoint = f"endpoint-url={store.url}"

    def attempt(*words: str, bucket: str = BUCKET) -> None:
        plugin(endpoint, f"bucket={bucket}", *words, *more).open("", False)

    with refused(errno.EIO, r"there is no such bucket \(NoSuchBucket\)"):
        attempt(*keys(), bucket="none")
    with refused(errno.EPERM, "the store does not know this access key"):
        attempt(*keys("AKNONE"))
    with refused(errno.EPERM, "the secret key is wrong"):
        attempt(*keys(secret="wrong"))
    with refused(errno.EPERM, "these keys may not do this"):
        attempt(*keys(*STRANGER))


def test_a_user_is_told_what_the_matter_is(store: S3Server) -> None:
    need("nbdinfo")
    with Server("-n", "s3", *way(store, "none")) as server:
        assert run("nbdinfo", server.uri).returncode != 0
        assert f"s3://{BUCKET}/none: there is no such object (NoSuchKey)\n" in server.log


def test_the_bucket_is_deleted_while_it_is_used(store: S3Server) -> None:
    """That is no disk of zeroes."""
    client = store.client()
    client.create_bucket(Bucket="passing")
    words = ["disk", f"size={SIZE}", f"object-size={OBJECT}"]
    with opened(*way(store, *words, bucket="passing"), read_only=False) as export:
        assert bytes(export.pread(512, 0)) == bytes(512)
        client.delete_bucket(Bucket="passing")
        for request in (
            lambda: export.pread(512, 0),
            lambda: export.pwrite(memoryview(b"x"), 0, 0),
            lambda: list(export.extents(512, 0, 0)),
        ):
            with refused(errno.EIO, "there is no such bucket"):
                request()


def test_a_store_that_dies_and_comes_back(running: S3Server) -> None:
    with Server("-n", "s3", *many(running, "dying")) as server:
        with connected(server.uri) as handle:
            handle.pwrite(b"\1" * 512, 0)
            running.stop_gateway()
            with fails("EIO"):
                handle.pread(512, 0)
            assert f"s3://{BUCKET}/dying/{0:016x}: Connection refused\n" in server.log
            with ThreadPoolExecutor(1) as pool:  # what is under way when it comes back is done
                written = pool.submit(handle.pwrite, b"\2" * 512, 512)
                running.start_gateway()
                written.result()
            assert handle.pread(1024, 0) == b"\1" * 512 + b"\2" * 512


# -- keys -------------------------------------------------------------------------------------


def test_keys_of_the_environment(store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.url)
    with opened(f"bucket={BUCKET}", "disk") as export:
        assert export.get_size() == len(CONTENT)


def test_keys_of_a_profile(
    store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
        f"[mine]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    (tmp_path / ".aws/config").write_text("[profile mine]\nregion = us-east-1\n")
    words = [f"endpoint-url={store.url}", f"bucket={BUCKET}", "disk"]
    with refused(errno.EPERM, "does not know this access key"):
        plugin(*words).open("", True)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    with opened(*words) as export:
        assert export.get_size() == len(CONTENT)
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(ConfigError, match="none"):
        plugin(*words)


def test_temporary_keys_are_found_by_each_worker(
    store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("nbdinfo")
    found = {
        "Version": 1,
        "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY,
        "SessionToken": "",
        "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600)),
    }
    (tmp_path / "keys").write_text(json.dumps(found))
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho >> {tmp_path}/runs\ncat {tmp_path}/keys\n")
    script.chmod(0o755)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(f"[default]\ncredential_process = {script}\n")
    with Server("-n", "s3", f"endpoint-url={store.url}", f"bucket={BUCKET}", "disk") as server:
        for _ in range(2):
            assert output("nbdinfo", "--size", server.uri) == f"{len(CONTENT)}\n"
    assert len((tmp_path / "runs").read_text()) == 3  # at the start, and for each client


def test_temporary_keys_that_are_not_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "B", "SessionToken": ""}
    (tmp_path / "keys").write_text(json.dumps({**keys, "Expiration": "2099-01-01T00:00:00Z"}))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(f"[default]\ncredential_process = cat {tmp_path}/keys\n")
    made = plugin("endpoint-url=http://127.0.0.1:1", f"bucket={BUCKET}", "disk")
    (tmp_path / "keys").unlink()
    with refused(errno.EPERM, "disk: no keys to ask with: .* No such file"):
        made.open("", True)


def test_no_keys_at_all() -> None:
    with pytest.raises(ConfigError, match=r"there are no keys: give access-key= .*~/\.aws"):
        plugin(f"bucket={BUCKET}", "disk")


def test_secrets_are_read_and_not_shown(store: S3Server, tmp_path: Path) -> None:
    need("nbdinfo")
    (tmp_path / "secret").write_text(f"{SECRET_KEY}\n")
    words = [f"endpoint-url={store.url}", f"bucket={BUCKET}", "disk", f"access-key={ACCESS_KEY}"]
    done = output(
        *NBDFORK, "-n", "-U", "-", "s3", *words, f"secret-key=+{tmp_path}/secret",
        "--run", 'nbdinfo --size "$uri"',
    )  # fmt: skip
    assert done == f"{len(CONTENT)}\n"
    with Server("-n", "-v", "s3", *words, "secret-key=pa55word", "session-token=t0ken") as server:
        assert run("nbdinfo", server.uri).returncode != 0
        eventually(lambda: "cannot be opened" in server.log)
        shown = [server.log, *map(title, server.workers())]
    for secret in ("pa55word", "t0ken"):
        assert not any(secret in text for text in shown)


# -- what is wrong at the start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("disk", "parameter bucket=BUCKET is required"),
        ("bucket=b", "parameter key=KEY is required"),
        ("bucket=b disk", "bucket=b: not the name of a bucket"),
        ("bucket=b/c disk", "bucket=b/c: not the name of a bucket"),
        ("bucket=bb a//b", "key=a//b: parts between slashes may not be empty"),
        ("bucket=bb /a", "key=/a: parts between slashes"),
        ("bucket=bb a/../b", "key=a/../b: parts between slashes"),
        ("bucket=bb a size=1G", "size= and object-size= must be given together"),
        ("bucket=bb a object-size=1M", "size= and object-size= must be given together"),
        ("bucket=bb a size=1G object-size=2G", "it must be from 512 bytes to 1 GiB"),
        ("bucket=bb a size=1G object-size=1", "it must be from 512 bytes to 1 GiB"),
        ("bucket=bb a access-key=A", "access-key= and secret-key= must be given together"),
        ("bucket=bb a secret-key=A", "access-key= and secret-key= must be given together"),
        ("bucket=bb a session-token=A", "session-token= needs access-key="),
        ("bucket=bb a endpoint-url=localhost", "write https://HOST or http://HOST:PORT"),
        ("bucket=bb a endpoint-url=http://u:p@h", "keys do not belong there"),
        ("bucket=bb a access-key=A secret-key=+/none", "secret-key=: cannot read it"),
    ],
)
def test_bad_parameters(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plugin(*arguments.split(" "))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["obstore", "botocore"])
def test_without_a_library(module: str, tmp_path: Path) -> None:
    missing = f"raise ModuleNotFoundError('none', name={module!r})\n"
    (tmp_path / f"{module}.py").write_text(missing)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = nbdfork("-U", "-", "s3", "bucket=bb", "disk", *keys(), env=environment)
    message = f'the s3 plugin needs {module}: pip install "nbdfork[s3]"'
    assert (done.returncode, done.stderr) == (1, f"nbdfork: error: {message}\n")
    assert "name=s3\n" in output(*NBDFORK, "--dump-plugin", "s3", env=environment)


def test_dump_plugin_tells_of_the_library() -> None:
    import obstore

    assert f"s3_obstore_version={obstore.__version__}\n" in output(*NBDFORK, "--dump-plugin", "s3")
