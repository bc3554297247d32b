"""guestfish as a client: an appliance of its own, with qemu and a kernel, makes and mounts disks.

These are the examples of the 2016 manual, run as they stand there: `guestfish --format=raw
-a $nbd` under `--run`, with `$nbd` in the form that guestfish understands.
"""

import os
import struct
from pathlib import Path

import pytest

from tests.support.harness import nbdfork, need

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024

# Without libvirt, and with an emulated processor: slower, but it needs nothing of the host.
ENVIRONMENT = {
    **os.environ,
    "LIBGUESTFS_BACKEND": "direct",
    "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
}

MAKE = """\
run
part-disk /dev/sda mbr
mkfs ext4 /dev/sda1
mount /dev/sda1 /
write /hello "written through NBD\\n"
fallocate64 /room 10485760
"""

READ = """\
run
list-filesystems
mount /dev/sda1 /
cat /hello
filesize /room
"""

LIST = """\
run
list-partitions
part-get-mbr-id /dev/sda 1
blockdev-getsize64 /dev/sda
"""


def guestfish(directory: Path, script: str, option: str, *arguments: str | Path) -> str:
    """Run a script of guestfish captive to a server; return `$nbd` and what the script printed.

    *arguments* are nbdfork's, *option* is guestfish's.
    """
    need("guestfish")
    path = directory / "script"
    path.write_text(script)
    command = f'echo "$nbd"; guestfish --format=raw {option} -a "$nbd" -f "{path}"'
    done = nbdfork(*arguments, "--run", command, env=ENVIRONMENT, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_file_system_is_made_and_read_back(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    made = guestfish(tmp_path, MAKE, "--rw", "-p", "0", "-i", "127.0.0.1", "file", disk)
    assert made.startswith("nbd://127.0.0.1:")
    written = disk.read_bytes()
    assert is_ext4(written)
    assert b"written through NBD\n" in written

    printed = guestfish(tmp_path, READ, "--ro", "-U", "-", "-r", "file", disk).splitlines()
    assert printed[0].startswith("nbd://?socket=/")
    assert printed[1:] == ["/dev/sda1: ext4", "written through NBD", "", "10485760"]
    assert disk.read_bytes() == written


def is_ext4(disk: bytes) -> bool:
    """Return whether the first partition of *disk* has the superblock of such a file system."""
    (start,) = struct.unpack_from("<I", disk, 446 + 8)
    (magic,) = struct.unpack_from("<H", disk, start * 512 + 1024 + 56)
    return disk[510:512] == b"\x55\xaa" and magic == 0xEF53


def test_the_partition_of_example1(tmp_path: Path) -> None:
    """By its export name, which has a place of its own in guestfish's form."""
    printed = guestfish(tmp_path, LIST, "--ro", "-U", "-", "-e", "disk", "example1").splitlines()
    assert printed[0].startswith("nbd:///disk?socket=/")
    assert printed[1:] == ["/dev/sda1", "0x83", str(100 * MIB)]
