"""The rbd plugin against a real cluster: what clients get, and what users are told."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ceph import Ceph
from tests.support.harness import Server, eventually, nbdfork, need, output
from tests.support.libnbd import attempt, connected
from tests.support.manual import rendered, runs
from tests.support.noise import CONTENT

MIB = 1 << 20


@pytest.fixture(scope="module")
def ceph() -> Iterator[Ceph]:
    with Ceph() as ceph:
        ceph.add_image("disk")
        yield ceph


def served(ceph: Ceph, image: str, *words: str | Path, **options: Any) -> Server:
    before = [word for word in words if str(word).startswith("-")]
    after = [word for word in words if not str(word).startswith("-")]
    return Server("-n", *before, "rbd", f"conf={ceph.conf}", image, *after, **options)


def info(uri: str) -> Any:
    [export] = json.loads(output("nbdinfo", "--json", uri))["exports"]
    return export


def in_cluster(ceph: Ceph, image: str, tmp_path: Path) -> bytes:
    """Return what Ceph's own program reads of an image."""
    path = tmp_path / "exported"
    path.unlink(missing_ok=True)
    ceph.run("rbd", "export", "--no-progress", image, str(path))
    return path.read_bytes()


# -- reading and writing -----------------------------------------------------------------------


def test_what_is_copied_is_in_the_image(ceph: Ceph, tmp_path: Path) -> None:
    need("nbdcopy")
    image = ceph.add_image("copied")
    source, back = tmp_path / "source", tmp_path / "back"
    with source.open("wb") as file:
        file.write(CONTENT)
        file.seek(10 * MIB + 5)
        file.write(CONTENT)
        file.truncate(64 * MIB)
    with served(ceph, image) as server:
        output("nbdcopy", source, server.uri)
        output("nbdcopy", server.uri, back)
    assert back.read_bytes() == source.read_bytes() == in_cluster(ceph, image, tmp_path)


def test_each_request(ceph: Ceph, tmp_path: Path) -> None:
    """Ranges that begin and end anywhere, over the borders of objects, which are of 4 MiB."""
    image = ceph.add_image("requests")
    model = bytearray(64 * MIB)
    with served(ceph, image) as server, connected(server.uri) as client:
        import nbd

        for offset in (0, 1, 4 * MIB - 3, 8 * MIB - 70_000, 64 * MIB - 100_000):
            data = os.urandom(100_000)
            client.pwrite(data, offset, nbd.CMD_FLAG_FUA if offset % 2 else 0)
            model[offset : offset + len(data)] = data
        for offset, count, flags in [
            (5, 50_000, 0),
            (4 * MIB, 20_000, nbd.CMD_FLAG_NO_HOLE),
            (8 * MIB - 60_000, 5 * MIB, nbd.CMD_FLAG_FAST_ZERO),
        ]:
            client.zero(count, offset, flags)
            model[offset : offset + count] = bytes(count)
        client.trim(4 * MIB, 60 * MIB)  # a whole object
        model[60 * MIB :] = bytes(4 * MIB)
        client.flush()
        for offset in range(0, 64 * MIB, 16 * MIB - 4096):
            count = min(16 * MIB - 4096, 64 * MIB - offset)
            assert client.pread(count, offset) == model[offset : offset + count]
    assert in_cluster(ceph, image, tmp_path) == model


def test_extents_are_those_of_the_image(ceph: Ceph) -> None:
    need("nbdinfo")
    image = ceph.add_image("sparse", "2G")
    with served(ceph, image) as server:
        with connected(server.uri) as client:
            client.pwrite(bytes(4096), 0)
            client.pwrite(b"x" * 100_000, 900 * MIB)
        extents = json.loads(output("nbdinfo", "--map", "--json", server.uri))
    [data, hole, more, rest] = [(one["offset"], one["length"], one["type"]) for one in extents]
    assert data == (0, 4096, 0)
    assert hole == (4096, 900 * MIB - 4096, 3)
    assert more == (900 * MIB, 100_000, 0)
    assert rest == (900 * MIB + 100_000, 1148 * MIB - 100_000, 3)


def test_two_clients_see_what_each_other_has_written(ceph: Ceph) -> None:
    image = ceph.add_image("both")
    with (
        served(ceph, image) as server,
        connected(server.uri) as one,
        connected(server.uri) as two,
    ):
        for number in range(5):  # the lock to write goes from one to the other
            one.pwrite(bytes([number]) * 512, 0)
            assert two.pread(512, 0) == bytes([number]) * 512
            two.pwrite(bytes([number]) * 512, 512)
            assert one.pread(512, 512) == bytes([number]) * 512


