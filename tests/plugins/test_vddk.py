"""The vddk plugin, against a stand-in for VMware's library, which is not to be had.

The stand-in is compiled from `vddk_stand_in.c`.  It has the functions, the structs and the error
codes of the real one, needs a library that only its own directory has, and writes down each call.
"""

import ctypes
import errno
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from nbdfork.plugins.vddk import library, structs

from nbdfork.backend.load import find
from nbdfork.plugin import HOLE, REQ_ONE, ZERO, ConfigError, Export, ThreadModel
from tests.support.harness import NBDFORK, SECONDS, Server, eventually, nbdfork, need, output, run
from tests.support.libnbd import libnbd
from tests.support.paths import C_SOURCES
from tests.support.plugins import plugin

SOURCE = C_SOURCES / "vddk.c"
MIB = 1 << 20
CHUNK = 64 * 1024
SECRET = "open-sesame"
REMOTE = [
    "server=esxi.example.com",
    "user=root",
    "vm=moref=vm-16",
    "thumbprint=AB:CD",
    "file=[datastore] disk.vmdk",
]


class StandIn:
    """The compiled library in *directory*/lib64, and what it is told and tells."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trace = directory / "trace"
        self.fail = directory / "fail"
        self.environment = {
            "STAND_IN_TRACE": str(self.trace),
            "STAND_IN_FAIL": str(self.fail),
            "STAND_IN_DATASTORE": str(directory),
        }
        self.disk = directory / "disk.vmdk"

    def compile(self, version: int, *options: str) -> None:
        """Make lib64/libvixDiskLib.so.*version* and the library that it needs."""
        need("gcc")
        lib64 = self.directory / "lib64"
        lib64.mkdir(exist_ok=True)
        dependency = lib64 / "libvmwarestandin.so.1"
        warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
        link = ["gcc", "-O1", *warnings, "-shared", "-fPIC", str(SOURCE), *options]
        output(*link, "-DDEPENDENCY", f"-Wl,-soname,{dependency.name}", "-o", dependency)
        name = f"libvixDiskLib.so.{version}"
        words = [f"-Wl,-soname,{name}", "-Wl,-z,defs", "-o", str(lib64 / name)]
        output(*link, *words, dependency, "-lpthread")

    def calls(self) -> list[str]:
        """What has been called, without the processes and threads."""
        if not self.trace.exists():
            return []
        return [line.split(" ", 2)[2] for line in self.trace.read_text().splitlines()]

    def callers(self) -> dict[str, set[str]]:
        """The names of what each process has called; a process calls from one thread only."""
        found: dict[str, set[str]] = {}
        for line in self.trace.read_text().splitlines() if self.trace.exists() else ():
            process, thread, call = line.split(" ", 2)
            assert process == thread  # its first thread
            found.setdefault(process, set()).add(call.split(" ")[0])
        return found

    def words(self, *arguments: str | Path) -> list[str]:
        return ["vddk", f"libdir={self.directory}", *map(str, arguments)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    stand_in = StandIn(tmp_path_factory.mktemp("vddk"))
    stand_in.compile(8)
    return stand_in


@pytest.fixture(scope="module")
def compiled_old(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    stand_in = StandIn(tmp_path_factory.mktemp("old-vddk"))
    stand_in.compile(5, "-DOLD")
    return stand_in


def _clean(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    for path in (stand_in.trace, stand_in.fail):
        path.unlink(missing_ok=True)
    stand_in.disk.write_bytes(bytes(CHUNK) + os.urandom(MIB - CHUNK))
    for name, value in stand_in.environment.items():
        monkeypatch.setenv(name, value)
    return stand_in


@pytest.fixture
def stand_in(compiled: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return _clean(compiled, monkeypatch)


@pytest.fixture
def old(compiled_old: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return _clean(compiled_old, monkeypatch)


def refusal(*arguments: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        plugin("vddk", *map(str, arguments))
    return str(caught.value)


@pytest.fixture
def export(stand_in: StandIn) -> Iterator[Export]:
    made = plugin(*stand_in.words(stand_in.disk))
    made.after_fork()
    export = made.open("", False)
    yield export
    export.close()
    made.cleanup()


def remote(stand_in: StandIn, *more: str) -> list[str]:
    """Open a disk on a server, and return what was called, from the connection to the opening."""
    made = plugin(*stand_in.words(*REMOTE, f"password={SECRET}", *more))
    made.after_fork()
    export = made.open("", True)
    assert export.get_size() == MIB
    assert bytes(export.pread(MIB, 0)) == stand_in.disk.read_bytes()
    export.close()
    made.cleanup()
    calls = stand_in.calls()
    return calls[calls.index("AllocateConnectParams") + 1 : calls.index("GetInfo")]


# -- the library's interface ------------------------------------------------------------------


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


# -- loading ----------------------------------------------------------------------------------


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


# -- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give file=FILENAME, or export=PATTERN"),
        (["file=", "export="], "give file=FILENAME, or export=PATTERN"),
        (["disk", "server=host"], "server= is for a disk on a server, which needs user= as well"),
        (["disk", "thumbprint=AB"], "thumbprint= is for a disk on a server, which needs server="),
        (["disk", "create=true"], "disks are not created"),
        (["disk", "compression=gzip"], "expected one of: none, zlib, fastlz, skipz"),
        (["disk", "port=65536"], "expected a whole number from 1 to 65535"),
        (["disk", "libdir=/nonexistent"], "there is no libvixDiskLib.so"),
    ],
)
def test_parameters_that_are_wrong(arguments: list[str], message: str) -> None:
    assert message in refusal(*arguments)


def test_nothing_of_a_server_for_a_local_disk(stand_in: StandIn, export: Export) -> None:
    assert stand_in.calls()[:4] == [
        f"InitEx 6.5 {stand_in.directory} (null)",
        "AllocateConnectParams",
        "ConnectEx (null) (null) (null) read-only=0 snapshot=(null) transports=(null) port=0 nfc=0"
        " spec=0",
        f"Open {stand_in.disk} 0",
    ]


def test_a_disk_on_a_server(stand_in: StandIn) -> None:
    assert remote(stand_in) == [
        "ConnectEx moref=vm-16 esxi.example.com AB:CD read-only=1 snapshot=(null)"
        " transports=(null) port=0 nfc=0 spec=0",
        f"uid root {SECRET}",
        "Open [datastore] disk.vmdk 4",
    ]


def test_every_parameter_of_a_disk_on_a_server(stand_in: StandIn) -> None:
    more = ("cookie=C", "port=443", "nfchostport=902", "snapshot=snapshot-1", "transports=nbdssl",
            "compression=skipz", "single-link=yes", "unbuffered=yes", "config=/vddk.conf",
            "create=no")  # fmt: skip
    assert remote(stand_in, *more) == [
        "ConnectEx moref=vm-16 esxi.example.com AB:CD read-only=1 snapshot=snapshot-1"
        " transports=nbdssl port=443 nfc=902 spec=0",
        f"session C root {SECRET}",
        "Open [datastore] disk.vmdk 71",
    ]
    assert stand_in.calls()[0] == f"InitEx 6.5 {stand_in.directory} /vddk.conf"


def test_clients_choose_a_file(stand_in: StandIn) -> None:
    made = plugin(*stand_in.words(f"export={stand_in.directory}/*.vmdk"))
    made.after_fork()
    made.open(str(stand_in.disk), False).close()
    for name in ("", "/etc/passwd", f"{stand_in.directory}/x/../disk.vmdk"):
        with pytest.raises(FileNotFoundError, match="is not like"):
            made.open(name, False)
    both = plugin(*stand_in.words(stand_in.disk, "export=/nowhere/*"))
    both.open("", False).close()
    made.cleanup()
    assert f"Open {stand_in.disk} 0" in stand_in.calls()


# -- the password -----------------------------------------------------------------------------


def test_ways_to_give_the_password(stand_in: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\nand more\n")
    read, write = os.pipe()
    os.write(write, SECRET.encode())
    os.close(write)
    for text in (SECRET, f"+{file}", f"-{read}"):
        made: Any = plugin(*stand_in.words(*REMOTE, f"password={text}"))
        assert made.password == SECRET


@pytest.mark.parametrize("text", [f"-{SECRET}", "-0", f"+/nonexistent/{SECRET[:4]}"])
def test_a_password_that_cannot_be_read(text: str) -> None:
    message = refusal(*REMOTE, f"password={text}")
    assert message.startswith("vddk: password=")
    assert SECRET not in message


def test_no_terminal_to_ask_for_the_password_on() -> None:
    words = ("vddk", *REMOTE, "password=-")
    done = nbdfork("-U", "-", *words, stdin=subprocess.DEVNULL, start_new_session=True)
    assert done.returncode == 1
    assert done.stderr == (
        "nbdfork: error: vddk: password=-: there is nothing on standard input; use +FILE\n"
    )


def test_the_password_is_asked_for_on_the_terminal(stand_in: StandIn) -> None:
    need("script", "nbdinfo")
    words = [*NBDFORK, "-U", "-", *stand_in.words(*REMOTE, "password=-")]
    words += ["--run", 'nbdinfo --size "$uri"']
    terminal = subprocess.Popen(
        ["script", "-qec", shlex.join(words), "/dev/null"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert terminal.stdin is not None
    assert terminal.stdout is not None
    shown = b""
    while b"password: " not in shown:  # what is typed before is dropped
        more = os.read(terminal.stdout.fileno(), 4096)
        assert more, shown
        shown += more
    terminal.stdin.write(f"{SECRET}\n".encode())
    terminal.stdin.flush()
    rest, _ = terminal.communicate(timeout=SECONDS)
    assert f"{MIB}\r\n".encode() in rest
    assert SECRET.encode() not in rest
    assert terminal.returncode == 0
    assert f"uid root {SECRET}" in stand_in.calls()


@pytest.mark.parametrize("given", ["+FILE", SECRET])
def test_nobody_sees_the_password(stand_in: StandIn, tmp_path: Path, given: str) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    password = given.replace("FILE", str(file))
    words = stand_in.words(*REMOTE, f"password={password}", f"cookie=c{SECRET}")
    with Server("-n", "-v", *words) as server:
        client = libnbd().NBD()
        client.connect_uri(server.uri)
        for process in [psutil.Process(server.pid), *server.workers()]:
            assert SECRET not in " ".join(process.cmdline())
        client.shutdown()
        assert SECRET not in server.log
    assert f"session c{SECRET} root {SECRET}" in stand_in.calls()


# -- serving ----------------------------------------------------------------------------------


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


# -- extents ----------------------------------------------------------------------------------


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


# -- an old library ---------------------------------------------------------------------------


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


# -- failures ---------------------------------------------------------------------------------


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
