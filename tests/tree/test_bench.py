"""The benchmark: each kind of load on each server, tiny, and the arithmetic of its report."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from contrib.bench import chart, cli, compiled, disks, loads, machine, probes, report
from contrib.bench.cells import ABSOLUTE, BEST_PEER, CELLS, GROUPS, LIMIT, Cell, Target
from contrib.bench.errors import BenchError, QueueFull
from contrib.bench.lean import Lean
from contrib.bench.loads import TRIES, Fio, Load, Measurement, Percentiles, client
from contrib.bench.materials import MIB
from contrib.bench.ramdisk import RamDisk
from contrib.bench.report import Row
from contrib.bench.rounds import Column, measure
from contrib.bench.servers import LIMIT_LOOP, NBDFORK, SERVERS, Server, peers_in, running
from tests.support.harness import SECONDS, eventually, is_alive, need, output, run
from tests.support.paths import ROOT

PEERS = frozenset(server.name for server in SERVERS if server.peer)

ALL = {"nbdfork", "nbdkit", "qemu-nbd", "nbd-server"}

SMOKE = {
    "lean-unix: 4 KiB read, QD32": ALL | {"limit"},
    "lean-unix: 4 KiB write, QD32, one by one": {"nbdfork", "limit"},
    "lean-unix: 1 MiB write, QD4": {"nbdfork", "limit"},
    "lean-tcp: 64 KiB read, QD8": ALL | {"limit"},
    "lean-unix: 4 KiB read, QD1, 16 clients": {"nbdfork", "nbdkit"},
    "file-unix: 4 KiB random read, QD32": ALL | {"limit"},
    "file-unix: 4 KiB random write, QD32, 2 clients": {"nbdfork"},
    "file-tcp: 256 KiB sequential read, QD4": ALL,
    "ram-unix: 4 KiB random write, QD32": {"nbdfork", "nbdkit"},
    "script-unix: 4 KiB random read, QD1": {"nbdfork", "nbdfork class", "nbdkit"},
    "computed: 4 KiB random read, QD4, 2 clients": {"nbdfork", "nbdkit"},
    "copy: to null:": ALL - {"nbd-server"},
    "copy: onto itself": {"nbdfork", "nbdkit"},
    "status: nbdinfo --map": ALL - {"nbd-server"},
    "connect: 8 clients at once, Unix domain socket": ALL,
    "memory: private (USS) per idle client": {"nbdfork", "qemu-nbd"},
    "memory: proportional (PSS) per busy client": {"nbdfork", "nbdkit"},
    "memory: private (USS) per spare worker": {"nbdfork"},
    "start: ready": ALL | {"bare python"},
    "c-plugins: memory.so, 4 KiB random write, QD32": {"nbdfork", "nbdkit"},
    "c-plugins: file.so, 4 KiB random read, QD1": {"nbdfork", "nbdkit"},
    "scripts: perl, 4 KiB random write, QD1": {"nbdfork", "nbdkit"},
    "scripts: ruby, 4 KiB random read, QD32": {"nbdfork"},  # nbdkit 1.32 crashes
    "scripts: lua, 4 KiB random read, QD1": {"nbdfork", "nbdkit"},
    "scripts: tcl, 4 KiB random write, QD32": {"nbdfork", "nbdkit"},
    "sh: 1 MiB sequential write, QD1": {"nbdfork", "nbdkit"},
    "curl: https, 4 KiB random read, QD16": {"nbdfork", "nbdkit"},
    "far: nbd 10 ms away, 4 KiB random read, QD16": {"nbdfork", "nbdkit"},
    "far: ssh 10 ms away, nbdcopy to null:": {"nbdfork", "nbdkit"},
    "far: nbd with holes 10 ms away, 256 KiB random read, QD16": {"nbdfork", "nbdkit"},
    "far: ssh near, 4 KiB random read, QD1": {"nbdfork", "nbdkit"},
    "far: curl 10 ms away, 256 KiB random read, QD1": {"nbdfork", "nbdkit"},
    "far: s3 near, 4 KiB random read, QD16": {"nbdfork", "nbdkit"},
    "compressed: gzip, the first client": {"nbdfork", "nbdkit"},
    "compressed: xz, 64 KiB random read, QD1": {"nbdfork", "nbdkit"},
}
"""A cell of each kind, and the columns that must have a figure."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[disks.Disks]:
    with contextlib.closing(disks.Disks(tmp_path_factory.mktemp("disks"), 4 * MIB)) as found:
        yield found


