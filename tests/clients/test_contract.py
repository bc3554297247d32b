"""The contract: thread models, the life of a plugin, keys, filters' keys, buffers."""

import os
import threading
from pathlib import Path

import pytest

from nbdfork.backend.backend import Backend, Layer
from nbdfork.backend.gate import Gate
from nbdfork.backend.load import find
from nbdfork.plugin import (
    HOLE,
    REQ_ONE,
    ZERO,
    ConfigError,
    Export,
    Extent,
    Filter,
    FilterExport,
    Parameter,
    Plugin,
    Secret,
    parse,
)
from tests.support.harness import Server, eventually
from tests.support.paths import SAMPLES
from tests.support.raw import Client, clients

LOCAL = SAMPLES / "local.py"


# -- state and processes ----------------------------------------------------------------------


def test_plain_variables_are_not_shared_by_default() -> None:
    """The trap that the manual warns of."""
    with Server(LOCAL) as server, clients(server, 2) as (one, other):
        one.greet().write(b"mine")
        assert other.greet().read(0, 4) == bytes(4)


@pytest.mark.parametrize("model", ["serialize_all_requests", "parallel"])
def test_one_process_serves_clients_at_once_from_the_same_memory(model: str) -> None:
    with Server(LOCAL, "one=yes", f"model={model}") as server, clients(server, 20) as many:
        for number, client in enumerate(many):
            client.greet().write(bytes([number]), number)
        assert all(client.read(0, 20) == bytes(range(20)) for client in many)
        assert len(server.workers()) == 1
        many[0].close()
        assert eventually(lambda: "client unix pid" not in server.log)
        assert many[1].read(0, 20) == bytes(range(20))


def test_one_process_has_a_limit_of_clients() -> None:
    options = ("--max-clients", "2")
    with Server(*options, LOCAL, "one=yes") as server, clients(server, 3) as many:
        many[0].greet()
        many[1].greet()
        assert not many[2].has_been_greeted(0.3)
        many[0].close()
        many[2].greet()


def test_one_process_is_drained_like_the_others() -> None:
    with Server(LOCAL, "one=yes") as server, clients(server, 3) as many:
        for client in many:
            client.greet().write(b"x")
        assert server.stop() == 0
        for client in many:
            with pytest.raises(EOFError):
                client.receive(1)


def test_serialize_connections_serves_one_client_after_another() -> None:
    with Server(LOCAL, "model=serialize_connections") as server, clients(server, 2) as (a, b):
        a.greet().write(b"kept")
        assert not b.has_been_greeted(0.3)
        a.close()
        assert b.greet().read(0, 4) == b"kept"
        assert len(server.workers()) == 1


@pytest.mark.parametrize("one", ["yes", "no"])
def test_serialize_all_requests_lets_no_two_overlap(tmp_path: Path, one: str) -> None:
    log = tmp_path / "log"
    arguments = (f"one={one}", "model=serialize_all_requests", f"log={log}")
    with Server(LOCAL, *arguments) as server, clients(server, 4) as many:
        threads = [threading.Thread(target=write_often, args=(client,)) for client in many]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "overlap" not in log.read_text()


def write_often(client: Client) -> None:
    client.greet()
    for _ in range(300):
        client.write(b"x")


def test_the_lock_survives_the_death_of_its_holder() -> None:
    with Server(LOCAL, "model=serialize_all_requests") as server:
        a = Client(server).greet()
        (worker,) = eventually(server.serving)
        b = Client(server).greet()
        stop = threading.Event()
        writer = threading.Thread(target=write_until, args=(a, stop))
        writer.start()
        for _ in range(50):
            b.write(b"y")
        worker.kill()
        stop.set()
        writer.join()
        b.write(b"z")
        a.close()
        b.close()


def write_until(client: Client, stop: threading.Event) -> None:
    try:
        while not stop.is_set():
            client.write(b"x")
    except (EOFError, OSError):
        pass


