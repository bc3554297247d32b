"""The command lines that importers of virtual machines build for nbdkit.

They have the shape of those of kubevirt's containerized data importer, of virt-v2v and of
virtnbdbackup, with the options, filters and keys that these use.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import SECONDS, eventually, need, need_modules, output
from tests.support.nginx import Nginx
from tests.support.noise import CONTENT

AS_NBDKIT = "import sys; sys.argv[0] = 'nbdkit'; from nbdfork.main import main; sys.exit(main())"

CDI = """
--foreground --readonly --exit-with-parent -U {d}/sock --pidfile {d}/pid -v
-D nbdkit.backend.datapath=0 -D nbdkit.backend.controlpath=0 --filter=retry
curl {url}/disk header=X-Importer:\u00a0yes cainfo={d}/ca.pem retry-exponential=yes
"""

VIRT_V2V = """
--exit-with-parent --foreground --pidfile {d}/pid --unix {d}/sock --threads 16 --newstyle --readonly
-D nbdkit.backend.datapath=0 --filter=cow --filter=retry --filter=blocksize-policy
curl url={url}/disk timeout=2000 cookie-script=echo\u00a0a=b cookie-script-renew=1500
sslverify=false cow-on-read=true blocksize-preferred=4096
"""

VIRTNBDBACKUP = """
--pidfile {d}/pid -U {d}/sock -f -e sda --filter=blocksize --filter=cow
python {d}/map.py disk={d}/disk maxlen=33554432 blocksize-minimum=512
"""

MAP = """
import nbdkit, os
API_VERSION = 2
values = {}
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def config(key, value): values[key] = value
def open(readonly): return os.open(values["disk"], os.O_RDONLY)
def get_size(h): return os.fstat(h).st_size
def pread(h, buf, offset, flags): os.preadv(h, [buf], offset)
"""


@pytest.mark.parametrize("line", [CDI, VIRT_V2V, VIRTNBDBACKUP], ids=["cdi", "v2v", "backup"])
def test_the_command_line_of_an_importer_serves_the_disk(line: str, tmp_path: Path) -> None:
    need("nbdcopy", "openssl")
    need_modules("pycurl")
    (tmp_path / "disk").write_bytes(CONTENT)
    (tmp_path / "map.py").write_text(MAP)
    with Nginx() as web:
        (tmp_path / "ca.pem").write_bytes(web.ca.read_bytes())
        words = line.format(d=tmp_path, url=web.url).split(" ")
        words = [word.replace("\u00a0", " ") for one in words for word in one.split("\n") if word]
        with subprocess.Popen([sys.executable, "-c", AS_NBDKIT, *words]) as server:
            try:
                eventually((tmp_path / "pid").exists)
                assert int((tmp_path / "pid").read_text()) == server.pid
                uri = f"nbd+unix:///?socket={tmp_path}/sock"
                output("nbdcopy", uri, tmp_path / "copy")
            finally:
                os.kill(server.pid, signal.SIGTERM)
                server.wait(SECONDS)
    assert (tmp_path / "copy").read_bytes() == CONTENT
