"""A real object store of its own for tests: Ceph with its gateway that speaks S3.

One monitor and one object store daemon, whose objects are in its memory, and the gateway, on ports
of the loopback address that are free.  The gateway can be killed and started again.  All files
are in a temporary directory.
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
from tests.support.noise import CONTENT
from tests.support.pki import Authority
from tests.support.ports import free_ports

ACCESS_KEY = "AKTEST"
SECRET_KEY = "SK/test+test"
BUCKET = "disks"
STRANGER = ("AKOTHER", "SKOTHER")
"""The keys of a user to whom nothing belongs."""

CONFIG = """
[global]
fsid = {fsid}
mon_host = {monitors}
public_network = 127.0.0.0/8
cluster_network = 127.0.0.0/8
keyring = {directory}/keyring
mon_data = {directory}/mon
osd_data = {directory}/osd
rgw_data = {directory}/rgw
log_file = {directory}/$name.log
crash_dir = {directory}
admin_socket =
pid_file =
run_dir = {directory}
ms_bind_ipv6 = false
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
osd_memory_target = 939524096
memstore_device_bytes = 1073741824
mon_allow_pool_size_one = true
mon_data_avail_crit = 1
mon_data_avail_warn = 1
paxos_propose_interval = 0.05
"""


class S3Server:
    """Ceph in a temporary directory; a context manager, which stops it.

    Its BUCKET has objects of noise.CONTENT, "disk" and "dir/ä disk+1", and one that is "empty".
    """

    def __init__(self) -> None:
        need("ceph-mon", "ceph-osd", "ceph", "radosgw", "radosgw-admin")
        self.directory = Path(tempfile.mkdtemp(prefix="nbdfork-s3"))
        self._monitor_port, self.port, self.tls_port = free_ports(3)
        self._conf = self.directory / "ceph.conf"
        self._monitor = self._daemon("ceph-mon", "-f", "-i", "a", where=self._monitor_port)
        self._objects = self._daemon("ceph-osd", "-f", "-i", "0")
        pki = self.directory / "pki"
        self.ca = Authority(pki).certificate
        certificates = f"ssl_certificate={pki}/server-cert.pem ssl_private_key={pki}/server-key.pem"
        self.gateway = self._daemon(
            "radosgw",
            *("-f", "-n", "client.admin", "--rgw-frontends"),
            f"beast endpoint=127.0.0.1:{self.port} ssl_endpoint=127.0.0.1:{self.tls_port}"
            f" {certificates} tcp_nodelay=1",
            where=self.port,
        )

    @property
    def url(self) -> str:
        """Where it is, by http."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        """Where it is, by https, for those who trust `ca`."""
        return f"https://localhost:{self.tls_port}"

    def client(self) -> Any:
        """Return a client of botocore for the gateway."""
        import botocore.session
        from botocore.config import Config

        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}),
        )

    # -- Ceph ---------------------------------------------------------------------------

    def _daemon(self, program: str, *arguments: str, where: int | None = None) -> Daemon:
        words = (program, "-c", str(self._conf), *arguments)
        return Daemon(*words, where=where, directory=self.directory, cwd=self.directory)

    def _run(self, program: str, *arguments: str) -> str:
        return output(program, "-c", self._conf, *arguments, cwd=self.directory)

    def _write_files(self) -> str:
        """Write the configuration and the keys, and return the monitor's addresses."""
        address = f"127.0.0.1:{self._monitor_port}"
        monitors = f"[v2:{address}/0]"
        self._conf.write_text(
            CONFIG.format(fsid=uuid.uuid4(), monitors=monitors, directory=self.directory)
        )
        everything = 'caps mon = "allow *"\ncaps osd = "allow *"\ncaps mgr = "allow *"\n'
        (self.directory / "keyring").write_text(
            f"[mon.]\nkey = {_key()}\n{everything}[client.admin]\nkey = {_key()}\n{everything}"
        )
        for name in ("mon", "osd", "rgw"):
            (self.directory / name).mkdir()
        return monitors

    def _start_cluster(self) -> None:
        monitors = self._write_files()
        words = ["--create", "--clobber", "--addv", "a", monitors, "monmap"]
        self._run("monmaptool", *words)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap")
        self._monitor.start()
        identity = str(uuid.uuid4())
        self._run("ceph", "osd", "new", identity)
        caps = ["mon", "allow profile osd", "osd", "allow *"]
        key = self._run("ceph", "auth", "get-or-create", "osd.0", *caps)
        with (self.directory / "keyring").open("a") as keyring:
            keyring.write(key)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._objects.start()
        eventually(lambda: "1 up" in self._run("ceph", "osd", "stat"))

    def _add_users(self) -> None:
        for name, (access, secret) in {
            "test": (ACCESS_KEY, SECRET_KEY),
            "stranger": STRANGER,
        }.items():
            user = [f"--uid={name}", f"--display-name={name}"]
            keys = [f"--access-key={access}", f"--secret-key={secret}"]
            self._run("radosgw-admin", "-n", "client.admin", "user", "create", *user, *keys)

    def _add_objects(self) -> None:
        client = self.client()
        client.create_bucket(Bucket=BUCKET)
        for key, content in {"disk": CONTENT, "dir/ä disk+1": CONTENT, "empty": b""}.items():
            client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def __enter__(self) -> "S3Server":
        try:
            self._start_cluster()
            self.gateway.start()
            self._add_users()
            self._add_objects()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for daemon in (self.gateway, self._objects, self._monitor):
            if daemon.is_running:
                daemon.kill()  # it has nothing to save
        shutil.rmtree(self.directory, ignore_errors=True)


def _key() -> str:
    """Return a new key of cephx: its type, when it was made, how long it is, and the key."""
    now = int(time.time())
    head = (1).to_bytes(2, "little") + now.to_bytes(4, "little") + bytes(4)
    return base64.b64encode(head + (16).to_bytes(2, "little") + secrets.token_bytes(16)).decode()