def test_a_worker_that_is_killed_does_not_keep_the_lock_to_write(ceph: Ceph) -> None:
    image = ceph.add_image("killed")
    with served(ceph, image) as server:
        with connected(server.uri) as client:
            client.pwrite(b"1" * 512, 0)
            [worker] = server.serving()
            worker.kill()
            with connected(server.uri) as other:
                assert other.pread(512, 0) == b"1" * 512  # it was answered
                other.pwrite(b"2" * 512, 0)  # once the cluster has noticed, after 3 seconds here
                assert other.pread(512, 0) == b"2" * 512


# -- what clients are told ---------------------------------------------------------------------


def test_several_connections_are_offered_where_the_lock_need_not_change_hands(
    ceph: Ceph,
) -> None:
    need("nbdinfo")
    plain = ceph.add_image("plain", "8M", "--image-feature", "layering")
    for image, words, expected in [
        ("rbd/disk", [], False),
        ("rbd/disk", ["-r"], True),
        (plain, [], True),
        (plain, ["cache=true"], False),
    ]:
        with served(ceph, image, *words) as server:
            assert info(server.uri)["can_multi_conn"] is expected, (image, words)


def test_an_image_that_is_to_be_cached_has_to_be_flushed(ceph: Ceph, tmp_path: Path) -> None:
    """The setting may be the image's own."""
    image = ceph.add_image("cached")
    ceph.run("rbd", "config", "image", "set", image, "rbd_cache", "true")
    ceph.run("rbd", "config", "image", "set", image, "rbd_cache_policy", "writeback")
    with served(ceph, image) as server, connected(server.uri) as client:
        import nbd

        client.flush()  # until the first one, librbd lets writes through
        client.pwrite(b"kept " * 100, 0)
        assert b"kept" not in in_cluster(ceph, image, tmp_path)
        client.pwrite(b"FUA" * 100, 1000, nbd.CMD_FLAG_FUA)
        content = in_cluster(ceph, image, tmp_path)
        assert content[:5] == b"kept "
        assert content[1000:1003] == b"FUA"


def test_snapshots_are_exports(ceph: Ceph) -> None:
    need("nbdinfo")
    image = ceph.add_image("snapped")
    with served(ceph, image) as server, connected(server.uri) as client:
        client.pwrite(b"old" * 100, 0)
    ceph.run("rbd", "snap", "create", "--no-progress", f"{image}@before")
    with served(ceph, image, "snapshots=true") as server:
        with connected(server.uri) as client:
            client.pwrite(b"new" * 100, 0)
        listed = json.loads(output("nbdinfo", "--list", "--json", server.uri))["exports"]
        assert [export["export-name"] for export in listed] == ["", "before"]
        uri = server.uri.replace("nbd+unix:///", "nbd+unix:///before")
        with connected(uri) as client:
            assert client.is_read_only()
            assert client.pread(3, 0) == b"old"
        assert info(uri)["description"] == f"RBD image {image}@before"
        with pytest.raises(Exception, match="no export named 'after'"):
            connect_to(uri.replace("before", "after"))
    for words in (["snap=before"], []):
        with served(ceph, image if words else f"{image}@before", *words) as server:
            assert info(server.uri)["is_read_only"]


def connect_to(uri: str) -> None:
    with connected(uri):
        pass


def test_the_size_can_be_changed_from_both_sides(ceph: Ceph) -> None:
    need("nbdinfo")
    image = ceph.add_image("grows", "8M")
    with served(ceph, image) as server:
        with connected(server.uri) as client:
            ceph.run("rbd", "resize", "--no-progress", "--allow-shrink", "--size", "4M", image)
            eventually(lambda: attempt(lambda: client.pread(4096, 6 * MIB)) == "EIO")
            assert client.pread(4096, 0) == bytes(4096)
        assert info(server.uri)["export-size"] == 4 * MIB
        assert "has become smaller" in server.log


def test_one_client_can_keep_all_others_from_writing(ceph: Ceph) -> None:
    image = ceph.add_image("mine")
    with served(ceph, image, "exclusive=true") as server:
        with connected(server.uri) as client:
            client.pwrite(b"mine", 0)
            with pytest.raises(Exception, match="no export named"):
                connect_to(server.uri)
            eventually(lambda: "rbd/mine is locked by another client" in server.log)
        with connected(server.uri) as client:  # the first has left
            client.pwrite(b"mine", 0)


# -- where it is -------------------------------------------------------------------------------


def test_pools_and_namespaces(ceph: Ceph) -> None:
    need("nbdinfo")
    ceph.run("rbd", "namespace", "create", "rbd/room")
    ceph.run("rbd", "create", "--size", "1M", "rbd/room/disk")
    for words in (["rbd/room/disk"], ["disk", "namespace=room", "pool=rbd"]):
        with served(ceph, *words) as server:
            assert info(server.uri)["export-size"] == MIB
            assert info(server.uri)["description"] == "RBD image rbd/room/disk"


