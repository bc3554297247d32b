"""Certificates and keys: what is missing or wrong in the files is named, and no secret shown."""

import os
import ssl
from pathlib import Path

import pytest

from nbdfork import credentials
from nbdfork.server.errors import StartupError

KEY = "0123456789abcdef" * 4


def refusal(**settings: object) -> str:
    with pytest.raises(StartupError) as caught:
        credentials.load(**settings)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.psk"


def test_keys_make_a_context_that_offers_them_only(keys: Path) -> None:
    if not hasattr(ssl.SSLContext, "set_psk_server_callback"):
        pytest.importorskip("sslpsk3")
    keys.write_text(f"\nalice:{KEY}\n  \nbob:{KEY}\n")
    tls = credentials.load(psk=str(keys), required=True)
    assert tls.required
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all(
        "PSK" in cipher["name"] or cipher["protocol"] == "TLSv1.3"
        for cipher in tls.context.get_ciphers()
    )
    old = [one["name"] for one in tls.context.get_ciphers() if one["protocol"] != "TLSv1.3"]
    assert old
    assert all(name.startswith("ECDHE-PSK-") for name in old)  # forward secrecy


@pytest.mark.parametrize("text", ["alice", "alice:", f":{KEY}", "alice:xyz", f"alice={KEY}"])
def test_a_line_that_is_no_key_is_numbered_and_not_shown(text: str, keys: Path) -> None:
    keys.write_text(f"good:{KEY}\n{text}\n")
    said = refusal(psk=str(keys))
    assert f"{keys}:2: NAME:KEY is expected, with KEY in hex digits" in said
    assert KEY not in said


def test_a_short_key_is_warned_of(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys.write_text("alice:0123456789\n")
    credentials.load(psk=str(keys))
    assert "the key of 'alice' is short enough to be guessed" in caplog.text
    assert "0123456789" not in caplog.text


def test_files_of_keys_that_do_not_do(keys: Path) -> None:
    assert f"--tls-psk {keys}: No such file" in refusal(psk=str(keys))
    keys.write_text("\n \n")
    assert f"{keys}: there is no key in it" in refusal(psk=str(keys))
    keys.write_bytes(b"\xff")
    assert f"{keys}: this is not text in UTF-8" in refusal(psk=str(keys))


def test_certificates_are_looked_for_where_users_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = refusal()
    for directory in (f"{tmp_path}/.pki/nbdfork", f"{tmp_path}/.config/pki/nbdfork"):
        assert directory in said
    assert "use --tls-certificates=DIR or --tls-psk=FILE" in said
    found = tmp_path / ".config/pki/nbdfork"
    found.mkdir(parents=True)
    (found / "server-cert.pem").touch()
    assert f"{found}/server-key.pem: No such file" in refusal()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert credentials.certificate_directories() == ["/etc/pki/nbdfork"]


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    assert f"TLS: {tmp_path}/server-cert.pem: No such file" in refusal(certificates=str(tmp_path))
    for name in ("server-cert.pem", "server-key.pem"):
        (tmp_path / name).write_text("not PEM\n")
    said = refusal(certificates=str(tmp_path))
    assert said.startswith(f"TLS: {tmp_path}/server-cert.pem and server-key.pem: ")
