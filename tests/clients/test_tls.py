"""TLS: who gets in and who does not, by certificates or keys, and that nothing else changes."""

import os
import ssl
import struct
from pathlib import Path

import pytest
from nbdfork.plugins.memory import Memory

import nbdfork
from nbdfork.server.errors import StartupError
from tests.support.c_plugins import builder
from tests.support.harness import NBDFORK, Server, eventually, need, output, receive, run
from tests.support.libnbd import connected, fails, libnbd
from tests.support.tls import (
    ACK,
    GO,
    LIST,
    MAGIC,
    STARTTLS,
    TLS_REQD,
    Certificates,
    answer,
    greeted,
    under_tls,
    uri,
)

# -- real clients ------------------------------------------------------------------------------


def test_libnbd_by_certificate(demanding: Server, certificates: Certificates) -> None:
    with connected(uri(demanding, f"tls-certificates={certificates.anonymous}")) as client:
        assert client.get_tls_negotiated()
        data = os.urandom(1 << 20)
        client.pwrite(data, 512, libnbd().CMD_FLAG_FUA)
        assert client.pread(len(data), 512) == data
        with fails("EINVAL"):
            client.pread(512, 64 << 20)


def test_large_copies_are_the_same_bytes(
    demanding: Server, certificates: Certificates, tmp_path: Path
) -> None:
    need("nbdcopy")
    where = uri(demanding, f"tls-certificates={certificates.anonymous}")
    (tmp_path / "one").write_bytes(os.urandom(64 << 20))
    output("nbdcopy", tmp_path / "one", where)
    output("nbdcopy", "--request-size=16777216", where, tmp_path / "two")
    output("cmp", tmp_path / "one", tmp_path / "two")


def test_qemu_over_tcp(certificates: Certificates) -> None:
    need("qemu-img")
    listen = ("-i", "127.0.0.1", "-p", "0")
    words = ("--tls=require", f"--tls-certificates={certificates.server}", "memory", "1M")
    with Server(*words, listen=listen) as server:
        given = f"tls-creds-x509,id=t,dir={certificates.client},endpoint=client"
        image = f"driver=nbd,host=localhost,port={server.port},tls-creds=t"
        assert "1 MiB" in output("qemu-img", "info", "--object", given, "--image-opts", image)


def test_the_uri_is_all_that_a_client_needs(certificates: Certificates, keys: Path) -> None:
    with Server("--tls=require", f"--tls-certificates={certificates.server}", "null", "1M") as on:
        assert output("nbdinfo", "--size", on.uri) == "1048576\n"
    command = 'test "$tls" = 2 && test -d "$tls_certificates" && nbdinfo --size "$uri"'
    words = ("--tls=require", f"--tls-certificates={certificates.server}", "null", "512")
    assert output(*NBDFORK, "-U", "-", *words, "--run", command) == "512\n"
    words = ("--tls=require", f"--tls-psk={keys}/keys.psk", "null", "512")
    command = 'echo "$uri"; test -n "$tls_psk"'
    told = output(*NBDFORK, "-U", "-", *words, "--run", command)
    assert told.startswith("nbds+unix:///?socket=")
    assert f"&tls-psk-file={keys}/keys.psk" in told


def test_keys(keys: Path) -> None:
    with Server("--tls=require", f"--tls-psk={keys}/keys.psk", "memory", "1M") as server:
        for name in ("alice", "bob"):
            with connected(uri(server, f"tls-psk-file={keys}/keys.psk", f"{name}@")) as client:
                client.pwrite(name.encode(), 0)
                assert client.pread(len(name), 0) == name.encode()
        for name, file in (("alice", "wrong.psk"), ("carol", "keys.psk")):
            done = run("nbdinfo", uri(server, f"tls-psk-file={keys}/{file}", f"{name}@"))
            assert done.returncode != 0, done.stdout
        given = f"tls-creds-psk,id=t,dir={keys},username=bob,endpoint=client"
        image = f"driver=nbd,path={server.socket},tls-creds=t"
        assert "1 MiB" in output("qemu-img", "info", "--object", given, "--image-opts", image)


