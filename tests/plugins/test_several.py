"""Two servers before one image of a cluster, and a client that goes on when one of them ends."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ceph import Ceph
from tests.support.daemon import Daemon
from tests.support.harness import Server, eventually, need
from tests.support.libnbd import connected
from tests.support.manual import source, unescaped
from tests.support.ports import free_ports
from tests.support.verifier import Verifier


@pytest.fixture
def ceph() -> Iterator[Ceph]:
    with Ceph() as ceph:
        ceph.add_image("disk")
        yield ceph


def configuration(*ports: int) -> str:
    """Return the file that the manual has for HAProxy, with these ports."""
    page = source("nbdfork-several.1")
    match = re.search(r"^(# haproxy\.cfg\n.*?)^\.Ed", page, re.MULTILINE | re.DOTALL)
    assert match is not None
    text = unescaped(match[1])
    for number, port in enumerate(ports):
        assert f":{10810 + number}\n" in text
        text = text.replace(f":{10810 + number}\n", f":{port}\n")
    return text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_a_client_goes_on_with_the_other_server(
    ceph: Ceph, signum: signal.Signals, tmp_path: Path
) -> None:
    """Nothing that was answered is lost, and no request fails."""
    need("haproxy")
    proxy_port, *ports = free_ports(3)
    config = tmp_path / "haproxy.cfg"
    config.write_text(configuration(proxy_port, *ports))
    words = ["-n", "rbd", f"conf={ceph.conf}", "disk"]
    one, two = (Server(*words, listen=("-i", "127.0.0.1", "-p", str(port))) for port in ports)
    with two, Daemon("haproxy", "-db", "-f", config, where=proxy_port) as proxy:
        eventually(lambda: proxy.is_running and one.process.poll() is None)
        uri = f"nbd://127.0.0.1:{proxy_port}"
        with (
            Server("-n", "nbd", uri, "retry=60") as near,
            connected(near.uri) as client,
        ):
            verifier = Verifier(client)
            verifier.goes_on()
            assert one.serving()
            assert not two.serving()
            if signum == signal.SIGKILL:
                for worker in one.workers():
                    worker.kill()
                one.kill()
            else:
                with one:
                    pass
            verifier.goes_on()
            assert two.serving()
            verifier.stop()