@pytest.mark.parametrize("name", SMOKE)
def test_each_load_on_each_server(
    name: str, small: disks.Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("fio", "nbdkit", "qemu-nbd", "nbd-server", "nbdcopy", "nbdinfo")
    monkeypatch.setattr(probes, "STARTS", 1)
    (cell,) = [cell for cell in CELLS if cell.full_name == name]
    disk = small.get(cell.disk)
    servers = [server for server in (*SERVERS, LIMIT_LOOP) if server.name in SMOKE[name]]
    columns = measure(cell, disk, servers, 1, 0.1)
    assert columns.keys() == SMOKE[name]
    assert not [column.error for column in columns.values() if column.error]
    row = Row(cell, columns, PEERS)
    for column in SMOKE[name]:
        value = row.median(column)
        assert value is not None, column
        assert value > 0 or cell.group == "memory", column
    if isinstance(cell.load, Lean):
        latencies = row.latencies("nbdfork")
        assert latencies is not None
        assert 0 < latencies.p50 <= latencies.p99 <= latencies.p999 < 60e6
    if isinstance(cell.load, Fio | Lean):
        costs = row.costs("nbdfork")
        assert costs is not None
        assert costs.client_us is not None
        assert costs.client_us > 0
    assert not any(tmp_path.iterdir())  # the servers' own files have gone with them


def test_the_command_writes_its_report(tmp_path: Path) -> None:
    need("fio", "nbdcopy", "nbdinfo")
    command = [sys.executable, "contrib/bench", "--quick", "--seconds", "0.1", "--rounds", "1"]
    command += ["--size", "4", "--servers", "nbdfork", "--cells", "lean-unix: 4 KiB*read, QD32"]
    output(*command, "--output", tmp_path, cwd=ROOT)
    found = json.loads((tmp_path / "results.json").read_text())
    (cell,) = found["cells"]
    assert cell["columns"].keys() == {"nbdfork", "limit"}
    assert all(column["median"] > 0 for column in cell["columns"].values())
    assert {"processor", "cores", "kernel", "nbdfork", "fio", "files on"} <= found["facts"].keys()
    assert "4 KiB read, QD32" in (tmp_path / "results.md").read_text()
    assert texts((tmp_path / "results.svg").read_text())


def test_both_ways_to_run_the_command_list_the_same_cells() -> None:
    lists = [output(sys.executable, *words, "--list", cwd=ROOT) for words in WAYS_TO_RUN]
    assert lists[0] == lists[1]
    usual = [cell for cell in CELLS if cell.core and GROUPS[cell.group].usual]
    assert lists[0].splitlines() == [cell.full_name for cell in usual]


WAYS_TO_RUN = (["contrib/bench"], ["-m", "contrib.bench"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cells", "nothing"], "no cell matches nothing"),
        (["--cells", "nothing", "--group", "sh"], "no cell matches nothing"),
        (["--group", "bash"], "bash: unknown group; there are lean-unix,"),
        (["--servers", "apache"], "apache: unknown server; there are nbdfork,"),
        (["--rounds", "0"], "must be positive"),
        (["--chroot", "/nonexistent"], "there is no NBD server in /nonexistent"),
        (["--seconds", "-1"], "must be positive"),
    ],
)
def test_wrong_arguments(words: Sequence[str], message: str) -> None:
    need("fio", "nbdcopy", "nbdinfo")
    done = run(sys.executable, "contrib/bench", *words, cwd=ROOT)
    assert done.returncode == 2
    assert message in done.stderr


def test_what_a_server_cannot_tell_is_not_made_up(small: disks.Disks) -> None:
    need("nbd-server", "nbdinfo")
    servers = [server for server in SERVERS if server.name == "nbd-server"]
    (cell,) = [cell for cell in CELLS if cell.group == "status"]
    assert measure(cell, small.get("sparse"), servers, 1, 0.1) == {"nbd-server": Column()}


def jobs_of_fio(command: psutil.Process) -> list[psutil.Process]:
    """Return the processes that fio has made for its jobs."""
    try:
        fio = [child for child in command.children() if child.name() == "fio"]
        return [job for parent in fio for job in parent.children()]
    except psutil.NoSuchProcess:  # one that was only asked for its version
        return []


def test_ending_the_command_ends_its_servers(tmp_path: Path) -> None:
    need("fio", "nbdcopy", "nbdinfo")
    words = [sys.executable, "contrib/bench", "--servers", "nbdfork", "--cells", "computed: *"]
    words += ["--directory", str(tmp_path), "--seconds", "1000"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            command = psutil.Process(process.pid)
            eventually(lambda: jobs_of_fio(command))
            everyone = command.children(recursive=True)
        finally:
            process.terminate()
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
    eventually(lambda: not any(is_alive(child) for child in everyone))
    assert not any(tmp_path.iterdir())


def test_a_server_of_another_system_sees_disk_and_socket(
    small: disks.Disks, tmp_path: Path
) -> None:
    """The other system has the programs of this one, and an empty folder of its own."""
    need("nbdkit", "unshare")
    if os.geteuid() != 0:
        pytest.skip("only root can make a mount namespace")
    (tmp_path / "bin").symlink_to("/usr/bin")
    (tmp_path / "etc").mkdir()
    (server,) = [one for one in peers_in(tmp_path) if one.name == "chroot nbdkit"]
    assert server.is_installed()
    with running(server, small.get("file"), "unix") as found:
        assert " /etc " in Path(f"/proc/{found.process.pid}/mountinfo").read_text()
        assert Lean("read", 4096, 1).measure(found, 0.1).value > 0
    assert " /etc " not in Path("/proc/self/mountinfo").read_text()
    assert machine.describe(tmp_path, [server])["chroot nbdkit"][0].isdigit()


def test_a_source_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match=r"nothing\.c: "):
        compiled.program("nothing")
    monkeypatch.setattr(compiled, "COMMAND", ("/nonexistent/cc",))
    with pytest.raises(BenchError, match="there is no C compiler"):
        compiled.program("something")


# -- servers that fail --------------------------------------------------------------------------


def broken(*command: str) -> Server:
    return Server("broken", sys.executable, {"computed": lambda *_: [sys.executable, *command]})


def test_a_server_that_does_not_start(small: disks.Disks) -> None:
    server = broken("-c", "raise SystemExit('out of order')")
    with pytest.raises(BenchError, match="broken did not start: out of order"):
        with running(server, small.get("computed"), "unix"):
            pass


def test_a_server_that_fails_does_not_end_the_run(small: disks.Disks) -> None:
    class Instant(Load):
        unit = "turns"

        def measure(self, server: object, seconds: float) -> Measurement:
            return Measurement(seconds)

    cell = Cell("computed", "nothing", "computed", "unix", Instant())
    servers = [broken("-c", "raise SystemExit('out of order')"), NBDFORK]
    columns = measure(cell, small.get("computed"), servers, 3, 1.0)
    assert "out of order" in columns["broken"].error
    assert not columns["broken"].turns
    assert columns["nbdfork"] == Column([Measurement(1.0)] * 3)


def test_a_server_that_dies_is_told_of(small: disks.Disks) -> None:
    need("fio")
    with running(NBDFORK, small.get("computed"), "unix") as server:
        for process in server.processes():
            process.kill()
        server.process.wait(10)
        assert server.processes() == []
        with pytest.raises(BenchError, match="fio: exit status"):
            Fio("randread", 4096, 1).measure(server, 0.1)


def test_clients_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "LIMIT", 0)
    with pytest.raises(BenchError, match="took more than"):
        client(["sleep", "1000"], 0.1)
    monkeypatch.undo()
    with pytest.raises(BenchError, match="nosuchclient is not installed"):
        client(["nosuchclient"], 1)
    with pytest.raises(BenchError, match="exit status 1: it is broken"):
        client([sys.executable, "-c", "raise SystemExit('it is broken')"], 1)
    text = "connect: Resource temporarily unavailable"
    with pytest.raises(QueueFull):
        client([sys.executable, "-c", f"raise SystemExit({text!r})"], 1)