def test_the_life_of_a_plugin(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Server("--spare-workers", "1", LOCAL, f"log={log}") as server:
        supervisor = server.pid
        client = Client(server).greet()
        client.read()
        client.close()
        assert eventually(lambda: "cleanup" in log.read_text())
    calls = [(line.split()[0], int(line.split()[1])) for line in log.read_text().splitlines()]
    assert calls[:2] == [("config_complete", supervisor), ("get_ready", supervisor)]
    assert calls[-1] == ("unload", supervisor)
    worker = next(pid for call, pid in calls if call == "preconnect")
    assert worker != supervisor
    of_worker = [call for call, pid in calls if pid == worker]
    assert of_worker == ["after_fork", "preconnect", "close", "cleanup"]
    assert sum(call == "after_fork" for call, _ in calls) == sum(c == "cleanup" for c, _ in calls)


# -- parameters -------------------------------------------------------------------------------


class Any(Plugin):
    """takes any key"""

    first = Parameter(parse.size, magic=True, metavar="N", help="declared")
    files = Parameter(str, repeatable=True, metavar="FILE", help="any number")

    def __init__(self, **parameters: object) -> None:
        super().__init__(**parameters)
        self.calls: list[tuple[str, str]] = []

    def config(self, key: str, value: str) -> None:
        self.calls.append((key, value))


class Keyed(Filter):
    """has keys"""

    level = Parameter(parse.whole(0, 9), default=1, metavar="N", help="its level")


def test_keys_go_where_they_are_declared() -> None:
    plugin, near, far = Any(), Keyed(), Keyed()
    backend = Backend(Layer("any", plugin), [Layer("near", near), Layer("far", far)])
    backend.configure(["1k", "level=3", "x=1", "files=a", "y=2", "files=b"])
    assert (plugin.first, plugin.files) == (1024, ("a", "b"))
    assert (near.level, far.level) == (3, 1)  # the first from the client's side takes it
    assert plugin.calls == [("x", "1"), ("y", "2")]


def test_unknown_keys_name_those_of_all_layers() -> None:
    backend = Backend(Layer("plain", Plugin()), [Layer("keyed", Keyed())])
    with pytest.raises(ConfigError, match="did you mean level="):
        backend.configure(["levle=3"])


def test_parameters_in_a_program() -> None:
    assert Any(first="2k").first == 2048
    assert Any(first=7).first == 7
    assert Any(files=("a",)).files == ("a",)
    with pytest.raises(TypeError, match="has no parameter 'last'"):
        Any(last=1)
    with pytest.raises(ValueError, match="not a size"):
        Any(first="x")


# -- reading ----------------------------------------------------------------------------------


class Filling(Export):
    def get_size(self) -> int:
        return 4096

    def pread_into(self, data: memoryview, offset: int) -> None:
        data[:] = bytes([offset & 255]) * len(data)


def test_an_export_may_fill_a_buffer() -> None:
    assert Gate(Filling(), True).pread(3, 7) == b"\7\7\7"


def test_an_export_that_cannot_read_says_so() -> None:
    class Nothing(Export):
        def get_size(self) -> int:
            return 4096

    with pytest.raises(
        NotImplementedError, match=r"Nothing does not implement pread \(or pread_into\)"
    ):
        Gate(Nothing(), True).pread(1, 0)


# -- extents ----------------------------------------------------------------------------------


class Mapped(Filling):
    def __init__(self, *extents: tuple[int, int, int]) -> None:
        self.found = [Extent(*extent) for extent in extents]

    def extents(self, count: int, offset: int, flags: int) -> list[Extent]:
        return self.found


def test_a_file_with_a_dataclass_can_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "dated.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from nbdfork.plugin import Plugin\n"
        "@dataclass\n"
        "class Point:\n    x: int = 0\n"
        "class Dated(Plugin):\n    'a disk'\n"
    )
    assert find(str(tmp_path / "dated.py")).plugin_class.__name__ == "Dated"


def test_a_secret_is_not_shown() -> None:
    class Guarded(Plugin):
        password = Secret(parse.whole(0, 9), metavar="PASSWORD", help="a number")

    backend = Backend(Layer("guarded", Guarded()))
    with pytest.raises(ConfigError, match=r"guarded: password=\*\*\*: expected a whole number"):
        backend.configure(["password=hush"])
    words = ["-f", "password=hush", "passwords=1", "a password=hush"]
    assert backend.without_secrets(words) == ["-f", "password=***", *words[2:]]


