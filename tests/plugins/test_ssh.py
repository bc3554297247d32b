"""The ssh plugin against a real sshd, side by side with nbdkit's, and its SFTP against a server
that misbehaves as no real one would.
"""

import errno
import json
import logging
import os
import signal
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from nbdfork.plugins._link.reconnecting import LinkLost
from nbdfork.plugins.ssh.sftp import Sftp

from nbdfork.plugin import ConfigError, Export, PartialError, Support
from tests.support import plugins
from tests.support.harness import NBDFORK, Server, eventually, nbdfork, need, output, refused, run
from tests.support.libnbd import connected, fails
from tests.support.sshd import Sshd, make_key

MIB = 1 << 20
CONTENT = os.urandom(3 * MIB + 512)


plugin = partial(plugins.plugin, "ssh")
opened = partial(plugins.opening, "ssh", read_only=False)


@pytest.fixture(scope="module")
def host() -> Iterator[Sshd]:
    with Sshd() as host:
        host.file("disk", CONTENT)
        yield host


def write(export: Export, data: bytes, offset: int) -> None:
    export.pwrite(memoryview(data), offset, 0)


# -- the same as nbdkit -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["-r"]], ids=["writable", "read-only"])
def test_the_same_bytes_and_facts_as_nbdkit(host: Sshd, options: list[str], tmp_path: Path) -> None:
    need("nbdkit", "nbdcopy", "nbdinfo")
    seen = {}
    for name, command in {"nbdkit": ["nbdkit"], "nbdfork": [*NBDFORK, "-n"]}.items():
        script = f'nbdcopy "$uri" {tmp_path}/{name} && nbdinfo --json "$uri"'
        words = [*options, "-U", "-", "ssh", *host.way, f"{host.directory}/disk", "--run", script]
        [export] = json.loads(output(*command, *words))["exports"]
        seen[name] = {
            key: value
            for key, value in export.items()
            if key.startswith(("can_", "is_", "export-size")) and key not in OURS
        }
    assert (tmp_path / "nbdfork").read_bytes() == CONTENT
    assert (tmp_path / "nbdkit").read_bytes() == CONTENT
    if not options:
        seen["nbdkit"]["can_multi_conn"] = False  # see the page for why it is not offered
    assert seen["nbdfork"] == seen["nbdkit"]
    assert seen["nbdfork"]["can_flush"]


OURS = {"can_df", "can_fast_zero", "can_cache", "export-size-str"}
"""What each server decides for plugins that do not say anything of it."""


def test_the_same_writes_as_nbdkit(host: Sshd) -> None:
    need("nbdkit", "qemu-io")
    writes = ["write -P 1 0 4096", "write -P 2 1000 70000", "write -z 5000 99999", "write -f 0 1M"]
    words = [word for write in [*writes, "flush"] for word in ("-c", write)]
    found = []
    for name, command in {"nbdkit": ["nbdkit"], "nbdfork": NBDFORK}.items():
        path = host.file(name, CONTENT)
        script = f"qemu-io -f raw $nbd {' '.join(map(repr, words))}"
        output(*command, "-U", "-", "ssh", *host.way, f"path={path}", "--run", script)
        found.append(path.read_bytes())
    assert found[0] == found[1] != CONTENT


@pytest.mark.parametrize("name", ["none", ""], ids=["missing", "directory"])
def test_nothing_to_serve_as_with_nbdkit(host: Sshd, name: str) -> None:
    need("nbdkit", "nbdinfo")
    words = ["-U", "-", "ssh", *host.way, f"{host.directory}/{name}", "--run", 'nbdinfo "$uri"']
    for command in (["nbdkit"], [*NBDFORK, "-n"]):
        assert run(*command, *words).returncode != 0, command


# -- reading and writing ----------------------------------------------------------------------


def test_any_range(host: Sshd) -> None:
    size = len(CONTENT)
    with opened(*host.way, host.directory / "disk") as export:
        assert export.get_size() == size
        for offset, count in [(0, 1), (511, 3), (1, 2 * MIB), (0, size), (size - 1, 1)]:
            assert bytes(export.pread(count, offset)) == CONTENT[offset : offset + count]


