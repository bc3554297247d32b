"""The curl plugin's parameters about addresses, proxies and versions, as libcurl gets them."""

import socket
from typing import Any

import pytest

from tests.support.curl import plugin, reads
from tests.support.nginx import Nginx
from tests.support.plugins import refusal


def test_a_host_is_where_the_user_says(web: Nginx) -> None:
    port = web.url.rpartition(":")[2]
    name = f"http://disk.example:{port}/disk"
    with pytest.raises(OSError):
        reads(name, "timeout=2")
    assert reads(
        name, f"resolve=other.example:{port}:192.0.2.1", f"resolve=disk.example:{port}:127.0.0.1"
    )


def test_only_one_version_of_ip_is_used(web: Nginx) -> None:
    assert socket.gethostbyname("localhost").startswith("127.")
    port = web.url.rpartition(":")[2]
    place = f"resolve=disk.example:{port}:127.0.0.1"
    assert reads(f"http://disk.example:{port}/disk", place, "ipresolve=v4")
    assert reads(f"http://disk.example:{port}/disk", place, "ipresolve=any")
    with pytest.raises(OSError):
        reads(f"http://localhost:{port}/disk", "ipresolve=v6", "timeout=2")


@pytest.mark.parametrize("version", ["default", "max-default", "max-tlsv1.2", "max-tlsv1.3"])
def test_versions_of_tls_may_have_an_upper_end(web: Nginx, version: str) -> None:
    assert reads(f"{web.tls_url}/disk", f"cainfo={web.ca}", f"ssl-version={version}")


def test_certificates_of_a_proxy_are_files() -> None:
    made: Any = plugin("http://disk.example/disk", "proxy-cainfo=/etc/hosts", "proxy-capath=/etc")
    assert (made.proxy_cainfo, made.proxy_capath) == ("/etc/hosts", "/etc")
    assert "ipresolve=v5" in refusal("curl", "http://disk.example/disk", "ipresolve=v5")
