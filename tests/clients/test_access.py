"""Files that the server's user cannot open, or not write: what is said of them, and when."""

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbdfork.plugins.file import File

from nbdfork import ConfigError, serve
from tests.support.harness import NBDFORK, Server, need, output, run
from tests.support.harness import nbdfork as command

AS_NOBODY = " (for nobody, as whom clients are served)"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody reaches, with a file for root, and one that others can read."""
    with tempfile.TemporaryDirectory(prefix="nbdfork-access") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for file, mode in (("closed.img", 0o600), ("open.img", 0o644), ("all.img", 0o666)):
            (directory / file).write_bytes(bytes(65536))
            (directory / file).chmod(mode)
        yield directory


def said(*words: str | Path) -> tuple[int, str]:
    """Return the status of a server that serves nobody, and what it says."""
    done = command("-u", "nobody", "-U", "-", *words, "--run", "true")
    return done.returncode, done.stderr


@pytest.mark.parametrize("filters", [(), ("--filter=cow",), ("-r",)], ids=str)
def test_a_file_that_cannot_be_opened_keeps_the_server_from_starting(
    place: Path, filters: tuple[str, ...]
) -> None:
    status, text = said(*filters, "file", place / "closed.img")
    message = f"nbdfork: error: file: {place}/closed.img: Permission denied{AS_NOBODY}\n"
    assert (status, text) == (1, message)


@pytest.mark.parametrize("foreground", [["-f"], []], ids=str)
def test_the_user_is_told_before_anything_is_there(place: Path, foreground: list[str]) -> None:
    files: list[str | Path] = ["-U", place / "sock", "-P", place / "pid"]
    done = command(*foreground, "-u", "nobody", *files, "file", place / "closed.img")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert not (place / "sock").exists()
    assert not (place / "pid").exists()


def test_the_client_of_single_is_not_let_down_later(place: Path) -> None:
    done = command("-s", "-u", "nobody", "file", place / "closed.img", input="")
    assert done.returncode == 1
    assert AS_NOBODY in done.stderr


def test_users_of_their_own_are_tried_too(place: Path) -> None:
    words = ["--worker-uids=60000-60001", "--max-clients=2", "-U", "-"]
    done = command(*words, "file", place / "closed.img", "--run", "true")
    assert done.returncode == 1
    assert "(for user 60000, as whom clients are served)" in done.stderr


def test_a_file_that_cannot_be_written_is_warned_of_once(place: Path) -> None:
    need("nbdinfo")
    with Server("-n", "-u", "nobody", "file", place / "open.img") as server:
        for _ in range(3):
            assert "is_read_only: true" in output("nbdinfo", server.uri)
        log = server.log
    fault = f"file: {place}/open.img is served read-only: Permission denied{AS_NOBODY}\n"
    assert log.count("served read-only") == 1
    assert fault in log


def test_nobody_is_warned_of_what_is_wanted(place: Path) -> None:
    for words in (
        ("-r", "file", place / "open.img"),
        ("--filter=cow", "file", place / "open.img"),
        ("--filter=offset", "file", place / "all.img", "offset=512"),
        ("file", place / "all.img"),
        ("-r", "split", place / "open.img", place / "all.img"),
    ):
        assert said(*words) == (0, "")


def test_a_read_only_file_system_is_the_reason(tmp_path: Path) -> None:
    need("unshare")
    script = """
        mount -t tmpfs none "$1" && truncate -s 64k "$1/disk.img" && mount -o remount,ro "$1"
        path=$1; shift; exec "$@" "$path/disk.img" --run true
    """
    words = [*NBDFORK, "-U", "-", "file"]
    done = run("unshare", "-m", "sh", "-c", script, "sh", tmp_path, *words)
    assert done.returncode == 0
    assert f"{tmp_path}/disk.img is served read-only: Read-only file system" in done.stderr


def test_the_files_of_a_directory_are_warned_of(place: Path) -> None:
    status, text = said("file", f"dir={place}")
    assert status == 0
    assert sorted(text.splitlines()) == [
        f"nbdfork: warning: file: {place}/closed.img: Permission denied{AS_NOBODY}",
        f"nbdfork: warning: file: {place}/open.img is served read-only: Permission denied"
        f"{AS_NOBODY}",
    ]


@pytest.mark.parametrize("plugin", ["split", "partitioning"])
def test_parts_are_to_be_written_all(place: Path, plugin: str) -> None:
    status, text = said(plugin, place / "all.img", place / "open.img")
    fault = (
        f"{plugin}: {place}/open.img: Permission denied{AS_NOBODY}; -r serves the disk read-only"
    )
    assert (status, text) == (1, f"nbdfork: error: {fault}\n")


def test_the_content_of_a_floppy_is_tried(place: Path) -> None:
    status, text = said("floppy", place)
    assert (status, f"{place}/closed.img: Permission denied" in text) == (1, True)


def test_a_program_is_told(place: Path) -> None:
    """In a process that is nobody from its beginning."""
    place.chmod(0o777)
    child = os.fork()
    if child == 0:
        os.setresuid(*[pwd.getpwnam("nobody").pw_uid] * 3)
        try:
            serve(File(file=str(place / "closed.img")), unix=str(place / "sock"))
        except ConfigError as error:
            os._exit(0 if f"{place}/closed.img: Permission denied" in str(error) else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
