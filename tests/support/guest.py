"""A small virtual machine, so that the kernel's NBD client can be one of the tests' clients.

It has a kernel of the distribution, an initial RAM disk made here (busybox, nbd-client and a few
kernel modules), and a network on which the host's loopback is 10.0.2.2.  It runs one script and
ends.  The processor is emulated: that is slow, but works wherever the tests run.
"""

import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import pytest

from tests.support.harness import need, output, run

HOST = "10.0.2.2"
"""The host's loopback as the guest knows it."""

SECONDS = 240.0
"""How long the guest may take: it needs seven seconds on an idle machine."""

_MODULES = ("virtio_pci", "virtio_net", "nbd", "ext4")

_PROLOGUE = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
result() { echo "RESULT $*"; }
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
"""

_EPILOGUE = """
result end reached
poweroff -f
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel that is installed with its modules."""

    release: str
    image: Path


def need_kernel() -> Kernel:
    """Return a kernel for guests; skip the test (in CI, fail it) if none can be read."""
    for image in sorted(Path("/boot").glob("vmlinuz-*"), reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        if os.access(image, os.R_OK) and Path("/lib/modules", release).is_dir():
            return Kernel(release, image)
    if os.environ.get("NBDFORK_CI"):
        pytest.fail("no kernel for a guest in /boot")
    pytest.skip("no kernel for a guest in /boot")


def run_in_guest(directory: Path, script: str) -> dict[str, str]:
    """Run *script*, of busybox's shell, in a guest; return what it said with `result KEY VALUE`.

    A step of the script that fails ends nothing, but its result will tell.
    """
    need("qemu-system-x86_64", "busybox", "nbd-client", "modprobe", "ldd")
    kernel = need_kernel()
    initrd = directory / "initrd"
    initrd.write_bytes(b"".join(_archive(_files(kernel, script))))
    console = _boot(kernel, initrd)
    results = dict(re.findall(r"^RESULT (\S+) (.*?)\r*$", console, re.MULTILINE))
    assert results.pop("end", None) == "reached", f"the guest did not finish:\n{console}"
    print(console)  # pytest shows it if the test fails
    return results


def _boot(kernel: Kernel, initrd: Path) -> str:
    """Run the guest to its end and return what it wrote to its console."""
    machine = ("-accel", "tcg", "-machine", "pc", "-cpu", "max", "-m", "256", "-no-reboot")
    console = ("-display", "none", "-monitor", "none", "-serial", "stdio")
    network = ("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net")
    boot = ("-kernel", kernel.image, "-initrd", initrd)
    # The script's results must not be torn apart by what the kernel has to say.
    append = ("-append", "console=ttyS0 quiet loglevel=1 panic=-1")
    return output(
        *("qemu-system-x86_64", "-nodefaults", *machine, *console, *network, *boot, *append),
        stdin=subprocess.DEVNULL,
        errors="replace",
        timeout=SECONDS,
    )


# -- the initial RAM disk -------------------------------------------------------------------


def _files(kernel: Kernel, script: str) -> Iterator[tuple[str, int, bytes]]:
    """Yield the name, the mode and the content of all that is in the RAM disk."""
    for directory in ("bin", "dev", "lib", "lib64", "modules", "mnt", "proc", "sys"):
        yield directory, stat.S_IFDIR | 0o755, b""
    yield "init", stat.S_IFREG | 0o755, (_PROLOGUE + script + _EPILOGUE).encode()
    modules = _modules(kernel)
    yield "modules/order", stat.S_IFREG | 0o644, "\n".join(path.name for path in modules).encode()
    for path in modules:
        yield f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes()
    libraries: set[Path] = set()
    for program in ("busybox", "nbd-client"):
        path = Path(which(program) or "")
        yield f"bin/{program}", stat.S_IFREG | 0o755, path.read_bytes()
        libraries |= _libraries(path)
    for parent in sorted({parent for path in libraries for parent in path.parents[:-1]}):
        yield str(parent)[1:], stat.S_IFDIR | 0o755, b""
    for path in libraries:
        yield str(path)[1:], stat.S_IFREG | 0o755, path.read_bytes()


def _modules(kernel: Kernel) -> list[Path]:
    """Return the modules that are wanted and those they depend on, in the order of loading."""
    shown = output("modprobe", "-S", kernel.release, "-a", "--show-depends", *_MODULES)
    paths = re.findall(r"^insmod (\S+)", shown, re.MULTILINE)
    return [Path(path) for path in dict.fromkeys(paths)]


def _libraries(program: Path) -> set[Path]:
    """Return the shared libraries of *program*, at the names by which it looks for them."""
    shown = run("ldd", program).stdout  # which fails for a static program
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", shown)}


def _archive(files: Iterable[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """Yield a cpio archive in the "newc" format, the one the kernel unpacks."""
    for inode, (name, mode, content) in enumerate(files, start=1):
        yield _entry(inode, name, mode, content)
    yield _entry(0, "TRAILER!!!", 0, b"")


def _entry(inode: int, name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device and its node (two each), name, checksum
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + path) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
