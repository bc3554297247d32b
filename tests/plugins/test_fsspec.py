"""The fsspec plugin against real far ends: nginx, sshd, an FTP server, an object store (Ceph), zip
files, and the local file system.
"""

import errno
import importlib.util
import os
import sys
import textwrap
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdfork.plugin import ConfigError
from tests.support import plugins
from tests.support.far import Far
from tests.support.ftp import Ftp
from tests.support.harness import (
    NBDFORK,
    SECONDS,
    Server,
    eventually,
    nbdfork,
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

MIB = 1 << 20


plugin = partial(plugins.plugin, "fsspec")
opened = partial(plugins.opening, "fsspec")


need_modules("fsspec", "aiohttp", "paramiko")


def reads(*arguments: str | Path) -> bool:
    """Return whether the right bytes come at these arguments; raise what goes wrong."""
    with opened(*arguments) as export:
        assert export.get_size() == len(CONTENT)
        end = bytes(export.pread(513, len(CONTENT) - 513))
        return end + bytes(export.pread(4096, MIB + 1)) == (
            CONTENT[-513:] + CONTENT[MIB + 1 : MIB + 4097]
        )


def copied(tmp_path: Path, *arguments: str | Path) -> bytes:
    """Return the disk as nbdcopy reads it, by requests that are under way together."""
    need("nbdcopy")
    with Server("-n", "fsspec", *arguments) as server:
        output("nbdcopy", "--request-size=65536", server.uri, tmp_path / "copy")
        assert "error" not in server.log
    return (tmp_path / "copy").read_bytes()


# -- http -------------------------------------------------------------------------------------


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
    with refused(errno.EIO, "/none: there is no such file"):
        reads(f"{web.url}/none")
    with refused(errno.EPERM, "401"):
        reads(f"{web.url}/private/disk")
    with refused(errno.EPERM, "403"):
        reads(f"{web.url}/token/disk")
    with refused(errno.EIO, "503"):
        reads(f"{web.url}/busy/disk")
    with refused(errno.EIO, "the whole file came, where 513 bytes at"):
        reads(f"{web.url}/whole/disk")
    [port] = free_ports(1)
    with refused(errno.EIO, f"127.0.0.1:{port}"):
        reads(f"http://127.0.0.1:{port}/disk")


def test_a_user_is_told_that_there_is_no_such_file(web: Nginx) -> None:
    need("nbdinfo")
    with Server("-n", "fsspec", f"{web.url}/none") as server:
        assert run("nbdinfo", server.uri).returncode != 0
        assert f"{web.url}/none: there is no such file\n" in server.log


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
    with refused(errno.EPERM, "403"):
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


# -- sftp, ftp, s3 ----------------------------------------------------------------------------


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
    with refused(errno.EIO, "/none: there is no such file"):
        reads(*sftp(host, "none"))
    with refused(errno.EIO, "it is a directory"):
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
        with refused(errno.EIO, "/none: there is no such file"):
            reads(f"{far.url}/none", *user)
        with refused(errno.EPERM, "530"):
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
        with refused(errno.EIO, "there is no such file"):
            reads("s3://disks/none", *words)
        with refused(errno.EPERM, "PermissionError"):
            reads("s3://disks/disk", *words[:-1], "secret-option=secret=wrong")
        with zipfile.ZipFile(tmp_path / "disk.zip", "w") as archive:
            archive.writestr("disk", CONTENT)
        archived = (tmp_path / "disk.zip").read_bytes()
        client.put_object(Bucket="disks", Key="disk.zip", Body=archived)
        words = [word.replace("option=", "option=s3.", 1) for word in words]
        assert reads("zip://disk::s3://disks/disk.zip", *words)


# -- chains -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stored", "deflated"])
def test_a_file_in_a_zip_file(method: str, tmp_path: Path) -> None:
    number = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}[method]
    path = tmp_path / "disks.zip"

    def write(content: bytes) -> None:
        with zipfile.ZipFile(path, "w", number) as archive:
            archive.writestr("dir/disk", content)

    write(CONTENT)
    url = f"zip://dir/disk::file://{path}"
    assert reads(url)
    assert reads(f"zip://dir/disk::{os.path.relpath(path)}")
    assert copied(tmp_path, url) == CONTENT
    with refused(errno.EIO, "there is no such file"):
        reads(f"zip://none::file://{path}")
    with refused(errno.EIO, "it is a directory"):
        reads(f"zip://dir::file://{path}")
    with opened(url) as export:
        assert bytes(export.pread(512, 0)) == CONTENT[:512]
        path.unlink()
        write(CONTENT[::-1])
        with refused(errno.EIO, "the file has changed: its mtime was"):
            export.pread(512, 512)


def test_a_daemon_finds_a_chain_at_a_relative_path(tmp_path: Path) -> None:
    need("nbdinfo")
    with zipfile.ZipFile(tmp_path / "disks.zip", "w") as archive:
        archive.writestr("disk", CONTENT)
    pidfile, path = tmp_path / "pid", tmp_path / "sock"
    words: list[str | Path] = ["-n", "-P", pidfile, "-U", path, "fsspec", "zip://disk::disks.zip"]
    output(*NBDFORK, *words, cwd=tmp_path)
    supervisor = psutil.Process(int(pidfile.read_text()))
    try:
        size = output("nbdinfo", "--size", f"nbd+unix:///?socket={path}")
        assert size == f"{len(CONTENT)}\n"
    finally:
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=SECONDS)


