"""TLS in the protocol: its option, clients that do harm, and what is wrong at the start."""

import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import exchange
from tests.support.harness import NBDFORK, SECONDS, Server, eventually, need, output, receive
from tests.support.harness import nbdfork as run_nbdfork
from tests.support.libnbd import connected, libnbd
from tests.support.raw import trickle
from tests.support.tls import (
    ACK,
    GO,
    INVALID,
    LIST,
    MAGIC,
    POLICY,
    STARTTLS,
    TLS_REQD,
    Certificates,
    answer,
    greeted,
    under_tls,
    uri,
)

DISC = struct.pack(">IHHQQI", 0x25609513, 0, 2, 0, 0, 0)


# -- the protocol ------------------------------------------------------------------------------


def test_nothing_else_before_it(demanding: Server) -> None:
    with greeted(demanding.socket) as client:
        for number in (3, 6, 7, 8, 9, 10, 11, 99):
            client.sendall(struct.pack(">QII", MAGIC, number, 6) + bytes(6))
            assert answer(client) == (number, TLS_REQD)
        client.sendall(struct.pack(">QII", MAGIC, 5, 1) + b"x")
        assert answer(client) == (5, INVALID)
        client.sendall(struct.pack(">QII", MAGIC, 1, 0))  # EXPORT_NAME cannot be refused
        assert client.recv(1) == b""
    with greeted(demanding.socket) as client:
        client.sendall(struct.pack(">QII", MAGIC, 2, 0))
        assert answer(client) == (2, ACK)


def test_a_server_without_it() -> None:
    with Server("-n", "memory", "1M") as server, greeted(server.socket) as client:
        client.sendall(STARTTLS)
        assert answer(client) == (5, POLICY)
        client.sendall(DISC)


def test_what_was_said_in_clear_is_forgotten(certificates: Certificates) -> None:
    selection = struct.pack(">II", 0, 1) + struct.pack(">I", 15) + b"base:allocation"
    set_meta_context = struct.pack(">QII", MAGIC, 10, len(selection)) + selection
    structured = struct.pack(">QII", MAGIC, 8, 0)
    words = ("--tls=on", f"--tls-certificates={certificates.server}", "memory", "1M")
    with Server(*words) as server, greeted(server.socket) as client:
        client.sendall(structured + set_meta_context)
        assert [answer(client) for _ in range(3)] == [(8, ACK), (10, 4), (10, ACK)]
        with under_tls(client) as secured:
            secured.sendall(set_meta_context)
            assert answer(secured) == (10, INVALID)
            secured.sendall(STARTTLS)
            assert answer(secured) == (5, INVALID)
            secured.sendall(structured + set_meta_context)
            assert [answer(secured) for _ in range(3)] == [(8, ACK), (10, 4), (10, ACK)]


def test_bytes_in_clear_after_starttls_are_not_taken_for_protected(demanding: Server) -> None:
    with greeted(demanding.socket) as client:
        client.sendall(STARTTLS + LIST)
        assert receive(client, 1000) == struct.pack(">QIII", 0x3E889045565A9, 5, ACK, 0)


def test_the_end_is_told(demanding: Server) -> None:
    """So that nobody else can make a client believe that the server has nothing more to say."""
    with greeted(demanding.socket) as client:
        secured = under_tls(client, ragged_end=False)
        secured.sendall(GO)
        while answer(secured)[1] != ACK:
            pass
        secured.sendall(DISC)
        assert secured.recv(1) == b""  # and no SSLEOFError


def golden() -> list[Path]:
    """Return the exchanges of clients that begin as this test does."""
    greeting = [
        ("S", [bytes.fromhex(word) for word in ("4e42444d41474943", "49484156454f5054", "0003")])
    ]
    greeting.append(("C", [bytes.fromhex("00000003")]))
    return [
        path
        for path in exchange.files()
        if all(steps[:2] == greeting for steps in exchange.connections(path))
        and not any(word.startswith("--mask") for word in exchange.arguments(path))
    ]


