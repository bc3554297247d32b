"""The nbd plugin's ways to a server: sockets, names, TLS, and parameters that are wrong."""

import errno
import json
import os
import socket
from pathlib import Path

import psutil
import pytest

from nbdfork.plugin import (
    ConfigError,
)
from tests.support.daemon import Daemon
from tests.support.far import Far, far_nbdkit
from tests.support.harness import (
    NBDFORK,
    Server,
    eventually,
    is_alive,
    nbdfork,
    need,
    output,
    refused,
    run,
)
from tests.support.libnbd import connected
from tests.support.nbd import (
    CONTENT,
    plugin,
    reads,
)
from tests.support.pki import Authority
from tests.support.ports import free_ports

pytestmark = pytest.mark.usefixtures("needs_libnbd")


def test_by_tcp_and_by_uri(place: Path) -> None:
    with Server("-n", "file", place / "disk.img", listen=("-i", "127.0.0.1", "-p", "0")) as far:
        assert reads("hostname=127.0.0.1", f"port={far.port}")
        assert reads(far.uri)
        assert reads(f"uri={far.uri}")
    with far_nbdkit(place, "file", place / "disk.img") as unix:
        assert reads(unix.uri)


def test_a_socket_that_is_inherited(place: Path) -> None:
    need("nbdinfo")
    with far_nbdkit(place, "file", place / "disk.img") as far:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(far.path))
            fd = link.fileno()
            words = ["-U", "-", "nbd", f"socket-fd={fd}", "--run", 'nbdinfo --size "$uri"']
            assert output(*NBDFORK, *words, pass_fds=[fd]) == f"{len(CONTENT)}\n"
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(far.path))
            fd = link.fileno()
            words = ["-n", "-U", f"{place}/near", "-P", f"{place}/pid", "nbd", f"socket-fd={fd}"]
            output(*NBDFORK, *words, pass_fds=[fd])
        daemon = psutil.Process(int((place / "pid").read_text()))
        try:
            uri = f"nbd+unix:///?socket={place}/near"
            assert output("nbdinfo", "--size", uri) == f"{len(CONTENT)}\n"
        finally:
            daemon.terminate()
            eventually(lambda: not is_alive(daemon))


def test_a_server_that_is_started(place: Path) -> None:
    need("qemu-nbd", "nbdcopy")
    output("qemu-img", "convert", "-f", "raw", "-O", "qcow2", place / "disk.img", place / "qcow2")
    words = ["command=qemu-nbd", *(f"arg={word}" for word in ["-f", "qcow2", place / "qcow2"])]
    with Server("-n", "nbd", *words) as server:
        output("nbdcopy", server.uri, place / "copy")
        output("nbdcopy", server.uri, place / "copy2")  # by the same connection
        [worker] = server.workers()
        [qemu] = worker.children()
    assert (place / "copy").read_bytes() == (place / "copy2").read_bytes() == CONTENT
    eventually(lambda: not qemu.is_running())


def test_one_connection_for_each_client_or_for_all(place: Path) -> None:
    with Server("-n", "file", place / "disk.img") as far:
        for shared, expected in (("false", 2), ("true", 1)):
            with Server("-n", "nbd", far.uri, f"shared={shared}") as server:
                with connected(server.uri) as first, connected(server.uri) as second:
                    assert first.pread(512, 0) == second.pread(512, 0) == CONTENT[:512]
                    assert len(far.serving()) == expected
                    assert first.can_multi_conn() == (shared == "true")
                with connected(server.uri) as third:
                    assert third.pread(512, 0) == CONTENT[:512]
            eventually(lambda: not far.serving())


def test_names_of_exports(place: Path) -> None:
    need("nbdinfo")
    (place / "other.img").write_bytes(bytes(512))
    with Server("-n", "file", f"dir={place}") as far:
        assert reads(f"socket={far.socket}", "export=disk.img")
        assert reads(f"nbd+unix:///disk.img?socket={far.socket}")
        with refused(errno.ENOENT, "server has no export named 'none'"):
            reads(f"socket={far.socket}", "export=none")
        dynamic = [f"socket={far.socket}", "dynamic-export=true"]
        assert reads(*dynamic, name="disk.img")
        with Server("-n", "nbd", *dynamic) as server:
            shown = json.loads(output("nbdinfo", "--list", "--json", server.uri))["exports"]
            names = {export["export-name"]: export["export-size"] for export in shown}
            assert names == {"disk.img": len(CONTENT), "other.img": 512}
            done = run("nbdinfo", server.uri.replace("///", "///none"))
            assert done.returncode != 0
            assert "unknown" in done.stderr.lower() or "No such" in done.stderr


