"""A real object store of its own for tests: Ceph with its gateway that speaks S3.

The gateway listens on ports of the loopback address that are free; it can be killed and started
again.
"""

from typing import Any

from tests.support.ceph import Ceph
from tests.support.harness import need
from tests.support.noise import CONTENT
from tests.support.pki import Authority
from tests.support.ports import free_ports

ACCESS_KEY = "AKTEST"
SECRET_KEY = "SK/test+test"
BUCKET = "disks"
STRANGER = ("AKOTHER", "SKOTHER")
"""The keys of a user to whom nothing belongs."""


class S3Server:
    """Ceph in a temporary directory; a context manager, which stops it.

    Its BUCKET has objects of noise.CONTENT, "disk" and "dir/ä disk+1", and one that is "empty".
    """

    def __init__(self) -> None:
        need("radosgw", "radosgw-admin")
        self._ceph = Ceph()
        self.directory = self._ceph.directory
        self.port, self.tls_port = free_ports(2)
        pki = self.directory / "pki"
        self.ca = Authority(pki).certificate
        certificates = f"ssl_certificate={pki}/server-cert.pem ssl_private_key={pki}/server-key.pem"
        self.gateway = self._ceph.daemon(
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

    def _add_users(self) -> None:
        for name, (access, secret) in {
            "test": (ACCESS_KEY, SECRET_KEY),
            "stranger": STRANGER,
        }.items():
            user = [f"--uid={name}", f"--display-name={name}"]
            keys = [f"--access-key={access}", f"--secret-key={secret}"]
            self._ceph.run("radosgw-admin", "-n", "client.admin", "user", "create", *user, *keys)

    def _add_objects(self) -> None:
        client = self.client()
        client.create_bucket(Bucket=BUCKET)
        for key, content in {"disk": CONTENT, "dir/ä disk+1": CONTENT, "empty": b""}.items():
            client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def __enter__(self) -> "S3Server":
        self._ceph.__enter__()
        try:
            self.gateway.start()
            self._add_users()
            self._add_objects()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self.gateway.is_running:
            self.gateway.kill()  # it has nothing to save
        self._ceph.__exit__()
