"""nbdkit's own plugins, as Debian has them, under nbdkit and under nbdfork."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import psutil
import pytest
from nbdfork.plugins.c.known import WELL_KNOWN

from tests.support.c_plugins import CONTENT, KIB, MIB, facts, fill, installed
from tests.support.far import far_qemu_nbd
from tests.support.harness import NBDFORK, Server, nbdfork, need, output, title
from tests.support.libnbd import connected, libnbd
from tests.support.libvirtd import Libvirtd, need_libvirt
from tests.support.paths import ROOT
from tests.support.scripting import meeting
from tests.support.sshd import Sshd

SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"
SERVERS = {"theirs": ["nbdkit"], "ours": [*NBDFORK, "-n"]}

SIDE_BY_SIDE: dict[str, tuple[str, ...]] = {
    "memory": ("1M",),
    "data": ("data=1 2 3 @0x4000 4*100", "size=1M"),
    "file": ("file={}/disk.img",),
    "floppy": ("{}/files",),
    "full": ("1M",),
    "info": ("mode=exportname",),
    "null": ("size=1M",),
    "ondemand": ("dir={}", "size=1M"),
    "partitioning": ("{0}/disk.img", "{0}/disk.sh"),
    "pattern": ("1M",),
    "random": ("size=1M", "seed=7"),
    "sparse-random": ("size=1M", "seed=7"),
    "split": ("{0}/disk.lua", "{0}/disk.tcl"),  # its .extents crashes on larger ones
    "tmpdisk": ("size=1M", "command=truncate -s 1M $disk"),
    "eval": ("get_size=echo 64K", "pread=head -c $3 /dev/zero | tr '\\0' E"),
    "sh": ("{}/disk.sh",),
    "lua": ("{}/disk.lua",),
    "tcl": ("{}/disk.tcl",),
    "perl": ("{}/disk.pl",),
    "cc": ("{}/disk.c",),
    "iso": ("dir={}/files",),
    "linuxdisk": ("dir={}/files",),
    "torrent": ("{}/disk.torrent", "cache={}"),
    "curl": ("file://{}/disk.img", "protocols=file"),
    "zero": (),
    "example1": (),
    "example2": ("file={}/disk.img",),
    "example3": ("size=1M",),
}

NEEDS = {"cc": "cc", "iso": "xorriso", "linuxdisk": "mke2fs", "ondemand": "mke2fs"}

NAMED = "nbd+unix:///disk\\?socket=$unixsocket"

NEVER_THE_SAME = {"linuxdisk", "ondemand"}
"""mke2fs gives each file system a name of its own, drawn by lot."""

TELLS_WHEN_FILES_WERE_MADE = {"floppy"}
"""Which cannot be set: the two servers get the same files, and do not change them."""

INFORM = "nbdinfo --json {0}; echo; nbdinfo --map {0} || :; nbdcopy {0} - | sha256sum"
CHANGE = (
    "qemu-io -f raw -c 'write -f -P 7 5k 20k' -c 'write -z 10k 1k' -c 'discard 12k 1k'"
    " -c 'read -P 7 5k 5k' -c 'read -P 0 10k 1k' -c 'read -P 7 11k 1k' {0} 2>&1"
    " | grep -E '^(wrote|read|discard|write|Pattern)' || :"
)


def told(server: str, name: str, words: list[str], commands: list[str]) -> list[str]:
    """Return what *commands* print of the plugin *name* under one of `SERVERS`."""
    need("nbdkit", "nbdinfo", "nbdcopy", "qemu-io")
    uri = NAMED if name in {"ondemand", "info"} else "$uri"
    script = "; echo; echo -; echo; ".join(commands).format(uri)
    environment = {**os.environ, "PATH": SBIN, "SOURCE_DATE_EPOCH": "1", "TMPDIR": "/var/tmp"}
    command = ["-U", "-", str(installed(name)), *words, "--run", script]
    return output(*SERVERS[server], *command, env=environment).split("\n-\n")


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_the_same_facts_bytes_and_answers(name: str, tmp_path: Path) -> None:
    if name in NEEDS and shutil.which(NEEDS[name], path=SBIN) is None:
        need(NEEDS[name])
    found = []
    for server in SERVERS:
        directory = tmp_path / ("both" if name in TELLS_WHEN_FILES_WERE_MADE else server)
        if not directory.exists():
            fill(directory)
        words = [word.format(directory) for word in SIDE_BY_SIDE[name]]
        printed, changed = told(server, name, words, [INFORM, CHANGE])
        info, mapped = printed.split("\n\n", 1)
        if name in NEVER_THE_SAME:
            mapped = mapped[: mapped.rindex("\n", 0, -1)]
        found.append((facts(info), mapped, changed))
    assert found[0] == found[1]
    assert found[1][0]["export-size"] > 0 or name == "zero"


def ours(name: str, words: list[str], command: str) -> str:
    """Return what *command* prints of the plugin *name* under nbdfork."""
    environment = {**os.environ, "PATH": SBIN}
    arguments = ["-U", "-", str(installed(name)), *words, "--run", command]
    return output(*SERVERS["ours"], *arguments, env=environment)


# -- against servers --------------------------------------------------------------------------


def test_nbd(tmp_path: Path) -> None:
    found = []
    for server in SERVERS:
        fill(tmp_path / server)
        disk = tmp_path / server / "disk.img"
        words = ["-f", "raw", "-x", "", "--discard=unmap"]
        with far_qemu_nbd(disk.parent, *words, disk) as far:
            printed, changed = told(server, "nbd", [f"socket={far.path}"], [INFORM, CHANGE])
        info, mapped = printed.split("\n\n", 1)
        content = disk.read_bytes()
        found.append((facts(info), mapped, changed, content))
    assert found[0] == found[1]
    assert found[1][3][5 * KIB : 25 * KIB].count(7) >= 18 * KIB


def test_clients_share_the_connection_to_a_command(tmp_path: Path) -> None:
    """Two of them would be two writers of one image, which qemu-nbd does not let happen."""
    need("qemu-nbd")
    fill(tmp_path / "ours")
    command = [f"arg={word}" for word in ("-f", "raw", str(tmp_path / "ours/disk.img"))]
    plugin = installed("nbd")
    with Server("-n", plugin, "command=qemu-nbd", *command) as server:
        with connected(server.uri) as one, connected(server.uri) as other:
            one.pwrite(b"shared", 0)
            assert other.pread(6, 0) == b"shared"
            [worker] = server.serving()
            assert [child.name() for child in worker.children()] == ["qemu-nbd"]


def test_ssh(host: Sshd, tmp_path: Path) -> None:
    found = []
    for server in SERVERS:
        fill(tmp_path / server)
        disk = tmp_path / server / "disk.img"
        printed, changed = told(server, "ssh", [*host.way, f"path={disk}"], [INFORM, CHANGE])
        info, mapped = printed.split("\n\n", 1)
        found.append((facts(info), mapped, changed, disk.read_bytes()))
    assert found[0] == found[1]
    assert found[1][3][5 * KIB : 10 * KIB] == bytes([7]) * 5 * KIB


def test_libvirt(tmp_path: Path) -> None:
    libvirt = need_libvirt()
    with Libvirtd() as daemon:
        connection = libvirt.open(daemon.uri)
        daemon.define(connection, {"vda": ("raw", daemon.image("disk.img", CONTENT))}).create()
        connection.close()
        words = [f"connect={daemon.uri}", "domain=guest", "disk=vda"]
        found = []
        for server in SERVERS:
            [printed] = told(server, "libvirt", words, [INFORM])
            info, mapped = printed.split("\n\n", 1)
            found.append((facts(info), mapped))
    assert found[0] == found[1]
    assert hashlib.sha256(CONTENT).hexdigest() in found[1][1]


@pytest.mark.timeout(300)
def test_guestfs(tmp_path: Path) -> None:
    """Its disk is in an appliance, which takes its time to boot: one client has to do."""
    need("guestfish")  # of the same library
    fill(tmp_path / "ours")
    disk = tmp_path / "ours/disk.img"
    emulated = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
    words: list[str | Path] = [installed("guestfs"), f"disk={disk}", "export=/dev/sda"]
    with Server("-n", "--handshake-limit", "0", *words, environment=emulated) as server:
        with connected(server.uri) as client:
            assert client.get_size() == MIB
            assert client.pread(MIB, 0) == CONTENT
            client.pwrite(b"written", 4 * KIB)
            assert client.pread(9, 4 * KIB) == b"written" + CONTENT[4 * KIB + 7 :][:2]
            client.flush()
    assert disk.read_bytes()[4 * KIB :][:7] == b"written"


def test_ruby_in_the_thread_that_has_started_it(tmp_path: Path) -> None:
    """Under nbdkit, which serves clients in other threads, the plugin crashes."""
    fill(tmp_path / "ours")
    with Server("-n", installed("ruby"), tmp_path / "ours/disk.rb") as server:
        with connected(server.uri) as client:
            assert client.pread(512, 0) == b"R" * 512
            client.pwrite(b"kept", 100)
        with connected(server.uri) as client:
            assert client.pread(6, 99) == b"RkeptR"
            assert not client.can_multi_conn()


# -- what is known of them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words", "one_process"),
    [
        ("memory", [], "yes"),
        ("ondemand", [], "yes"),
        ("lua", [], "yes"),
        ("ruby", [], "yes"),
        ("file", [], "no"),
        ("sh", [], "no"),
        ("nbd", ["socket=/nowhere"], "no"),
        ("nbd", ["socket=/nowhere", "shared=true"], "yes"),
        ("nbd", ["command=qemu-nbd"], "yes"),
    ],
)
def test_state_in_memory_is_never_split(name: str, words: list[str], one_process: str) -> None:
    plugin = installed(name)
    assert f"\none_process={one_process}\n" in output(*NBDFORK, "--dump-plugin", plugin, *words)


def test_the_page_names_those_that_are_served_by_processes() -> None:
    page = (ROOT / "man/nbdfork-c-plugin.3").read_text()
    match = re.search(r"else of these plugins of nbdkit:\n([^.]*)\.", page)
    assert match is not None
    known = {name for name, traits in WELL_KNOWN.items() if traits.processes}
    assert set(re.findall(r"[\w-]+", match[1])) - {"and"} == known


def test_commands_run_at_the_same_time(tmp_path: Path) -> None:
    pread = meeting(tmp_path, "head -c $3 /dev/zero")
    words = ["thread_model=echo parallel", "get_size=echo 64K", f"pread={pread}"]
    with Server("-n", installed("eval"), *words) as server, connected(server.uri) as client:
        cookies = [client.aio_pread(libnbd().Buffer(512), offset) for offset in (0, 512)]
        while client.aio_in_flight():
            client.poll(-1)
        assert all(client.aio_command_completed(cookie) for cookie in cookies)


@pytest.mark.parametrize("name", ["iso", "linuxdisk", "partitioning", "random", "sparse-random"])
def test_what_is_drawn_by_lot_is_drawn_before_the_fork(name: str, tmp_path: Path) -> None:
    """All these are served by a process for each client, and nobody gives them a seed."""
    need("nbdcopy")
    fill(tmp_path)
    words = [word.format(tmp_path) for word in SIDE_BY_SIDE[name] if not word.startswith("seed")]
    text = ours(name, words, "for i in 1 2 3; do nbdcopy $uri - | sha256sum; done")
    assert len(text.splitlines()) == 3
    assert len(set(text.splitlines())) == 1


@pytest.mark.parametrize("name", ["memory", "data", "file", "ondemand", "cc"])
def test_what_was_written_is_read_by_others(name: str, tmp_path: Path) -> None:
    fill(tmp_path)
    words = [word.format(tmp_path) for word in SIDE_BY_SIDE[name]]
    with Server("-n", installed(name), *words) as server:
        uri = server.uri.replace(":///", ":///disk") if name == "ondemand" else server.uri
        with connected(uri) as client:
            client.pwrite(b"written", 5 * KIB)
            client.flush() if client.can_flush() else None
        with connected(uri) as client:
            assert client.pread(7, 5 * KIB) == b"written"


def test_the_files_of_a_linuxdisk(tmp_path: Path) -> None:
    need("nbdcopy")
    if (debugfs := shutil.which("debugfs", path=SBIN)) is None:
        need("debugfs")
    fill(tmp_path)
    command = f"nbdcopy $uri {tmp_path}/copy"
    ours("linuxdisk", [f"dir={tmp_path}/files"], command)
    partition = f"{tmp_path}/copy?offset={MIB}"
    assert output(str(debugfs), "-R", "cat /README", partition) == "hello"


def test_a_disk_of_ondemand_is_locked(tmp_path: Path) -> None:
    plugin = installed("ondemand")
    command = "command=truncate -s 1M $disk"
    with Server("-n", plugin, f"dir={tmp_path}", "size=1M", command) as server:
        uri = server.uri.replace(":///", ":///one")
        with connected(uri), pytest.raises(libnbd().Error):
            connected(uri).__enter__()
        with connected(uri.replace("one", "two")) as client:
            assert client.get_size() == MIB


# -- secrets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("curl", "password=hush-hush"),
        ("curl", "proxy-password=hush-hush"),
        ("curl", "cookie=hush-hush"),
        ("curl", "header=X-Token: hush-hush"),
        ("ssh", "password=hush-hush"),
    ],
)
def test_a_password_is_shown_nowhere(name: str, word: str) -> None:
    start = {"curl": ["file:///dev/null", "protocols=file"], "ssh": ["host=x", "path=/x"]}[name]
    with Server("-v", installed(name), *start, word) as server:
        shown = [title(process) for process in (psutil.Process(server.pid), *server.workers())]
        assert f"{word.split('=')[0]}=***" in shown[0]
        assert not any("hush-hush" in one for one in shown)
        assert "hush-hush" not in server.log


def test_a_refused_password_is_not_shown() -> None:
    done = nbdfork(installed("ssh"), "host=x", "path=/x", "password=-hush-hush")
    assert done.returncode == 1
    assert "password=***: password=-FD: a number is expected" in done.stderr
    assert "hush" not in done.stderr
