"""The gzip plugin says of a file at the start what the filter says of a disk to each client."""

from pathlib import Path

from tests.support.compressed import compressed, need_libraries
from tests.support.harness import Server, nbdfork, run
from tests.support.libnbd import connected


def test_when_it_is_found_that_data_are_not_compressed(tmp_path: Path) -> None:
    need_libraries("gzip")
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    done = nbdfork("-U", "-", "gzip", tmp_path / "disk", "--run", "true")
    assert done.returncode == 1
    assert "not gzip data" in done.stderr
    with Server("--filter=gzip", "memory", "1M") as server:
        assert run("nbdinfo", server.uri).returncode != 0
        assert "the disk below: this is not gzip data" in server.log


def test_what_is_left_of_a_truncated_file_is_served_if_it_is_asked_for(tmp_path: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(9999))
    (tmp_path / "disk.gz").write_bytes(compressed("gzip", content, "gzip")[:-9])
    done = nbdfork("-U", "-", "gzip", tmp_path / "disk.gz", "--run", "true")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "truncated: they end at byte" in done.stderr
    assert "(salvage=true serves what can be decoded before that, though nothing" in done.stderr
    with Server("gzip", tmp_path / "disk.gz", "salvage=true") as server:
        with connected(server.uri) as client:
            assert client.pread(9000, 0) == content[:9000]
