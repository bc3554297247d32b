"""The fsspec plugin's chains of file systems, what it can write, and what is wrong at the start."""

import errno
import importlib.util
import os
import sys
import textwrap
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdfork.plugin import ConfigError
from tests.support.far import Far
from tests.support.fsspec_far import copied, opened, plugin, reads
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
)
from tests.support.libnbd import connected
from tests.support.nginx import Nginx
from tests.support.noise import CONTENT

need_modules("fsspec", "aiohttp", "paramiko")


# -- chains ------------------------------------------------------------------------------------


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
    with refused(errno.ENOENT, "there is no such file"):
        reads(f"zip://none::file://{path}")
    with refused(errno.EISDIR, "it is a directory"):
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


# -- what can be written -----------------------------------------------------------------------


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
    with refused(errno.ENOENT, "there is no such file"):
        plugin("memory://none").open("", False)


# -- what threads may do -----------------------------------------------------------------------


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


# -- what is wrong at the start ----------------------------------------------------------------


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
