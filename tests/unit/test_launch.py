"""How a server is launched: where it listens, who is told, and what is left if it fails."""

import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest

from nbdfork.launch import Listening, ReadyPipe, Start, check_as, endpoint, tls_parameters
from nbdfork.plugin import ConfigError
from nbdfork.server import sockets
from nbdfork.server.errors import StartupError
from nbdfork.server.privileges import Identity
from nbdfork.server.sockets import Listeners


def forked(pipe: ReadyPipe, say: object) -> int:
    """Run *say* in a process that is being started; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            if callable(say):
                say(pipe)
        finally:
            os._exit(0)
    return pid


def test_the_one_who_waits_is_told_when_the_server_is_ready() -> None:
    def start(pipe: ReadyPipe) -> None:
        pipe.begin()
        pipe.tell_ready()

    pipe = ReadyPipe()
    pid = forked(pipe, start)
    pipe.wait()
    assert pipe.server == pid
    os.waitpid(pid, 0)


@pytest.mark.parametrize("message", ["no such disk: \udcff", "x" * 50_000, "not ready"])
@pytest.mark.parametrize("begun", [False, True])
def test_the_one_who_waits_is_told_what_went_wrong(begun: bool, message: str) -> None:
    def start(pipe: ReadyPipe) -> None:
        if begun:
            pipe.begin()
        pipe.tell_failed(message)

    pipe = ReadyPipe()
    pid = forked(pipe, start)
    with pytest.raises(StartupError, match=message):
        pipe.wait()
    assert pipe.server == pid
    os.waitpid(pid, 0)


def test_a_server_that_dies_has_not_started() -> None:
    for say in (None, ReadyPipe.begin):
        pipe = ReadyPipe()
        pid = forked(pipe, say)
        with pytest.raises(StartupError, match="the server died while it was starting"):
            pipe.wait()
        os.waitpid(pid, 0)


def test_a_server_that_nobody_waits_for_does_not_start() -> None:
    pipe = ReadyPipe()
    pipe.begin()  # which closes the only end to read from
    with pytest.raises(StartupError, match="the process that waited for the server is gone"):
        pipe.tell_ready()


# -- where ------------------------------------------------------------------------------------


def test_a_place_on_a_unix_domain_socket(tmp_path: Path) -> None:
    listeners = Listening(unix=str(tmp_path / "sock")).listen()
    assert endpoint(listeners, None, None).uri() == f"nbd+unix:///?socket={tmp_path}/sock"
    listeners.close()


def test_a_private_place() -> None:
    listeners = Listening(unix="-").listen()
    path = endpoint(listeners, "disk", None).unix_path
    assert path is not None
    assert Path(path).is_socket()
    listeners.close()
    listeners.remove_private()
    assert not Path(path).parent.exists()


def test_a_place_on_tcp() -> None:
    listeners = Listening(port="0", family=socket.AF_INET).listen()
    found = endpoint(listeners, "disk", {})
    assert (found.host, found.export_name, found.tls) == ("localhost", "disk", {})
    assert found.port == listeners.sockets[0].getsockname()[1]
    listeners.close()
    listeners = Listening(address="127.0.0.1", port="0").listen()
    assert endpoint(listeners, None, None).host == "127.0.0.1"
    listeners.close()


def bound(family: int, address: str | tuple[object, ...]) -> socket.socket:
    try:
        one = socket.socket(family)
        one.bind(address)
    except OSError as error:
        pytest.skip(str(error))
    one.listen()
    return one


@pytest.mark.parametrize(
    ("family", "address", "host"),
    [
        (socket.AF_INET, "0.0.0.0", "localhost"),
        (socket.AF_INET, "127.0.0.2", "127.0.0.2"),
    ],
)
def test_an_endpoint_of_tcp(family: int, address: str, host: str) -> None:
    listeners = Listeners([bound(family, (address, 0))])
    found = endpoint(listeners, "x", None)
    assert (found.host, found.export_name, found.unix_path) == (host, "x", None)
    assert found.port == listeners.sockets[0].getsockname()[1]
    listeners.close()


@pytest.mark.parametrize("known", [True, False])
def test_localhost_need_not_be_an_address_of_ipv6(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(host: str, port: None, family: int) -> list[object]:
        assert (host, family) == ("localhost", socket.AF_INET6)
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    listeners = Listeners([bound(socket.AF_INET6, ("::", 0))])
    assert endpoint(listeners, None, None).host == ("localhost" if known else "::1")
    listeners.close()


def test_the_socket_that_most_clients_know_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    any_vsock = (socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY)
    vsock = bound(socket.AF_VSOCK, any_vsock)
    tcp, unix = bound(socket.AF_INET, ("127.0.0.1", 0)), bound(socket.AF_UNIX, path)
    assert endpoint(Listeners([vsock, tcp, unix]), None, None).unix_path == path
    assert endpoint(Listeners([vsock, tcp]), None, None).host == "127.0.0.1"
    assert endpoint(Listeners([vsock]), None, None).cid == 1
    Listeners([vsock, tcp, unix]).close()


def test_what_clients_need_for_tls() -> None:
    assert tls_parameters(None, None) == {}
    assert tls_parameters("/d", None) == {"tls-certificates": "/d"}
    assert tls_parameters(None, "/k") == {"tls-psk-file": "/k"}


# -- what is left ------------------------------------------------------------------------------


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    listeners = sockets.listen_unix(str(tmp_path / "sock"))

    def fail() -> None:
        with Start(listeners, str(tmp_path / "pid")) as start:
            start.write_pidfile()
            assert len(list(tmp_path.iterdir())) == 2
            raise StartupError("no")

    with pytest.raises(StartupError, match="no"):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_normal_end_leaves_the_pidfile_and_the_socket(tmp_path: Path) -> None:
    listeners = sockets.listen_unix(str(tmp_path / "sock"))
    with Start(listeners, str(tmp_path / "pid")) as start:
        start.write_pidfile()
        start.tell_ready()
    assert {path.name for path in tmp_path.iterdir()} == {"sock", "pid"}


def test_a_pidfile_of_another_server_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("1\n")
    with pytest.raises(StartupError, match="no"):
        with Start(None, str(path)):
            raise StartupError("no")
    assert path.read_text() == "1\n"


# -- trying to open disks as somebody else ----------------------------------------------------

ME = Identity(os.getuid(), os.getgid(), None)


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("identity", [None, ME])
def test_a_check_may_find_nothing(identity: Identity | None) -> None:
    check_as(identity, lambda: None)


def test_a_fault_is_told_by_whoever_finds_it() -> None:
    with pytest.raises(ConfigError, match=r"^no disk$"):
        check_as(None, lambda: fail(ConfigError("no disk")))
    for error in (ConfigError("no disk"), StartupError("no disk")):
        with pytest.raises(StartupError, match=r"^no disk$"):
            check_as(ME, partial(fail, error))
    with pytest.raises(StartupError, match=r"^the server cannot start: KeyError: 'x'$"):
        check_as(ME, lambda: fail(KeyError("x")))


def test_a_check_may_die() -> None:
    with pytest.raises(StartupError, match="it died while it was tried to open the disks"):
        check_as(ME, lambda: os.kill(os.getpid(), signal.SIGKILL))
