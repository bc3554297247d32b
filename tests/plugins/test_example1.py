"""The first example."""

from pathlib import Path

from tests.support.harness import Server, need, output


def test_example1_has_a_partition(tmp_path: Path) -> None:
    need("nbdcopy", "sfdisk")
    image = tmp_path / "image"
    with Server("example1") as server:
        output("nbdcopy", server.uri, image)
    assert image.stat().st_size == 100 << 20
    (line,) = [row for row in output("sfdisk", "-d", image).splitlines() if "start=" in row]
    assert line.split(" : ")[1] == "start=        2048, size=      202752, type=83"