def test_a_path_is_relative_to_the_home_directory(host: Sshd) -> None:
    home = Path(output("sh", "-c", 'eval echo "~$(id -un)"').strip())
    relative = os.path.relpath(host.directory / "disk", os.path.realpath(home))
    with opened(*host.way, f"path={relative}") as export:
        assert bytes(export.pread(9, 9)) == CONTENT[9:18]


def test_what_many_threads_write_and_read_by_one_connection(host: Sshd) -> None:
    before = len(host.sessions())
    path = host.file("threads", bytes(4 * MIB))
    assert plugin(*host.way, path).waits()
    sizes = [1, 511, 4096, 100_000]
    with opened(*host.way, path) as export:
        one = len(host.sessions()) - before

        def exchange(number: int) -> None:
            data = os.urandom(sizes[number % 4])
            write(export, data, number * 128 * 1024)
            assert bytes(export.pread(len(data), number * 128 * 1024)) == data

        with ThreadPoolExecutor(16) as pool:
            for _ in range(3):
                list(pool.map(exchange, range(32)))
        assert len(host.sessions()) - before == one


def test_through_a_server(host: Sshd) -> None:
    need("nbdcopy")
    source, target = host.file("source", CONTENT), host.file("target", bytes(len(CONTENT)))
    with Server("-n", "-r", "ssh", *host.way, source) as first:
        with Server("-n", "ssh", *host.way, target) as second:
            copy = "--requests=16", "--connections=2", "--request-size=65536", "--flush"
            output("nbdcopy", *copy, first.uri, second.uri)
    assert target.read_bytes() == CONTENT


def test_read_only(host: Sshd) -> None:
    with opened(*host.way, host.directory / "disk", read_only=True) as export:
        assert not export.can_write()
        assert export.can_multi_conn()


def test_a_server_that_lets_nobody_write_nor_flush() -> None:
    with Sshd("internal-sftp -R") as host:
        path = host.file("disk", CONTENT)
        with opened(*host.way, path) as export:
            assert not export.can_write()
            assert bytes(export.pread(9, 9)) == CONTENT[9:18]
    with Sshd("internal-sftp -P fsync") as host:
        path = host.file("disk", CONTENT)
        with opened(*host.way, path) as export:
            assert (export.can_write(), export.can_flush()) == (True, False)
            assert export.can_fua() is Support.NONE


def test_a_file_that_shrinks(host: Sshd) -> None:
    path = host.file("shrinking", CONTENT)
    with opened(*host.way, path) as export:
        os.truncate(path, MIB)
        with refused(errno.EIO, "shrinking: the file has become shorter") as _:
            export.pread(4096, MIB - 512)
        with pytest.raises(PartialError) as caught:
            export.pread(2 * MIB, 0)
        assert caught.value.done == MIB


def test_what_cannot_be_served(host: Sshd) -> None:
    with refused(errno.ENOENT, "/none: the server says: No such file"):
        plugin(*host.way, host.directory / "none").open("", False)
    with refused(errno.EISDIR, "this is a directory"):
        plugin(*host.way, host.directory).open("", True)


# -- making the file --------------------------------------------------------------------------


