"""The vddk plugin, against a stand-in for VMware's library, which is not to be had."""

import ctypes
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nbdfork.plugins.vddk import library, structs

from nbdfork.backend.load import find
from nbdfork.plugin import HOLE, REQ_ONE, ZERO, Export, ThreadModel
from tests.support.harness import Server, eventually, nbdfork, need, output, run
from tests.support.libnbd import libnbd
from tests.support.plugins import plugin
from tests.support.vddk import CHUNK, MIB, StandIn, clean, refusal


@pytest.fixture(scope="module")
def compiled_old(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    stand_in = StandIn(tmp_path_factory.mktemp("old-vddk"))
    stand_in.compile(5, "-DOLD")
    return stand_in


@pytest.fixture
def old(compiled_old: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return clean(compiled_old, monkeypatch)


# -- the library's interface -------------------------------------------------------------------


def test_the_structs_are_those_of_the_library(stand_in: StandIn) -> None:
    """Name, offset and size of each field are compared with what the C compiler makes of it."""

    class Field(ctypes.Structure):
        _fields_ = [
            ("name", ctypes.c_char_p),
            ("offset", ctypes.c_size_t),
            ("size", ctypes.c_size_t),
        ]

    dll = ctypes.CDLL(library.load(str(stand_in.directory)).path)
    compared = set()
    for field in (Field * 1000).in_dll(dll, "stand_in_layouts"):
        if not field.name:
            break
        struct, *path = field.name.decode().split(".")
        kind: Any = getattr(structs, struct)
        offset = 0
        for name in path:
            offset += getattr(kind, name).offset
            kind = dict(kind._fields_)[name]
        assert (offset, ctypes.sizeof(kind)) == (field.offset, field.size), field.name
        compared.add((struct, path[0]))
    assert compared == {
        (struct, name)
        for struct in ("ConnectParams", "Info", "Block", "BlockList")
        for name, _ in getattr(structs, struct)._fields_
    }


def test_all_that_the_library_can_say_goes_to_the_log(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    made = plugin(*stand_in.words(stand_in.disk))
    with caplog.at_level(logging.DEBUG):
        made.after_fork()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("DEBUG", "vddk: formatted: text -1 1099511627776  1.50 x 0xff more -1125899906842624 2.5"
                  " last"),
        ("DEBUG", f"vddk: long: {'y' * 5000}"),
        ("WARNING", "vddk: a warning of the library"),
        ("CRITICAL", "vddk: a panic of the library"),
        ("DEBUG", "vddk: said in a thread of the library"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "number"),
    [(2, errno.ENOMEM), (4, errno.ENOENT), (8, errno.ENOSPC), (13, errno.EACCES), (1, errno.EIO),
     (16000, errno.EIO)],
)  # fmt: skip
def test_errors(stand_in: StandIn, export: Export, code: int, number: int) -> None:
    stand_in.fail.write_text(f"Read:{code}")
    with pytest.raises(OSError, match=f"Read: stand-in text of {code} ") as caught:
        export.pread(512, 0)
    assert caught.value.errno == number
    assert stand_in.calls()[-2:] == ["GetErrorText (null)", "FreeErrorText"]
    stand_in.fail.unlink()
    export.pread(512, 0)


# -- loading -----------------------------------------------------------------------------------


def test_no_library(tmp_path: Path) -> None:
    message = refusal("disk.vmdk", f"libdir={tmp_path}")
    assert "there is no libvixDiskLib.so.5 to .8 in" in message
    assert "libdir=DIRECTORY" in message
    assert (
        "vddk_library_version"
        not in nbdfork("--dump-plugin", "vddk", "disk.vmdk", f"libdir={tmp_path}").stdout
    )


def test_the_newest_library_is_taken(stand_in: StandIn, old: StandIn, tmp_path: Path) -> None:
    shutil.copytree(stand_in.directory / "lib64", tmp_path / "lib64")
    shutil.copy(old.directory / "lib64/libvixDiskLib.so.5", tmp_path / "lib64")
    words = ["--dump-plugin", "vddk", f"libdir={tmp_path}", "file=disk.vmdk"]
    facts = dict(line.split("=", 1) for line in nbdfork(*words).stdout.splitlines())
    assert facts["vddk_library_version"] == "8"
    assert facts["vddk_dll"] == f"{tmp_path}/lib64/libvixDiskLib.so.8"
    assert facts["vddk_default_libdir"] == "/usr/lib/vmware-vix-disklib"
    assert facts["thread_model"] == "serialize_requests"


def test_a_library_that_is_none(tmp_path: Path, stand_in: StandIn) -> None:
    lib64 = tmp_path / "lib64"
    lib64.mkdir()
    fake = lib64 / "libvixDiskLib.so.7"
    fake.write_text("this is no library")
    assert "cannot load VMware's library" in refusal("disk.vmdk", f"libdir={tmp_path}")
    shutil.copy(stand_in.directory / "lib64/libvmwarestandin.so.1", fake)
    assert "there is no function VixDiskLib_InitEx" in refusal("disk.vmdk", f"libdir={tmp_path}")


def test_a_library_whose_own_libraries_are_not_there(stand_in: StandIn, tmp_path: Path) -> None:
    lib64 = tmp_path / "lib64"
    lib64.mkdir()
    shutil.copy(stand_in.directory / "lib64/libvixDiskLib.so.8", lib64)
    done = nbdfork("-U", "-", "vddk", "disk.vmdk", f"libdir={tmp_path}")
    assert done.returncode == 1
    assert "libvmwarestandin.so.1: cannot open shared object file" in done.stderr


def test_what_the_library_loads_itself_is_loaded_before(
    stand_in: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """libdiskLibPlugin.so needs VDDK's own libraries as well; local disks can do without it."""
    lib64 = tmp_path / "lib64"
    shutil.copytree(stand_in.directory / "lib64", lib64)
    helper = lib64 / "libdiskLibPlugin.so"
    helper.write_text("this is no library")
    words = ["vddk", f"libdir={tmp_path}", str(stand_in.disk)]
    plugin(*words)
    assert f"vddk: {helper}: " in caplog.text
    helper.unlink()
    shutil.copy(lib64 / "libvmwarestandin.so.1", helper)
    plugin(*words)
    assert str(helper) in Path("/proc/self/maps").read_text()


def test_what_the_command_runs_does_not_see_the_library(stand_in: StandIn) -> None:
    command = 'test -z "$LD_LIBRARY_PATH"'
    done = nbdfork("-U", "-", *stand_in.words(stand_in.disk), "--run", command)
    assert done.returncode == 0, done.stderr


# -- serving -----------------------------------------------------------------------------------


@pytest.fixture
def export(stand_in: StandIn) -> Iterator[Export]:
    made = plugin(*stand_in.words(stand_in.disk))
    made.after_fork()
    export = made.open("", False)
    yield export
    export.close()
    made.cleanup()


def test_nothing_of_a_server_for_a_local_disk(stand_in: StandIn, export: Export) -> None:
    assert stand_in.calls()[:4] == [
        f"InitEx 6.5 {stand_in.directory} (null)",
        "AllocateConnectParams",
        "ConnectEx (null) (null) (null) read-only=0 snapshot=(null) transports=(null) port=0 nfc=0"
        " spec=0",
        f"Open {stand_in.disk} 0",
    ]


def test_with_real_clients(stand_in: StandIn, tmp_path: Path) -> None:
    need("nbdcopy", "qemu-io", "nbdinfo")
    image = tmp_path / "image"
    with Server(*stand_in.words(stand_in.disk)) as server:
        for command in ("write -P 7 64k 128k", "flush", "read -P 7 64k 128k", "read 512 1k"):
            done = run("qemu-io", "-f", "raw", "-c", command, server.uri)
            assert (done.returncode, "failed" in done.stdout) == (0, False), done
        output("nbdcopy", server.uri, image)
    assert image.read_bytes() == stand_in.disk.read_bytes()
    assert image.read_bytes()[CHUNK : 3 * CHUNK] == bytes([7]) * 2 * CHUNK
    for called in stand_in.callers().values():
        assert {"InitEx", "Exit"} <= called
    calls = stand_in.calls()
    pairs = {
        "AllocateConnectParams": "FreeConnectParams",
        "ConnectEx": "Disconnect",
        "GetInfo": "FreeInfo",
        "Open": "Close",
        "QueryAllocatedBlocks": "FreeBlockList",
    }
    for pair in pairs.items():
        counts = [sum(call.split()[0] == name for call in calls) for name in pair]
        assert counts[0] == counts[1] > 0


def test_the_library_lives_in_workers_only(stand_in: StandIn) -> None:
    with Server("--spare-workers", "2", *stand_in.words(stand_in.disk)) as server:
        eventually(lambda: len(stand_in.callers()) == 2)
        assert stand_in.callers().keys() == {str(worker.pid) for worker in server.workers()}


def test_requests_of_whole_sectors_only(stand_in: StandIn) -> None:
    with Server("-n", *stand_in.words(stand_in.disk)) as server:
        client = libnbd().NBD()
        client.connect_uri(server.uri)
        assert client.get_block_size(libnbd().SIZE_MINIMUM) == 512
        client.set_strict_mode(0)
        with pytest.raises(libnbd().Error) as caught:
            client.pread(100, 512)
        assert caught.value.errnum == errno.EINVAL
        client.shutdown()
    assert "Read 1 0" not in stand_in.calls()


def test_what_is_written(stand_in: StandIn, export: Export) -> None:
    data = os.urandom(1024)
    export.pwrite(memoryview(data), 512, 0)
    export.pwrite(memoryview(bytearray(data)), 8192, 0)
    export.flush()
    content = stand_in.disk.read_bytes()
    assert content[512:1536] == content[8192:9216] == data
    assert stand_in.calls()[-3:] == ["Write 1 2", "Write 16 2", "Flush"]


def test_read_only(stand_in: StandIn) -> None:
    need("nbdinfo")
    with Server("-r", *stand_in.words(stand_in.disk)) as server:
        assert '"is_read_only": true' in output("nbdinfo", "--json", server.uri)
    calls = stand_in.calls()
    assert f"Open {stand_in.disk} 4" in calls
    assert any("read-only=1" in call for call in calls)


def test_one_request_at_a_time() -> None:
    assert find("vddk").plugin_class().thread_model() is ThreadModel.SERIALIZE_REQUESTS


def test_diskinfo(stand_in: StandIn) -> None:
    need("nbdinfo")
    words = stand_in.words(stand_in.disk)
    with Server("-v", "-D", "vddk.diskinfo=1", *words) as server:
        output("nbdinfo", "--size", server.uri)
        for line in (
            "capacity: 2048 sectors",
            "BIOS geometry: 1/2/3",
            "physical geometry: 4/5/6",
            "adapter type: 3",
            "links: 7; parent: parent.vmdk",
        ):
            assert f"diskinfo: {line}\n" in server.log
        assert "transport mode: file\n" in server.log


# -- extents -----------------------------------------------------------------------------------


def test_extents(stand_in: StandIn) -> None:
    data = b"x"
    parts = [bytes(2 * CHUNK), data * CHUNK, bytes(CHUNK), data * 3 * CHUNK, bytes(CHUNK + 1024)]
    stand_in.disk.write_bytes(b"".join(parts))
    both = HOLE | ZERO
    made = plugin(*stand_in.words(stand_in.disk))
    made.after_fork()
    export = made.open("", False)
    assert export.can_extents()
    assert list(export.extents(8 * CHUNK + 1024, 0, 0)) == [
        (0, 2 * CHUNK, both),
        (2 * CHUNK, CHUNK, 0),
        (3 * CHUNK, CHUNK, both),
        (4 * CHUNK, 3 * CHUNK, 0),
        (7 * CHUNK, CHUNK, both),
        (8 * CHUNK, 1024, 0),  # what it cannot be asked about
    ]
    assert list(export.extents(1, CHUNK + 5, REQ_ONE)) == [(CHUNK, CHUNK, both)]
    assert list(export.extents(CHUNK, 2 * CHUNK - 1, 0)) == [
        (CHUNK, CHUNK, both),
        (2 * CHUNK, CHUNK, 0),
    ]
    assert list(export.extents(512, 8 * CHUNK + 512, 0)) == [(8 * CHUNK, 1024, 0)]
    export.close()
    one = plugin(*stand_in.words(stand_in.disk, "single-link=true"))
    export = one.open("", False)
    assert list(export.extents(512, 0, 0)) == [(0, CHUNK, HOLE)]
    export.close()
    made.cleanup()


def test_no_extents_where_the_library_has_none(stand_in: StandIn) -> None:
    made = plugin(*stand_in.words(stand_in.disk))
    made.after_fork()
    stand_in.fail.write_text("QueryAllocatedBlocks:6")
    export = made.open("", False)
    assert not export.can_extents()
    export.close()
    stand_in.fail.unlink()
    os.truncate(stand_in.disk, CHUNK - 512)
    export = made.open("", False)
    assert not export.can_extents()
    export.close()
    made.cleanup()


# -- an old library ----------------------------------------------------------------------------


def test_an_old_library(old: StandIn) -> None:
    made = plugin(*old.words(old.disk))
    made.after_fork()
    export = made.open("", False)
    assert old.calls()[0] == f"InitEx 5.1 {old.directory} (null)"
    assert not export.can_flush()
    assert not export.can_extents()
    assert bytes(export.pread(MIB, 0)) == old.disk.read_bytes()
    export.close()
    made.cleanup()
    assert not any("ConnectParams" in call for call in old.calls())


# -- failures ----------------------------------------------------------------------------------


def test_a_library_that_does_not_start(stand_in: StandIn) -> None:
    stand_in.fail.write_text("InitEx:1")
    done = nbdfork("-f", "-U", "-", *stand_in.words(stand_in.disk))
    assert done.returncode == 1
    assert "VixDiskLib_InitEx: stand-in text of 1 (error 1)" in done.stderr


@pytest.mark.parametrize(
    ("function", "closed"),
    [
        ("ConnectEx", ["FreeConnectParams"]),
        ("Open", ["Disconnect", "FreeConnectParams"]),
        ("GetInfo", ["Close", "Disconnect", "FreeConnectParams"]),
    ],
)
def test_a_disk_that_cannot_be_opened(stand_in: StandIn, function: str, closed: list[str]) -> None:
    made = plugin(*stand_in.words(stand_in.disk))
    made.after_fork()
    stand_in.fail.write_text(f"{function}:13")
    with pytest.raises(PermissionError, match=f"VixDiskLib_{function}:? ?.*stand-in text of 13"):
        made.open("", False)
    released = {"Close", "Disconnect", "FreeConnectParams"}
    assert [call for call in stand_in.calls() if call in released] == closed
    made.cleanup()


def test_a_client_goes_on_after_errors(stand_in: StandIn) -> None:
    with Server("-n", *stand_in.words(stand_in.disk)) as server:
        client = libnbd().NBD()
        client.connect_uri(server.uri)
        requests: dict[str, Callable[[], object]] = {
            "Read": lambda: client.pread(512, 0),
            "Write": lambda: client.pwrite(bytes(512), 0),
            "Flush": lambda: client.flush(),
        }
        for function, request in requests.items():
            request()
            stand_in.fail.write_text(f"{function}:1")
            with pytest.raises(libnbd().Error) as caught:
                request()
            assert caught.value.errnum == errno.EIO
            assert f"VixDiskLib_{function}: stand-in text of 1 (error 1)" in server.log
            stand_in.fail.unlink()
            request()
        client.shutdown()


def test_a_disk_that_is_not_there(stand_in: StandIn) -> None:
    need("nbdinfo")
    stand_in.disk.unlink()
    with Server("-n", *stand_in.words(stand_in.disk)) as server:
        done = run("nbdinfo", "--size", server.uri)
        assert done.returncode != 0
        assert f"VixDiskLib_Open: {stand_in.disk}: stand-in text of 4 (error 4)" in server.log
