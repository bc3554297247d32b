"""Options that command lines for nbdkit 1.48 have: each does what it says, or is refused."""

import os
import re
import socket
from pathlib import Path

import psutil
import pytest

from tests.support.harness import NBDFORK, Server, eventually, nbdfork, need, output, run

# What nbdkit 1.48.1 prints for --short-options and --long-options.
SHORT = "-4 -6 -D -e -f -g -i -n -o -p -P -r -s -t -u -U -v -V"
LONG = """
--ipv4-only --ipv6-only --debug --dump-config --dump-plugin --exit-with-parent --export
--export-name --exportname --filter --foreground --no-fork --group --help --ip-addr --ipaddr
--keepalive --keep-alive --log --long-options --mask-handshake --name --new-style --newstyle --no-mc
--no-meta-contexts --no-sr --no-structured-replies --old-style --oldstyle --pid-file --pidfile
--print-uri --print-url --port --read-only --readonly --run --selinux-label --short-options
--show-uri --show-url --single --stdin --swap --threads --timeout --time-out --tls
--tls-certificates --tls-priority --tls-psk --tls-verify-peer --unix --user --verbose --version
--vsock
"""

# The keys that nbdkit 1.48.1 prints for --dump-config.
CONFIGURATION = """
bindir exit_with_parent filterdir host_cpu host_os libdir mandir max_api_version name plugindir
root_tls_certificates_dir run_default_socket sbindir selinux soext sysconfdir timeout_option tls
version version_major version_minor vsock_option zstd
"""


def test_every_option_of_nbdkit_is_known() -> None:
    assert set(SHORT.split()) <= set(output(*NBDFORK, "--short-options").split())
    assert set(LONG.split()) <= set(output(*NBDFORK, "--long-options").split())


def test_every_key_of_nbdkits_configuration_is_there() -> None:
    pairs = (line.split("=", 1) for line in output(*NBDFORK, "--dump-config").splitlines())
    found = dict(pairs)
    assert set(CONFIGURATION.split()) <= found.keys()
    assert (found["soext"], found["max_api_version"]) == ("so", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "--dump-plugin", "null"], "-s and --dump-plugin cannot go together"),
        (["-s", "sh", "-"], "with -s the client is on standard input"),
        (["--tls-priority", "SECURE256", "--tls-psk", "KEYS", "null"], "'SECURE256' is for GnuTLS"),
        (["--tls-priority", "NORMAL:-VERS-ALL", "--tls-psk", "KEYS", "null"], "no version of TLS"),
        (["-D", "nbdkit.tls.log=9", "null"], "OpenSSL, by which the server speaks, keeps no such"),
        (["-p", "70000", "null"], "a TCP port is at most 65535"),
        (["--vsock", "-p", "nbd", "null"], "with --vsock a port is a number"),
        (["--timeout", "1min", "null"], "expected a number of seconds"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "KEYS").write_text(f"alice:{'ab' * 32}\n")
    done = run(*NBDFORK, "-f", *arguments, cwd=tmp_path, stdin=-3)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_label_needs_selinux(tmp_path: Path) -> None:
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("SELinux is enabled here")
    done = nbdfork("-U", tmp_path / "s", "--selinux-label", "a:b:c:s0", "null")
    assert (done.returncode, (tmp_path / "s").exists()) == (1, False)
    assert "--selinux-label a:b:c:s0: SELinux does not know it, or is not enabled" in done.stderr


def test_the_server_listens_for_virtual_machines() -> None:
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError:
        pytest.skip("this kernel has no vsock")
    uri = output(*NBDFORK, "--vsock", "-p", "0", "null", "--run", 'echo "$uri"')
    assert re.fullmatch(r"nbd\+vsock://1:\d+\n", uri)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may lock so much memory")
def test_nothing_of_the_server_is_swapped_out() -> None:
    def locked(process: psutil.Process) -> int:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.findall(r"VmLck:\s+(\d+)", status)[0])

    with Server("--swap", "null", "1M") as server:
        assert locked(psutil.Process(server.process.pid)) > 1000
        (worker, *_) = eventually(server.workers)
        eventually(lambda: locked(worker) > 1000)


def test_the_environment_is_printed_on_demand() -> None:
    command = ["-f", "-v", "-U", "-", "null", "--run", "true"]
    for words, count in ((["-D", "nbdkit.environ=1"], 1), ([], 0)):
        done = nbdfork(*words, *command, env={**os.environ, "COLOUR": "blue"})
        assert done.stderr.count("environ: COLOUR=blue") == count


def test_keys_of_tls_are_logged_on_demand(tmp_path: Path) -> None:
    need("nbdinfo")
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.write_text(f"alice:{'ab' * 32}\n")
    command = ["-U", "-", "--tls=require", "--tls-psk", str(keys), "--tls-certificates", "/nowhere"]
    show = 'nbdinfo --size "${uri%%://*}://alice@/?${uri#*\\?}"'
    environment = {**os.environ, "SSLKEYLOGFILE": str(log)}
    done = nbdfork(*command, "--log=default", "null", "1M", "--run", show, env=environment)
    assert done.stdout.strip() == "1048576", done.stderr
    assert "SECRET" in log.read_text() or "CLIENT_RANDOM" in log.read_text()
    assert "clients need a key; those with a certificate do not get in" in done.stderr
