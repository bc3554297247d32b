"""Where clients find a server: NBD URIs, and what `$nbd` is."""

import os

import pytest

from nbdfork.uri import Endpoint

TCP = Endpoint(port=1)
UNIX = Endpoint(unix_path="/s")
VSOCK = Endpoint(cid=2, port=10809)


@pytest.mark.parametrize(
    ("endpoint", "uri"),
    [
        (TCP, "nbd://localhost:1"),
        (TCP._replace(export_name="a/b"), "nbd://localhost:1/a%2Fb"),
        (TCP._replace(host="::1"), "nbd://[::1]:1"),
        (TCP._replace(tls={"tls-psk-file": "/k ey"}), "nbds://localhost:1?tls-psk-file=/k%20ey"),
        (UNIX, "nbd+unix:///?socket=/s"),
        (UNIX._replace(export_name="x"), "nbd+unix:///x?socket=/s"),
        (UNIX._replace(tls={}), "nbds+unix:///?socket=/s"),
        (
            UNIX._replace(tls={"tls-certificates": "/d"}),
            "nbds+unix:///?socket=/s&tls-certificates=/d",
        ),
        (UNIX._replace(unix_path=os.fsdecode(b"/\xff")), "nbd+unix:///?socket=/%FF"),
        (VSOCK, "nbd+vsock://2:10809"),
        (VSOCK._replace(tls={}, export_name="x"), "nbds+vsock://2:10809/x"),
    ],
)
def test_uris(endpoint: Endpoint, uri: str) -> None:
    assert endpoint.uri() == uri


@pytest.mark.parametrize(
    ("command", "unix", "tcp"),
    [
        ("qemu -drive file=$nbd", "nbd:unix:/s", "nbd:localhost:1"),
        ("guestfish -a $nbd", "nbd://?socket=/s", "nbd://localhost:1"),
        ("virt-inspector -a $nbd", "nbd://?socket=/s", "nbd://localhost:1"),
        ("nbdinfo $nbd", "nbd+unix:///?socket=/s", "nbd://localhost:1"),
        ("/usr/bin/nbdcopy $nbd x", "nbd+unix:///?socket=/s", "nbd://localhost:1"),
    ],
)
def test_the_guess_of_nbd(command: str, unix: str, tcp: str) -> None:
    assert UNIX.for_command(command) == unix
    assert TCP.for_command(command) == tcp


def test_the_guess_of_nbd_with_an_export_name() -> None:
    tcp, unix = TCP._replace(export_name="x"), UNIX._replace(export_name="x")
    assert tcp.for_command("qemu $nbd") == "nbd:localhost:1:exportname=x"
    assert unix.for_command("qemu $nbd") == "nbd:unix:/s:exportname=x"
    assert TCP._replace(export_name="a b").for_command("qemu $nbd") == "nbd://localhost:1/a%20b"
    assert unix.for_command("guestfish $nbd") == "nbd:///x?socket=/s"


def test_only_a_uri_can_tell_of_tls_and_vsock() -> None:
    assert UNIX._replace(tls={}).for_command("qemu $nbd") == "nbds+unix:///?socket=/s"
    assert VSOCK.for_command("qemu $nbd") == "nbd+vsock://2:10809"