@pytest.mark.parametrize("path", golden(), ids=lambda path: path.stem)
def test_golden_exchanges(path: Path, certificates: Certificates) -> None:
    """All that is said is the same, but for what says whether there is TLS."""
    words = ("--tls=require", f"--tls-certificates={certificates.server}")
    with Server(*words, *exchange.arguments(path)) as server:
        for steps in exchange.connections(path):
            if ("C", [STARTTLS]) in steps or any(STARTTLS in exchange.sent(s) for _, s in steps):
                continue
            with greeted(server.socket) as client, under_tls(client) as secured:
                exchange.Player(secured).play(steps[2:], 0)


# -- clients that do harm ----------------------------------------------------------------------


def test_garbage_and_hangups(demanding: Server, certificates: Certificates) -> None:
    for garbage in (b"", b"\x16", b"\x16\x03\x01\xff\xff" + bytes(3000), b"GET / HTTP/1.0\r\n\r\n"):
        with greeted(demanding.socket) as client:
            client.sendall(STARTTLS)
            assert answer(client) == (5, ACK)
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            receive(client, 10_000)  # an alert perhaps; and the end
    with greeted(demanding.socket) as client:
        secured = under_tls(client)
        plain = socket.socket(fileno=secured.detach())
        plain.settimeout(SECONDS)
        plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody has encrypted
        receive(plain, 10_000)
        plain.close()
    output("nbdinfo", uri(demanding, f"tls-certificates={certificates.anonymous}"))


def test_a_slow_handshake_is_given_up(certificates: Certificates) -> None:
    words = ("--tls=on", f"--tls-certificates={certificates.server}", "--handshake-limit=1")
    with Server("-v", *words, "memory", "1M") as server, greeted(server.socket) as client:
        client.sendall(STARTTLS)
        assert answer(client) == (5, ACK)
        record = b"\x16\x03\x01\x40\x00" + bytes(10_000)
        trickle(client, record, 0.3)  # it would take an hour
        assert "TLS: timed out" in server.log


def test_answers_while_the_client_sends(certificates: Certificates, tmp_path: Path) -> None:
    """Both directions at once, with requests in several threads, lose and mix up nothing."""
    need("nbdcopy")
    size = 32 << 20
    words = ("--tls=require", f"--tls-certificates={certificates.server}", "-t", "8")
    slow = ("--filter=delay", "memory", f"{size}", "rdelay=1ms", "wdelay=1ms")
    (tmp_path / "one").write_bytes(os.urandom(size))
    with Server(*words, *slow) as server:
        where = uri(server, f"tls-certificates={certificates.anonymous}")
        output("nbdcopy", "--requests=64", "--connections=1", tmp_path / "one", where)
        output("nbdcopy", "--requests=64", "--connections=1", where, tmp_path / "two")
        with connected(where) as client:
            _cross(client, size)
    output("cmp", tmp_path / "one", tmp_path / "two")