def test_what_may_be_a_secret_of_a_script_is_not_shown() -> None:
    class AnyKey(Plugin):
        def config(self, key: str, value: str) -> None:
            pass

    words = ["api_token=hush", "proxy-password=hush", "file=secret", "size=1"]
    shown = ["api_token=***", "proxy-password=***", *words[2:]]
    assert Backend(Layer("any", AnyKey())).without_secrets(words) == shown
    assert Backend(Layer("none", Plugin())).without_secrets(words) == words


def test_a_file_can_be_the_body_of_a_class(tmp_path: Path) -> None:
    (tmp_path / "body.py").write_text(
        '"a disk of one letter"\n'
        "from nbdfork.plugin import Parameter, parse\n"
        "size = Parameter(parse.size, required=True, magic=True, metavar='SIZE', help='its size')\n"
        "_letter = b'a'\n"
        "def config_complete(self): self.letter = self._letter.upper()\n"
        "def get_size(self): return self.size\n"
        "def pread(self, count, offset): return self.letter * count\n"
    )
    found = find(str(tmp_path / "body.py"))
    assert found.plugin_class.__doc__ == "a disk of one letter"
    plugin = found.plugin_class(size="10")
    plugin.config_complete()
    gate = Gate(plugin, read_only=False)
    assert (gate.size, gate.can_write, gate.pread(3, 7)) == (10, False, b"AAA")


def test_extents_are_clipped_and_merged() -> None:
    gate = Gate(
        Mapped((0, 1024, 0), (1024, 512, HOLE), (1536, 512, HOLE), (2048, 9999, ZERO)), True
    )
    assert gate.extents(3000, 100, 0) == [(100, 924, 0), (1024, 1024, HOLE), (2048, 1052, ZERO)]
    assert gate.extents(2000, 1100, REQ_ONE) == [(1100, 948, HOLE)]


def test_extents_stop_at_a_gap() -> None:
    gate = Gate(Mapped((0, 512, 0), (1024, 512, HOLE)), True)
    assert gate.extents(4096, 0, 0) == [(0, 512, 0)]
    with pytest.raises(OSError, match="no extent that holds 600"):
        gate.extents(100, 600, 0)


def test_without_extents_all_is_data() -> None:
    assert Gate(Filling(), True).extents(4096, 0, 0) == [(0, 4096, 0)]


def test_extents_of_a_file(tmp_path: Path) -> None:
    from nbdfork.plugin.descriptor import DescriptorExport

    fd = os.memfd_create("test")
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"x" * 4096, 65536)
    gate = Gate(DescriptorExport(fd, writable=True), False)
    hole = HOLE | ZERO
    assert gate.extents(1 << 20, 0, 0) == [
        (0, 65536, hole),
        (65536, 4096, 0),
        (69632, (1 << 20) - 69632, hole),
    ]
    assert gate.extents(10, 65536, 0) == [(65536, 10, 0)]
    gate.close()


# -- filters ----------------------------------------------------------------------------------


class Shift(FilterExport):
    def pread(self, count: int, offset: int) -> bytes:
        return bytes(self.next.pread(count, offset + 1))


def test_a_filter_binds_what_it_does_not_implement() -> None:
    below = Mapped((0, 4096, ZERO))
    above = Shift(Shift(below))
    assert above.get_size == below.get_size  # the very same bound method
    assert above.extents == below.extents
    gate = Gate(above, True)
    assert gate.pread(2, 5) == b"\7\7"
    assert gate.extents(4096, 0, 0) == [(0, 4096, ZERO)]
    assert not gate.can_write


def test_a_filter_may_fill_a_buffer_too() -> None:
    class Fill(FilterExport):
        def pread_into(self, data: memoryview, offset: int) -> None:
            data[:] = b"f" * len(data)

    assert Gate(Fill(Filling()), True).pread(2, 0) == b"ff"