def test_a_file_is_made_once(host: Sshd) -> None:
    path = host.file("made", b"old" * 1000)
    path.chmod(0o600)
    path.unlink()
    words: list[str | Path] = [*host.way, path, "create=true", "create-size=1M", "create-mode=0640"]
    with Server("-n", "ssh", *words) as server:
        assert not path.exists()
        for expected in (bytes(3), b"new"):
            with connected(server.uri) as client:
                assert client.get_size() == MIB
                assert client.pread(3, 1000) == expected
                client.pwrite(b"new", 1000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_is_replaced(host: Sshd) -> None:
    path = host.file("replaced", CONTENT)
    with opened(*host.way, path, "create=true", "create-size=512") as export:
        assert export.get_size() == 512
    assert path.read_bytes() == bytes(512)


def test_a_file_that_cannot_be_made(host: Sshd) -> None:
    words: list[str | Path] = [
        *host.way,
        host.directory / "none/made",
        "create=true",
        "create-size=512",
    ]
    made = plugin(*words)
    for _ in range(2):
        with refused(errno.ENOENT, "No such file"):
            made.open("", False)
    (host.directory / "none").mkdir()
    made.open("", False).close()
    assert (host.directory / "none/made").stat().st_size == 512


# -- who is there, and who we are -------------------------------------------------------------


def without(way: list[str], key: str) -> list[str | Path]:
    return [word for word in way if not word.startswith(f"{key}=")]


def test_a_host_that_is_not_known(host: Sshd, tmp_path: Path) -> None:
    path = host.directory / "disk"
    (tmp_path / "empty").touch()
    way = [*without(host.way, "known-hosts"), path]
    for name in ("empty", "none"):
        with refused(errno.EIO, "host's key is not known: .*known-hosts="):
            plugin(*way, f"known-hosts={tmp_path}/{name}").open("", True)
    with opened(*way, "verify-remote-host=false") as export:
        assert bytes(export.pread(9, 9)) == CONTENT[9:18]


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_host_with_another_key(host: Sshd, tmp_path: Path, kind: str) -> None:
    output("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", tmp_path / "other")
    algorithm, key, _ = (tmp_path / "other.pub").read_text().split(" ", 2)
    (tmp_path / "known hosts").write_text(f"[127.0.0.1]:{host.port} {algorithm} {key}\n")
    way = [*without(host.way, "known-hosts"), f"known-hosts={tmp_path}/known hosts"]
    with refused(errno.EIO, "not the one that is known: .*ssh-keygen -R, or .*known-hosts="):
        plugin(*way, host.directory / "disk").open("", True)
    with opened(*way, host.directory / "disk", "verify-remote-host=false") as export:
        assert export.get_size() == len(CONTENT)


def test_a_key_that_does_not_open(host: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    way = [*without(host.way, "identity"), host.directory / "disk"]
    with refused(errno.EIO, r"Permission denied \(publickey\).*see user=, password= and identity="):
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
    with refused(errno.EIO, "Permission denied") as _:
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


# -- the far end goes away, and comes back ----------------------------------------------------


def test_a_connection_that_is_lost_is_made_again(host: Sshd) -> None:
    path = host.file("lost", bytes(MIB))
    with opened(*host.way, path) as export:
        host.end_sessions()
        assert bytes(export.pread(4096, 0)) == bytes(4096)
        host.end_sessions()
        write(export, b"data", 0)
        export.flush()
        assert path.read_bytes()[:4] == b"data"
        host.end_sessions()
        export.flush()  # nothing was left to flush


def test_writes_that_may_be_forgotten(host: Sshd) -> None:
    path = host.file("forgotten", bytes(MIB))
    with opened(*host.way, path) as export:
        write(export, b"data", 0)
        host.end_sessions()
        write(export, b"more", 4)
        with refused(errno.EIO, "lost after writes that had not been flushed"):
            export.flush()
        export.flush()
    assert path.read_bytes()[:8] == b"datamore"


def test_who_writes_may_not_use_many_connections(host: Sshd) -> None:
    path = host.file("written", bytes(MIB))
    with opened(*host.way, path) as export, opened(*host.way, path) as other:
        assert not export.can_multi_conn()  # for a flush does not cover what others have written:
        write(other, b"data", 0)
        host.end_sessions()
        export.flush()
        with refused(errno.EIO, "lost after writes that had not been flushed"):
            other.flush()
        export.flush()


def test_requests_under_way_are_made_again(host: Sshd) -> None:
    path = host.file("under way", CONTENT)
    with opened(*host.way, path) as export:
        offsets = [n * 4096 for n in range(256)] * 8
        read = threading.Semaphore(0)

        def disturb() -> None:
            """End the sessions each time that the disk has been read once more, but the last."""
            for number in range(1, len(offsets) - 255):
                read.acquire()
                if number % 256 == 0:
                    host.end_sessions()

        def pread(offset: int) -> bytes:
            try:
                return bytes(export.pread(4096, offset))
            finally:
                read.release()

        disturber = threading.Thread(target=disturb)
        disturber.start()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(pread, offsets))
        disturber.join()
        assert found == [CONTENT[at : at + 4096] for at in offsets]


def test_sshd_dies_and_comes_back() -> None:
    with Sshd() as host:
        path = host.file("disk", CONTENT)
        with Server("-n", "ssh", *host.way, path) as server:
            with connected(server.uri) as client:
                assert client.pread(512, 0) == CONTENT[:512]
                host.stop()
                with fails("EIO"):
                    client.pread(512, 0)
                host.start()
                assert client.pread(512, MIB) == CONTENT[MIB : MIB + 512]
            log = server.log
    assert "127.0.0.1:" in log
    assert "Connection refused" in log


def test_a_file_that_has_changed_when_it_is_opened_again(host: Sshd) -> None:
    path = host.file("changing", CONTENT)
    with opened(*host.way, path) as export:
        os.truncate(path, MIB)
        host.end_sessions()
        with refused(errno.EIO, f"its size was {len(CONTENT)} bytes and is {MIB}"):
            export.pread(512, 0)


def test_a_host_that_falls_silent(host: Sshd) -> None:
    with opened(*host.way, host.directory / "disk", "timeout=2") as export:
        for session in host.sessions():
            session.send_signal(signal.SIGSTOP)
        assert bytes(export.pread(9, 9)) == CONTENT[9:18]
        host.end_sessions()


def test_no_ssh_is_left_behind(host: Sshd) -> None:
    with opened(*host.way, host.directory / "disk"):
        assert [one.name() for one in psutil.Process().children()].count("ssh") == 1
    assert [one.name() for one in psutil.Process().children()].count("ssh") == 0
    with Server("-n", "ssh", *host.way, host.directory / "disk") as server:
        with connected(server.uri):
            [worker] = server.serving()
            [ssh] = worker.children()
            worker.kill()
            eventually(lambda: not ssh.is_running())


# -- SFTP servers that misbehave --------------------------------------------------------------

Reply = Callable[[int, bytes], bytes | None]
"""What a server answers to a packet of a type, with what is after the type; at None it ends."""


def packet(kind: int, number: bytes, *parts: bytes | int) -> bytes:
    body = b"".join(struct.pack(">I", p) if isinstance(p, int) else p for p in parts)
    return struct.pack(">IB", 1 + len(number) + len(body), kind) + number + body


def data(number: bytes, content: bytes) -> bytes:
    return packet(103, number, len(content), content)


def status(number: bytes, code: int, text: bytes = b"") -> bytes:
    return packet(101, number, code, len(text), text, 0)


@contextmanager
def conversation(reply: Reply) -> Iterator[Sftp]:
    """Talk to a server that answers by *reply*."""
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()

    def serve() -> None:
        with open(theirs_in, "rb") as requests, open(theirs_out, "wb", buffering=0) as replies:
            while head := requests.read(5):
                length, kind = struct.unpack(">IB", head)
                answer = reply(kind, requests.read(length - 1))
                if answer is None:
                    return
                replies.write(answer)

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield Sftp(ours_out, ours_in)
    finally:
        os.close(ours_out)
        server.join()
        os.close(ours_in)


def read(sftp: Sftp, count: int, offset: int = 0) -> bytes:
    target = bytearray(count)
    return bytes(target[: sftp.read(b"h", memoryview(target), offset)])


def test_reads_that_bring_less_than_was_asked_for() -> None:
    def reply(kind: int, body: bytes) -> bytes:
        offset, count = struct.unpack(">QI", body[-12:])
        part = CONTENT[offset : offset + min(count, 1000)]
        return data(body[:4], part) if part else status(body[:4], 1)

    with conversation(reply) as sftp:
        assert read(sftp, 100_000, 7) == CONTENT[7:100_007]
        assert read(sftp, 5000, len(CONTENT) - 3000) == CONTENT[-3000:]
        assert read(sftp, 10, len(CONTENT)) == b""


def test_replies_in_another_order() -> None:
    waiting: list[bytes] = []

    def reply(kind: int, body: bytes) -> bytes:
        offset, count = struct.unpack(">QI", body[-12:])
        waiting.insert(0, data(body[:4], CONTENT[offset : offset + count]))
        return b"".join(waiting) if len(waiting) == 4 else b""

    with conversation(reply) as sftp:
        assert read(sftp, 128 * 1024) == CONTENT[: 128 * 1024]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda number: None, "the connection is lost"),
        (lambda number: b"Welcome to this host!", "a packet of 1466264675 bytes .* not SFTP"),
        (lambda number: struct.pack(">IB", 0, 103) + number, "a packet of 0 bytes"),
        (lambda number: data(b"\xff\xff\xff\xfe", b"x"), "a request that was never made"),
        (lambda number: data(number, b"x" * 11), "11 bytes came for a request"),
        (lambda number: data(number, b""), "0 bytes came for a request"),
        (lambda number: packet(103, number, 10, b"short"), "10 bytes came for a request"),
        (lambda number: packet(103, number), "buffer"),
    ],
    ids=["end", "text", "empty", "number", "more", "none", "short", "cut-off"],
)
def test_what_is_not_sftp(answer: Callable[[bytes], bytes | None], message: str) -> None:
    with conversation(lambda kind, body: answer(body[:4])) as sftp:
        with pytest.raises(LinkLost, match=message):
            read(sftp, 10)
        assert sftp.lost is not None
        with pytest.raises(LinkLost):  # at once, for good
            read(sftp, 10)