@pytest.mark.parametrize(
    ("without", "cipher"),
    [
        ("CAMELLIA-128-GCM", "ECDHE-PSK-CHACHA20-POLY1305"),
        ("CHACHA20-POLY1305", "ECDHE-PSK-AES256-CBC-SHA384"),
    ],
)
def test_keys_with_clients_of_tls_1_2(without: str, cipher: str, keys: Path) -> None:
    """GnuTLS, which real clients have, finds a cipher with forward secrecy."""
    need("qemu-img")
    words = ("-v", "--tls=require", f"--tls-psk={keys}/keys.psk", "memory", "1M")
    with Server(*words) as server:
        priority = f"NORMAL:-VERS-ALL:+VERS-TLS1.2:+SHA384:-{without}"
        given = f"tls-creds-psk,id=t,dir={keys},username=bob,endpoint=client,priority={priority}"
        image = f"driver=nbd,path={server.socket},tls-creds=t"
        assert "1 MiB" in output("qemu-img", "info", "--object", given, "--image-opts", image)
        assert f"TLSv1.2, ('{cipher}'" in server.log


def test_the_log_tells_who_is_refused(certificates: Certificates) -> None:
    words = (f"--tls-certificates={certificates.server}", "--tls=require", "--tls-verify-peer")
    with Server(*words, "memory", "1M") as server:
        own = f"uid {os.getuid()}: the client is refused: "
        assert run("nbdinfo", f"nbd+unix:///?socket={server.socket}").returncode != 0
        eventually(lambda: f"{own}it does not use TLS\n" in server.log)
        with greeted(server.socket) as client:
            client.sendall(struct.pack(">QII", MAGIC, 1, 0))  # EXPORT_NAME
            assert client.recv(1) == b""
        eventually(lambda: server.log.count(f"{own}it does not use TLS\n") == 2)
        wrong = uri(server, f"tls-certificates={certificates.anonymous}")
        assert run("nbdinfo", wrong).returncode != 0
        eventually(lambda: f"{own}TLS: [SSL: PEER_DID_NOT_RETURN_A_CERTIFICATE]" in server.log)
        output("nbdinfo", uri(server, f"tls-certificates={certificates.client}"))
        with greeted(server.socket) as client:
            client.sendall(LIST)
            assert answer(client) == (3, TLS_REQD)
            client.sendall(STARTTLS)  # then it does what it should
            assert answer(client) == (5, ACK)
        eventually(lambda: server.log.count("is refused") == 4)
        assert server.log.count("it does not use TLS") == 2


def test_certificates_that_plain_clients_do_not_need(certificates: Certificates) -> None:
    words = (f"--tls-certificates={certificates.server}", "--tls-verify-peer", "memory", "1M")
    warning = "--tls-verify-peer without --tls=require: a client that does not use TLS gets in"
    with Server(*words) as server:
        assert warning in server.log
    with Server("--tls=require", *words) as server:
        assert warning not in server.log


def test_the_log_tells_who_came(keys: Path, certificates: Certificates) -> None:
    with Server("-v", "--tls=on", f"--tls-psk={keys}/keys.psk", "memory", "1M") as server:
        output("nbdinfo", uri(server, f"tls-psk-file={keys}/keys.psk", "alice@"))
        assert "TLS: the client calls itself 'alice'\n" in server.log
        secret = (keys / "keys.psk").read_text().split(":")[1].split()[0]
        assert secret not in server.log
    words = ("--tls-verify-peer", f"--tls-certificates={certificates.server}")
    with Server("-v", *words, "memory", "1M") as server:
        output("nbdinfo", uri(server, f"tls-certificates={certificates.client}"))
        assert "TLS: CN=client\\, one,O=Disks,C=DE\n" in server.log


def test_certificates_of_clients(certificates: Certificates) -> None:
    words = ("--tls=require", "--tls-verify-peer", f"--tls-certificates={certificates.server}")
    with Server("-v", *words, "memory", "1M") as server:
        output("nbdinfo", uri(server, f"tls-certificates={certificates.client}"))
        for wrong in (certificates.anonymous, certificates.stranger, certificates.revoked):
            done = run("nbdinfo", uri(server, f"tls-certificates={wrong}"))
            assert done.returncode != 0, wrong
        output("nbdinfo", uri(server, f"tls-certificates={certificates.client}"))
        for reason in (
            "peer did not return a certificate",
            "unable to get local issuer",
            "revoked",
        ):
            assert reason in server.log


