"""What the python plugin says of scripts that fail, and of those that are no plugins."""

import os
from pathlib import Path

import pytest

from tests.support.harness import Server, eventually, nbdfork, run
from tests.support.libnbd import attempt, connect, libnbd
from tests.support.python_scripts import MINIMUM, VERSION_1, script

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
