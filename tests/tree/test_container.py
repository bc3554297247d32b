"""The image of contrib/packaging/Containerfile: built, run, stopped, and what it says of itself."""

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nbdfork.cli import parse_arguments
from tests.support.debian import make_root
from tests.support.harness import SECONDS, eventually, let_all_reach, need, output, run, title
from tests.support.paths import ROOT

CONTAINERFILE = ROOT / "contrib" / "packaging" / "Containerfile"
PACKAGES = ("apt", "ca-certificates", "gcc", "libc6-dev", "python3-dev", "python3-venv")
BASE = "localhost/nbdfork-debian"
WHEELS = ("setuptools>=77", "psutil", "python-daemon", "setproctitle")


class Builder:
    """buildah, with a store of its own in *directory*, and without an OCI runtime."""

    def __init__(self, directory: Path) -> None:
        self._command = ["buildah", f"--root={directory}/store", f"--runroot={directory}/run"]

    def __call__(self, *words: str | Path) -> str:
        """Run a command of it and return what it prints."""
        return output(*self._command, *words, timeout=100).strip()

    def running(self, container: str, *words: str | Path) -> list[str]:
        """Return the command that runs another in *container*."""
        return [*self._command, "run", "--isolation=chroot", *map(str, words), "--", container]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    need("buildah", "dpkg-query", "unshare", "nsenter")
    if os.geteuid() != 0:
        pytest.skip("only root can copy what packages of Debian have")
    builder = Builder(tmp_path_factory.mktemp("containers"))
    yield builder
    builder("rm", "--all")
    builder("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def base(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image with this machine's Debian, in which pip needs no network."""
    container = builder("from", "scratch")
    root = Path(builder("mount", container))
    make_root(root, PACKAGES)
    output("python3", "-m", "pip", "download", "-q", "-d", root / "wheels", *WHEELS)
    (root / "etc" / "pip.conf").write_text("[global]\nfind-links = /wheels\nno-index = true\n")
    builder("umount", container)
    builder("commit", "--quiet", "--rm", container, BASE)
    return BASE


@pytest.fixture(scope="module")
def container(builder: Builder, base: str) -> str:
    """A container of the image."""
    words = ["build", "--isolation=chroot", "--format=docker", f"--build-arg=BASE={base}"]
    ignored = f"--ignorefile={ROOT}/.containerignore"
    builder(*words, ignored, "--file", CONTAINERFILE, "--tag", "nbdfork", ROOT)
    return builder("from", "localhost/nbdfork")


def configuration(builder: Builder, container: str) -> Any:
    return json.loads(builder("inspect", container))["Docker"]["config"]


def test_what_the_image_says_of_itself(builder: Builder, container: str) -> None:
    said = configuration(builder, container)
    assert said["User"] not in ("", "0", "root")
    assert said["StopSignal"] == "SIGTERM"
    assert said["ExposedPorts"] == {"10809/tcp": {}}
    assert said["Healthcheck"]["Test"][0] == "CMD"
    program, *words = said["Entrypoint"] + said["Cmd"]
    options = parse_arguments(words)
    assert (program, options.foreground, options.newstyle) == ("nbdfork", True, True)


def test_its_server_runs_is_healthy_and_ends(
    builder: Builder, container: str, tmp_path: Path
) -> None:
    """As an ordinary user; a signal ends it with status 0."""
    need("nbdinfo")
    said = configuration(builder, container)
    check = said["Healthcheck"]["Test"][1:]
    disks = tmp_path / "disks"
    disks.mkdir()
    (disks / "disk.img").write_bytes(bytes(65536))
    (disks / "disk.img").chmod(0o666)
    let_all_reach(disks)
    volume = f"--volume={disks}:/srv/nbd"
    assert run(*builder.running(container), *check).returncode != 0  # there is no server
    words = [*builder.running(container, volume), *said["Entrypoint"], *said["Cmd"]]
    script = f"ip link set lo up; exec {shlex.join(words)}"
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stderr=log)
        try:
            server = eventually(lambda: supervisor(process.pid))
            assert 0 not in server.uids()
            inside = ["nsenter", "-t", str(process.pid), "-n"]
            eventually(lambda: run(*inside, "nbdinfo", "nbd://localhost/disk.img").returncode == 0)
            output(*inside, *builder.running(container), *check)
            server.terminate()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        assert log.read() == ""


def supervisor(pid: int) -> psutil.Process | None:
    """Return the supervisor that *pid* has started, if it has."""
    for process in psutil.Process(pid).children(recursive=True):
        if title(process).startswith("nbdfork: supervisor"):
            return process
    return None


def test_c_plugins_can_be_loaded_in_it(builder: Builder, container: str) -> None:
    words = ["python3", "-c", "from nbdfork.plugins.c import _native"]
    output(*builder.running(container), "/opt/nbdfork/bin/" + words[0], *words[1:])
