"""How the sh plugin runs scripts: of all kinds, in which processes, and with what mistakes."""

import errno
import json
import os
import re
import signal
import stat
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from nbdfork.plugins.eval import METHODS
from nbdfork.plugins.sh.process import TooMuchOutput
from nbdfork.plugins.sh.process import run as run_script

from nbdfork.backend.chain import Chain, Layer
from nbdfork.backend.life import Life
from nbdfork.backend.load import find
from nbdfork.plugin import FAST_ZERO, FUA, HOLE, MAY_TRIM, REQ_ONE, ZERO, Export
from tests.support.beside import both
from tests.support.harness import (
    NBDFORK,
    Server,
    eventually,
    is_alive,
    nbdfork,
    need,
    output,
)
from tests.support.libnbd import attempt, connect
from tests.support.manual import source, unescaped
from tests.support.scripting import meeting
from tests.support.sh import DISK, MIB, MINIMUM, as_eval, ends, script

# -- both servers ------------------------------------------------------------------------------


def opened(name: str, *arguments: str | Path) -> Export:
    plugin = find(name).plugin_class()
    chain = Chain(Layer(name, plugin))
    chain.configure(map(str, arguments))
    Life(chain).get_ready()
    return plugin.open("", False)


def refusal(*arguments: str | Path, **options: Any) -> str:
    done = nbdfork("-U", "-", *arguments, "--run", "true", **options)
    assert done.returncode == 1
    return done.stderr


# -- runs --------------------------------------------------------------------------------------


def test_a_run_with_more_than_pipes_hold() -> None:
    data = os.urandom(64 * MIB)
    environment = dict(os.environ)
    assert run_script(["/bin/sh", "-c", "cat"], environment, data) == (0, data, b"")
    ignoring = run_script(["/bin/sh", "-c", "exit 5"], environment, data)
    assert ignoring == (5, b"", b"")
    talking = "head -c 1000000 /dev/zero >&2; cat; kill -15 $$"
    outcome = run_script(["/bin/sh", "-c", talking], environment, data[:MIB])
    assert (outcome.status, outcome.output) == (-15, data[:MIB])
    assert outcome.errors == bytes(64 * 1024)


def test_a_run_that_closes_its_output_and_reads_on(tmp_path: Path) -> None:
    data = os.urandom(4 * MIB)
    saved = tmp_path / "saved"
    reading = ["/bin/sh", "-c", f"exec >&- 2>&-; cat >{saved}"]
    assert run_script(reading, dict(os.environ), data) == (0, b"", b"")
    assert saved.read_bytes() == data


def test_a_run_without_end_is_ended() -> None:
    children = psutil.Process().children()
    with pytest.raises(TooMuchOutput):
        run_script(["/bin/cat", "/dev/zero"], {}, max_output=MIB)
    assert psutil.Process().children() == children


def test_a_script_gets_pipes_and_the_signals_of_a_new_process(tmp_path: Path) -> None:
    methods = MINIMUM | {
        "get_size": "yes | head -c 10; echo EIO >/dev/stderr; exit 1",
        "can_write": "test -p /dev/stdout && test -p /dev/stderr && cat /dev/stdin",
        "block_size": "yes | (read line; exit 3)",
    }
    export = opened("sh", script(tmp_path, methods))
    assert export.can_write()
    with pytest.raises(OSError, match="no yes-or-no question"):
        export.block_size()
    ignored = run_script(["/bin/grep", "SigIgn", "/proc/self/status"], {}).output
    assert not int(ignored.split()[1], 16) & 1 << signal.SIGPIPE - 1


def test_large_requests(tmp_path: Path) -> None:
    methods = DISK | {"get_ready": "truncate -s 64M $tmpdir/disk", "get_size": "echo 64M"}
    data = os.urandom(16 * MIB)
    with Server("-n", "sh", script(tmp_path, methods)) as server:
        client = connect(server.uri)
        client.pwrite(data, 512)
        assert client.pread(len(data), 512) == data
        client.shutdown()


def test_a_write_that_the_script_does_not_read(tmp_path: Path) -> None:
    methods = MINIMUM | {"can_write": "exit 0", "pwrite": "exit 0"}
    with Server("-n", "sh", script(tmp_path, methods)) as server:
        client = connect(server.uri)
        client.pwrite(bytes(16 * MIB)[:MIB], 0)
        assert client.pread(4, 0) == bytes(4)
        client.shutdown()