def test_a_cache_in_a_chain(web: Nginx, tmp_path: Path) -> None:
    assert reads(f"simplecache::{web.url}/disk", f"option=cache_storage={tmp_path}/one")
    assert list((tmp_path / "one").iterdir())
    for cache in ("simplecache", "filecache", "blockcache"):
        assert copied(tmp_path, f"{cache}::{web.url}/disk") == CONTENT


def test_a_directory_in_a_chain(web: Nginx) -> None:
    (web.directory / "www/dir").mkdir(exist_ok=True)
    web.file("dir/disk", CONTENT)
    assert reads(f"dir://disk::{web.url}/dir")


# -- what can be written ----------------------------------------------------------------------


def test_a_local_file(tmp_path: Path) -> None:
    need("qemu-io")
    disk = tmp_path / "disk"
    disk.write_bytes(CONTENT)
    for url in (f"file://{disk}", f"local://{disk}", disk):
        with Server("-n", "fsspec", url) as server:
            output("qemu-io", "-f", "raw", "-c", "write -P 7 512 1024", server.uri)
        assert disk.read_bytes() == CONTENT[:512] + b"\7" * 1024 + CONTENT[1536:]
        disk.write_bytes(CONTENT)
        with Server("-n", "-r", "fsspec", url) as server, connected(server.uri) as handle:
            assert handle.is_read_only()
    with pytest.raises(ConfigError, match=r"fsspec: .*/none: No such file"):
        plugin(f"file://{tmp_path}/none")


def test_memory(tmp_path: Path) -> None:
    """What a program has put there is one disk for all clients, who write at the same time."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import sys
            import fsspec
            from nbdfork.main import main
            fsspec.filesystem("memory").pipe("/disk", bytes(65536))
            sys.exit(main())
            """
        )
    )
    path = tmp_path / "sock"
    words = ["-n", "-f", "-U", str(path), "fsspec", "memory://disk"]
    with Far(path, sys.executable, program, *words) as far:

        def write(first: int) -> None:
            with connected(far.uri) as handle:
                for number in range(first, 64, 4):
                    handle.pwrite(bytes([number]) * 1024, number * 1024)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        with connected(far.uri) as handle:
            handle.flush()
            assert handle.pread(65536, 0) == b"".join(bytes([n]) * 1024 for n in range(64))
        assert far.stop() == 0
    with refused(errno.EIO, "there is no such file"):
        plugin("memory://none").open("", False)


# -- what threads may do ----------------------------------------------------------------------


def test_a_check_is_good_for_reads_that_ended_before_it_began() -> None:
    from nbdfork.plugins.fsspec.export import _SharedCheck

    made, begun, go = [], threading.Event(), threading.Event()

    def check() -> None:
        made.append(1)
        begun.set()
        assert go.wait(SECONDS)

    shared = _SharedCheck(check)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(shared.pass_or_raise)]
        begun.wait()
        waiting += [pool.submit(shared.pass_or_raise) for _ in range(7)]
        eventually(lambda: all(one.running() for one in waiting))
        assert len(made) == 1
        go.set()
        for one in waiting:
            one.result()
    assert len(made) == 2  # the first had begun before the others' reads had ended


def test_a_check_that_fails_is_made_again() -> None:
    from nbdfork.plugins.fsspec.export import _SharedCheck

    results = iter([OSError(errno.EIO, "changed"), None])

    def check() -> None:
        if error := next(results):
            raise error

    shared = _SharedCheck(check)
    with refused(errno.EIO, "changed"):
        shared.pass_or_raise()
    shared.pass_or_raise()


# -- what is wrong at the start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "parameter url=URL is required"),
        ("url=", "url=: the URL of a file is expected"),
        ("nonsense://x", r"nonsense:// is not known; these file systems are: .* zip"),
        ("zip://x::nonsense://y", "nonsense:// is not known"),
        ("smb://h/x", "smb:// needs what is not installed: .*smbprotocol"),
        ("http://h/d option=x", "option=x: write KEY=VALUE"),
        ("http://h/d option==x", "option==x: write KEY=VALUE"),
        ("http://h/d secret-option=pa55word", r"secret-option=\*\*\*: write KEY=VALUE, KEY=-"),
        ("http://h/d secret-option=a=+/none", "secret-option=a=: cannot read it: .*'/none'"),
        ("http://h/d option=a=1 option=a.b=1", "option=a= is given both with and without parts"),
        ("http://h/d check=perhaps", "check=perhaps: expected true or false"),
    ],
)
def test_bad_parameters(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plugin(*arguments.split(" ")) if arguments else plugin()
    assert "\n" not in str(caught.value)


def test_without_fsspec(tmp_path: Path) -> None:
    (tmp_path / "fsspec.py").write_text("raise ImportError\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = nbdfork("-U", "-", "fsspec", "http://localhost/disk", env=environment)
    message = 'the fsspec plugin needs fsspec: pip install "nbdfork[fsspec]"'
    assert (done.returncode, done.stderr) == (1, f"nbdfork: error: {message}\n")
    assert "name=fsspec\n" in output(*NBDFORK, "--dump-plugin", "fsspec", env=environment)


def test_dump_plugin_tells_of_the_library() -> None:
    library: Any = importlib.import_module("fsspec")
    shown = output(*NBDFORK, "--dump-plugin", "fsspec")
    assert f"fsspec_version={library.__version__}\n" in shown
    assert " http https " in shown
