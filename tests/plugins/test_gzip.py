"""The gzip plugin says of a file at the start what the filter says of a disk to each client."""

from pathlib import Path

from tests.support.compressed import need_libraries
from tests.support.harness import Server, nbdfork, run


def test_when_it_is_found_that_data_are_not_compressed(tmp_path: Path) -> None:
    need_libraries("gzip")
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    done = nbdfork("-U", "-", "gzip", tmp_path / "disk", "--run", "true")
    assert done.returncode == 1
    assert "not gzip data" in done.stderr
    with Server("--filter=gzip", "memory", "1M") as server:
        assert run("nbdinfo", server.uri).returncode != 0
        assert "the disk below: this is not gzip data" in server.log
