"""The kernel's NBD client, in a guest, with a file system on the disk."""

import hashlib
import os
import random
from pathlib import Path

import pytest

from tests.support.guest import HOST, run_in_guest
from tests.support.harness import Server, need, output

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024
SIZE = 32 * MIB
TCP = ("-p", "0", "-i", "127.0.0.1")

CONNECT = f"nbd-client {HOST} PORT /dev/nbd0 -N 'NAME' -b 512 -C 2 && result connected yes\n"

WRITE = """
cd /sys/block/nbd0/queue
for limit in fua write_cache discard_max_bytes rotational; do result $limit $(cat $limit); done
cd /
result size $(blockdev --getsize64 /dev/nbd0)
result readonly $(blockdev --getro /dev/nbd0)
result md5 $(md5sum < /dev/nbd0)

# the first half: a file system
mke2fs -F -b 1024 /dev/nbd0 16384 > /dev/null && result mke2fs done
mount -t ext4 /dev/nbd0 /mnt && result mounted yes
echo 'the kernel was here' > /mnt/hello
mkdir /mnt/directory
yes 'line of a larger file' | head -c 3000000 > /mnt/directory/large
sync
umount /mnt && result unmounted yes
blockdev --flushbufs /dev/nbd0
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 -o ro /dev/nbd0 /mnt
result read_back $(cat /mnt/hello)
result large_md5 $(md5sum < /mnt/directory/large)
umount /mnt

# the second half: as it comes
yes 'pattern' | head -c 1048576 | dd of=/dev/nbd0 bs=64k seek=320 conv=fsync && result written yes
blkdiscard -o 25165824 -l 4194304 /dev/nbd0 && result discarded yes
echo 3 > /proc/sys/vm/drop_caches
result discarded_md5 $(dd if=/dev/nbd0 bs=1M skip=24 count=4 | md5sum)

nbd-client -d /dev/nbd0 && result disconnected yes
nbd-client -c /dev/nbd0 || result connected_at_last no
"""

READ = """
result size $(blockdev --getsize64 /dev/nbd0)
result readonly $(blockdev --getro /dev/nbd0)
mount -t ext4 -o ro /dev/nbd0 /mnt && result mounted yes
result greeting $(cat /mnt/greeting)
umount /mnt
echo 'overwritten' | dd of=/dev/nbd0 conv=fsync && result overwritten yes
nbd-client -d /dev/nbd0 && result disconnected yes
"""


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest() + " -"


def repeated(line: bytes, count: int) -> bytes:
    return (line * (count // len(line) + 1))[:count]


def connect(server: Server, export_name: str = "") -> str:
    return CONNECT.replace("PORT", str(server.port)).replace("NAME", export_name)


def test_kernel_client(tmp_path: Path) -> None:
    need("debugfs", "e2fsck")
    disk = tmp_path / "disk"
    content = random.Random(1).randbytes(SIZE)
    with disk.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())  # before this, st_blocks need not count what was written
    allocated = disk.stat().st_blocks * 512
    with Server("-n", "-v", "file", disk, listen=TCP) as server:
        results = run_in_guest(tmp_path, connect(server) + WRITE)
        log = server.log
    large = repeated(b"line of a larger file\n", 3_000_000)
    assert int(results.pop("discard_max_bytes", "0")) > 0
    assert results == {
        "connected": "yes",
        "fua": "1",
        "write_cache": "write back",
        "rotational": "0",
        "size": str(SIZE),
        "readonly": "0",
        "md5": md5(content),
        "mke2fs": "done",
        "mounted": "yes",
        "unmounted": "yes",
        "read_back": "the kernel was here",
        "large_md5": md5(large),
        "written": "yes",
        "discarded": "yes",
        "discarded_md5": md5(bytes(4 * MIB)),
        "disconnected": "yes",
        "connected_at_last": "no",
    }
    assert log.count(": transmission: ") == 2
    assert ": flush()" in log
    check_on_the_host(disk, content, large)
    assert disk.stat().st_blocks * 512 <= allocated - 4 * MIB


def check_on_the_host(disk: Path, before: bytes, large: bytes) -> None:
    """What the guest wrote is in the file, and what it did not write is as it was."""
    after = disk.read_bytes()
    assert len(after) == SIZE
    assert after[16 * MIB : 20 * MIB] == before[16 * MIB : 20 * MIB]
    assert after[20 * MIB : 21 * MIB] == repeated(b"pattern\n", MIB)
    assert after[21 * MIB : 24 * MIB] == before[21 * MIB : 24 * MIB]
    assert after[24 * MIB : 28 * MIB] == bytes(4 * MIB)
    assert after[28 * MIB :] == before[28 * MIB :]
    output("e2fsck", "-f", "-n", disk)
    assert output("debugfs", "-R", "cat /hello", disk) == "the kernel was here\n"
    assert output("debugfs", "-R", "cat /directory/large", disk).encode() == large


def test_kernel_client_of_a_read_only_export(tmp_path: Path) -> None:
    """A file system made on the host, by its export name; the guest cannot change it."""
    need("mke2fs")
    disk, content = tmp_path / "disk", tmp_path / "content"
    content.mkdir()
    (content / "greeting").write_text("the host was here\n")
    output("mke2fs", "-q", "-t", "ext4", "-d", content, disk, "16M")
    before = disk.read_bytes()
    with Server("-r", "-e", "disk one", "file", disk, listen=TCP) as server:
        results = run_in_guest(tmp_path, connect(server, "disk one") + READ)
    assert results == {
        "connected": "yes",
        "size": str(16 * MIB),
        "readonly": "1",
        "mounted": "yes",
        "greeting": "the host was here",
        "disconnected": "yes",
    }
    assert disk.read_bytes() == before
