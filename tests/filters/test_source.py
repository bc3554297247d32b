"""What is learnt of a compressed disk in one pass, by one process for all."""

import errno
import os
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from nbdfork.filters import _source
from nbdfork.plugin import DescriptorExport
from tests.support.compressed import MIB, Below, all_of, filter_of, kept
from tests.support.harness import Server


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
    with suppress(OSError):  # it has changed, and its end is not there
        kept(layer.unpack(third, "disk"))
    assert third.read > len(data) / 2


def test_nobody_waits_for_what_is_learnt_of_another_disk() -> None:
    store = _source.IndexStore()
    names: dict[int, str] = {}  # of disks that do not share a lock by chance
    for number in range(100):
        key = _source.Source(Below(b"x"), str(number)).fingerprint()
        names.setdefault(key[0] % _source._LOCKS, str(number))
    slow, quick = (_source.Source(Below(b"x"), name) for name in list(names.values())[:2])
    begun, go_on = threading.Event(), threading.Event()

    def learn() -> tuple[bytes, list[bytes]]:
        begun.set()
        assert go_on.wait(30)
        return b"slow", [b"more of", b" it"]

    def store_quick() -> None:
        assert store.get(quick, lambda: (b"quick", [])).facts == b"quick"
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
    known = store.get(slow, lambda: (b"again", []))
    assert (known.facts, known.bulk(5, 5)) == (b"slow", b"of it")
    assert store.get(quick, lambda: (b"again", [])).facts == b"quick"


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
    assert len(reads) == a_pass