# -- scripts of all kinds ----------------------------------------------------------------------


def test_an_inline_script() -> None:
    need("nbdinfo")
    text = 'case "$1" in get_size) echo 2M ;; pread) head -c $3 /dev/zero ;; *) exit 2 ;; esac\n'
    serve = [*NBDFORK, "-U", "-", "sh", "-", "--run", 'nbdinfo --size "$uri"']
    assert output(*serve, input=text) == "2097152\n"
    python = f"#!{sys.executable} -S\nimport sys\nif sys.argv[1] != 'get_size': sys.exit(2)\n"
    assert output(*serve, input=python + "print(3)") == "3\n"


def test_a_script_without_a_first_line_for_the_kernel_is_a_shell_script(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_text('test "$1" = get_size || exit 2\necho 1234\n')
    path.chmod(0o700)
    assert opened("sh", path).get_size() == 1234


def test_a_handle_may_be_any_bytes(tmp_path: Path) -> None:
    methods = MINIMUM | {"open": r"printf '\377 \n \n'", "get_size": 'printf %s "$2" | wc -c'}
    assert opened("sh", script(tmp_path, methods)).get_size() == 4


def test_flags_are_words(tmp_path: Path) -> None:
    failing = ("pwrite", "trim", "zero", "extents")
    methods = MINIMUM | dict.fromkeys(failing, 'echo "ENOSPC $*" >&2; exit 1')
    export = opened("sh", script(tmp_path, methods))
    calls: dict[str, Callable[[], object]] = {
        "pwrite  3 7": lambda: export.pwrite(memoryview(b"abc"), 7, 0),
        "pwrite  3 8 fua": lambda: export.pwrite(memoryview(b"abc"), 8, FUA),
        "trim  1 2 fua": lambda: export.trim(1, 2, FUA),
        "zero  1 2 fua,may_trim,fast": lambda: export.zero(1, 2, FUA | MAY_TRIM | FAST_ZERO),
        "zero  1 2 may_trim": lambda: export.zero(1, 2, MAY_TRIM),
        "extents  1 2 req_one": lambda: export.extents(1, 2, REQ_ONE),
    }
    for said, call in calls.items():
        with pytest.raises(OSError, match=f": {said} ?$") as caught:
            call()
        assert caught.value.errno == errno.ENOSPC


def test_what_is_no_string_of_the_protocol_is_not_sent(tmp_path: Path) -> None:
    long = "head -c 5000 /dev/zero | tr '\\0' x"
    methods = MINIMUM | {
        "list_exports": f"echo INTERLEAVED; echo a; printf 'b\\377\\n'; {long}; echo; echo; echo b",
        "export_description": "printf 'b\\377'",
    }
    with Server("-n", "sh", script(tmp_path, methods)) as server:
        listed = json.loads(output("nbdinfo", "--json", "--list", server.uri))["exports"]
        assert [one["export-name"] for one in listed] == ["a", "b"]
        assert "is not listed" in server.log
        assert {one.get("description") for one in listed} == {None, r"b\udcff"}  # escaped


def test_extents(tmp_path: Path) -> None:
    methods = MINIMUM | {"extents": "echo 0 512 hole; echo 512 1k 2; echo; echo 1536 1M hole,zero"}
    export = opened("sh", script(tmp_path, methods))
    expected = [(0, 512, HOLE), (512, 1024, ZERO), (1536, MIB, HOLE | ZERO)]
    assert list(export.extents(MIB, 0, 0)) == expected


def test_the_script_on_the_manual_page(tmp_path: Path) -> None:
    (text,) = re.findall(r"^(#!/bin/sh\n.*?)^\.Ed$", source("nbdfork-sh-plugin.3"), re.M | re.S)
    path = tmp_path / "script"
    path.write_text(unescaped(text))
    path.chmod(0o700)
    export = opened("sh", path)
    export.pwrite(memoryview(b"manual"), 1000, 0)
    export.flush()
    assert export.pread(8, 999) == b"\0manual\0"
    assert (export.get_size(), export.can_write()) == (64 * MIB, True)


# -- processes and state -----------------------------------------------------------------------


def test_clients_have_processes_of_their_own_and_one_directory(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    path = script(tmp_path, DISK | {"after_fork": f"echo $tmpdir >>{seen}"})
    with Server("-n", "sh", path) as server:
        clients = [connect(server.uri) for _ in range(3)]
        assert len(server.serving()) == 3
        clients[0].pwrite(b"shared", 100)
        assert [client.pread(6, 100) for client in clients] == [b"shared"] * 3
        (directory,) = seen.read_text().split()  # after_fork has been run once
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        assert len(list(Path(directory).glob("client-*"))) == 3
        for client in clients:
            client.shutdown()
        eventually(lambda: not list(Path(directory).glob("client-*")))
    assert not os.path.exists(directory)


def test_the_directory_goes_when_the_server_does_not_start(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    path = script(tmp_path, MINIMUM | {"config_complete": f"echo $tmpdir >{seen}; exit 1"})
    assert "config_complete: exited with status 1" in refusal("sh", path)
    assert not os.path.exists(seen.read_text().strip())


def test_a_daemon_keeps_the_directory(tmp_path: Path) -> None:
    need("nbdinfo")
    seen, pidfile = tmp_path / "seen", tmp_path / "pid"
    path = script(tmp_path, DISK | {"unload": f"echo $tmpdir >{seen}"})
    done = nbdfork("-n", "-U", tmp_path / "sock", "-P", pidfile, "sh", path)
    assert (done.returncode, done.stderr) == (0, "")
    process = psutil.Process(int(pidfile.read_text()))
    assert output("nbdinfo", "--size", f"nbd+unix:///?socket={tmp_path}/sock") == "1048576\n"
    process.terminate()
    eventually(lambda: not is_alive(process))
    assert not os.path.exists(seen.read_text().strip())


def read_together(uri: str, clients: int) -> list[object]:
    """Return what as many clients as said get for a read, all at once."""
    connected = [connect(uri) for _ in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        reads = [
            pool.submit(attempt, partial(client.pread, 512, n * 512))
            for n, client in enumerate(connected)
        ]
        found = [read.result() for read in reads]
    for client in connected:
        client.shutdown()
    return found


def test_one_request_at_a_time_unless_the_script_says_otherwise(tmp_path: Path) -> None:
    alone = "mkdir $tmpdir/busy || exit 1; sleep 0.1; rmdir $tmpdir/busy; head -c $3 /dev/zero"
    with Server("-n", "sh", script(tmp_path, MINIMUM | {"pread": alone})) as server:
        assert read_together(server.uri, 4) == [bytes(512)] * 4


@pytest.mark.parametrize("model", ["parallel", "serialize_requests"])
def test_requests_at_the_same_time(tmp_path: Path, model: str) -> None:
    together = meeting(tmp_path, "head -c $3 /dev/zero")
    methods = MINIMUM | {"pread": together, "thread_model": f"echo {model}"}
    with Server("-n", "sh", script(tmp_path, methods)) as server:
        assert read_together(server.uri, 2) == [bytes(512)] * 2


# -- mistakes ----------------------------------------------------------------------------------


SCRIPT_MISTAKES = {
    "load": "echo EIO no luck >&2; exit 1",
    "config": "echo bad value >&2; exit 1",
    "config_complete": "kill -9 $$",
    "thread_model": "exit 3",
    "get_ready": "exit 1",
}


@pytest.mark.parametrize("method", SCRIPT_MISTAKES)
def test_a_method_that_fails_ends_the_start(tmp_path: Path, method: str) -> None:
    path = script(tmp_path, MINIMUM | {"config": ""} | {method: SCRIPT_MISTAKES[method]})
    message = refusal("sh", path, "key=value")
    messages = {
        "load": "exited with status 1: no luck",
        "config": "exited with status 1: bad value",
        "config_complete": "was ended by a signal (Killed)",
        "thread_model": "exited with status 3 (false), but is no yes-or-no question",
        "get_ready": "exited with status 1",
    }
    assert message == f"nbdfork: error: sh: {path}: {method}: {messages[method]}\n"


def test_scripts_that_are_none(tmp_path: Path) -> None:
    path = script(tmp_path, MINIMUM)
    assert "the parameter script=SCRIPT is required" in refusal("sh")
    assert "comes before the script" in refusal("sh", "a=b", path)
    assert "takes no parameters" in refusal("sh", path, "a=b")
    assert "no magic_config_key" in refusal("sh", path, "bare")
    assert "there is no file" in refusal("sh", tmp_path / "none")
    assert "there is no file" in refusal("sh", tmp_path)
    path.chmod(0o600)
    assert f"is not executable: chmod +x {path}" in refusal("sh", path)
    path.chmod(0o700)
    path.write_text("#!/nowhere\n")
    assert "the program that its #! line names does not exist" in refusal("sh", path)


def test_a_script_that_vanishes(tmp_path: Path) -> None:
    path = script(tmp_path, MINIMUM)
    export = opened("sh", path)
    path.unlink()
    with pytest.raises(OSError, match="No such file") as caught:
        export.pread(512, 0)
    assert caught.value.errno == errno.EIO


ANSWERS = {
    "get_size": {
        "echo 1M; echo 2M": "not a size",
        "echo many": "not a size",
        "exit 2": "the script must have this method",
        "exit 3": "no yes-or-no question",
    },
    "block_size": {"echo 512 4k": "print three sizes"},
    "can_fua": {"echo perhaps": "print none, emulate or native"},
    "can_cache": {"echo": "print none, emulate or native"},
    "is_rotational": {"exit 1": "exited with status 1"},
}


@pytest.mark.parametrize("method", ANSWERS)
def test_answers_that_cannot_be_understood(tmp_path: Path, method: str) -> None:
    for text, message in ANSWERS[method].items():
        export = opened("sh", script(tmp_path, MINIMUM | {method: text}))
        with pytest.raises(OSError, match=message) as caught:
            getattr(export, method)()
        assert caught.value.errno == errno.EIO


def test_the_log_says_what_went_wrong(tmp_path: Path) -> None:
    methods = MINIMUM | {"pread": "echo ENOSPC all full >&2; echo in detail >&2; exit 1"}
    path = script(tmp_path, methods)
    with Server("-v", "-n", "sh", path) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "ENOSPC"
        client.shutdown()
        eventually(lambda: f"{path}: pread: exited with status 1: all full" in server.log)
        assert "in detail" in server.log


# -- eval --------------------------------------------------------------------------------------


EVALS: dict[str, list[str | Path]] = {
    "the least": as_eval(MINIMUM),
    "methods imply that they can be used": as_eval(
        MINIMUM
        | dict.fromkeys(("flush", "trim", "zero", "cache"), "true")
        | {"pwrite": "cat >/dev/null", "extents": "echo 0 1M zero"}
    ),
    "unless told otherwise": as_eval(
        MINIMUM | {"pwrite": "cat", "can_write": "exit 3", "cache": "", "can_cache": "echo none"}
    ),
    "missing": as_eval(
        MINIMUM | {"pwrite": "cat", "missing": 'test "$1" = can_multi_conn || exit 2'}
    ),
    "config": [
        *as_eval(MINIMUM | {"config": "echo $3 >$tmpdir/$2", "get_size": "cat $tmpdir/size"}),
        "size=3M",
    ],
    "dollars and quotes": as_eval(MINIMUM | {"export_description": "echo \"$1 $# 'x' \\$HOME\""}),
}


@pytest.mark.parametrize("case", EVALS)
def test_eval_is_the_same_as_under_nbdkit(tmp_path: Path, case: str) -> None:
    theirs, ours = both(tmp_path, ends, *EVALS[case])
    assert ours == theirs


def test_eval_is_told_mistakes() -> None:
    assert "get_size= is given twice" in refusal("eval", "get_size=echo 1", "get_size=echo 1")
    assert "no config=SCRIPT that takes it" in refusal("eval", "key=value", "config=exit 0")
    assert "config: exited with status 1: not this" in refusal(
        "eval", "config=echo not this >&2; exit 1", "a=b"
    )
    assert "is not of the form key=value" in refusal("eval", "bare")


def test_eval_knows_the_methods_of_nbdkit() -> None:
    need("man")
    page = output("man", "nbdkit-eval-plugin", env={**os.environ, "MANPAGER": "cat"})
    assert set(re.findall(r"^ +(\w+)=SCRIPT$", page, re.MULTILINE)) == METHODS | {"missing"}


# -- what the server tells of itself -----------------------------------------------------------


def test_dump_plugin(tmp_path: Path) -> None:
    methods = {"dump_plugin": "echo own=1; echo not a pair", "thread_model": "echo parallel"}
    path = script(tmp_path, MINIMUM | methods)
    pairs = output(*NBDFORK, "--dump-plugin", "sh", path).splitlines()
    assert {"own=1", "thread_model=parallel", "magic_config_key=script"} <= set(pairs)
    assert "max_known_status=3" in output(*NBDFORK, "--dump-plugin", "sh").splitlines()
    assert "max_known_status=3" in output(*NBDFORK, "--dump-plugin", "eval").splitlines()
