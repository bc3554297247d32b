"""The fsspec plugin against real far ends: nginx, sshd, an FTP server, an object store (Ceph)."""

import errno
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.fsspec_far import MIB, copied, opened, plugin, reads
from tests.support.ftp import Ftp
from tests.support.harness import (
    NBDFORK,
    Server,
    eventually,
    need,
    need_modules,
    output,
    refused,
    run,
    title,
)
from tests.support.libnbd import connected, fails
from tests.support.nginx import PASSWORD, Nginx
from tests.support.noise import CONTENT
from tests.support.ports import free_ports
from tests.support.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from tests.support.sshd import Sshd

need_modules("fsspec", "aiohttp", "paramiko")


# -- http --------------------------------------------------------------------------------------


def test_http(web: Nginx, tmp_path: Path) -> None:
    assert copied(tmp_path, f"{web.url}/disk") == CONTENT
    assert copied(tmp_path, f"{web.url}/empty") == b""


def test_any_range(web: Nginx) -> None:
    size = len(CONTENT)
    with opened(f"{web.url}/disk", read_only=False) as export:
        assert not export.can_write()
        for offset, count in [(0, 1), (511, 3), (1, 2 * MIB), (0, size), (size - 1, 1)]:
            assert bytes(export.pread(count, offset)) == CONTENT[offset : offset + count]


def since(web: Nginx, before: int) -> list[str]:
    """Return method, status and range of the requests that nginx has had."""
    return [line.split("|")[0] for line in web.requests()[before:]]


@pytest.mark.parametrize("check", ["true", "false"])
def test_no_more_is_fetched_than_is_asked_for(web: Nginx, check: str) -> None:
    before = len(web.requests())
    with opened(f"{web.url}/disk", f"check={check}") as export:
        export.pread(512, 1024)
        export.pread(512, 2048)
    one, two = "GET 206 bytes=1024-1535", "GET 206 bytes=2048-2559"
    look = "HEAD 200 -"
    expected = [look, one, look, two, look] if check == "true" else [look, one, two]
    assert eventually(lambda: len(since(web, before)) >= len(expected))
    assert since(web, before) == expected


def test_requests_of_threads_are_under_way_together_and_share_their_checks(web: Nginx) -> None:
    before = len(web.requests())
    assert plugin(f"{web.url}/disk").waits()
    with opened(f"{web.url}/disk") as export, ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda n: bytes(export.pread(1000, n * 1000)), range(300)))
    assert b"".join(read) == CONTENT[: 300 * 1000]
    requests = [line.split("|") for line in web.requests()[before:]]
    assert len({line[5] for line in requests}) > 2  # connections
    assert sum(line[0].startswith("HEAD") for line in requests) < 300


def test_a_file_that_changes_under_a_client(web: Nginx) -> None:
    web.file("changing", CONTENT)
    with Server("-n", "fsspec", f"{web.url}/changing") as server:
        with connected(server.uri) as old:
            assert old.pread(512, 0) == CONTENT[:512]
            web.file("changing", CONTENT[::-1] + b"more")
            with fails("EIO"):
                old.pread(512, 512)
            with connected(server.uri) as new:
                assert new.pread(512, 0) == CONTENT[::-1][:512]
        assert "/changing: the file has changed: its size was 3146240 bytes and is" in server.log


def test_a_file_that_becomes_shorter(web: Nginx) -> None:
    web.file("changing", CONTENT)
    with opened(f"{web.url}/changing") as export:
        web.file("changing", b"short")
        with refused(errno.EIO, "the file has changed: its size was"):
            export.pread(512, MIB)


def test_what_a_web_server_does_not_have_or_give(web: Nginx) -> None:
    with refused(errno.ENOENT, "/none: there is no such file"):
        reads(f"{web.url}/none")
    with refused(errno.EACCES, "401"):
        reads(f"{web.url}/private/disk")
    with refused(errno.EACCES, "403"):
        reads(f"{web.url}/token/disk")
    with refused(errno.EIO, "503"):
        reads(f"{web.url}/busy/disk")
    with refused(errno.EIO, "the whole file came, where 513 bytes at"):
        reads(f"{web.url}/whole/disk")
    [port] = free_ports(1)
    with refused(errno.ECONNREFUSED, f"127.0.0.1:{port}"):
        reads(f"http://127.0.0.1:{port}/disk")


def test_a_user_is_told_that_there_is_no_such_file(web: Nginx) -> None:
    with Server("-n", "fsspec", f"{web.url}/none") as server:
        with pytest.raises(Exception, match="nbd_connect_uri"), connected(server.uri):
            pass
        assert server.log.count(f"{web.url}/none: there is no such file\n") == 1


def test_a_web_server_that_dies_and_comes_back(web: Nginx) -> None:
    with Server("-n", "fsspec", f"{web.url}/disk") as server:
        with connected(server.uri) as handle:
            assert handle.pread(512, 0) == CONTENT[:512]
            web.stop()
            try:
                with fails("EIO"):
                    handle.pread(512, 512)
            finally:
                web.start()
            assert handle.pread(512, 512) == CONTENT[512:1024]


