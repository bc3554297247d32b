"""The luks filter, on containers that qemu-img and cryptsetup make."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.beside import SERVERS, captive, outcome
from tests.support.disks import KIB, MIB, Disk, gate
from tests.support.harness import need, need_modules, output, refused
from tests.support.noise import noise

need_modules("cryptography")

SECRET = "correct horse"
CONTENT = noise(100 * KIB).ljust(MIB, b"\0")


def formatted(path: Path, size: int, *options: str) -> bytes:
    """Return an empty container of *size* bytes that cryptsetup has made."""
    need("cryptsetup")
    path.write_bytes(bytes(size))
    output("cryptsetup", "-q", *options, "--key-file", "-", "luksFormat", path, input=SECRET)
    return path.read_bytes()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A container of version 1 with CONTENT, written by qemu-img."""
    need("qemu-img")
    folder = tmp_path_factory.mktemp("luks")
    (folder / "raw").write_bytes(CONTENT)
    formatted(folder / "luks", 3 * MIB, "--type", "luks1", "--pbkdf-force-iterations", "1000")
    image = f"driver=luks,key-secret=s,file.filename={folder / 'luks'}"
    secret = f"secret,id=s,data={SECRET}"
    output(
        *("qemu-img", "convert", "-n", "--object", secret, "-f", "raw", folder / "raw"),
        *("--target-image-opts", image),
    )
    return (folder / "luks").read_bytes()


def volume_key(path: Path) -> bytes:
    words = ("cryptsetup", "-q", "--key-file", "-", "luksDump", "--dump-master-key", path)
    dumped = output(*words, input=SECRET)
    match = re.search(r"MK dump:((?:\s+[0-9a-f]{2})+)", dumped)
    assert match is not None
    return bytes.fromhex(match[1])


def test_a_container_of_qemu_is_read_and_written(first: bytes) -> None:
    disk = Disk(first, 512)
    top = gate(disk, "luks", f"passphrase={SECRET}")
    assert top.size == MIB
    assert top.pread(MIB, 0) == CONTENT
    assert top.pread(512, 99 * KIB) == CONTENT[99 * KIB :][:512]
    top.pwrite(memoryview(b"x" * 4096), 8192, fua=False)
    top.zero(4096, 0, may_trim=True, fast=False, fua=False)
    again = gate(Disk(bytes(disk.content)), "luks", f"passphrase={SECRET}")
    assert (
        again.pread(16384, 0)
        == bytes(4096) + CONTENT[4096:8192] + b"x" * 4096 + (CONTENT[12288:16384])
    )
    with refused(errno.EINVAL):
        top.pread(10, 0)


def test_qemu_reads_what_was_written(first: bytes, tmp_path: Path) -> None:
    disk = Disk(first)
    gate(disk, "luks", f"passphrase={SECRET}").pwrite(memoryview(b"y" * 512), 512, fua=False)
    (tmp_path / "luks").write_bytes(bytes(disk.content))
    image = f"driver=luks,key-secret=s,file.filename={tmp_path / 'luks'}"
    secret = ("--object", f"secret,id=s,data={SECRET}")
    command = ("qemu-io", *secret, "-c", "read -P 0x79 512 512", "--image-opts", image)
    assert "Pattern verification failed" not in output(*command)


def test_a_wrong_passphrase_and_other_disks_are_refused(first: bytes, tmp_path: Path) -> None:
    with refused(errno.EACCES, "fits none of the keys"):
        gate(Disk(first), "luks", "passphrase=wrong")
    with refused(errno.EINVAL, "no LUKS container"):
        gate(Disk(noise(MIB)), "luks", "passphrase=x")
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert gate(Disk(first), "luks", f"passphrase=+{tmp_path / 'secret'}").size == MIB
    changed = bytearray(first)
    changed[7] = 9
    with refused(errno.EINVAL, "version 9"):
        gate(Disk(bytes(changed)), "luks", f"passphrase={SECRET}")
    options = ("--type", "luks1", "--pbkdf-force-iterations", "1000")
    cbc = formatted(tmp_path / "cbc", 20 * MIB, *options, "--cipher", "aes-cbc-essiv:sha256")
    with refused(errno.EINVAL, "aes-cbc-essiv:sha256"):
        gate(Disk(cbc), "luks", f"passphrase={SECRET}")


@pytest.mark.parametrize(
    "options",
    [
        ["--type", "luks1", "--pbkdf-force-iterations", "1000", "--hash", "sha512"],
        ["--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"],
        [
            *("--type", "luks2", "--pbkdf", "argon2id", "--pbkdf-memory", "64"),
            *("--pbkdf-force-iterations", "4", "--sector-size", "4096", "--key-size", "256"),
        ],
    ],
)
def test_containers_of_cryptsetup(options: list[str], tmp_path: Path) -> None:
    from nbdfork.filters.luks import Sectors

    container = formatted(tmp_path / "luks", 20 * MIB, *options)
    disk = Disk(container)
    top = gate(disk, "luks", f"passphrase={SECRET}")
    sector = top.block_size.minimum
    assert sector in (512, 4096)
    start = 20 * MIB - top.size
    assert start in (2 * MIB, 4 * MIB, 16 * MIB)
    top.pwrite(memoryview(noise(64 * KIB)), 8192, fua=False)
    stored = bytes(disk.content[start + 8192 : start + 8192 + 64 * KIB])
    assert Sectors(volume_key(tmp_path / "luks"), sector).decrypted(stored, 8192) == noise(64 * KIB)
    assert top.pread(64 * KIB, 8192) == noise(64 * KIB)


def test_luks_as_nbdkit_does_it(first: bytes, tmp_path: Path) -> None:
    need("nbdkit")
    script: list[tuple[Any, ...]] = [
        ("get_size",),
        ("pread", MIB, 0),
        ("pwrite", noise(8192), 4096),
        ("zero", 4096, 32768),
        ("pread", 65536, 0),
    ]
    found = {}
    for server in SERVERS:
        disk = tmp_path / server
        disk.write_bytes(first)
        with captive(server, ["--filter=luks", "file", disk, f"passphrase={SECRET}"]) as handle:
            found[server] = [outcome(handle, *request) for request in script]
        found[server].append(disk.read_bytes())
    assert found["nbdfork"] == found["nbdkit"]
