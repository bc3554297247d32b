"""Sources for nbdkit's OCaml API, of all styles: compiled, kept, and run by a helper."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from nbdfork.plugins.ocaml import Ocaml

from nbdfork.plugin import Extent
from tests.support.harness import Server, eventually, many_descriptors, nbdfork, need, output
from tests.support.libnbd import attempt, connect
from tests.support.paths import C_SOURCES, ROOT, SCRIPTS

STYLES = ("labelled.ml", "buffers.ml", "record.ml")

LIBRARY = ROOT / "plugins" / "ocaml" / "lib"


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    need("ocamlopt")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("style", STYLES)
def test_a_source_is_compiled_and_serves_all_clients(style: str) -> None:
    with Server("-n", "ocaml", SCRIPTS / style, "size=1M") as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1024 * 1024
        one.pwrite(bytes(range(256)) * 16, 512)
        assert other.pread(4096, 512) == bytes(range(256)) * 16
        one.zero(256, 512)
        assert other.pread(256, 512) == bytes(256)
        one.flush()
        one.trim(256, 768)
        assert one.can_fua()
        assert one.is_rotational()


@pytest.mark.parametrize("style", STYLES)
def test_errors(style: str) -> None:
    with Server("-n", "ocaml", SCRIPTS / style, "size=1M", "fail=pwrite") as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pwrite(b"x", 0)) == "ENOSPC"
        assert "pwrite: no room" in server.log
        assert client.pread(1, 0) == b"\0"


def test_the_error_of_a_system_call_is_told() -> None:
    with Server("-n", "ocaml", SCRIPTS / "labelled.ml", "size=1M", "fail=unix") as server:
        assert attempt(lambda: connect(server.uri).pwrite(b"x", 0)) == "EPERM"  # of EROFS
        assert "write" in server.log


def test_zeroes_are_written_if_the_source_says_so() -> None:
    with Server("-n", "ocaml", SCRIPTS / "labelled.ml", "size=1M", "fail=zero") as server:
        client = connect(server.uri)
        client.pwrite(b"x" * 1024, 0)
        client.zero(512, 0)
        assert client.pread(1024, 0) == bytes(512) + b"x" * 512


def test_a_death_is_told() -> None:
    with Server("-n", "ocaml", SCRIPTS / "labelled.ml", "size=1M", "fail=kill") as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pwrite(b"x", 0)) == "EIO"
        assert "the helper died: signal 9" in server.log
        assert connect(server.uri).pread(1, 0) == b"\0"


def test_all_that_a_source_can_tell() -> None:
    plugin = Ocaml(script=str(SCRIPTS / "labelled.ml"))
    with many_descriptors():
        plugin.config("size", "64k")
        plugin.config_complete()
        assert plugin.dump_plugin()["plugin_name"] == "labelled"
        plugin.get_ready()
        plugin.after_fork()
    assert [tuple(one) for one in plugin.list_exports(False)] == [("a", "the first"), ("b", "")]
    assert plugin.default_export(False) == "a"
    export = plugin.open("b", False)
    assert export.get_size() == 65536
    assert export.description() == "export b"
    assert tuple(export.block_size()) == (1, 4096, 0xFFFFFFFF)
    assert list(export.extents(1024, 512, 0)) == [Extent(512, 512, 0), Extent(1024, 512, 3)]
    export.close()
    plugin.cleanup()
    plugin.unload()
    plugin.finish()


def test_each_client_can_have_a_process() -> None:
    environment = {"NBDFORK_PROCESSES": "1"}
    source = SCRIPTS / "labelled.ml"
    with Server("-n", "ocaml", source, "size=1M", environment=environment) as server:
        one, other = connect(server.uri), connect(server.uri)
        one.pwrite(b"mine", 0)
        assert other.pread(4, 0) == bytes(4)
        eventually(lambda: len(server.serving()) == 2)


def test_what_was_compiled_is_used_again() -> None:
    source = SCRIPTS / "labelled.ml"
    assert nbdfork("--dump-plugin", "ocaml", source).returncode == 0
    nowhere = {**os.environ, "PATH": os.environ["PATH"], "TMPDIR": "/nonexistent"}
    assert "ocaml_version=" in output_of(source, nowhere)


def output_of(source: Path, environment: dict[str, str]) -> str:
    return nbdfork("--dump-plugin", "ocaml", source, env=environment).stdout


def test_an_error_of_the_compiler_names_the_source(tmp_path: Path) -> None:
    source = tmp_path / "wrong-name.ml"
    source.write_text("let () = 1 + true\n")
    said = nbdfork("--dump-plugin", "ocaml", source).stderr
    assert f"ocaml: {source}: it cannot be compiled" in said
    assert f'File "{source}", line 1' in said


def test_a_source_that_registers_nothing_is_told(tmp_path: Path) -> None:
    source = tmp_path / "nothing.ml"
    source.write_text("let () = ()\n")
    said = nbdfork("--dump-plugin", "ocaml", source).stderr
    assert "has not called NBDKit.register_plugin" in said


def test_a_program_compiled_by_hand_runs(tmp_path: Path) -> None:
    names = ["nbdfork_api.ml", "nbdfork_host.ml", "NBDKit.mli", "NBDKit.ml"]
    for name in (*names, "nbdfork_main.ml"):
        (tmp_path / name).write_text((LIBRARY / name).read_text())
    (tmp_path / "disk.ml").write_text((SCRIPTS / "labelled.ml").read_text())
    command = ["ocamlopt", "-I", "+unix", "unix.cmxa", *names, "disk.ml", "nbdfork_main.ml"]
    output(*command, "-o", "disk", cwd=tmp_path)
    with Server("-n", "ocaml", tmp_path / "disk", "size=1M") as server:
        assert connect(server.uri).get_size() == 1024 * 1024


def test_a_file_that_is_neither_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_text("")
    said = nbdfork("--dump-plugin", "ocaml", path).stderr
    assert "is neither a source (.ml) nor a program" in said


def test_a_plugin_with_ocaml_inside_is_a_c_plugin(tmp_path: Path) -> None:
    """Plugins are built like that with nbdkit's own bindings."""
    include = LIBRARY.parent.parent / "c" / "include" / "nbdfork"
    sources = []
    for source in (C_SOURCES / "ocaml.c", SCRIPTS / "inside.ml"):
        sources.append(shutil.copy(source, tmp_path))
    plugin = tmp_path / "inside.so"
    command = ["ocamlopt", "-output-obj", "-runtime-variant", "_pic", "-ccopt", f"-I{include}"]
    subprocess.run([*command, "-o", plugin, *sources], check=True, cwd=tmp_path)
    with Server("-n", plugin) as server:
        client = connect(server.uri)
        assert client.pread(4, 254) == bytes([254, 255, 0, 1])
        assert attempt(lambda: client.pread(4, 512)) == "EIO"
        assert "an exception was raised" in server.log
        assert connect(server.uri).pread(4, 0) == bytes([0, 1, 2, 3])
