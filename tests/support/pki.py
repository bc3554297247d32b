"""Certificates for tests of TLS, made with GnuTLS's certtool."""

from pathlib import Path

from tests.support.harness import need, output

_DAYS = "expiration_days=3650\n"
_SERVER = "cn=localhost\ndns_name=localhost\nip_address=127.0.0.1\ntls_www_server\n"
_CLIENT = 'cn="client, one"\norganization=Disks\ncountry=DE\ntls_www_client\n'


class Authority:
    """A certificate authority in a new *directory*, which has signed one for "localhost"."""

    def __init__(self, directory: Path) -> None:
        need("certtool")
        directory.mkdir()
        self.directory = directory
        self._key = _make_key(directory / "ca-key.pem")
        self.certificate = directory / "ca-cert.pem"
        template = self._template(f"cn={directory.name}\nca\ncert_signing_key\ncrl_signing_key\n")
        signing = ("--load-privkey", self._key, "--template", template)
        output("certtool", "--generate-self-signed", *signing, "--outfile", self.certificate)
        self._issue(directory, "server", _SERVER)

    def client(self, name: str) -> Path:
        """Return a new folder with all that a client needs."""
        folder = self.directory.parent / name
        folder.mkdir()
        (folder / "ca-cert.pem").write_bytes(self.certificate.read_bytes())
        self._issue(folder, "client", _CLIENT)
        return folder

    def revoke(self, client: Path) -> None:
        """Say that the client's certificate counts no more."""
        output(
            *("certtool", "--generate-crl", *self._ca()),
            *("--load-certificate", client / "client-cert.pem"),
            *("--template", self._template("crl_next_update=3650\ncrl_number=1\n")),
            *("--outfile", self.directory / "ca-crl.pem"),
        )

    def _issue(self, folder: Path, role: str, template: str) -> None:
        key = _make_key(folder / f"{role}-key.pem")
        output(
            *("certtool", "--generate-certificate", *self._ca(), "--load-privkey", key),
            *("--template", self._template(template + "signing_key\nencryption_key\n")),
            *("--outfile", folder / f"{role}-cert.pem"),
        )

    def _ca(self) -> tuple[str | Path, ...]:
        return "--load-ca-certificate", self.certificate, "--load-ca-privkey", self._key

    def _template(self, text: str) -> Path:
        path = self.directory / "template"
        path.write_text(text + _DAYS)
        return path


def _make_key(path: Path) -> Path:
    output("certtool", "--generate-privkey", "--key-type=ecdsa", "--outfile", path)
    return path
