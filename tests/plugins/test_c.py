"""C plugins that were made here, whose callbacks tell on us, and the header they use."""

import ctypes
import errno
import json
import os
import re
import shutil
import sysconfig
from pathlib import Path

import pytest

from nbdfork.backend import load
from tests.support.c_plugins import (
    PKG_CONFIG,
    STRICT,
    Build,
    both,
    facts,
    need_native,
    started,
)
from tests.support.harness import NBDFORK, Server, eventually, nbdfork, need, output, run
from tests.support.libnbd import libnbd
from tests.support.paths import C_SOURCES, ROOT


@pytest.fixture(autouse=True)
def _built() -> None:
    need_native()


# -- the header -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
def test_our_header_has_the_layout_and_the_values_of_nbdkits(version: int, tmp_path: Path) -> None:
    need("cc", "pkg-config")
    printed = []
    for package in ("nbdkit", "nbdfork"):
        done = run("pkg-config", "--variable=prefix", package, env=PKG_CONFIG)
        if done.returncode and not os.environ.get("NBDFORK_CI"):
            pytest.skip(f"no headers of {package}: {done.stderr}")
        include = output("pkg-config", "--cflags", package, env=PKG_CONFIG).split()
        program = tmp_path / package
        defined = f"-DNBDKIT_API_VERSION={version}"
        source = C_SOURCES / "layout.c"
        output("cc", "-w", "-include", "stddef.h", *include, defined, "-o", program, source)
        printed.append(output(program))
    assert printed[0] == printed[1]
    assert "block_size at 376 of 8" in printed[1]


def test_every_function_of_both_headers_is_there() -> None:
    from nbdfork.plugins.c import _native

    ours = (ROOT / "plugins/c/include/nbdfork/nbdfork-plugin.h").read_text()
    names = set(re.findall(r"^extern .*?(nbdkit_\w+) \(", ours, re.MULTILINE))
    assert len(names) > 35
    for header in Path("/usr/include").glob("nbdkit-[cp]*.h"):
        names |= set(re.findall(r"EXTERN_DECL \([^,]*, (nbdkit_\w+)", header.read_text()))
    assert _native.__file__ is not None
    functions = ctypes.CDLL(_native.__file__)
    assert [name for name in sorted(names) if not hasattr(functions, name)] == []


def test_the_header_serves_cplusplus(tmp_path: Path) -> None:
    need("c++", "pkg-config")
    source = tmp_path / "disk.cc"
    source.write_text(
        "#define NBDKIT_API_VERSION 2\n#include <nbdkit-plugin.h>\n"
        "#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL\n"
        "static void *open_it (int) { return NBDKIT_HANDLE_NOT_NEEDED; }\n"
        "static int64_t size (void *) { return 512; }\n"
        "static int read_it (void *, void *, uint32_t, uint64_t, uint32_t) { return 0; }\n"
        "static struct nbdkit_plugin make () { struct nbdkit_plugin p = {}; p.name = \"cpp\";\n"
        "  p.open = open_it; p.get_size = size; p.pread = read_it; return p; }\n"
        "static struct nbdkit_plugin plugin = make ();\n"
        "NBDKIT_REGISTER_PLUGIN (plugin)\n"
    )  # fmt: skip
    include = output("pkg-config", "--cflags", "nbdfork", env=PKG_CONFIG).split()
    plugin = tmp_path / "disk.so"
    output("c++", "-shared", "-fPIC", *STRICT, *include, "-o", plugin, source)
    text = output(*NBDFORK, "-U", "-", plugin, "--run", "nbdinfo --size $uri")
    assert text == "512\n"


def test_the_version_is_nbdforks() -> None:
    need("pkg-config")
    version = output("pkg-config", "--modversion", "nbdfork", env=PKG_CONFIG)
    assert nbdfork("--version").stdout == f"nbdfork {version}"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_c_code_compiles_without_a_warning(compiler: str) -> None:
    if compiler == "clang" and shutil.which("clang") is None:
        pytest.skip("gcc is enough to build it")
    need(compiler)
    sources = ROOT / "plugins" / "c"
    include = (f"-I{sysconfig.get_path('include')}", f"-I{sources / 'include' / 'nbdfork'}")
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Werror")
    files = sorted(sources.glob("*.c"))
    output(compiler, "-fsyntax-only", "-std=gnu11", "-O2", *warnings, *include, *files)


