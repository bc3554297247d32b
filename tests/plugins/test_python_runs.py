"""How the python plugin runs scripts: in which processes, and what it says of bad ones."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from nbdfork.plugins.python import Python
from nbdfork.plugins.python import nbdkit as nbdkit_module
from nbdfork.plugins.python.script import SIGNATURES, SIGNATURES_OF_VERSION_1

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.exports import Catalogue, Exports
from nbdfork.plugin import Export, Extent, Support, ThreadModel
from tests.support.harness import NBDFORK, SECONDS, Server, eventually, nbdfork, need, run
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.manual import rendered
from tests.support.paths import SCRIPTS
from tests.support.python_scripts import MINIMUM, script

# -- processes ---------------------------------------------------------------------------------


def test_clients_at_once_see_one_disk() -> None:
    with Server("-n", "python", SCRIPTS / "v2_ramdisk.py") as server:
        one, other = connect(server.uri), connect(server.uri)
        one.pwrite(b"from one", 0)
        other.pwrite(b"from other", 512)
        assert other.pread(8, 0) == b"from one"
        assert one.pread(10, 512) == b"from other"
        one.shutdown()
        assert connect(server.uri).pread(8, 0) == b"from one"
        assert len(server.workers()) == 1


def test_a_process_for_each_client_if_the_script_says_so() -> None:
    with Server("-n", "python", SCRIPTS / "cpu_bound.py") as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(4096, 0) == other.pread(4096, 0)
        eventually(lambda: len(server.serving()) == 2)


def test_each_thread_has_its_own_export_name_and_error() -> None:
    with Server("-n", "python", SCRIPTS / "named_exports.py") as server:
        uris = [server.uri.replace(":///", f":///{name}") for name in ("red", "blue")]
        red, blue = map(connect, uris)
        assert red.pread(3, 0) == b"red"
        assert blue.pread(4, 0) == b"blue"


def test_shutdown_ends_the_server(tmp_path: Path) -> None:
    path = script(tmp_path, "def flush(h, f): nbdkit.shutdown()")
    with Server("-n", "python", path) as server:
        client = connect(server.uri)
        attempt(client.flush)
        assert server.process.wait(SECONDS) == 0


@pytest.mark.parametrize("where", ["", "def config_complete(): ", "def get_ready(): "])
def test_shutdown_before_there_are_clients(tmp_path: Path, where: str) -> None:
    path = script(tmp_path, f"{where}nbdkit.shutdown()")
    done = nbdfork("-f", "-U", "-", "python", path)
    assert done.returncode == 0, done.stderr


def client_on_pipes(path: Path, *parameters: str | Path) -> Any:
    client = libnbd().NBD()
    client.connect_command([*NBDFORK, "-s", "-n", "python", str(path), *map(str, parameters)])
    return client


def test_what_a_script_prints_is_printed_once(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        "def get_ready(): print('in get_ready')\n"
        "def open(readonly): print('in open')\n"
        "def cleanup(): print('in cleanup')",
    )
    done = nbdfork("-n", "-U", "-", "python", path, "--run", "nbdinfo --size $uri")
    lines = ["in get_ready", "1048576", "in open", "in cleanup"]
    assert sorted(done.stdout.splitlines()) == sorted(lines)


def test_single_mode_is_not_disturbed_by_print(tmp_path: Path) -> None:
    client = client_on_pipes(SCRIPTS / "all_callbacks.py", f"calls={tmp_path / 'calls'}")
    client.pwrite(b"hello", 0)
    assert client.pread(5, 0) == b"hello"
    client.shutdown()


def test_shutdown_in_single_mode(tmp_path: Path) -> None:
    path = script(tmp_path, "def flush(h, f): nbdkit.shutdown()")
    client = client_on_pipes(path)
    attempt(client.flush)
    assert attempt(lambda: client.pread(512, 0)) != bytes(512)


def test_a_script_with_a_shebang_is_a_command(tmp_path: Path) -> None:
    path = script(tmp_path, "", "#!/usr/bin/env -S nbdfork python\n" + MINIMUM)
    path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = run(path, "-n", "-U", "-", "--run", "nbdinfo --size $uri", env=environment)
    assert (done.stdout, done.returncode) == ("1048576\n", 0), done.stderr


def test_a_dead_worker_is_replaced() -> None:
    with Server("-n", "python", SCRIPTS / "v2_ramdisk.py") as server:
        connect(server.uri).shutdown()  # it has started, then
        (worker,) = server.workers()
        worker.kill()
        eventually(lambda: worker.pid not in [one.pid for one in server.workers()])
        assert connect(server.uri).pread(4, 0) == bytes(4)


# -- what the log says -------------------------------------------------------------------------


def test_a_failing_callback_is_logged_with_the_scripts_lines(tmp_path: Path) -> None:
    path = script(tmp_path, "def pread(h, buf, offset, flags):\n    return 1 // 0")
    with Server("-n", "python", path) as server:
        assert attempt(lambda: connect(server.uri).pread(512, 0)) == "EIO"
        assert f"{path}: pread: Traceback" in server.log
        assert "return 1 // 0" in server.log
        assert "ZeroDivisionError" in server.log
        assert "plugins/python.py" not in server.log


RUNTIME = {
    "def get_size(h): return '1'": "get_size: returned '1'; return an int",
    "def get_size(h): return -1": "get_size: returned -1; return 0 to 2^63-1 bytes",
    "def block_size(h): return (1, 2)": "block_size: returned (1, 2); return a tuple",
    "def can_fua(h): return 7": "can_fua: returned 7; return nbdkit.FUA_NONE, _EMULATE or _NATIVE",
    "def default_export(r, t): return 5": "default_export: returned 5; return a string",
    "def open(readonly): raise ValueError('not today')": "ValueError: not today",
    "def preconnect(readonly): raise ValueError('not you')": "ValueError: not you",
}


@pytest.mark.parametrize("text", RUNTIME)
def test_answers_that_make_no_sense_refuse_the_client(tmp_path: Path, text: str) -> None:
    path = script(tmp_path, text + "\ndef pwrite(h, b, o, f): pass")
    with Server("-n", "python", path) as server:
        with pytest.raises(libnbd().Error):
            connect(server.uri)
        assert RUNTIME[text] in server.log
        assert f"{path}: " in server.log


def test_exports_that_make_no_sense_are_not_listed(tmp_path: Path) -> None:
    path = script(tmp_path, "def list_exports(r, t): return [('a', 'b', 'c')]")
    with Server("-n", "python", path) as server:
        assert run("nbdinfo", "--list", server.uri).returncode != 0
        assert "list_exports" in server.log
        assert "return a list of names or (name, description) tuples" in server.log


VERSION_1 = MINIMUM.replace("API_VERSION = 2", "").replace("h, buf, offset, flags", "h, n, offset")


READS = {
    "b'x'": (None, "returned 1 bytes; return as many as asked for, 512"),
    "'x' * n": (None, "returned str; return bytes"),
    "None": (None, "returned NoneType; return bytes"),
    "b'x' * (n + 5)": (b"x" * 512, ""),
    "bytearray(n)": (bytes(512), ""),
    "memoryview(b'y' * n)": (b"y" * 512, ""),
    "__import__('array').array('Q', [0] * (n // 8))": (bytes(512), ""),
}


@pytest.mark.parametrize("text", READS)
def test_what_a_read_of_version_1_returns(tmp_path: Path, text: str) -> None:
    data, message = READS[text]
    path = script(tmp_path, f"def pread(h, n, offset): return {text}", VERSION_1)
    with Server("-n", "python", path) as server:
        assert attempt(lambda: connect(server.uri).pread(512, 0)) == (data or "EIO")
        assert message in server.log


@pytest.mark.parametrize("version", [1, 2])
def test_a_write_to_a_script_that_only_says_it_can(tmp_path: Path, version: int) -> None:
    text = "def can_write(h): return True"
    path = script(tmp_path, text, VERSION_1) if version == 1 else script(tmp_path, text)
    with Server("-n", "python", path) as server:
        assert attempt(lambda: connect(server.uri).pwrite(b"x" * 512, 0)) == "EIO"
        said = f"{path}: pwrite: the script does not have this callback, but says it can"
        eventually(lambda: said in server.log)


# -- bad input ---------------------------------------------------------------------------------


BAD = {
    "x = (": ":6: SyntaxError: '(' was never closed; correct the script",
    "import nosuchmodule": ":6: loading the script failed: ModuleNotFoundError: No module named",
    "1/0": ":6: loading the script failed: ZeroDivisionError: division by zero (-v shows",
    "raise SystemExit(3)": ":6: loading the script called sys.exit(3): raise an exception instead",
    "def get_ready(): raise SystemExit": ":6: get_ready called sys.exit(None): raise an exception",
    "del pread": ": the callback pread is missing; define pread(h, buf, offset, flags)",
    "del open": ": the callback open is missing; define open(readonly)",
    "get_size = 5": ": the callback get_size is not a function; define get_size(h)",
    "API_VERSION = 3": ": API_VERSION is 3; set it to 2, or to 1, which is the default",
    "API_VERSION = '2'": ": API_VERSION is '2'; set it",
    "API_VERSION = 1": "does not fit API_VERSION 1; define pread(h, count, offset), or set"
    " API_VERSION = 2",
    "def pread(h, count, offset): pass": ": pread(h, count, offset) does not fit API_VERSION 2;"
    " define pread(h, buf, offset, flags), or set API_VERSION = 1",
    "def pwrite(h): pass": ": pwrite(h) does not fit API_VERSION 2; define pwrite(",
    "def close(): pass": ": close() does not fit API_VERSION 2; define close(h)",
    "def thread_model(): return 9": ": thread_model returned 9; return one of",
    "def thread_model(): return 'x'": ": thread_model returned 'x'; return one of",
    "def config_complete(): 1/0": ":6: config_complete failed: ZeroDivisionError",
    "def get_ready(): raise OSError(2, 'gone')": ":6: get_ready failed: FileNotFoundError: [Err",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_scripts_are_told_what_to_do(tmp_path: Path, text: str) -> None:
    path = script(tmp_path, text)
    done = nbdfork("-f", "-U", "-", "python", path, "--run", "true")
    assert done.returncode == 1
    assert f"error: python: {path}{BAD[text]}" in done.stderr or BAD[text] in done.stderr
    assert str(path) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_bad_parameters(tmp_path: Path) -> None:
    plain = script(tmp_path, "")
    picky = tmp_path / "picky.py"
    picky.write_text(MINIMUM + "def config(key, value): raise ValueError(f'what is {key}?')\n")
    missing = tmp_path / "missing.py"
    expected: dict[tuple[str | Path, ...], str] = {
        (): "python: the parameter script=SCRIPT is required",
        (missing,): f"python: {missing}: cannot read the script: No such file or directory",
        (tmp_path,): f"python: {tmp_path}: cannot read the script: Is a directory",
        ("a=b", plain): "python: a=b comes before the script: name that first",
        (plain, "a=b"): f"python: {plain}: takes no parameters, but a=b is given; leave it out",
        (picky, "a=b"): f"python: {picky}:6: config failed: ValueError: what is a?",
    }
    for words, message in expected.items():
        done = nbdfork("-f", "-U", "-", "python", *words, "--run", "true")
        assert done.returncode == 1
        assert message in done.stderr, words
        assert len(done.stderr.splitlines()) == 1


def test_a_script_that_cannot_be_read(tmp_path: Path) -> None:
    path = script(tmp_path, "")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root can read everything")
    done = nbdfork("-f", "python", path)
    assert "cannot read the script: Permission denied" in done.stderr


def test_a_script_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\0\1\2\xff")
    done = nbdfork("-f", "python", path)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    path = script(tmp_path, "def helper(): 1/0\nhelper()")
    done = nbdfork("-f", "-v", "python", path)
    assert "def helper(): 1/0" in done.stderr
    assert f"{path}:6: loading the script failed" in done.stderr


def test_after_fork_that_fails(tmp_path: Path) -> None:
    path = script(tmp_path, "def after_fork(): 1/0")
    done = nbdfork("-f", "-U", "-", "python", path, "--run", "sleep 60")
    assert done.returncode == 1
    assert f"{path}:6: after_fork failed: ZeroDivisionError" in done.stderr


def test_a_function_imported_under_the_name_of_a_callback_is_let_pass(tmp_path: Path) -> None:
    plugin = configured(script(tmp_path, "from functools import cache\nfrom zlib import adler32"))
    assert plugin.get_ready() is None


FAILING_CALLBACKS = {
    "close(h)": "closing the export failed",
    "list_exports(readonly, is_tls)": "the exports cannot be listed",
    "extents(h, count, offset, flags)": "BLOCK_STATUS of 65536 bytes at 0",
    "cleanup()": "cleanup failed",
}


@pytest.mark.parametrize("raised", ["ValueError('bad')", "KeyboardInterrupt", "SystemExit(3)"])
@pytest.mark.parametrize("callback", FAILING_CALLBACKS)
def test_whatever_a_callback_raises_is_one_message_and_hurts_no_other_client(
    callback: str, raised: str, tmp_path: Path
) -> None:
    path = script(tmp_path, f"def {callback}:\n    raise {raised}")
    with Server("-n", "python", path) as server:
        other = connect(server.uri)
        client = libnbd().NBD()
        client.set_opt_mode(True)
        client.add_meta_context("base:allocation")
        client.connect_uri(server.uri)
        if callback.startswith("list"):
            with pytest.raises(libnbd().Error):
                client.opt_list(lambda *_: 0)
        client.opt_go()
        if callback.startswith("extents"):
            assert attempt(lambda: client.block_status(65536, 0, lambda *_: 0)) == "EIO"
        client.shutdown()
        assert other.pread(512, 0) == bytes(512)
        other.shutdown()
        server.stop()
        where = f"{FAILING_CALLBACKS[callback]}: {path}: {callback.partition('(')[0]}: Traceback"
        assert where in server.log
        assert f"raise {raised}" in server.log
        assert "plugins/python" not in server.log


@pytest.mark.parametrize("raised", ["ValueError('bad')", "KeyboardInterrupt", "SystemExit(3)"])
def test_after_fork_that_raises_is_one_line(raised: str, tmp_path: Path) -> None:
    path = script(tmp_path, f"def after_fork(): raise {raised}")
    done = nbdfork("-f", "-U", "-", "python", path, "--run", "sleep 60")
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if "warning" not in line)
    assert f"a worker cannot start: python: {path}:6: after_fork " in line


def test_a_worker_that_cannot_start_later_is_told_of(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        f"import os\ndef after_fork():\n    if os.path.exists({str(tmp_path / 'bad')!r}): 1/0",
    )
    with Server("-n", "python", path) as server:
        connect(server.uri).shutdown()  # it has started, then
        (worker,) = server.workers()
        (tmp_path / "bad").touch()
        worker.kill()
        said = f"a worker cannot start: python: {path}:8: after_fork failed: ZeroDivisionError"
        eventually(lambda: said in server.log)


# -- the manual page ---------------------------------------------------------------------------


def test_every_callback_function_and_constant_is_on_the_page() -> None:
    need("mandoc")
    text = rendered("nbdfork-python-plugin.3")
    for name, arguments in SIGNATURES.items():
        assert f"{name}({arguments})" in text
    for name, arguments in SIGNATURES_OF_VERSION_1.items():
        assert f"{name}({arguments})" in text
    for name, value in vars(nbdkit_module).items():
        if name.isidentifier() and not name.startswith("_"):  # pytest adds others
            assert (f"nbdkit.{name}(" if callable(value) else name) in text


# -- the plugin as an object -------------------------------------------------------------------


def configured(path: Path) -> Python:
    plugin = Python(script=str(path))
    plugin.config_complete()
    return plugin


def opened(path: Path) -> Export:
    export: Export = configured(path).open("", False)
    return export


def test_extents(tmp_path: Path) -> None:
    export = opened(
        script(tmp_path, "def extents(h, c, o, f): yield (o, 512, 3); yield (o + 512, c - 512, 0)")
    )
    assert export.can_extents()
    assert list(export.extents(2048, 0, 0)) == [Extent(0, 512, 3), Extent(512, 1536, 0)]


@pytest.mark.parametrize("value", ["5", "None", "[(0, 512)]", "[[0, 512, 0]]", "[(0, 'x', 0)]"])
def test_extents_that_make_no_sense(tmp_path: Path, value: str) -> None:
    export = opened(script(tmp_path, f"def extents(h, c, o, f): return {value}"))
    with pytest.raises(OSError, match="extents") as caught:
        list(export.extents(2048, 0, 0))
    assert caught.value.errno == errno.EIO


def test_version_1_cannot_be_told_of_fua_and_is_asked_to_flush(tmp_path: Path) -> None:
    text = "def can_fua(h): return nbdkit.FUA_NATIVE\ndef flush(h): pass"
    assert opened(script(tmp_path, text, VERSION_1)).can_fua() is Support.EMULATE


def test_thread_model_and_processes(tmp_path: Path) -> None:
    plugin = configured(script(tmp_path, ""))
    assert (plugin.thread_model(), plugin.one_process()) == (
        ThreadModel.SERIALIZE_ALL_REQUESTS,
        True,
    )
    plugin = configured(SCRIPTS / "cpu_bound.py")
    assert (plugin.thread_model(), plugin.one_process()) == (ThreadModel.PARALLEL, False)


def test_list_exports_has_the_default_if_the_script_has_no_list(tmp_path: Path) -> None:
    plugin = configured(script(tmp_path, "def default_export(r, t): return 'd'"))
    chain = Chain(Layer("python", plugin))
    assert Catalogue(Exports(chain)).listed() == [("d", "")]


def test_loading_leaves_the_main_module_alone(tmp_path: Path) -> None:
    text = (
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int = 0\n"
        "import sys\nassert sys.modules['__main__'].__dict__ is globals()"
    )
    before = sys.modules["__main__"]
    configured(script(tmp_path, text))
    assert sys.modules["__main__"] is before


def test_dump_plugin_tells_the_versions() -> None:
    lines = nbdfork("python", "--dump-plugin").stdout.splitlines()
    assert "nbdkit_python_maximum_api_version=2" in lines
    assert "magic_config_key=script" in lines


def test_dump_plugin_of_a_script(capfd: pytest.CaptureFixture[str]) -> None:
    Python(script=str(SCRIPTS / "all_callbacks.py")).dump_plugin()
    assert capfd.readouterr().out == "all_callbacks=yes\n"


def test_nothing_is_left_behind() -> None:
    with Server("-n", "python", SCRIPTS / "v2_ramdisk.py") as server:
        workers = eventually(server.workers)
    assert not any(psutil.pid_exists(worker.pid) for worker in workers)