def test_offered_but_not_demanded(certificates: Certificates) -> None:
    with Server(f"--tls-certificates={certificates.server}", "memory", "1M") as server:
        assert server.uri.startswith("nbd+unix:")
        with connected(server.uri) as client:
            assert not client.get_tls_negotiated()
            client.pwrite(b"in clear", 0)
        with connected(uri(server, f"tls-certificates={certificates.anonymous}")) as client:
            assert client.pread(8, 0) == b"in clear"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_versions(demanding: Server, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with greeted(demanding.socket) as client:
        client.sendall(STARTTLS)
        assert answer(client) == (5, ACK)
        if version == ssl.TLSVersion.TLSv1_2:
            with context.wrap_socket(client) as secured:
                assert secured.version() == "TLSv1.2"
                secured.sendall(LIST)
                assert answer(secured)[0] == 3
        else:
            with pytest.raises(ssl.SSLError, match=r"(?i)version"):
                context.wrap_socket(client)


def test_on_pipes(certificates: Certificates) -> None:
    client = libnbd().NBD()
    client.set_tls(libnbd().TLS_REQUIRE)
    client.set_tls_certificates(str(certificates.anonymous))
    client.set_tls_verify_peer(False)
    words = ["-s", "--tls=require", f"--tls-certificates={certificates.server}", "memory", "1M"]
    client.connect_command([*NBDFORK, *words])
    client.pwrite(b"through a pipe", 1000)
    assert client.pread(14, 1000) == b"through a pipe"
    client.shutdown()


# -- the disk and the server -------------------------------------------------------------------


def test_a_file_that_shrinks_kills_nobody(certificates: Certificates, tmp_path: Path) -> None:
    """A mapped file may be sent by the system, but not be looked into, as encrypting it would."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * (8 << 20))
    words = ("--tls=require", f"--tls-certificates={certificates.server}", "file", str(disk))
    with Server(*words) as server:
        with connected(uri(server, f"tls-certificates={certificates.anonymous}")) as client:
            assert client.pread(4 << 20, 0) == b"x" * (4 << 20)
            os.truncate(disk, 1 << 20)
            with fails("EIO"):
                client.pread(4 << 20, 2 << 20)
            assert client.pread(1 << 20, 0) == b"x" * (1 << 20)


def test_what_was_sent_is_answered_when_the_server_ends(certificates: Certificates) -> None:
    words = ("--tls=require", f"--tls-certificates={certificates.server}")
    slow = ("-t", "1", "--filter=delay", "memory", "1M", "rdelay=200ms")
    with Server(*words, *slow) as server:
        with greeted(server.socket) as client, under_tls(client) as secured:
            secured.sendall(GO)
            while answer(secured)[1] != ACK:
                pass
            for cookie in range(5):
                secured.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, cookie, 0, 512))
            first = receive(secured, 16 + 512)
            server.process.terminate()
            rest = receive(secured, 4 * (16 + 512))
            assert secured.recv(1) == b""
    replies = first + rest
    for cookie in range(5):
        start = cookie * (16 + 512)
        assert replies[start : start + 16] == struct.pack(">IIQ", 0x67446698, 0, cookie)


def test_plugins_know(certificates: Certificates, tmp_path: Path) -> None:
    script = tmp_path / "disk.sh"
    script.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        'list_exports) echo NAMES; echo "lists-$3" ;;\n'
        'default_export) echo "default-$3" ;;\n'
        'open) echo "$3 open-$4" ;;\n'
        "get_size) echo 32 ;;\n"
        'pread) printf "%-32s" "$2" | dd bs=1 skip="$4" count="$3" 2>/dev/null ;;\n'
        "*) exit 2 ;;\n"
        "esac\n"
    )
    script.chmod(0o755)
    words = ("--tls=on", f"--tls-certificates={certificates.server}", "sh", str(script))
    with Server(*words) as server:
        secured = uri(server, f"tls-certificates={certificates.anonymous}")
        for where, word in ((server.uri, "false"), (secured, "true")):
            with connected(where) as client:
                assert client.pread(32, 0).rstrip() == f"default-{word} open-{word}".encode()
            assert f"lists-{word}" in output("nbdinfo", "--list", where)


SCRIPTS = {
    "python": """
import nbdkit
def list_exports(readonly, is_tls): return [f"lists-{is_tls}".lower()]
def default_export(readonly, is_tls): return f"default-{is_tls}".lower()
def open(readonly): return nbdkit.export_name().encode().ljust(32)
def get_size(h): return len(h)
def pread(h, buf, offset, flags): buf[:] = h[offset:offset + len(buf)]
API_VERSION = 2
""",
    "perl": """
sub word { return $_[0] ? 'true' : 'false' }
sub list_exports { return ['lists-' . word($_[1])] }
sub default_export { return 'default-' . word($_[1]) }
sub open { return sprintf '%-32s', Nbdkit::export_name() }
sub get_size { return length $_[0] }
sub pread { return substr $_[0], $_[2], $_[1] }
1;
""",
    "ocaml": """
let list_exports _ tls = [{ NBDKit.name = Printf.sprintf "lists-%b" tls; description = None }]
let default_export _ tls = Printf.sprintf "default-%b" tls
let open_connection _ =
  Printf.sprintf "%-32s" (Printf.sprintf "%s %b" (NBDKit.export_name ()) (NBDKit.is_tls ()))
let get_size h = Int64.of_int (String.length h)
let pread h count offset _ = String.sub h (Int64.to_int offset) (Int64.to_int count)
let () = NBDKit.register_plugin ~name:"tls" ~list_exports ~default_export ~open_connection
    ~get_size ~pread ()
""",
}


@pytest.mark.parametrize("language", SCRIPTS)
def test_scripts_know(language: str, certificates: Certificates, tmp_path: Path) -> None:
    need({"python": "nbdinfo", "ocaml": "ocamlopt"}.get(language, language))
    script = tmp_path / "disk.ml"
    script.write_text(SCRIPTS[language])
    words = (f"--tls-certificates={certificates.server}", language, str(script))
    with Server(*words) as server:
        secured = uri(server, f"tls-certificates={certificates.anonymous}")
        for where, word in ((server.uri, "false"), (secured, "true")):
            with connected(where) as client:
                told = client.pread(32, 0).decode().split()
            assert told == [f"default-{word}", *([word] if language == "ocaml" else [])]
            assert f"lists-{word}" in output("nbdinfo", "--list", where)


def test_the_log_filter_knows(certificates: Certificates, tmp_path: Path) -> None:
    words = (f"--tls-certificates={certificates.server}", "--filter=log", "null", "512")
    with Server(*words, f"logfile={tmp_path}/log") as server:
        output("nbdinfo", server.uri)
        assert " tls=0 " in (tmp_path / "log").read_text()
        output("nbdinfo", uri(server, f"tls-certificates={certificates.anonymous}"))
        assert " tls=1 " in (tmp_path / "log").read_text()


def test_plugins_in_c_know(certificates: Certificates, tmp_path: Path) -> None:
    words = ("-v", f"--tls-certificates={certificates.server}", "--tls-verify-peer")
    with Server(*words, builder(tmp_path)("newer")) as server:
        output("nbdinfo", "--size", server.uri)
        assert "newer: tls=0\n" in server.log
        assert "client: '' of ''" in server.log
        output("nbdinfo", "--size", uri(server, f"tls-certificates={certificates.client}"))
        assert "newer: tls=1\n" in server.log
        assert "client: 'CN=client\\, one,O=Disks,C=DE' of 'CN=server'" in server.log


def test_in_a_program(certificates: Certificates, keys: Path) -> None:
    with nbdfork.serve(Memory(size="1M"), tls_certificates=str(certificates.server)) as server:
        assert output("nbdinfo", "--size", server.uri) == "1048576\n"
    with nbdfork.serve(Memory(size="1M"), tls_psk=str(keys / "keys.psk")) as server:
        assert output("nbdinfo", "--size", server.uri.replace("///", "//bob@/")) == "1048576\n"
    with pytest.raises(StartupError, match=r"nothing/server-cert\.pem: No such file"):
        nbdfork.serve(Memory(size="1M"), tls_certificates="/nothing")
    with pytest.raises(ValueError, match="tls_verify_peer= needs tls_certificates="):
        nbdfork.serve(Memory(size="1M"), tls_verify_peer=True)
    with pytest.raises(ValueError, match="takes the place of certificates"):
        nbdfork.serve(Memory(size="1M"), tls_psk="a", tls_certificates="b")
