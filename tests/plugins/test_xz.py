"""The xz plugin: the filter of this name over a file."""

import errno
import lzma
import os
from pathlib import Path

import pytest

from nbdfork.backend.load import find
from nbdfork.plugin import ConfigError
from tests.support.compressed import MIB
from tests.support.harness import nbdfork


def test_the_plugin_names_the_file_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.xz"
    os_open = os.open

    def deny(name: str, flags: int, mode: int = 0o777) -> int:
        if name == str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return os_open(name, flags, mode)

    path.write_bytes(lzma.compress(b"few words"))
    plugin = find("xz").plugin_class(file=str(path))
    plugin.config_complete()
    monkeypatch.setattr(os, "open", deny)  # root may open all
    with pytest.raises(ConfigError, match=f"xz: {path}: Permission denied"):
        plugin.get_ready()


def test_the_limits_of_the_xz_plugin(tmp_path: Path) -> None:
    (tmp_path / "disk.xz").write_bytes(lzma.compress(bytes(MIB)))
    done = nbdfork("-U", "-", "xz", tmp_path / "disk.xz", "maxblock=1000k", "--run", "true")
    assert done.returncode == 1
    assert "unpacks to 1048576 bytes, more than maxblock=1024000" in done.stderr
