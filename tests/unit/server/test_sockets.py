"""Listening sockets: what is bound where, what is left behind, and who has connected."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nbdfork.server import sockets
from nbdfork.server.errors import StartupError
from nbdfork.server.sockets import Listeners


@contextmanager
def closing(listeners: Listeners) -> Iterator[Listeners]:
    try:
        yield listeners
    finally:
        listeners.close()


def ports(listeners: Listeners) -> set[int]:
    return {one.getsockname()[1] for one in listeners.sockets}


def test_all_interfaces_have_one_port() -> None:
    with closing(sockets.listen_tcp(None, "0", socket.AF_UNSPEC)) as listeners:
        assert len(ports(listeners)) == 1
        assert {one.family for one in listeners.sockets} <= {socket.AF_INET, socket.AF_INET6}
        assert not any(one.getblocking() for one in listeners.sockets)
        assert str(ports(listeners).pop()) in listeners.describe()


def test_one_family_is_enough() -> None:
    with closing(sockets.listen_tcp(None, "0", socket.AF_INET)) as listeners:
        assert [one.family for one in listeners.sockets] == [socket.AF_INET]
        assert listeners.describe().startswith("0.0.0.0:")


def test_a_free_port_is_found_for_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that is free for one is taken in the other."""
    tried: list[int] = []
    bind = sockets._bind_tcp

    def bind_tcp(family: int, address: tuple[object, ...]) -> socket.socket:
        if address[1] and len(tried) < 3:
            tried.append(1)
            raise OSError(98, "Address already in use")
        return bind(family, address)

    monkeypatch.setattr(sockets, "_bind_tcp", bind_tcp)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [
            (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET, 1, 6, "", ("127.0.0.2", 0)),
        ],
    )
    with closing(sockets.listen_tcp(None, "0", socket.AF_UNSPEC)) as listeners:
        assert len(tried) == 3
        assert len(ports(listeners)) == 1


def test_what_cannot_be_bound_is_named() -> None:
    with closing(sockets.listen_tcp("127.0.0.1", "0", socket.AF_UNSPEC)) as listeners:
        (port,) = ports(listeners)
        with pytest.raises(StartupError, match=rf"listen on 127\.0\.0\.1:{port}: Address already"):
            sockets.listen_tcp("127.0.0.1", str(port), socket.AF_UNSPEC)
    with pytest.raises(StartupError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign"):
        sockets.listen_tcp("192.0.2.1", "0", socket.AF_UNSPEC)  # which is for documents only
    with pytest.raises(StartupError, match="all interfaces, port no-such-service: "):
        sockets.listen_tcp(None, "no-such-service", socket.AF_UNSPEC)


# -- Unix domain sockets ----------------------------------------------------------------------


def test_a_socket_file_stays_and_goes_only_if_it_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    listeners = sockets.listen_unix(str(path))
    listeners.close()
    listeners.remove_private()
    assert path.is_socket()  # which is as nbdkit does it
    path.rename(tmp_path / "old")  # so that the new one has another inode
    path.touch()
    listeners.remove()
    assert path.exists()
    path.unlink()
    listeners.remove()  # nothing to do


def test_a_file_is_removed_where_there_was_no_start(tmp_path: Path) -> None:
    listeners = sockets.listen_unix(str(tmp_path / "sock"))
    listeners.close()
    listeners.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("taken", r"already in use \(by another server, or by a socket file left behind, which m"),
        ("none/sock", "No such file or directory"),
        ("x" * 200, "a path of [0-9]+ bytes is too long for a Unix domain socket"),
    ],
)
def test_a_path_that_does_not_do(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(StartupError, match=message):
        sockets.listen_unix(str(tmp_path / name))


def test_a_private_socket_goes_with_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with closing(sockets.listen_private()) as listeners:
        (directory,) = tmp_path.iterdir()
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / "socket").is_socket()
        listeners.remove_private()
    assert not list(tmp_path.iterdir())


def test_a_long_temporary_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with closing(sockets.listen_private()) as listeners:
        assert not list(long.iterdir())
        assert Path(listeners.describe()).is_socket()
        listeners.remove_private()


def test_no_place_for_a_private_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: os.mkdir("/nonexistent/x"))
    with pytest.raises(StartupError, match=r"private directory: .*No such file"):
        sockets.listen_private()