def test_the_name_of_the_default_export(place: Path) -> None:
    path = place / "far"
    with Far(path, *NBDFORK, "-f", "-e", "good", "-U", path, "memory", "1M") as far:
        assert plugin(f"socket={far.path}").default_export(False) == ""
        assert plugin(f"socket={far.path}", "dynamic-export=true").default_export(False) == "good"
    with far_nbdkit(place, "-o", "memory", "1M") as far:
        made = plugin(f"socket={far.path}", "dynamic-export=true")
        assert made.default_export(False) == ""
        assert [export.name for export in made.list_exports(False)] == [""]


# -- TLS ---------------------------------------------------------------------------------------


def test_pre_shared_keys(place: Path) -> None:
    need("psktool")
    for name in ("keys", "wrong"):
        output("psktool", "-u", "alice", "-p", place / name)
    words = ["--tls=require", f"--tls-psk={place}/keys", "file", f"{place}/disk.img"]
    with far_nbdkit(place, *words) as far:
        link = f"socket={far.path}"
        assert reads(link, f"tls-psk={place}/keys", "tls-username=alice")
        assert reads(link, "tls=require", f"tls-psk={place}/keys", "tls-username=alice")
        uri = f"nbds+unix://alice@/?socket={far.path}&tls-psk-file={place}/keys"
        assert reads(uri)
        with pytest.raises(OSError, match=f"{far.path}: "):
            reads(link, "tls=require", f"tls-psk={place}/wrong", "tls-username=alice")
        with pytest.raises(OSError, match=f"{far.path}: "):
            reads(link)


def test_certificates(place: Path) -> None:
    authority, other = Authority(place / "server"), Authority(place / "other")
    trusts, mistrusts = authority.client("trusts"), other.client("mistrusts")
    [port] = free_ports(1)
    words = ["-i", "127.0.0.1", "-p", str(port), "--tls=require"]
    words += [f"--tls-certificates={authority.directory}", "-f", "file", f"{place}/disk.img"]
    with Daemon("nbdkit", *words, where=port):
        link = "hostname=localhost", f"port={port}"
        assert reads(*link, "tls=require", f"tls-certificates={trusts}")
        assert reads(*link, f"tls-certificates={mistrusts}", "tls-verify=false")
        with pytest.raises(OSError, match="localhost port"):
            reads(*link, "tls=require", f"tls-certificates={mistrusts}")


def test_tls_of_a_server_that_has_none(place: Path) -> None:
    with far_nbdkit(place, "file", place / "disk.img") as far:
        assert reads(f"socket={far.path}", "tls=on")
        with pytest.raises(OSError, match=f"{far.path}: "):
            reads(f"socket={far.path}", "tls=require")


# -- what is wrong at the start, and what is told ----------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "say which server by one of uri=, socket=, hostname=, vsock=, socket-fd=, command="),
        ("socket=/s hostname=h", "say which server by one of"),
        ("socket=/s port=1", "port= goes with hostname= or vsock="),
        ("hostname=h port=a/b", "expected a port number or the name of a service"),
        ("vsock=2 port=http", "port=http: with vsock=, the port is a number"),
        ("vsock=x", "vsock=x: expected a whole number"),
        ("socket=/s arg=x", "arg= goes with command="),
        ("command=/none", "command=/none: there is no such program"),
        ("command=true shared=false", "command= is one connection: it needs shared=true"),
        ("socket-fd=0 shared=false", "socket-fd= is one connection"),
        ("socket-fd=99999", "socket-fd=99999: no socket was inherited"),
        ("socket=/s dynamic-export=true shared=true", "a connection for each client"),
        ("socket=/s dynamic-export=true export=x", "either export= or dynamic-export=true"),
        ("nbd://h export=x", "the export's name is a part of the URI"),
        ("http://h", "uri=http://h: expected one of nbd, nbds,"),
        ("/disk.img", "uri=/disk.img: expected one of nbd, nbds,"),
        ("socket=/s tls=maybe", "expected one of: off, on, require"),
        ("socket=/s tls-certificates=/none", "tls-certificates=/none: no such directory"),
        ("socket=/s tls-psk=/none", "tls-psk=/none: there is no such file"),
    ],
)
def test_bad_parameters(arguments: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plugin(*arguments.split())
    assert "\n" not in str(caught.value)


def test_without_libnbd(tmp_path: Path) -> None:
    (tmp_path / "nbd.py").write_text("raise ImportError\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = nbdfork("-U", "-", "nbd", "socket=/none", env=environment)
    assert done.returncode == 1
    assert "package python3-libnbd (it is not on PyPI)\n" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "name=nbd\n" in output(*NBDFORK, "--dump-plugin", "nbd", env=environment)


def test_dump_plugin_tells_of_libnbd_as_nbdkit_does() -> None:
    need("nbdkit")
    shown = [output(*command, "--dump-plugin", "nbd") for command in (["nbdkit"], NBDFORK)]
    lines = [{line for line in one.splitlines() if line.startswith("libnbd_")} for one in shown]
    assert lines[0] == lines[1] != set()