def _cross(client: Any, size: int) -> None:
    """Write to the first half and read the second, large, with many requests on their way."""
    nbd, piece, under_way = libnbd(), 1 << 20, []
    for start in range(0, size // 2, piece):
        zeroes = nbd.Buffer.from_bytearray(bytearray(piece))
        under_way.append(client.aio_pwrite(zeroes, start))
        under_way.append(client.aio_pread(nbd.Buffer(piece), size // 2 + start))
    while under_way := [one for one in under_way if not client.aio_command_completed(one)]:
        client.poll(1000)


# -- what is wrong at the start ----------------------------------------------------------------


def refused(*words: str | Path) -> str:
    """Return the one line that says why the server does not start."""
    done = run_nbdfork(*words, "-U", "-", "null", "1M", "--run", "exit 0")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("nbdfork: error: ")
    return done.stderr.split("\n")[0]


def test_files_that_are_missing_or_wrong(certificates: Certificates, tmp_path: Path) -> None:
    place = shutil.copytree(certificates.server, tmp_path / "copy")
    option = f"--tls-certificates={place}"
    (place / "ca-crl.pem").write_text("nonsense")
    assert "ca-crl.pem: " in refused(option, "--tls-verify-peer")
    (place / "ca-cert.pem").unlink()
    assert f"{place}/ca-cert.pem: No such file" in refused(option, "--tls-verify-peer")
    shutil.copy(certificates.client / "client-key.pem", place / "server-key.pem")
    assert "and server-key.pem: key values mismatch" in refused(option)
    need("openssl")
    key = certificates.client / "client-key.pem"
    encrypt = ("openssl", "ec", "-aes128", "-passout", "pass:x", "-in", key)
    output(*encrypt, "-out", place / "server-key.pem")
    assert "server-key.pem is encrypted" in refused(option)
    (place / "server-cert.pem").write_text("nonsense")
    assert f"{place}/server-cert.pem" in refused(option)
    (place / "server-key.pem").unlink()
    assert f"{place}/server-key.pem: No such file" in refused(option)


def test_keys_that_are_missing_or_wrong(tmp_path: Path) -> None:
    path = tmp_path / "keys.psk"
    option = f"--tls-psk={path}"
    assert f"--tls-psk {path}: No such file" in refused(option)
    for content, complaint in (
        (b"", f"{path}: there is no key in it"),
        (b"alice\n", f"{path}:1: NAME:KEY is expected"),
        (b"\nalice:xyz\n", f"{path}:2: NAME:KEY is expected"),
        (b":1234\n", f"{path}:1: NAME:KEY is expected"),
        (b"\xff:1234\n", f"{path}: this is not text"),
    ):
        path.write_bytes(content)
        assert complaint in refused(option)


def test_certificates_are_looked_for(tmp_path: Path, certificates: Certificates) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    command = (*NBDFORK, "-U", "-", "--tls=require", "null", "512", "--run")
    if os.geteuid() == 0:
        assert "there is no server-cert.pem in /etc/pki/nbdfork" in refused("--tls=on")
        return
    assert ".pki/nbdfork" in refused("--tls=on")
    shutil.copytree(certificates.server, tmp_path / ".config/pki/nbdfork")
    assert output(*command, "echo $uri", env=environment).startswith("nbds+unix")


def test_what_cannot_go_together(certificates: Certificates) -> None:
    place = f"--tls-certificates={certificates.server}"
    assert "--tls-certificates and -o cannot" in refused("-o", place)
    assert "--tls and -o cannot go together: --tls implies -n" in refused("-o", "--tls=require")
    assert "--tls-verify-peer and --tls=off cannot" in refused("--tls=off", "--tls-verify-peer")
    words = ("--tls-psk=/k", "--tls-verify-peer")
    assert "keys take the place of certificates" in refused(*words)
    assert "expected one of: off, on, require" in refused("--tls=yes")


def test_keys_need_a_library(tmp_path: Path, keys: Path) -> None:
    if sys.version_info >= (3, 13):
        pytest.skip("this Python knows keys by itself")
    (tmp_path / "sslpsk3.py").write_text("raise ImportError")
    done = run_nbdfork(
        *("-U", "-", f"--tls-psk={keys}/keys.psk", "null", "--run", "exit 0"),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "pip install 'nbdfork[psk]'" in done.stderr


def test_privileges_are_not_needed_later(certificates: Certificates, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can change to another user")
    (certificates.server / "server-key.pem").chmod(0o600)
    with subprocess.Popen(
        [
            *(*NBDFORK, "-f", "-u", "nobody", "-p", "0", "-i", "127.0.0.1", "--print-uri"),
            *("--tls=require", f"--tls-certificates={certificates.server}", "null", "512"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        where = server.stdout.readline().strip()
        for _ in range(8):  # of which the later ones get workers forked by nobody
            assert output("nbdinfo", "--size", where) == "512\n"
        server.terminate()
        assert server.wait(SECONDS) == 0
    assert eventually(lambda: server.poll() == 0)