# -- what follows from what a plugin has ------------------------------------------------------

VARIANTS = [
    "",
    "WRITE",
    "WRITE FLUSH",
    "WRITE FLUSH TRIM ZERO EXTENTS",
    "WRITE FLUSH ZERO CAN_ZERO=0 CAN_FUA=2",
    "WRITE FLUSH ZERO CAN_ZERO=1 CAN_FUA=0",
    "WRITE CAN_FUA=1 CAN_CACHE=1",
    "WRITE CAN_WRITE=0 CAN_CACHE=2 CAN_MULTI_CONN=1 IS_ROTATIONAL=1",
    "BLOCK_SIZE EXTENTS CAN_CACHE=0",
    "API=1",
    "API=1 WRITE FLUSH TRIM ZERO",
    "API=1 WRITE FLUSH CAN_FUA=2 ZERO CAN_ZERO=0",
    "API=1 OLD WRITE FLUSH TRIM ZERO",
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_facts_are_derived_as_nbdkit_does(variant: str, build: Build) -> None:
    need("nbdinfo", "nbdcopy")
    plugin = build("facts", *(f"-D{word}" for word in variant.split()))
    command = "nbdinfo --json $uri; echo; nbdcopy $uri - | sha256sum; nbdinfo --map $uri"
    if "WRITE" in variant.split() and "CAN_WRITE=0" not in variant:
        zero = "-c 'write -z 512 512' -c 'write -z 1024 512' -c 'write -z -u 2560 512'"
        command += f"; qemu-io -f raw {zero} -c 'write -f -P 9 4k 1k' $uri >/dev/null"
        command += "; nbdcopy $uri - | sha256sum"
    printed = both(plugin, command=command)
    (info, rest), (our_info, our_rest) = (text.split("\n\n", 1) for text in printed)
    assert facts(our_info) == facts(info)
    assert our_rest == rest


def test_extents_are_cut_and_merged(build: Build) -> None:
    export = started(build("facts", "-DEXTENTS")).open("", True)
    assert list(export.extents(8192, 2048, 0)) == [(2048, 6144, 0), (8192, 2048, 3)]
    assert list(export.extents(100, 9000, 0)) == [(9000, 100, 3)]
    assert list(export.extents(1 << 40, 0, 0))[-1] == (8192, (1 << 20) - 8192, 3)
    export.close()
    with pytest.raises(ValueError, match="closed"):
        export.pread(1, 0)


def test_what_a_plugin_lacks_is_an_error_and_no_crash(build: Build) -> None:
    export = started(build("facts", "-DCAN_WRITE=1", "-DCAN_CACHE=2")).open("", False)
    assert export.can_write()
    for operation in (
        lambda: export.pwrite(memoryview(b"x"), 0, 0),
        export.flush,
        lambda: export.trim(1, 0, 0),
        lambda: export.extents(1, 0, 0),
    ):
        with pytest.raises(OSError, match="says that it can") as failed:
            operation()
        assert failed.value.errno == errno.EINVAL
    export.cache(1, 0)  # as nbdkit has it, there is nothing to do
    export.close()


def test_a_range_longer_than_the_api_takes_is_cut(build: Build, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    export = started(build("life"), diary).open("one", False)
    export.cache(5 << 30, 0)
    export.close()
    assert diary.read_text().split().count("cache") == 3


# -- the life of a plugin ---------------------------------------------------------------------


def test_help_version_and_dump(build: Build) -> None:
    plugin = build("life")
    text = output(*NBDFORK, "--help", plugin)
    assert "plugin: life - a plugin that keeps a diary\n" in text
    assert "What it does is written down.\nlog=<FILE>  (required) The diary.\n" in text
    assert output(*NBDFORK, "--version", plugin).endswith("\nlife 3.2.1\n")
    pairs = dict(
        line.split("=", 1) for line in output(*NBDFORK, "--dump-plugin", plugin).splitlines()
    )
    need("nbdkit")
    text = output("nbdkit", "--dump-plugin", plugin)
    theirs = dict(line.split("=", 1) for line in text.splitlines())
    told_by_help = {"has_longname", "has_description", "has_config_help"}
    assert {key: pairs.get(key) for key in theirs.keys() - told_by_help} == {
        key: theirs[key] for key in theirs.keys() - told_by_help
    }
    assert pairs["life_says"] == "hello"


def test_the_callbacks_come_in_their_order(build: Build, tmp_path: Path) -> None:
    need("qemu-io")
    diary = tmp_path / "diary"
    with Server("-n", build("life"), diary) as server:
        output("qemu-io", "-f", "raw", "-c", "write -f 0 512", "-c", "flush", server.uri)
        eventually(lambda: "close" in diary.read_text())
    entries = read(diary)
    names = [name for _, name in entries]
    before = ["load config", "config_complete", "get_ready"]
    assert names[:4] == [*before, "after_fork"]
    assert names[4] == "preconnect"
    assert names[5].startswith("open first")
    assert {"pwrite fua", "flush"} <= set(names)
    assert names[-3:] == ["close", "cleanup", "unload"]


def read(diary: Path) -> list[tuple[int, str]]:
    """Return what the sample `life` has written: process and callback, in order."""
    lines = [line.split(" ", 1) for line in diary.read_text().splitlines()]
    return [(int(process), name) for process, name in lines]


ALL_BY_ONE = [[], ["-DMODEL=NBDKIT_THREAD_MODEL_SERIALIZE_CONNECTIONS"]]


@pytest.mark.parametrize("flags", ALL_BY_ONE)
def test_the_process_that_serves_all_clients_unloads(
    flags: list[str], build: Build, tmp_path: Path
) -> None:
    need("nbdinfo")
    diary = tmp_path / "diary"
    processes = "no" if not flags else "yes"  # its thread model is reason enough
    with Server("-n", build("life", *flags), diary, f"nbdfork-processes={processes}") as server:
        for _ in range(3):
            output("nbdinfo", "--size", server.uri)
        supervisor = server.pid
    entries = read(diary)
    (worker,) = {process for process, name in entries if name == "close"}
    assert worker != supervisor
    assert entries[-2:] == [(worker, "cleanup"), (worker, "unload")]
    ends = [name for _, name in entries if name in ("after_fork", "cleanup", "unload")]
    assert ends == ["after_fork", "cleanup", "unload"]
    assert [name for process, name in entries if process == supervisor] == [
        "load config", "config_complete", "get_ready",
    ]  # fmt: skip


def test_the_supervisor_unloads_if_each_client_has_a_process(build: Build, tmp_path: Path) -> None:
    need("nbdinfo")
    diary = tmp_path / "diary"
    with Server("-n", build("life"), diary, "nbdfork-processes=yes") as server:
        for _ in range(3):
            output("nbdinfo", "--size", server.uri)
        supervisor = server.pid
    entries = read(diary)
    workers = {process for process, name in entries if name == "close"}
    assert len(workers) == 3
    assert supervisor not in workers
    assert entries[-1] == (supervisor, "unload")
    assert [name for _, name in entries].count("unload") == 1
    for worker in workers:
        own = [name for process, name in entries if process == worker]
        assert (own[0], own[-1]) == ("after_fork", "cleanup")


def test_a_single_client_is_served_and_unloaded_in_one_process(
    build: Build, tmp_path: Path
) -> None:
    diary = tmp_path / "diary"
    client = libnbd().NBD()
    client.connect_command([*NBDFORK, "-s", str(build("life")), str(diary)])
    client.pread(512, 0)
    client.shutdown()
    eventually(lambda: "unload" in diary.read_text())
    entries = read(diary)
    assert len({process for process, _ in entries}) == 1
    assert [name for _, name in entries][-3:] == ["close", "cleanup", "unload"]


def test_a_worker_that_is_killed_does_not_unload_nor_does_another(
    build: Build, tmp_path: Path
) -> None:
    """What it had in memory is gone; the one that takes its place unloads when the server ends."""
    diary = tmp_path / "diary"
    with Server("-n", build("life"), diary) as server:
        (first,) = eventually(server.workers)
        eventually(lambda: (first.pid, "after_fork") in read(diary))
        first.kill()
        eventually(lambda: [name for _, name in read(diary)].count("after_fork") == 2)
        assert "unload" not in diary.read_text()
    entries = read(diary)
    (second,) = {process for process, name in entries if name == "unload"}
    assert second not in (first.pid, server.pid)
    assert entries[-2:] == [(second, "cleanup"), (second, "unload")]


def test_exports_are_listed_and_described(build: Build, tmp_path: Path) -> None:
    need("nbdinfo")
    command = "nbdinfo --list --json $uri"
    theirs, ours = (
        {export["export-name"]: export.get("description") for export in json.loads(text)["exports"]}
        for text in both(build("life"), tmp_path / "diary", command=command)
    )
    assert ours == theirs
    assert ours.keys() == {"first", "second"}


def test_errors_have_the_errno_and_the_log_has_the_message(build: Build, tmp_path: Path) -> None:
    plugin = started(build("life"), tmp_path / "diary")
    with pytest.raises(OSError, match="nobody gets this one") as refused:
        plugin.open("refused", False)
    assert refused.value.errno == errno.EACCES
    export = plugin.open("one", False)
    for offset, code, message in (
        (4096, errno.EIO, "life: pread: a bad sector"),
        (8192, errno.ENOMEM, "life: pread: out of memory"),
    ):
        with pytest.raises(OSError, match=message) as failed:
            export.pread(512, offset)
        assert failed.value.errno == code
        assert failed.value.strerror == "pread failed in the plugin"  # what clients may know
    assert export.description() == "this is one"
    export.close()


def test_a_message_without_a_failure_is_logged(
    build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = started(build("life"), tmp_path / "diary")
    export = plugin.open("one", False)
    assert export.pread(512, 12288) == bytes(512)
    assert "life: only a remark" in caplog.text
    export.close()


def test_a_plugin_can_end_the_server(build: Build, tmp_path: Path) -> None:
    need("qemu-io")
    with Server("-n", build("life"), tmp_path / "diary") as server:
        run("qemu-io", "-r", "-f", "raw", "-c", "read 16k 512", server.uri)
        assert eventually(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0


def test_a_debug_flag_sets_a_variable(build: Build, tmp_path: Path) -> None:
    plugin = build("life")
    found = load.find(str(plugin)).plugin_class()
    assert "some.flag" in found.debug
    found.debug["some.flag"] = 5
    assert "other" not in found.debug
    done = nbdfork("-D", "life.other=1", plugin, tmp_path / "diary")
    assert done.returncode == 1
    assert "no such debug flag" in done.stderr


# -- the example, and the page ----------------------------------------------------------------


def test_the_example_is_a_disk(build: Build, tmp_path: Path) -> None:
    need("qemu-io", "nbdinfo")
    plugin = build(ROOT / "contrib" / "examples" / "example4.c")
    with Server("-n", plugin, "1M") as server:
        writes = ["-c", "write -P 3 100k 300k", "-c", "write -P 4 32000 2000"]
        output("qemu-io", "-f", "raw", *writes, server.uri)
        reads = ["-c", "read -P 3 100k 300k", "-c", "read -P 4 32000 2000", "-c", "read -P 0 0 31k"]
        text = output("qemu-io", "-r", "-f", "raw", *reads, server.uri)
        assert "failed" not in text
        extents = json.loads(output("nbdinfo", "--map", "--json", server.uri))
        assert [extent["type"] for extent in extents] == [0, 3, 0, 3]
    done = nbdfork(plugin)
    assert done.stderr == "nbdfork: error: example4: the parameter size=SIZE is required\n"


def test_the_disk_on_the_page_works(build: Build, tmp_path: Path) -> None:
    page = (ROOT / "man" / "nbdfork-c-plugin.3").read_text()
    match = re.search(r"^(/\* disk\.c.*?)^\.Ed$", page, re.MULTILINE | re.DOTALL)
    assert match is not None
    source = tmp_path / "disk.c"
    source.write_text(match[1].replace("\\e", "\\"))
    command = "nbdinfo --size $uri"
    assert output(*NBDFORK, "-U", "-", build(source), "--run", command) == "1048576\n"
