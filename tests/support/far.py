"""An NBD server to stand in front of, which a test kills and starts again."""

from pathlib import Path

from tests.support.daemon import Daemon


class Far(Daemon):
    """A server on the socket *path*, in the directory of that."""

    def __init__(self, path: Path, *command: str | Path) -> None:
        super().__init__(*command, where=path, directory=path.parent)
        self.path = path

    def __exit__(self, *exception: object) -> None:
        self.kill()  # it would wait for its clients
        super().__exit__(*exception)

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.path}"


def far_nbdkit(directory: Path, *arguments: str | Path) -> Far:
    """Nbdkit in *directory*."""
    path = directory / "nbdkit.sock"
    return Far(path, "nbdkit", "-f", "-U", path, *arguments)


def far_qemu_nbd(directory: Path, *arguments: str | Path) -> Far:
    """A qemu-nbd in *directory* that goes on serving, several clients at a time."""
    path = directory / "qemu-nbd.sock"
    return Far(path, "qemu-nbd", "-k", path, "-t", "-e", "8", *arguments)
