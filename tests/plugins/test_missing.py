"""Far ends that do not have what is to be served: the log says so once, with its name.

The test of the s3 plugin is among the others that need a store.
"""

from pathlib import Path

import pytest

from tests.support.far import far_qemu_nbd
from tests.support.harness import need, need_modules
from tests.support.missing import check_told_once
from tests.support.nginx import Nginx
from tests.support.ssh import without
from tests.support.sshd import Sshd

pytestmark = pytest.mark.usefixtures("needs_libnbd")


def test_curl(web: Nginx) -> None:
    need_modules("pycurl")
    url = f"{web.url}/none"
    check_told_once("curl", url, said=f"{url}: the server says 404 Not Found")


def test_fsspec(web: Nginx) -> None:
    need_modules("fsspec", "aiohttp")
    url = f"{web.url}/none"
    check_told_once("fsspec", url, said=f"{url}: there is no such file")


def test_ssh(host: Sshd) -> None:
    path = f"{host.directory}/none"
    check_told_once(
        "ssh", *without(host.way, "path"), path, said=f"{path}: the server says: No such"
    )


def test_an_export_of_an_nbd_server(place: Path) -> None:
    need("qemu-nbd")
    with far_qemu_nbd(place, "-f", "raw", "-x", "there", place / "disk.img") as far:
        words = ["nbd", f"socket={far.path}", "export=none"]
        check_told_once(*words, said=f"{far.path}: server has no export named 'none'")


def test_the_socket_of_an_nbd_server(place: Path) -> None:
    where = f"{place}/none"
    check_told_once("nbd", f"socket={where}", said=f"{where}: ")
