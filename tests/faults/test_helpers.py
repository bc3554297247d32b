"""What a script has started ends with its worker, however that ends."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from nbdfork.scripting.guard import Guard
from tests.support.harness import SECONDS, Server, eventually, is_alive, need
from tests.support.libnbd import connect, libnbd
from tests.support.scripting import LANGUAGES

SLEEP = "sleep 1000; true"  # `true` makes the shell stay, and not become the command
CALLED = {
    "lua": f'function pread(h, count, offset) os.execute("{SLEEP}") end',
    "perl": f"sub pread {{ system('{SLEEP}'); }}",
    "ruby": f"def pread(h, count, offset) = system('{SLEEP}')",
    "tcl": f"proc pread {{h count offset}} {{ exec sh -c {{{SLEEP}}} }}",
}

PYTHON = f"""\
import nbdkit, os
API_VERSION = 2
def open(readonly): return 1
def get_size(h): return 65536
def pread(h, buf, offset, flags): os.system({SLEEP!r})
"""

SHELL = f"""\
#!/bin/sh
trap '' TERM HUP INT
case $1 in
  get_size) echo 65536 ;;
  pread) {SLEEP} ;;
  *) exit 2 ;;
esac
"""

OCAML = f"""\
let () =
  NBDKit.register_plugin ~name:"sleeping" ~open_connection:(fun _ -> ())
    ~get_size:(fun () -> 65536L)
    ~pread:(fun () _ _ _ -> ignore (Sys.command "{SLEEP}")) ()
"""


def script(language: str, place: Path) -> tuple[str, Path]:
    """Return the plugin for *language*, and a script whose pread runs two processes for long."""
    if language in LANGUAGES:
        LANGUAGES[language].need()
        return language, LANGUAGES[language].script(place, CALLED[language])
    suffix, text = {"python": ("py", PYTHON), "sh": ("sh", SHELL), "ocaml": ("ml", OCAML)}[language]
    path = place / f"script.{suffix}"
    path.write_text(text)
    path.chmod(0o755)
    if language == "ocaml":
        need("ocamlopt")
    return language, path


def marked(place: Path) -> list[psutil.Process]:
    """Return all processes of a test's server, which have its mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get("MARK") == str(place):
                found.append(process)
        except psutil.Error:
            pass
    return found


def sleeping(place: Path) -> list[psutil.Process]:
    """Return those that a script has started."""
    return [process for process in marked(place) if process.name() == "sleep"]


ROWS = [
    *((language, "is killed") for language in (*LANGUAGES, "python", "sh", "ocaml")),
    *((language, "is given up at the end") for language in ("perl", "ruby", "sh")),
    ("sh", "loses its client"),  # in the other languages one worker serves all clients
]


@pytest.mark.parametrize(("language", "how"), ROWS)
def test_what_a_script_runs_ends_with_its_worker(
    language: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plugin, path = script(language, tmp_path)
    options = ("-n", "--shutdown-limit", "1")
    with Server(*options, plugin, path, environment={"MARK": str(tmp_path)}) as server:
        client = connect(server.uri)
        client.aio_pread(libnbd().Buffer(512), 0)
        (sleeper,) = eventually(lambda: sleeping(tmp_path))
        (worker,) = server.serving()
        if how == "is killed":
            worker.kill()
        elif how == "loses its client":
            del client
        else:
            assert server.stop() == 0
        sleeper.wait(30)
        assert not sleeping(tmp_path)
        eventually(lambda: not worker.is_running())
    eventually(lambda: not marked(tmp_path))


@pytest.mark.parametrize("leads", [True, False])
def test_a_helper_is_killed_when_the_worker_is_gone(leads: bool) -> None:
    script = ["sh", "-c", "sleep 1000 & echo $!; wait"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, start_new_session=leads) as helper:
        assert helper.stdout is not None
        started = psutil.Process(int(helper.stdout.readline()))
        guard = Guard(helper.pid)
        os.close(guard._writer)  # as the kernel does for a process that is killed
        assert helper.wait(SECONDS) == -9
        if not leads:
            started.kill()
        eventually(lambda: not is_alive(started))
    os.waitpid(guard._process, 0)


def test_a_guard_that_is_dismissed_kills_nobody() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as helper:
        guard = Guard(helper.pid)
        guard.dismiss()
        assert not psutil.pid_exists(guard._process)
        assert helper.poll() is None


def test_a_guard_that_was_killed_can_be_dismissed() -> None:
    guard = Guard(os.getpid())
    psutil.Process(guard._process).kill()
    guard.dismiss()
    assert not psutil.pid_exists(guard._process)