@pytest.mark.parametrize("failures", [0, 2, TRIES - 1, TRIES])
def test_clients_that_find_the_queue_full_try_again(
    failures: int, small: disks.Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([True] * failures + [False])

    def measure_once(load: Fio, server: object, seconds: float) -> Measurement:
        if next(answers):
            raise QueueFull("too many at once")
        return Measurement(seconds)

    monkeypatch.setattr(Fio, "_measure_once", measure_once)
    cell = Cell("computed", "x", "computed", "unix", Fio("randread", 4096, 1))
    column = measure(cell, small.get("computed"), [NBDFORK], 1, 1.0)["nbdfork"]
    if failures < TRIES:
        assert column == Column([Measurement(1.0)])
    else:
        assert column == Column(error="too many at once")


# -- the table ----------------------------------------------------------------------------------


def test_cells_have_names_of_their_own_and_a_known_group() -> None:
    names = [cell.full_name for cell in CELLS]
    assert len(names) == len(set(names))
    assert {cell.group for cell in CELLS} == GROUPS.keys()
    assert set(SMOKE) <= set(names)
    kinds = {type(cell.load) for cell in CELLS}
    assert kinds == {type(cell.load) for cell in CELLS if cell.full_name in SMOKE}


def row(
    medians: Mapping[str, float | None], targets: Sequence[Target] = (), load: Load | None = None
) -> Row:
    """Return a row in which each server has had three turns around a median."""
    columns = {
        name: Column([Measurement(m - 1), Measurement(m), Measurement(m + 100)] if m else [])
        for name, m in medians.items()
    }
    cell = Cell("file-unix", "x", "file", "unix", load or Fio("randread", 4096, 1), tuple(targets))
    return Row(cell, columns, PEERS)


LESS = probes.Map()


def test_the_median_counts_and_the_best_peer() -> None:
    medians = {"nbdfork": 300.0, "nbdfork class": 900.0, "nbdkit": 200.0, "qemu-nbd": 100.0}
    assert row(medians).median("nbdkit") == 200
    assert row(medians).best_peer() == 200  # a variant of nbdfork is no peer
    assert row(medians).ratio() == 1.5
    assert row(medians, load=LESS).best_peer() == 100
    assert row(medians, load=LESS).ratio() == 3
    assert row({"nbdfork": 300.0, "nbdkit": None}).ratio() is None
    assert row({"nbdkit": 300.0}).ratio() is None


@pytest.mark.parametrize(
    ("target", "load", "reached", "met"),
    [
        (Target(BEST_PEER, 1.5), None, 1.5, True),
        (Target(BEST_PEER, 1.6), None, 1.5, False),
        (Target("qemu-nbd", 3), None, 3.0, True),
        (Target(LIMIT, 0.8), None, None, None),
        (Target("nbdkit", 1.5), LESS, 1.5, True),
        (Target("nbdkit", 1.4), LESS, 1.5, False),
        (Target(ABSOLUTE, 300), LESS, 300.0, True),
        (Target(ABSOLUTE, 299), LESS, 300.0, False),
    ],
)
def test_verdicts(
    target: Target, load: Load | None, reached: float | None, met: bool | None
) -> None:
    medians = {"nbdfork": 300.0, "nbdkit": 200.0, "qemu-nbd": 100.0}
    (verdict,) = row(medians, [target], load).verdicts()
    assert (verdict.reached, verdict.met) == (reached, met)


def test_the_report() -> None:
    one = row({"nbdfork": 3000.0, "nbdkit": 2000.0, "qemu-nbd": None}, [Target(BEST_PEER, 1.6)])
    one.columns["qemu-nbd"].error = "it hung"
    text = report.markdown({"kernel": "Linux"}, [one])
    assert "- kernel: Linux\n" in text
    assert "**0 of 1 targets are met.**" in text
    assert "| | unit | nbdfork | nbdkit | qemu-nbd | ratio | targets |" in text
    line = "| x | requests/s | 3,000 | 2,000 | failed | 1.50 | ✗ 1.50 (≥ 1.6 x best peer) |"
    assert line in text.splitlines()
    assert "- file-unix: x: qemu-nbd: it hung\n" in text
    (cell,) = json.loads(report.as_json({}, [one]))["cells"]
    assert cell["ratio"] == 1.5
    assert cell["targets"][0]["met"] is False
    assert [turn["value"] for turn in cell["columns"]["nbdkit"]["turns"]] == [1999, 2000, 2100]


def test_costs_mark_a_client_that_is_measured_instead_of_the_server() -> None:
    turns = [Measurement(10, server_us=2.0, client_us=4.0, client_share=0.95)]
    cell = Cell("file-unix", "x", "file", "unix", Fio("read", 4096, 1))
    text = report.markdown({}, [Row(cell, {"nbdfork": Column(turns)}, PEERS)])
    assert "| x | 2 + 4 (95%*) |" in text.splitlines()


def test_latencies_are_the_medians_of_the_percentiles() -> None:
    turns = [Measurement(10, latencies=Percentiles(*three)) for three in LATENCIES]
    cell = Cell("lean-unix", "x", "file", "unix", Lean("read", 4096, 1))
    text = report.markdown({}, [Row(cell, {"nbdfork": Column(turns)}, PEERS)])
    assert "| x | 2 / 30 / 400 |" in text.splitlines()


LATENCIES = ((1.0, 20.0, 400.0), (2.0, 30.0, 300.0), (3.0, 40.0, 500.0))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "n/a"), (0.0, "0"), (0.04567, "0.0457"), (12.34, "12.3"), (123456.7, "123,457")],
)
def test_figures(value: float | None, text: str) -> None:
    assert report.shown(value) == text


