"""Who gets in, with real clients; and what becomes of those who only take the place of others."""

import os
import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.harness import Server, eventually, nbdfork, run
from tests.support.libnbd import connect, connected, libnbd

TCP = ("-p", "0")
BY_TCP = ("--ipv4-only", "-n")


def connect_from(address: str, server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 15, (address, 0))


def is_greeted(client: socket.socket) -> bool:
    return client.recv(8) == b"NBDMAGIC"


def is_let_in(address: str, server: Server) -> bool:
    """Return whether a client from *address* is greeted, and not disconnected."""
    with connect_from(address, server) as client:
        try:
            return is_greeted(client)
        except ConnectionError:
            return False


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["--allow", "127.0.0.2"], [False, True, False]),
        (["--deny", "127.0.0.2"], [True, False, True]),
        (["--allow", "127.0.0.0/8", "--deny", "127.0.0.3"], [True, True, False]),
        (["--allow", "127.0.0.2", "--allow", "127.0.0.3"], [False, True, True]),
        (["--allow", "uid:0"], [False, False, False]),
    ],
)
def test_rules_for_addresses(rules: list[str], expected: list[bool]) -> None:
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    with Server(*BY_TCP, *rules, "memory", "1M", listen=TCP) as server:
        assert [is_let_in(address, server) for address in addresses] == expected
        assert ("is refused: it is not allowed" in server.log) == (False in expected)


def test_rules_for_users() -> None:
    for rule, is_allowed in ((f"uid:{os.getuid()}", True), (f"uid:{os.getuid() + 1}", False)):
        with Server("-n", "--allow", rule, "memory", "1M") as server:
            done = run("nbdinfo", "--size", server.uri)
            assert (done.returncode == 0) == is_allowed
            assert ("is refused" in server.log) != is_allowed


def test_no_code_of_the_plugin_runs_for_one_who_is_not_let_in(tmp_path: Path) -> None:
    mark = tmp_path / "was-called"
    script = f"preconnect=touch {mark}"
    with Server("-n", "--deny", "any", "eval", "get_size=echo 512", "pread=", script) as server:
        assert run("nbdinfo", "--size", server.uri).returncode != 0
        eventually(lambda: "is refused" in server.log)
    assert not mark.exists()


def test_rules_in_a_server_of_threads() -> None:
    plugin = ("eval", "get_size=echo 512", "pread=head -c $3 /dev/zero")
    rules = ("--deny", "127.0.0.2", "--max-clients-per-address", "2")
    with Server(*BY_TCP, *rules, *plugin, listen=TCP) as server, ExitStack() as stack:
        assert not is_let_in("127.0.0.2", server)
        for _ in range(2):
            assert is_greeted(stack.enter_context(connect_from("127.0.0.1", server)))
        assert not is_let_in("127.0.0.1", server)
        assert is_let_in("127.0.0.3", server)


def test_rules_for_exports(tmp_path: Path) -> None:
    folder = tmp_path / "disks"
    folder.mkdir()
    for name in ("db", "vm-1", "vm-2", "web"):
        (folder / name).write_bytes(bytes(4096))
    rules = (
        f"--allow=uid:{os.getuid()} for db",
        f"--allow=uid:{os.getuid() + 1} for vm-*",
        f"--allow=uid:{os.getuid()} for vm-2",
        "--deny=any for web",
    )
    with Server("-n", *rules, "file", f"dir={folder}") as server:
        done = run("nbdinfo", "--list", server.uri)
        assert re.findall(r'^export="(.*)":', done.stdout, re.MULTILINE) == ["db", "vm-2"]
        for name, is_allowed in (("db", True), ("vm-1", False), ("vm-2", True), ("web", False)):
            done = run("nbdinfo", "--size", server.uri.replace("///", f"///{name}"))
            assert (done.returncode == 0) == is_allowed, (name, done.stderr)
        refused = f"uid {os.getuid()} is not allowed to have the export 'web' (no certificate)"
        assert refused in server.log
        with pytest.raises(libnbd().Error, match="server policy prevents"):
            connect(server.uri.replace("///", "///web"))


def test_no_code_of_the_plugin_runs_for_an_export_that_one_may_not_have(tmp_path: Path) -> None:
    script = (f"open=echo $3 >> {tmp_path}/opened", "get_size=echo 512", "pread=false")
    with Server("-n", "--deny", "any for web", "eval", *script) as server:
        for name in ("web", "db"):
            run("nbdinfo", "--size", server.uri.replace("///", f"///{name}"))
    assert (tmp_path / "opened").read_text().split() == ["db"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("10.0.0.1/8", "beyond the length"),
        ("somebody", "neither an address"),
        ("uid:none", "no user"),
        ("somebody for db", "'somebody' is neither an address"),
    ],
)
def test_what_is_no_rule_is_refused_at_once(rule: str, message: str) -> None:
    done = nbdfork("--allow", rule, "memory", "1M")
    assert done.returncode == 1
    assert f"--allow {rule}" in done.stderr
    assert message in done.stderr


def test_one_address_cannot_take_all_places() -> None:
    """A thousand silent clients, renewed for ever, and one that is served at once all the same."""
    with Server(*BY_TCP, "--max-clients", "16", "memory", "1M", listen=TCP) as server:
        with ExitStack() as stack:
            silent = [stack.enter_context(connect_from("127.0.0.1", server)) for _ in range(1000)]
            for client in silent:
                client.setblocking(False)
            began = time.monotonic()
            for _ in range(5):
                for index in range(0, 1000, 10):  # renewed: where one was refused, another comes
                    silent[index].close()
                    silent[index] = stack.enter_context(connect_from("127.0.0.1", server))
                with connect_from("127.0.0.2", server) as good:
                    assert is_greeted(good)
            assert time.monotonic() - began < 15
        assert "there are 14 of its address or user" in server.log


def test_a_silent_client_makes_room_when_others_wait() -> None:
    options = ("-o", "--max-clients", "4", "--handshake-limit", "0")
    with Server(*options, "memory", "1M", listen=TCP) as server, ExitStack() as stack:
        many = [stack.enter_context(connect_from("127.0.0.1", server)) for _ in range(4)]
        assert all(is_greeted(client) for client in many)
        eventually(lambda: "all 4 clients are taken" in server.log)
        late = stack.enter_context(connect_from("127.0.0.2", server))
        assert is_greeted(late)


def test_a_client_that_has_asked_for_something_keeps_its_place() -> None:
    options = ("-n", "--max-clients", "2", "memory", "1M")
    with Server(*options) as server, connected(server.uri) as one, connected(server.uri) as two:
        one.pread(512, 0)
        two.pread(512, 0)
        eventually(lambda: "all 2 clients are taken" in server.log)
        waiting = socket.socket(socket.AF_UNIX)
        with waiting:
            waiting.connect(str(server.socket))
            waiting.settimeout(2.5)  # more than a silent one is given
            with pytest.raises(TimeoutError):
                waiting.recv(8)
            assert len(one.pread(512, 0)) == len(two.pread(512, 0)) == 512
