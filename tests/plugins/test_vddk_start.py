"""The vddk plugin's parameters and password, and how it finds its library."""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.harness import NBDFORK, SECONDS, Server, nbdfork, need
from tests.support.libnbd import libnbd
from tests.support.plugins import plugin
from tests.support.vddk import MIB, StandIn, refusal

SECRET = "open-sesame"


REMOTE = [
    "server=esxi.example.com",
    "user=root",
    "vm=moref=vm-16",
    "thumbprint=AB:CD",
    "file=[datastore] disk.vmdk",
]


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


# -- parameters --------------------------------------------------------------------------------


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


# -- the password ------------------------------------------------------------------------------


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