# -- the picture --------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def bars(picture: str) -> list[float]:
    found = ElementTree.fromstring(picture).iter(f"{SVG}rect")
    return [float(node.attrib["width"]) for node in found][1:]  # the first is the ground


def test_the_longer_bar_is_the_better() -> None:
    medians = {"nbdfork": 300.0, "nbdkit": 150.0, "qemu-nbd": None}
    picture = chart.svg("a < b", [row(medians)])
    assert bars(picture) == [chart.BAR, chart.BAR / 2]
    assert {"a < b", "nbdfork 300", "nbdkit 150"} <= set(texts(picture))
    assert bars(chart.svg("", [row(medians, load=LESS)])) == [chart.BAR / 2, chart.BAR]


def test_a_picture_of_nothing_is_still_one() -> None:
    assert bars(chart.svg("", [row({"nbdkit": None})])) == []


# -- what is served, and where ------------------------------------------------------------------


def test_the_file_has_no_holes_and_the_image_has(small: disks.Disks) -> None:
    full, sparse = small.get("file").path, small.get("sparse").path
    assert full is not None
    assert sparse is not None
    assert full.stat().st_size == 4 * MIB
    assert full.stat().st_blocks * 512 >= 4 * MIB
    assert sparse.stat().st_size == disks.SPARSE_SIZE
    assert sparse.stat().st_blocks * 512 >= disks.SPARSE_BLOCKS * disks.BLOCK // 2


