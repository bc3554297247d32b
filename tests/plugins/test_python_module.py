"""The module nbdkit of Python scripts, and the threads that they run in."""

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nbdfork.plugins.python import nbdkit as nbdkit_module

from nbdfork.backend.handle import Handle
from tests.support.harness import Server, eventually, nbdfork, need, run
from tests.support.libnbd import connect, connected, libnbd
from tests.support.python_scripts import script
from tests.support.raw import reason

# From nbdkit-python-plugin(3) of nbdkit 1.48.1, "Module functions" and "Module constants".
FUNCTIONS = (
    "debug debug_hexdiff debug_hexdump disconnect export_name is_tls name nanosleep parse_bool"
    " parse_delay parse_probability parse_size peer_gid peer_pid peer_security_context peer_tls_dn"
    " peer_tls_issuer_dn peer_uid read_password set_error shutdown stdio_safe timestamp"
)

SHOW = """\
for name in dir(nbdkit):
    if not name.startswith("_"):
        value = getattr(nbdkit, name)
        print("NAME", name, value if isinstance(value, int) else "function")
for text in ("1", "10k", "1G", "5b", "3s", " 7", "+5", "-1", "", "x", "1 "):
    try: print("NAME", text, nbdkit.parse_size(text))
    except ValueError: print("NAME", text, "ValueError")
print("NAME", __name__, __file__ == "x" or __file__.endswith("script.py"))
"""


def test_the_module_has_the_names_of_nbdkits() -> None:
    names = {name for name in dir(nbdkit_module) if name.isidentifier() and name[0] != "_"}
    assert {name for name in names if name.islower()} == set(FUNCTIONS.split())


def test_names_and_values_are_those_of_the_nbdkit_that_is_installed(tmp_path: Path) -> None:
    need("nbdkit")
    path = script(tmp_path, SHOW, "import nbdkit\n")
    theirs, ours = (
        {line for line in done.stdout.splitlines() if line.startswith("NAME")}
        for done in (run("nbdkit", "-f", "python", path), nbdfork("-f", "python", path))
    )
    assert len(theirs) > 20
    newer = {line for line in ours - theirs if line.split()[1] in FUNCTIONS.split()}
    assert ours - newer == theirs


def test_functions_of_the_module_take_what_nbdkits_take() -> None:
    wrong = (
        (nbdkit_module.debug, 5),
        (nbdkit_module.set_error, "x"),
        (nbdkit_module.parse_size, 5),
        (nbdkit_module.parse_bool, 5),
    )
    for function, argument in wrong:
        with pytest.raises(TypeError):
            function(argument)
    with ThreadPoolExecutor() as pool:  # a thread that has never had a client
        with pytest.raises(RuntimeError, match="export_name failed"):
            pool.submit(nbdkit_module.export_name).result()


def test_texts_are_parsed_as_by_nbdkit() -> None:
    assert nbdkit_module.parse_bool("Yes") is True
    assert nbdkit_module.parse_bool("off") is False
    assert nbdkit_module.parse_delay("what", "1.5s") == (1, 500_000_000)
    assert nbdkit_module.parse_delay("what", "20us") == (0, 20_000)
    assert nbdkit_module.parse_probability("what", "1:4") == 0.25
    assert nbdkit_module.parse_size("0x10") == 16
    for parser in (nbdkit_module.parse_delay, nbdkit_module.parse_probability):
        with pytest.raises(ValueError, match=r"^wdelay: Unable to parse string as .*: 'x'"):
            parser("wdelay", "x")
    with pytest.raises(ValueError, match="Unable to parse string as boolean: 'maybe'"):
        nbdkit_module.parse_bool("maybe")


def test_a_password_is_read_from_where_it_says(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"caf\xe9\nmore")
    assert nbdkit_module.read_password("plain") == b"plain"
    assert nbdkit_module.read_password(f"+{secret}") == b"caf\xe9"
    with pytest.raises(ValueError, match="Unable to parse parameter as a password"):
        nbdkit_module.read_password("-1")


def test_without_a_client_there_is_no_peer() -> None:
    for function in (
        nbdkit_module.peer_pid,
        nbdkit_module.peer_uid,
        nbdkit_module.peer_gid,
        nbdkit_module.peer_security_context,
    ):
        with pytest.raises(RuntimeError, match="Unable to get client"):
            function()
    assert nbdkit_module.peer_tls_dn() == nbdkit_module.peer_tls_issuer_dn() == ""
    assert nbdkit_module.is_tls() is False