def test_options(web: Nginx) -> None:
    url = f"{web.url}/token/disk"
    assert reads(url, 'option=headers={"X-Test": "good"}')
    assert reads(url, "option=headers.X-Test=good")
    assert reads(url, "secret-option=headers.X-Test=good")
    with refused(errno.EACCES, "403"):
        reads(url, "option=headers.X-Test=bad")
    with refused(errno.EIO, "TypeError"):
        reads(url, "option=client_kwargs=7")


def test_secrets(web: Nginx, tmp_path: Path) -> None:
    need("nbdinfo")
    url = f"{web.url}/token/disk"
    (tmp_path / "secret").write_text("good\nanother line\n")
    words = ["-n", "-U", "-", "fsspec", url, "--run", 'nbdinfo --size "$uri"']
    size = f"{len(CONTENT)}\n"
    assert output(*NBDFORK, *words, f"secret-option=headers.X-Test=+{tmp_path}/secret") == size
    assert output(*NBDFORK, *words, "secret-option=headers.X-Test=-", input="good\n") == size
    user = f"http://me:0wn@127.0.0.1:{web.port}/token/disk?key=k3y"
    words = ["secret-option=headers.X-Test=t0ken", user]
    with Server("-n", "-v", "fsspec", *words) as server:
        assert run("nbdinfo", server.uri).returncode != 0
        eventually(lambda: "cannot be opened" in server.log)
        shown = [server.log.replace(user, ""), *map(title, server.workers())]
    assert not any("t0ken" in text for text in shown)
    lines = [line for line in shown[0].splitlines() if "cannot be opened" in line]
    assert lines
    assert not any("0wn" in line or "k3y" in line for line in lines)


# -- sftp, ftp, s3 -----------------------------------------------------------------------------


def sftp(host: Sshd, name: str = "disk") -> list[str]:
    return [
        f"sftp://127.0.0.1{host.directory}/{name}",
        f"option=port={host.port}",
        f"option=username={psutil.Process().username()}",
        f"option=key_filename={host.key}",
        "option=allow_agent=false",
        "option=look_for_keys=false",
    ]


def test_sftp(host: Sshd, tmp_path: Path) -> None:
    assert reads(*sftp(host))
    assert copied(tmp_path, *sftp(host)) == CONTENT
    with refused(errno.ENOENT, "/none: there is no such file"):
        reads(*sftp(host, "none"))
    with refused(errno.EISDIR, "it is a directory"):
        reads(*sftp(host, "."))


def test_sftp_notices_a_change_and_a_connection_that_is_lost(host: Sshd) -> None:
    path = host.file("changing", CONTENT)
    with opened(*sftp(host, path.name)) as export:
        assert bytes(export.pread(512, 0)) == CONTENT[:512]
        host.end_sessions()
        assert bytes(export.pread(512, 512)) == CONTENT[512:1024]
        os.utime(path, (0, 0))
        with refused(errno.EIO, "the file has changed: its mtime was"):
            export.pread(512, 512)


def test_ftp() -> None:
    user = ["option=username=user", f"secret-option=password={PASSWORD}"]
    with Ftp() as far:
        assert reads(f"{far.url}/disk", *user)
        with refused(errno.ENOENT, "/none: there is no such file"):
            reads(f"{far.url}/none", *user)
        with refused(errno.EACCES, "530"):
            reads(f"{far.url}/disk", "option=username=user", "secret-option=password=wrong")


def test_s3(tmp_path: Path) -> None:
    need_modules("s3fs")
    with S3Server() as store:
        client = store.client()
        words = [f"option=endpoint_url={store.url}", f"option=key={ACCESS_KEY}"]
        words.append(f"secret-option=secret={SECRET_KEY}")
        assert copied(tmp_path, "s3://disks/disk", *words) == CONTENT
        with opened("s3://disks/disk", *words) as export:
            assert bytes(export.pread(512, 0)) == CONTENT[:512]
            client.put_object(Bucket="disks", Key="disk", Body=CONTENT[::-1])
            with refused(errno.EIO, "the file has changed: its ETag was"):
                export.pread(512, 512)
        with refused(errno.ENOENT, "there is no such file"):
            reads("s3://disks/none", *words)
        with refused(errno.EACCES, "PermissionError"):
            reads("s3://disks/disk", *words[:-1], "secret-option=secret=wrong")
        with zipfile.ZipFile(tmp_path / "disk.zip", "w") as archive:
            archive.writestr("disk", CONTENT)
        archived = (tmp_path / "disk.zip").read_bytes()
        client.put_object(Bucket="disks", Key="disk.zip", Body=archived)
        words = [word.replace("option=", "option=s3.", 1) for word in words]
        assert reads("zip://disk::s3://disks/disk.zip", *words)
