"""A real Ceph cluster of its own for tests.

One monitor, and some daemons that keep the objects in their memory, on ports of the loopback
address that are free.  A daemon can be killed and started again; what was in its memory is lost
with it, as if its disk had failed.  All files are in a temporary directory.
"""

import base64
import secrets
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon
from tests.support.harness import eventually, need, output
from tests.support.ports import free_ports

CONFIG = """
[global]
fsid = {fsid}
mon_host = {monitors}
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
keyring = {directory}/keyring
mon_data = {directory}/mon
osd_data = {directory}/osd$id
rgw_data = {directory}/rgw
log_file = {directory}/$name.log
crash_dir = {directory}
admin_socket =
pid_file =
run_dir = {directory}
ms_bind_ipv6 = false
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = {copies}
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
osd_memory_target = 939524096
osd_client_watch_timeout = 3
memstore_device_bytes = 1073741824
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_data_avail_crit = 1
mon_data_avail_warn = 1
paxos_propose_interval = 0.05
"""


class Ceph:
    """A cluster in a temporary directory, which keeps *copies* of each object, each in a daemon.

    A context manager, which stops it.
    """

    def __init__(self, copies: int = 1) -> None:
        need("ceph-mon", "ceph-osd", "ceph", "monmaptool")
        self.directory = Path(tempfile.mkdtemp(prefix="nbdfork-ceph"))
        self.conf = self.directory / "ceph.conf"
        (port,) = free_ports(1)
        self.address = f"[v2:127.0.0.1:{port}/0]"
        self.monitor = self.daemon("ceph-mon", "-f", "-i", "a", where=port)
        self.stores = [self.daemon("ceph-osd", "-f", "-i", str(number)) for number in range(copies)]

    def daemon(self, program: str, *arguments: str, where: int | None = None) -> Daemon:
        """Return one of Ceph's daemons, which is not started."""
        words = (program, "-c", str(self.conf), *arguments)
        return Daemon(*words, where=where, directory=self.directory, cwd=self.directory)

    def run(self, program: str, *arguments: str, **options: Any) -> str:
        """Run one of Ceph's commands, and return what it printed."""
        return output(program, "-c", self.conf, *arguments, cwd=self.directory, **options)

    def add_key(self, user: str, *caps: str) -> None:
        """Make a key for *user* that may do what *caps* say, and add it to the keyring."""
        key = self.run("ceph", "auth", "get-or-create", user, *caps)
        with (self.directory / "keyring").open("a") as keyring:
            keyring.write(key)

    def _write_files(self) -> None:
        copies = len(self.stores)
        self.conf.write_text(
            CONFIG.format(
                fsid=uuid.uuid4(),
                monitors=self.address,
                directory=self.directory,
                copies=copies,
            )
        )
        everything = 'caps mon = "allow *"\ncaps osd = "allow *"\ncaps mgr = "allow *"\n'
        (self.directory / "keyring").write_text(
            f"[mon.]\nkey = {_key()}\n{everything}[client.admin]\nkey = {_key()}\n{everything}"
        )
        for name in ("mon", "rgw", *(f"osd{number}" for number in range(copies))):
            (self.directory / name).mkdir()

    def _start(self) -> None:
        self._write_files()
        self.run("monmaptool", "--create", "--clobber", "--addv", "a", self.address, "monmap")
        self.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap")
        self.monitor.start()
        for number, store in enumerate(self.stores):
            identity = str(uuid.uuid4())
            self.run("ceph", "osd", "new", identity, str(number))
            self.add_key(f"osd.{number}", "mon", "allow profile osd", "osd", "allow *")
            self.run("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", identity)
            store.start()
        self.wait_for_stores()

    def add_image(self, name: str, size: str = "64M", *options: str) -> str:
        """Make an image of *size* in the pool "rbd", which is made too, and return its name."""
        if "rbd" not in self.run("ceph", "osd", "pool", "ls").split():
            self.run("ceph", "osd", "pool", "create", "rbd", "8", "8")
            self.run("rbd", "pool", "init", "rbd")
        self.run("rbd", "create", "--size", size, *options, f"rbd/{name}")
        return f"rbd/{name}"

    def wait_for_stores(self) -> None:
        """Return when all daemons that keep objects serve."""
        eventually(lambda: f"{len(self.stores)} up" in self.run("ceph", "osd", "stat"))

    def __enter__(self) -> "Ceph":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for daemon in (*self.stores, self.monitor):
            if daemon.is_running:
                daemon.kill()  # it has nothing to save
        shutil.rmtree(self.directory, ignore_errors=True)


def _key() -> str:
    """Return a new key of cephx: its type, when it was made, how long it is, and the key."""
    now = int(time.time())
    head = (1).to_bytes(2, "little") + now.to_bytes(4, "little") + bytes(4)
    return base64.b64encode(head + (16).to_bytes(2, "little") + secrets.token_bytes(16)).decode()