def test_a_sleep_of_no_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbdkit_module._Loaded, "server", Handle())
    nbdkit_module.nanosleep(0, 1000)
    for seconds, nanoseconds in ((2**31, 0), (-1, 0), (0, -1), (0, 2 * 10**9)):
        with pytest.raises(RuntimeError, match="nanosleep failed"):
            nbdkit_module.nanosleep(seconds, nanoseconds)


TELL = """\
def open(readonly):
    nbdkit.debug(f"client {nbdkit.peer_pid()} {nbdkit.peer_uid()} {nbdkit.peer_gid()} "
                 f"{nbdkit.is_tls()} {nbdkit.name()} {nbdkit.timestamp()}")
    nbdkit.debug_hexdump(b"a line of text", "dump: ", 8)
    nbdkit.debug_hexdiff(b"same and other", b"same 4nd other", None, 0)
def pread(h, buf, offset, flags):
    if offset == 512: nbdkit.disconnect(True)
def config_complete(): nbdkit.debug(f"safe: {nbdkit.stdio_safe()}")
"""


def test_a_script_learns_of_its_client_and_of_its_server(tmp_path: Path) -> None:
    path = script(tmp_path, TELL)
    with Server("-n", "-v", "--name", "disk", "python", path) as server:
        client = connect(server.uri)
        client.pread(512, 0)
        with pytest.raises(libnbd().Error):
            client.pread(512, 512)
        log = server.log
    ids = f"{os.getpid()} {os.getuid()} {os.getgid()}"
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"
    assert "safe: True" in log
    assert re.search(rf"client {ids} False disk {when}\n", log)
    assert " nbdfork[disk][" in log
    assert re.findall(r"uid 0: (.*00000000: .*)", log) == [
        "dump: 00000000:                          61 20 6c 69 6e 65 20 6f  |        a line o|",
        "-00000000: 73 61 6d 65 20 61 6e 64  20 6f 74 68 65 72        |same and other  |",
        "+00000000:                34                                 |     4          |",
    ]
    with pytest.raises(ValueError, match="buffers must have equal length"):
        nbdkit_module.debug_hexdiff(b"1", b"12")


RAISES = {
    "OSError(errno.ENOSPC, 'the moon is full')": (errno.ENOSPC, "the moon is full"),
    "OSError(errno.EBUSY, 'odd')": (errno.EINVAL, "odd"),  # the nearest that NBD has
    "nbdkit.set_error(errno.EPERM) or OSError(errno.ENOSPC, 'no')": (errno.EPERM, "no"),
    "nbdkit.set_error(errno.ENOMEM) or ValueError('too much')": (errno.ENOMEM, "too much"),
    "ValueError('a secret of the author')": (errno.EIO, "pread failed in the script"),
    "socket.gaierror(-2, 'unknown')": (errno.EIO, "pread failed in the script"),
}


@pytest.mark.parametrize("what", RAISES)
def test_an_exception_with_an_errno_reaches_the_client(tmp_path: Path, what: str) -> None:
    text = f"import errno, socket\ndef pread(h, buf, offset, flags): raise ({what})"
    with Server("-n", "python", script(tmp_path, text)) as server:
        assert reason(server) == RAISES[what]


ALL_AT_ONCE = """\
import threading
all_here = threading.Barrier(10)
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def pread(h, buf, offset, flags): all_here.wait(30)
"""


def test_a_parallel_script_may_wait_in_ten_reads_of_a_client_at_once(tmp_path: Path) -> None:
    with Server("-n", "python", script(tmp_path, ALL_AT_ONCE)) as server:
        with connected(server.uri) as client:
            failed: list[int] = []

            def note(error: int) -> int:
                failed.append(int(getattr(error, "value", error)))
                return 1

            for _ in range(10):  # if one waited for another to end, none would
                client.aio_pread(libnbd().Buffer(512), 0, completion=note)
            while client.aio_in_flight():
                assert client.poll(30_000) == 1
            assert failed == [0] * 10


COMPUTED = """\
import threading
THREADS = set()
def thread_model(): return nbdkit.THREAD_MODEL_PARALLEL
def pread(h, buf, offset, flags):
    if offset == 0: THREADS.clear()
    THREADS.add(threading.get_ident())
    buf[:] = b"%-512d" % len(THREADS)
"""


def test_a_parallel_script_that_computes_is_not_handed_from_thread_to_thread(
    tmp_path: Path,
) -> None:
    with Server("-n", "python", script(tmp_path, COMPUTED)) as server:
        with connected(server.uri) as client:

            def threads() -> int:
                found = [int(client.pread(512, offset)) for offset in range(0, 51200, 512)]
                return max(found)

            eventually(lambda: threads() == 1)
