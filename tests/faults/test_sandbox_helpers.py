"""Sandboxes of helpers, in which scripts run: what the script starts tries to break out.

Each attempt is made without a sandbox, too, where it succeeds, or it would prove nothing.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import Server, let_all_reach, need
from tests.support.libnbd import connected
from tests.support.prison import needs_root, needs_walls
from tests.support.scripting import RUBY, TCL

pytestmark = needs_walls

NOBODY = 65534

ATTEMPTS = """
try() { what=$1; shift; if "$@"; then echo "$what did"; else echo "$what failed"; fi; }
{
try program true
try signal kill -s URG PID
try supervisor kill -s URG SUPERVISOR
try look grep -q . /proc/PID/maps
try memory grep -q . /proc/PID/environ
try mount mount -t tmpfs none MOUNT
try chroot chroot / true
try namespace unshare -n true
try abstract PYTHON -c "import socket; socket.socket(socket.AF_UNIX).connect(chr(0) + 'ABSTRACT')"
} > OUTPUT 2> /dev/null
id -u >> OUTPUT
grep -E 'NoNewPrivs|CapEff|CapPrm' /proc/self/status >> OUTPUT
"""

OCAML = """
let open_connection _ = ignore (Sys.command "sh ATTEMPTS")
let get_size () = 65536L
let pread () count _ _ = String.make (Int64.to_int count) '\\000'
let () = NBDKit.register_plugin ~name:"escaping" ~open_connection ~get_size ~pread ()
"""

TEXTS = {
    "ruby": ("script.rb", RUBY.minimum + 'def open(readonly) = system("sh", "ATTEMPTS")\n'),
    "tcl": (
        "script.tcl",
        TCL.minimum + "proc plugin_open {readonly} { exec sh ATTEMPTS; return 1 }\n",
    ),
    "ocaml": ("escaping.ml", OCAML),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    let_all_reach(tmp_path)
    (tmp_path / "mount").mkdir()
    (tmp_path / "output").touch(0o666)
    (tmp_path / "output").chmod(0o666)
    return tmp_path


def escape(
    language: str, place: Path, bystander: subprocess.Popen[bytes], *options: str
) -> dict[str, str]:
    """Return what became of each attempt of a script, and what is known of the process."""
    if language == "ruby":
        RUBY.need()
    elif language == "tcl":
        TCL.need()
    else:
        need("ocamlopt")
    name, text = TEXTS[language]
    script, attempts, output = place / name, place / "attempts", place / "output"
    script.write_text(text.replace("ATTEMPTS", str(attempts)))
    abstract = f"nbdfork-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{abstract}")
        listener.listen()
        with Server("-n", *options, language, script) as server:
            known = {
                "SUPERVISOR": str(server.pid),
                "PID": str(bystander.pid),
                "MOUNT": str(place / "mount"),
                "OUTPUT": str(output),
                "PYTHON": sys.executable,
                "ABSTRACT": abstract,
            }
            said = ATTEMPTS
            for word, value in known.items():
                said = said.replace(word, value)
            attempts.write_text(said)
            with connected(server.uri) as client:
                assert client.pread(512, 0) == bytes(512)
    lines = output.read_text().splitlines()
    found = dict(line.split(None, 1) for line in lines if " " in line or "\t" in line)
    subprocess.run(["umount", place / "mount"], check=False, stderr=subprocess.DEVNULL)
    return {**found, "uid": next(line for line in lines if line.isdecimal())}


ROOTS = ("mount", "chroot", "namespace")
"""What only root can try."""


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("language", ["ruby", "tcl", "ocaml"])
def test_scripts_do_not_break_out(
    language: str, place: Path, bystander: subprocess.Popen[bytes]
) -> None:
    attempts = ["signal", "supervisor", "look", "memory", "abstract"]
    attempts += ROOTS if os.geteuid() == 0 else ()
    free = escape(language, place, bystander)
    assert {what: free[what] for what in attempts} == dict.fromkeys(attempts, "did")
    held = escape(language, place, bystander, "--sandbox=require")
    assert {what: held[what] for what in attempts} == dict.fromkeys(attempts, "failed")
    assert held["program"] == "did"
    assert held["NoNewPrivs:"] == "1"


@needs_root
@pytest.mark.parametrize("options", [("-u", "65534"), ("--worker-uids=61500-61755",)])
def test_they_have_the_user_of_their_worker_and_no_capabilities(
    options: tuple[str, ...], place: Path, bystander: subprocess.Popen[bytes]
) -> None:
    found = escape("ruby", place, bystander, "--sandbox=require", *options)
    assert int(found["uid"]) == NOBODY or 61500 <= int(found["uid"]) <= 61755
    assert (found["CapEff:"], found["CapPrm:"]) == ("0" * 16, "0" * 16)
    assert found["signal"] == "failed"


@needs_root
def test_root_keeps_those_for_files_only(place: Path, bystander: subprocess.Popen[bytes]) -> None:
    found = escape("ruby", place, bystander, "--sandbox=require")
    assert int(found["CapEff:"], 16) == 0b11111  # chown to fsetid


def test_limits_hold_for_them(place: Path, bystander: subprocess.Popen[bytes]) -> None:
    RUBY.need()
    script = place / "script.rb"
    command = f"{{ ulimit -n; ulimit -t; }} > {place}/output"
    script.write_text(f'{RUBY.minimum}def open(readonly) = system("{command}")\n')
    with Server("-n", "--limit=files=100", "--limit=cpu=77", "ruby", script) as server:
        with connected(server.uri):
            pass
    said = (place / "output").read_text()
    assert "100" in said
    assert "77" in said