# -- sockets of a service manager -------------------------------------------------------------


def environment(count: str = "1") -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": "x", "A": "b"}


def test_sockets_are_for_one_process() -> None:
    assert sockets.is_activated(environment())
    assert not sockets.is_activated(environment() | {"LISTEN_PID": "1"})
    assert not sockets.is_activated({"LISTEN_PID": str(os.getpid())})


@contextmanager
def passed(monkeypatch: pytest.MonkeyPatch, *given: socket.socket) -> Iterator[None]:
    """Let the sockets *given* be those that a service manager has passed."""
    with ExitStack() as stack:
        for one in given:
            stack.callback(one.close)
        monkeypatch.setattr(sockets, "ACTIVATION_FD", os.dup(given[0].fileno()))
        yield


def test_a_socket_that_listens_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with passed(monkeypatch, listener):
        found = environment()
        with closing(sockets.listen_activated(found)) as listeners:
            assert found == {"A": "b"}
            (one,) = listeners.sockets
            assert one.getsockname() == listener.getsockname()
            assert not one.get_inheritable()
            assert not one.getblocking()


@pytest.mark.parametrize(
    ("kind", "message"),
    [(socket.SOCK_STREAM, "is not listening"), (socket.SOCK_DGRAM, "is not listening")],
)
def test_a_socket_of_no_use(
    kind: socket.SocketKind, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with passed(monkeypatch, socket.socket(socket.AF_INET, kind)):
        with pytest.raises(StartupError, match=message):
            sockets.listen_activated(environment())


def test_a_family_whose_clients_cannot_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it is does not matter: few machines have any but those that are known."""
    monkeypatch.delitem(sockets._FAMILIES, socket.AF_INET)
    with passed(monkeypatch, socket.create_server(("127.0.0.1", 0))):
        with pytest.raises(StartupError, match="a socket of family 2 and type 1; clients are"):
            sockets.listen_activated(environment())


@pytest.mark.parametrize("count", ["0", "x", "-1", ""])
def test_a_number_of_sockets_that_is_none(count: str) -> None:
    with pytest.raises(StartupError, match="not a number of sockets"):
        sockets.listen_activated(environment(count))


# -- a socket that somebody has shut down -----------------------------------------------------


def test_a_socket_that_was_shut_down_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    for listeners in (
        sockets.listen_unix(str(path)),
        sockets.listen_tcp("127.0.0.1", "0", socket.AF_UNSPEC),
    ):
        with closing(listeners):
            name = listeners.sockets[0].getsockname()
            listeners.renew()
            assert not sockets.is_shut_down(listeners.sockets[0])
            listeners.sockets[0].shutdown(socket.SHUT_RDWR)
            assert sockets.is_shut_down(listeners.sockets[0])
            listeners.renew()
            assert not sockets.is_shut_down(listeners.sockets[0])
            assert listeners.sockets[0].getsockname() == name
            with socket.socket(listeners.sockets[0].family) as client:
                client.connect(name)


# -- clients ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keepalive", [False, True])
def test_the_options_of_a_client_from_afar(keepalive: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            accepted, _ = listener.accept()
            with client, accepted:
                sockets.prepare_client(accepted, keepalive)
                options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY)]
                options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE))
                set_ = [bool(accepted.getsockopt(*option)) for option in options]
                assert set_ == [True, keepalive]


class Peer(socket.socket):
    """A client of vsock, for machines that can have none."""

    def __init__(self) -> None:
        super().__init__(socket.AF_VSOCK)

    def setsockopt(self, *arguments: object) -> None:
        raise AssertionError("TCP's options are not for this")


def test_the_options_of_tcp_are_not_for_other_clients() -> None:
    try:
        client = Peer()
    except OSError as error:
        pytest.skip(f"no vsock: {error}")
    with client:
        sockets.prepare_client(client, keepalive=True)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_permissions_of_a_socket(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "sock"
    listeners = sockets.listen_unix(str(path), mode)
    listeners.close()
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_umask_is_kept(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        sockets.listen_unix(str(tmp_path / "one"), 0o666).close()
        sockets.listen_unix(str(tmp_path / "two")).close()
        assert stat.S_IMODE((tmp_path / "two").stat().st_mode) == 0o750
    finally:
        assert os.umask(umask) == 0o027
