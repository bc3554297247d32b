"""The ssh plugin's parameters: who is there, who we are, and what is wrong at the start."""

import errno
import logging
import os
from pathlib import Path

import psutil
import pytest

from nbdfork.plugin import ConfigError
from tests.support.harness import NBDFORK, Server, nbdfork, need, output, refused, run
from tests.support.noise import CONTENT
from tests.support.ssh import MIB, opened, plugin, without
from tests.support.sshd import Sshd, make_key

# -- who is there, and who we are --------------------------------------------------------------


def test_a_host_that_is_not_known(host: Sshd, tmp_path: Path) -> None:
    path = host.directory / "disk"
    (tmp_path / "empty").touch()
    way = [*without(host.way, "known-hosts"), path]
    for name in ("empty", "none"):
        with refused(errno.EACCES, "host's key is not known: .*known-hosts="):
            plugin(*way, f"known-hosts={tmp_path}/{name}").open("", True)
    with opened(*way, "verify-remote-host=false") as export:
        assert bytes(export.pread(9, 9)) == CONTENT[9:18]


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_host_with_another_key(host: Sshd, tmp_path: Path, kind: str) -> None:
    output("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "other")
    algorithm, key, _ = (tmp_path / "other.pub").read_text().split(" ", 2)
    (tmp_path / "known hosts").write_text(f"[127.0.0.1]:{host.port} {algorithm} {key}\n")
    way = [*without(host.way, "known-hosts"), f"known-hosts={tmp_path}/known hosts"]
    with refused(errno.EACCES, "not the one that is known: .*ssh-keygen -R, or .*known-hosts="):
        plugin(*way, host.directory / "disk").open("", True)
    with opened(*way, host.directory / "disk", "verify-remote-host=false") as export:
        assert export.get_size() == len(CONTENT)


def test_a_key_that_does_not_open(host: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    way = [*without(host.way, "identity"), host.directory / "disk"]
    with refused(
        errno.EACCES, r"Permission denied \(publickey\).*see user=, password= and identity="
    ):
        plugin(*way, f"identity={tmp_path}/key").open("", True)
    with opened(*way, f"identity={tmp_path}/key", f"identity={host.key}") as export:
        assert export.get_size() == len(CONTENT)


def test_a_secret_is_told_to_ssh_and_to_nobody_else(host: Sshd, tmp_path: Path) -> None:
    """Sshd cannot be given passwords without changing the system's; keys have some as well."""
    secret = "se$cret 'with \"all"
    key = tmp_path / "key"
    key.write_bytes(host.key.read_bytes())
    key.chmod(0o600)
    output("ssh-keygen", "-q", "-p", "-P", "", "-N", secret, "-f", key)
    (tmp_path / "secret").write_text(f"{secret}\n")
    way = [*without(host.way, "identity"), f"identity={key}", host.directory / "disk"]
    with opened(*way, f"password=+{tmp_path}/secret") as export:
        assert export.get_size() == len(CONTENT)
        words = [word for one in psutil.process_iter() for word in arguments_of(one)]
        assert not any(secret in word for word in words)
    with refused(errno.EACCES, "Permission denied") as _:
        plugin(*way, "password=wrong").open("", True)
    with Server("-n", "-v", "ssh", *way, f"password={secret}") as server:
        assert run("nbdinfo", server.uri).returncode == 0
        assert secret not in server.log


def arguments_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def test_settings_come_from_a_configuration(host: Sshd, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        f"Host far\nHostname 127.0.0.1\nPort {host.port}\nIdentityFile {host.key}\n"
        f"UserKnownHostsFile {host.known_hosts}\nRemoteCommand false\nRequestTTY force\n"
    )
    words: list[str | Path] = ["host=far", f"config={tmp_path}/config", host.directory / "disk"]
    with opened(*words, "compression=true") as export:
        assert bytes(export.pread(MIB, 9)) == CONTENT[9 : MIB + 9]


# -- what is wrong at the start, and what is told ----------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("path=/disk", "host=HOST is required"),
        ("host=h", "path=PATH is required"),
        ("host= /disk", "host=: a name is expected"),
        ("host=h path=", "path=: a name is expected"),
        ("host=h /disk port=0", "from 1 to 65535"),
        ("host=h /disk port=nonsense", "there is no service of this name"),
        ("host=h /disk identity=/none", "identity=/none: there is no such file"),
        ("host=h /disk config=/none", "config=/none: there is no such file"),
        ('host=h /disk known-hosts=a"b', "takes no file name with"),
        ("host=h /disk timeout=0", "timeout=0: expected more than 0 seconds"),
        ("host=h /disk create=true", "both or none of create=true and create-size=SIZE"),
        ("host=h /disk create-size=1M", "both or none"),
        ("host=h /disk create-mode=rw", "an octal number, such as 0600"),
        ("host=h /disk password=+/none", "password=: cannot read it"),
        ("host=h /disk config=/dev/stdin/x", "no such file"),
    ],
)
def test_bad_parameters(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plugin(*arguments.split(" "))
    assert "\n" not in str(caught.value)


def test_a_configuration_that_ssh_refuses(tmp_path: Path) -> None:
    need("ssh")
    (tmp_path / "config").write_text("Nonsense yes\n")
    with pytest.raises(
        ConfigError, match=r"ssh\(1\) refuses .* Bad configuration option: nonsense"
    ):
        plugin("host=h", "/disk", f"config={tmp_path}/config")


def test_a_port_by_its_name(host: Sshd) -> None:
    with refused(errno.ECONNREFUSED, "127.0.0.1:/disk: .*[Cc]onnect"):
        plugin("host=127.0.0.1", "/disk", "port=tcpmux", "config=").open("", True)


def test_without_ssh(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path)}
    done = nbdfork("-U", "-", "ssh", "host=h", "/disk", env=environment)
    assert done.returncode == 1
    assert done.stderr == "nbdfork: error: the ssh plugin needs ssh(1): install openssh-client\n"
    assert "name=ssh\n" in output(*NBDFORK, "--dump-plugin", "ssh", env=environment)


def test_dump_plugin_tells_the_version() -> None:
    need("ssh")
    assert "\nssh_version=OpenSSH_" in output(*NBDFORK, "--dump-plugin", "ssh")


def test_what_ssh_does_is_logged_on_demand(host: Sshd, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = host.directory / "disk"
    plugin(*host.way, path).open("", True).close()
    assert "Authenticated to" not in caplog.text
    plugin(*host.way, path, debug="log").open("", True).close()
    assert "ssh: Authenticated to 127.0.0.1" in caplog.text
