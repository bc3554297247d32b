"""The command called as `nbdkit`: what programs that start nbdkit rely on."""

import json
import sys
from pathlib import Path

import pytest

from tests.support.harness import need, output, run

# What a console script is: pip writes the same, with the path of its interpreter.
SCRIPT = """\
#!{python}
import sys
from nbdfork.main import main
sys.exit(main())
"""


@pytest.fixture
def nbdkit(tmp_path: Path) -> Path:
    """Return a link of that name to the command."""
    command = tmp_path / "nbdfork"
    command.write_text(SCRIPT.format(python=sys.executable))
    command.chmod(0o755)
    link = tmp_path / "nbdkit"
    link.symlink_to(command)
    return link


def test_a_link_has_the_other_name(nbdkit: Path) -> None:
    assert output(nbdkit, "--version").startswith("nbdkit 1.48.")
    assert output(nbdkit.with_name("nbdfork"), "--version").startswith("nbdfork ")
    wrong = run(nbdkit, "--nonsense")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("nbdkit: error: unknown option --nonsense")
    assert "Use 'nbdkit --help'" in wrong.stderr


def test_a_client_of_run_has_a_private_socket_and_any_name(nbdkit: Path) -> None:
    need("nbdinfo")
    show = (
        'printf "%s\\n" "$uri" "$nbd" "$port"; nbdinfo --json "${uri%%/disk*}/other?${uri##*\\?}"'
    )
    uri, nbd, port, *shown = output(nbdkit, "-e", "disk", "memory", "1M", "--run", show).split("\n")
    assert (nbd, port) == (uri, "")
    assert uri.startswith("nbd+unix:///disk?socket=")
    found = json.loads("\n".join(shown))
    assert found["protocol"] == "newstyle-fixed"
    assert found["exports"][0]["export-size"] == 1 << 20


def test_lines_of_the_log_begin_with_the_name(nbdkit: Path) -> None:
    need("nbdinfo")
    command = ["-v", "-D", "nbdkit.backend.datapath=0", "null", "1M", "--run", 'nbdinfo "$uri"']
    done = run(nbdkit, *command)
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("  ")]
    assert len(lines) > 5
    assert all(line.startswith("nbdkit: debug: ") for line in lines)


def test_a_script_may_be_run_by_it(nbdkit: Path, tmp_path: Path) -> None:
    script = tmp_path / "disk"
    script.write_text(
        f"#!{nbdkit} python\n"
        "def open(readonly): return 1\n"
        "def get_size(h): return 4096\n"
        "def pread(h, buf, offset, flags): pass\n"
        "API_VERSION = 2\n"
    )
    script.chmod(0o755)
    assert output(script, "--run", 'nbdinfo --size "$uri"').strip() == "4096"