def test_without_a_configuration_file(ceph: Ceph) -> None:
    need("nbdinfo")
    where = [f"monitors={ceph.address}", f"keyring={ceph.directory}/keyring"]
    with Server("-n", "rbd", *where, "disk") as server:
        assert info(server.uri)["export-size"] == 64 * MIB


def test_a_key_that_only_root_can_read(ceph: Ceph, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    need("nbdinfo")
    (ceph.directory / "keyring").chmod(0o600)
    directory = Path("/run/nbdfork-test-rbd")
    directory.mkdir(exist_ok=True)
    conf = directory / "ceph.conf"
    try:
        shutil.copy(ceph.conf, conf)
        with Server("-n", "-u", "nobody", "rbd", f"conf={conf}", "disk") as server:
            assert info(server.uri)["export-size"] == 64 * MIB
    finally:
        shutil.rmtree(directory)


def test_in_a_sandbox(ceph: Ceph) -> None:
    need("nbdinfo")
    with served(ceph, "rbd/disk", "--sandbox=require") as server, connected(server.uri) as client:
        client.pwrite(b"inside", 0)
        assert client.pread(6, 0) == b"inside"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "rbd: RBD image not found (error opening image none)"),
        (["disk@none"], "rbd: RBD image not found (error opening image disk at snapshot none)"),
        (["disk", "pool=none"], "rbd: RADOS object not found (error opening pool 'none')"),
        (["disk", "user=none"], "rbd: RADOS permission denied (error connecting to the cluster)"),
        (["rbd/disk", "pool=rbd"], "rbd: image= names a pool already: leave out pool="),
        (["a/b/c/d"], "expected an image as [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]"),
        (["disk@a", "snapshots=true"], "rbd: snapshots=true serves all of them"),
        (["disk@a", "resizable=true"], "rbd: a snapshot cannot be written"),
        (["disk", "pool=a/b"], 'pool=a/b: expected a name, without "/" and "@"'),
        (["disk", "keyring=/none"], "rbd: keyring=/none: there is no such file"),
    ],
)
def test_what_is_wrong_is_told_at_the_start(ceph: Ceph, words: list[str], message: str) -> None:
    done = nbdfork("-f", "-U", "-", "rbd", f"conf={ceph.conf}", *words, "--run", "true")
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["conf=/etc/passwd"], "rbd: conf=/etc/passwd is not a configuration of Ceph"),
        (["conf=/none"], "rbd: conf=/none: there is no such file"),
        ([], "rbd: there is no /etc/ceph/ceph.conf: say conf= or monitors="),
        (
            ["monitors=127.0.0.1:1", "keyring=/dev/null", "timeout=1"],
            "rbd: ",
        ),
    ],
)
def test_no_cluster(words: list[str], message: str) -> None:
    need("ceph")
    done = nbdfork("-f", "-U", "-", "rbd", *words, "disk", "--run", "true")
    assert done.returncode == 1
    assert message in done.stderr


def test_the_examples_of_its_page(ceph: Ceph, tmp_path: Path) -> None:
    need("mandoc", "nbdcopy")
    ceph.run("ceph", "osd", "pool", "create", "vms", "8", "8")
    ceph.run("rbd", "pool", "init", "vms")
    ceph.run("rbd", "create", "--size", "1M", "vms/guest")
    ceph.run("rbd", "snap", "create", "--no-progress", "vms/guest@monday")
    conf = tmp_path / "ceph.conf"
    where = f"keyring = {tmp_path}/ceph.$name.keyring"
    conf.write_text(re.sub("^keyring = .*", where, ceph.conf.read_text(), flags=re.MULTILINE))
    admin = tmp_path / "ceph.client.admin.keyring"
    shutil.copy(ceph.directory / "keyring", admin)
    page = "nbdfork-rbd-plugin.1"
    scripts = [script for _, script in runs(rendered(page)) if "vms" in script]
    for script in scripts:
        words = script.replace("/etc/ceph/", f"{tmp_path}/")
        if "--run" not in words and words.startswith("nbdfork"):
            words = words.replace("-u nobody", "-U -") + " --run true"
        output("sh", "-ec", words, cwd=tmp_path, env=environment(CEPH_CONF=str(conf)))
        admin.unlink(missing_ok=True)  # what comes after the first needs the new user's only
    assert len(scripts) == 3
    assert (tmp_path / "guest.img").stat().st_size == MIB


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program that finds this nbdfork."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **more}
