"""C plugins that crash, and files that are refused, each with a line."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from nbdfork.plugins.c import crash

from nbdfork.backend import load
from nbdfork.plugin import ConfigError
from tests.support.c_plugins import PKG_CONFIG, Build, installed
from tests.support.harness import Server, eventually, nbdfork, need, output, run

# -- a plugin that crashes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sector", "report"),
    [
        (1, "crashed in its callback pread (SIGSEGV)"),
        (2, "crashed in its callback pread (SIGABRT)"),
        (3, "ended its process in its callback pread (exit)"),
        (4, "crashed in its callback pread (SIGBUS)"),
    ],
)
def test_a_crash_costs_its_client_only(sector: int, report: str, build: Build) -> None:
    need("qemu-io")
    reading = ["qemu-io", "-r", "-f", "raw", "-c"]
    with Server("-n", build("crash")) as server:
        other = subprocess.Popen(
            [*reading[:-1], server.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        eventually(lambda: len(server.serving()) == 1)
        done = run(*reading, f"read {sector * 512} 512", server.uri)
        assert "failed" in done.stdout + done.stderr
        eventually(lambda: report in server.log)
        assert f"nbdfork: error: the plugin crash {report}\n" in server.log
        printed, _ = other.communicate("read 0 512\n", timeout=30)
        assert "512/512" in printed
        assert "512/512" in output(*reading, "read 0 512", server.uri)


def test_one_process_that_crashes_is_replaced(build: Build) -> None:
    need("qemu-io")
    with Server("-n", build("crash"), "nbdfork-processes=no") as server:
        run("qemu-io", "-r", "-f", "raw", "-c", "read 512 512", server.uri)
        eventually(lambda: "crashed in its callback pread" in server.log)
        text = output("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", server.uri)
        assert "512/512" in text


def test_a_crash_reaches_the_system_log(tmp_path: Path) -> None:
    program = (
        "import logging, os, sys; from nbdfork.plugins.c import crash\n"
        "logging.getLogger().handlers.clear(); crash._SYSLOG = sys.argv[1]\n"
        "crash.report_crashes(); os.abort()"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as system_log:
        system_log.bind(str(tmp_path / "log"))
        system_log.settimeout(30)
        done = run(sys.executable, "-c", program, tmp_path / "log")
        message = system_log.recv(1000).decode()
    assert done.returncode == -signal.SIGABRT
    expected = "a process that serves a C plugin crashed outside of its callbacks (SIGABRT)"
    assert re.fullmatch(rf"<27>nbdfork\[\d+\]: {re.escape(expected)}\n", message)


def test_without_a_system_log_the_last_words_go_to_standard_error(tmp_path: Path) -> None:
    program = (
        "import logging, os, sys; from nbdfork.plugins.c import crash\n"
        "logging.getLogger().handlers.clear(); crash._SYSLOG = sys.argv[1]\n"
        "crash.report_crashes(); os.abort()"
    )
    done = run(sys.executable, "-c", program, tmp_path / "none")
    assert done.returncode == -signal.SIGABRT
    assert done.stderr.startswith("nbdfork: error: ")
    assert "crashed outside of its callbacks (SIGABRT)\n" in done.stderr


@pytest.mark.parametrize("handler", ["a file", "the system log", "nothing"])
def test_where_the_last_words_go(
    handler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to the C code in this process, which does not crash."""
    told: list[tuple[int, str, bool]] = []
    stand_in = SimpleNamespace(report_crashes=lambda *words: told.append(words))
    monkeypatch.setattr(crash, "native", lambda: stand_in)
    monkeypatch.setattr(crash, "_SYSLOG", str(tmp_path / "syslog"))
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [logging.NullHandler()])
    with ExitStack() as stack:
        if handler == "a file":
            stream = stack.enter_context((tmp_path / "log").open("w"))
            root.handlers.append(logging.StreamHandler(stream))
        if handler == "the system log":
            system_log = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            system_log.bind(str(tmp_path / "syslog"))
        crash.report_crashes()
        [(fd, prefix, _)] = told
        if handler == "a file":
            assert fd == stream.fileno()
        elif handler == "nothing":
            assert fd == 2
        else:
            assert prefix == f"<27>nbdfork[{os.getpid()}]: "
            os.write(fd, b"last words")
            assert system_log.recv(100) == b"last words"
            os.close(fd)


# -- what is refused, each with a line --------------------------------------------------------


