"""The s3 plugin's keys and other parameters, and what a real object store refuses."""

import errno
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pycurl
import pytest

from nbdfork.plugin import ConfigError
from tests.support.harness import (
    NBDFORK,
    Server,
    eventually,
    nbdfork,
    need,
    output,
    refused,
    run,
    title,
)
from tests.support.libnbd import connected, fails
from tests.support.missing import check_told_once
from tests.support.noise import CONTENT
from tests.support.s3 import OBJECT, SIZE, keys, many, opened, plugin, way
from tests.support.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, STRANGER, S3Server

pytestmark = pytest.mark.usefixtures("no_keys_of_the_user")


@pytest.fixture
def running(store: S3Server) -> Iterator[S3Server]:
    """The store, for a test that kills its gateway."""
    yield store
    store.gateway.kill()
    store.gateway.start()


def test_the_log_says_once_that_there_is_no_such_object(store: S3Server) -> None:
    check_told_once("s3", *way(store, "none"), said=f"{BUCKET}/none")


# -- what the store refuses, and when it is away -----------------------------------------------


@pytest.mark.parametrize("is_many", [False, True], ids=["one", "many"])
def test_what_the_store_refuses(store: S3Server, is_many: bool) -> None:
    more = ["disk", f"size={SIZE}", f"object-size={OBJECT}"] if is_many else ["disk"]
    endpoint = f"endpoint-url={store.url}"

    def attempt(*words: str, bucket: str = BUCKET) -> None:
        plugin(endpoint, f"bucket={bucket}", *words, *more).open("", False)

    with refused(errno.ENOENT, r"there is no such bucket \(NoSuchBucket\)"):
        attempt(*keys(), bucket="none")
    with refused(errno.EACCES, "the store does not know this access key"):
        attempt(*keys("AKNONE"))
    with refused(errno.EACCES, "the secret key is wrong"):
        attempt(*keys(secret="wrong"))
    with refused(errno.EACCES, "these keys may not do this"):
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
            with refused(errno.ENOENT, "there is no such bucket"):
                request()


def test_a_store_that_dies_and_comes_back(running: S3Server) -> None:
    with Server("-n", "s3", *many(running, "dying")) as server:
        with connected(server.uri) as handle:
            handle.pwrite(b"\1" * 512, 0)
            running.gateway.kill()
            with fails("EIO"):
                handle.pread(512, 0)
            assert f"s3://{BUCKET}/dying/{0:016x}: Failed to connect to 127.0.0.1" in server.log
            with ThreadPoolExecutor(1) as pool:  # what is under way when it comes back is done
                written = pool.submit(handle.pwrite, b"\2" * 512, 512)
                running.gateway.start()
                written.result()
            assert handle.pread(1024, 0) == b"\1" * 512 + b"\2" * 512


# -- keys --------------------------------------------------------------------------------------


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
    with refused(errno.EACCES, "does not know this access key"):
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
    with refused(errno.EACCES, "disk: no keys to ask with: .* No such file"):
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


# -- what is wrong at the start ----------------------------------------------------------------


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


@pytest.mark.parametrize("module", ["pycurl", "botocore"])
def test_without_a_library(module: str, tmp_path: Path) -> None:
    missing = f"raise ModuleNotFoundError('none', name={module!r})\n"
    (tmp_path / f"{module}.py").write_text(missing)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = nbdfork("-U", "-", "s3", "bucket=bb", "disk", *keys(), env=environment)
    message = f'the s3 plugin needs {module}: pip install "nbdfork[s3]"'
    assert (done.returncode, done.stderr) == (1, f"nbdfork: error: {message}\n")
    assert "name=s3\n" in output(*NBDFORK, "--dump-plugin", "s3", env=environment)


def test_dump_plugin_tells_of_the_library() -> None:
    version = pycurl.version_info()[1]
    assert f"s3_curl_version={version}\n" in output(*NBDFORK, "--dump-plugin", "s3")