@pytest.mark.parametrize(
    ("answer", "number", "message"),
    [
        (lambda number: status(number, 2, b"gone"), errno.ENOENT, "the server says: gone"),
        (lambda number: status(number, 3), errno.EACCES, "the server says: status 3"),
        (lambda number: status(number, 4, b"full"), errno.EIO, "the server says: full"),
        (lambda number: status(number, 8, b"no"), errno.EOPNOTSUPP, "the server says: no"),
        (lambda number: status(number, 0), errno.EIO, "unexpected type 101"),
        (lambda number: packet(102, number, 1, b"h"), errno.EIO, "unexpected type 102"),
        (lambda number: packet(101, number), errno.EIO, "unexpected type 101"),
    ],
    ids=["2", "3", "4", "8", "0", "handle", "cut-off"],
)
def test_what_a_server_refuses(answer: Callable[[bytes], bytes], number: int, message: str) -> None:
    with conversation(lambda kind, body: answer(body[:4])) as sftp:
        for _ in range(2):
            with refused(number, message):
                read(sftp, 10)


def test_a_server_that_does_not_tell_the_size() -> None:
    with conversation(lambda kind, body: packet(105, body[:4], 0)) as sftp:
        assert sftp.attributes(b"h") == (None, None)
    with conversation(lambda kind, body: packet(105, body[:4], 1)) as sftp:
        with refused(errno.EIO, "cut off"):
            sftp.attributes(b"h")
    with conversation(lambda kind, body: packet(105, body[:4], 7, 0, 9, 1, 2, 0o644)) as sftp:
        assert sftp.attributes(b"h") == (9, 0o644)


def test_a_server_that_is_none() -> None:
    with conversation(lambda kind, body: packet(101, b"", 0, 0, 0)) as sftp:
        with pytest.raises(LinkLost):
            sftp.start()
    with conversation(lambda kind, body: packet(2, b"", 3)) as sftp:
        sftp.start()
        assert not sftp.can_fsync


# -- what is wrong at the start, and what is told ---------------------------------------------


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
        ("host=h /disk timeout=0", "timeout=0: expected a whole number"),
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
    with refused(errno.EIO, "127.0.0.1:/disk: .*[Cc]onnect"):
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