def wrong(source: str, tmp_path: Path) -> Path:
    need("cc")
    include = output("pkg-config", "--cflags", "nbdfork", env=PKG_CONFIG).split()
    plugin = tmp_path / "wrong.so"
    text = f"#define NBDKIT_API_VERSION 2\n#include <nbdkit-plugin.h>\n{source}\n"
    output("cc", "-w", "-shared", "-fPIC", *include, "-x", "c", "-", "-o", plugin, input=text)
    return plugin


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int x;", "it has no function plugin_init"),
        ("void *filter_init (void) { return 0; }", "it is a filter of nbdkit"),
        (
            "void nbdkit_of_filters (void); void *filter_init (void)"
            " { nbdkit_of_filters (); return 0; }",
            "it is a filter of nbdkit",
        ),
        ("void *plugin_init (void) { return 0; }", "its plugin_init returned NULL"),
        (
            "void nbdkit_of_tomorrow (void); void *plugin_init (void)"
            " { nbdkit_of_tomorrow (); return 0; }",
            "nbdfork has no function nbdkit_of_tomorrow",
        ),
        (
            "static struct nbdkit_plugin p = { .name = \"a b\" };\n#define THREAD_MODEL 0\n"
            "NBDKIT_REGISTER_PLUGIN (p)",
            "the plugin's .name is 'a b'",
        ),
        (
            "static struct nbdkit_plugin p = { .name = \"empty\" };\n#define THREAD_MODEL 0\n"
            "NBDKIT_REGISTER_PLUGIN (p)",
            "the plugin has no .open",
        ),
        (
            "static struct nbdkit_plugin p = { ._struct_size = 384, ._api_version = 3 };\n"
            "void *plugin_init (void) { return &p; }",
            "it is built for API version 3",
        ),
        (
            "static struct nbdkit_plugin p = { ._struct_size = 100, ._api_version = 2 };\n"
            "void *plugin_init (void) { return &p; }",
            "cut off after 100 bytes",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plugin_is_refused(source: str, message: str, tmp_path: Path) -> None:
    plugin = wrong(source, tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        load.find(str(plugin))
    assert str(plugin) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a shared object")
    for path, message in ((text, "cannot load"), (tmp_path / "none.so", "is not a file")):
        with pytest.raises(ConfigError, match=message):
            load.find(str(path))
    assert "is required" not in nbdfork("c").stderr
    assert "nbdfork ./NAME.so" in nbdfork("c").stderr


def test_pythons_plugin_is_turned_away() -> None:
    done = nbdfork(installed("python"), "script.py")
    assert done.returncode == 1
    assert "nbdfork python SCRIPT" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nbdfork: error: life: log=FILE is missing\n"),
        (["other=1"], 'nbdfork: error: life: other=1: the key "other" is not mine\n'),
        (["number=x"], "nbdfork: error: life: number=x: number: x: a number is expected\n"),
    ],
)
def test_what_a_plugin_refuses_is_one_line(
    arguments: list[str], message: str, build: Build
) -> None:
    done = nbdfork(build("life"), *arguments)
    assert (done.returncode, done.stderr) == (1, message)


def test_without_the_native_module_one_line_says_what_to_install(build: Build) -> None:
    plugin = build("facts")
    hide = "import sys; sys.modules['nbdfork.plugins.c._native'] = None\n"
    start = "from nbdfork.main import main; sys.exit(main(sys.argv[1:]))"
    done = run(sys.executable, "-c", hide + start, plugin)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "install a C compiler and Python's headers" in done.stderr


@pytest.mark.parametrize("arguments", [["--dump-plugin"], ["-U", "-"]])
def test_a_thread_model_that_there_is_not_is_one_line(
    arguments: list[str], build: Build, tmp_path: Path
) -> None:
    source = tmp_path / "model.c"
    source.write_text(
        "#define NBDKIT_API_VERSION 2\n#include <nbdkit-plugin.h>\n#define THREAD_MODEL 99\n"
        "static void *model_open (int readonly) { return NBDKIT_HANDLE_NOT_NEEDED; }\n"
        "static int64_t model_get_size (void *handle) { return 0; }\n"
        "static int model_pread (void *handle, void *buf, uint32_t count, uint64_t offset,\n"
        "  uint32_t flags) { return 0; }\n"
        'static struct nbdkit_plugin plugin = { .name = "model", .open = model_open,\n'
        "  .get_size = model_get_size, .pread = model_pread };\nNBDKIT_REGISTER_PLUGIN (plugin)\n"
    )
    done = nbdfork(*arguments, build(source))
    assert done.returncode == 1
    assert done.stderr == "nbdfork: error: model: its thread model is 99, and there are 0 to 3\n"
