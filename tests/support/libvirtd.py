"""A real libvirtd of its own, with a real guest, for tests: nothing outside its directory.

It is one of an ordinary user ("session"), who is nobody if the tests are run by root; all that it
keeps is where XDG_* say.  The guest is emulated (TCG), and has nothing to boot from.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import psutil

from tests.support.harness import SECONDS, eventually, need, need_modules

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


class Libvirtd:
    """libvirtd in a temporary directory; a context manager, which stops all that was started."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="nbdfork-libvirtd"))
        self.directory.chmod(0o755)
        self.socket = self.directory / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self.socket}"
        for name in ("config/libvirt", "cache", "data", "run"):
            (self.directory / name).mkdir(parents=True)
        self._settings = self.directory / "libvirtd.conf"
        self._settings.write_text('auth_unix_ro = "none"\nauth_unix_rw = "none"\n')
        qemu = self.directory / "config/libvirt/qemu.conf"
        qemu.write_text('stdio_handler = "file"\n')  # it would start virtlogd for it otherwise
        self._identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._identity = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for where, _, _ in os.walk(self.directory):
                shutil.chown(where, "nobody")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it can be connected to."""
        places = ("config", "cache", "data")
        environment = {f"XDG_{name.upper()}_HOME": f"{self.directory}/{name}" for name in places}
        environment |= {"HOME": f"{self.directory}", "XDG_RUNTIME_DIR": f"{self.directory}/run"}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["libvirtd", "-f", self._settings, "-p", self.directory / "pid"],
                env=os.environ | environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._identity,
            )
        eventually(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "log").read_text()
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        """Kill the daemon, as a crash would; guests go on running."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

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

    def __enter__(self) -> "Libvirtd":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        guests = self.guests()
        for guest in guests:
            guest.kill()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        psutil.wait_procs(guests, SECONDS)
        shutil.rmtree(self.directory)
