"""A real libvirtd of its own, with a real guest, for tests: nothing outside its directory.

It is one of an ordinary user ("session"), who is nobody if the tests are run by root; all that it
keeps is where XDG_* say.  The guest is emulated (TCG), and has nothing to boot from.
"""

import os
import shutil
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import psutil

from tests.support.daemon import Daemon
from tests.support.harness import SECONDS, need, need_modules

EMULATOR = "qemu-system-x86_64"

DOMAIN = """
<domain type='qemu'>
  <name>guest</name>
  <memory unit='MiB'>16</memory>
  <os><type arch='x86_64'>hvm</type></os>
  <devices>
    <emulator>{emulator}</emulator>
    {disks}
  </devices>
</domain>
"""

DISK = """
<disk type='file' device='disk'>
  <driver name='qemu' type='{format}'/><source file={path}/><target dev='{target}' bus='virtio'/>
</disk>
"""


def need_libvirt() -> Any:
    """Return the libvirt module; skip the test without it, but fail it in CI."""
    need("libvirtd", EMULATOR, "qemu-img")
    need_modules("libvirt")
    import libvirt

    # Errors are raised; here, too, they are not to be printed as well.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    return libvirt


class Libvirtd(Daemon):
    """libvirtd in a temporary directory, which stops all that was started, guests as well."""

    def __init__(self) -> None:
        super().__init__()
        self.directory.chmod(0o755)
        self.socket = self.where = self.directory / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        for name in ("config/libvirt", "cache", "data", "run"):
            (self.directory / name).mkdir(parents=True)
        settings = self.directory / "libvirtd.conf"
        settings.write_text('auth_unix_ro = "none"\nauth_unix_rw = "none"\n')
        self.command = ["libvirtd", "-f", settings, "-p", self.directory / "pid"]
        qemu = self.directory / "config/libvirt/qemu.conf"
        qemu.write_text('stdio_handler = "file"\n')  # it would start virtlogd for it otherwise
        places = ("config", "cache", "data")
        environment = {f"XDG_{name.upper()}_HOME": f"{self.directory}/{name}" for name in places}
        environment |= {"HOME": f"{self.directory}", "XDG_RUNTIME_DIR": f"{self.directory}/run"}
        self.options = {"env": os.environ | environment, "cwd": "/"}
        if os.geteuid() == 0:
            self.options |= {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for where, _, _ in os.walk(self.directory):
                shutil.chown(where, "nobody")

    def image(self, name: str, content: bytes) -> Path:
        """Make a disk image that the daemon and its guests may use."""
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o666)
        return path

    def define(self, connection: Any, disks: dict[str, tuple[str, Path]]) -> Any:
        """Define the domain "guest" with *disks*, by target: format and path."""
        parts = [
            DISK.format(target=target, format=kind, path=quoteattr(str(path)))
            for target, (kind, path) in disks.items()
        ]
        emulator = shutil.which(EMULATOR)
        return connection.defineXML(DOMAIN.format(emulator=emulator, disks="".join(parts)))

    def guests(self) -> list[psutil.Process]:
        """The emulators of running guests."""
        found = []
        for path in self.directory.glob("run/libvirt/qemu/run/*.pid"):
            try:
                process = psutil.Process(int(path.read_text()))
                if str(self.directory) in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, ValueError):
                pass
        return found

    def __exit__(self, *exception: object) -> None:
        guests = self.guests()
        for guest in guests:
            guest.kill()
        psutil.wait_procs(guests, SECONDS)
        super().__exit__(*exception)