def test_the_class_is_a_ram_disk() -> None:
    disk = RamDisk(size="64K")
    disk.get_ready()
    disk.pwrite(memoryview(b"hello"), 1000, 0)
    assert disk.get_size() == 65536
    assert bytes(disk.pread(7, 999)) == b"\0hello\0"


def test_facts_of_programs_that_are_missing(tmp_path: Path) -> None:
    missing = Server("qemu-nbd", "/nonexistent/qemu-nbd", {}, peer=True)
    facts = machine.describe(tmp_path, [NBDFORK, missing])
    assert facts["qemu-nbd"] == "not installed"
    done = subprocess.run(
        [sys.executable, "-m", "nbdfork", "--version"], capture_output=True, text=True, check=True
    )
    assert facts["nbdfork"] in done.stdout


def test_settings() -> None:
    need("fio", "nbdcopy", "nbdinfo")
    settings = cli.parse_arguments(["--quick", "--seconds", "3", "--servers", "nbdfork"])
    assert (settings.rounds, settings.seconds) == (2, 3.0)
    assert settings.servers == [NBDFORK]
    assert all(cell.core for cell in settings.cells)
    assert cli.parse_arguments(["--all"]).cells == list(CELLS)


@pytest.mark.parametrize("name", GROUPS)
def test_every_group_has_a_quick_form(name: str) -> None:
    need("fio", "nbdcopy", "nbdinfo")
    settings = cli.parse_arguments(["--quick", "--group", name])
    assert settings.cells
    assert {cell.group for cell in settings.cells} == {name}
    assert all(cell.core for cell in settings.cells)
    everything = cli.parse_arguments(["--group", name, "--all"]).cells
    assert everything == [cell for cell in CELLS if cell.group == name]


def test_several_groups_and_a_pattern_within() -> None:
    need("fio", "nbdcopy", "nbdinfo")
    settings = cli.parse_arguments(["--group", "sh, scripts", "--cells", "*QD32"])
    assert {cell.group for cell in settings.cells} == {"scripts"}
    assert len(settings.cells) == 8


def test_a_disk_that_cannot_be_made_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("fio", "nbdcopy", "nbdinfo", "nbdkit")
    words = ["--quick", "--group", "c-plugins", "--servers", "nbdfork"]
    settings = cli.parse_arguments([*words, "--directory", str(tmp_path)])
    monkeypatch.setenv("PATH", "/nonexistent")
    _, rows = cli.run(settings)
    assert len(rows) == len(settings.cells)
    assert {row.columns["nbdfork"].error for row in rows} == {"nbdkit is not installed"}
    assert not any(tmp_path.iterdir())
