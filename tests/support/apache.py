"""A real Apache of its own for tests, with WebDAV."""

import os
import shutil

from tests.support.daemon import Daemon
from tests.support.noise import CONTENT
from tests.support.ports import free_ports

CONFIG = """
ServerRoot {directory}
PidFile {directory}/pid
ServerName localhost
Listen 127.0.0.1:{port}
ErrorLog {directory}/error.log
{identity}
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dav_module /usr/lib/apache2/modules/mod_dav.so
LoadModule dav_fs_module /usr/lib/apache2/modules/mod_dav_fs.so
DavLockDB {directory}/lock
DocumentRoot {directory}/www
Mutex file:{directory}
<Directory {directory}/www>
Dav on
</Directory>
"""


class Apache(Daemon):
    """Apache in a temporary directory, with the file `disk`, which takes parts of it."""

    def __init__(self) -> None:
        super().__init__()
        self.directory.chmod(0o755)
        root = self.directory / "www"
        root.mkdir()
        self.disk = root / "disk"
        self.disk.write_bytes(CONTENT)
        [port] = free_ports(1)
        self.where = port
        self.url = f"http://127.0.0.1:{port}/disk"
        identity = ""
        if os.geteuid() == 0:
            identity = "User nobody\nGroup nogroup"
            for path in (self.directory, root, self.disk):
                shutil.chown(path, "nobody")
        settings = self.directory / "conf"
        settings.write_text(CONFIG.format(directory=self.directory, port=port, identity=identity))
        self.command = ["apache2", "-DFOREGROUND", "-f", settings]
