"""Sockets from a service manager (LISTEN_FDS), service names, addresses, print-uri."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import NBDFORK, SECONDS, Server, need, output, run
from tests.support.libnbd import libnbd

# Becomes nbdfork with the sockets that it was given as descriptors 3 and up.
EXEC = (
    "import os, sys\n"
    "os.environ['LISTEN_PID'] = str(os.getpid())\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'nbdfork', *sys.argv[1:]])\n"
)


def start(*words: str, sockets: list[socket.socket]) -> subprocess.Popen[str]:
    """Start a server as a service manager does."""

    def pass_sockets() -> None:
        high = [os.dup2(one.fileno(), 100 + index) for index, one in enumerate(sockets)]
        for index, fd in enumerate(high):
            os.dup2(fd, 3 + index)

    return subprocess.Popen(
        [sys.executable, "-c", EXEC, *words],
        env={**os.environ, "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": "a:b"},
        preexec_fn=pass_sockets,
        close_fds=False,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def greets(client: socket.socket) -> bool:
    client.settimeout(SECONDS)
    return client.recv(8) == b"NBDMAGIC"


def test_several_sockets(tmp_path: Path) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(str(tmp_path / "sock"))
    unix.listen()
    server = start("--print-uri", "memory", "1M", sockets=[tcp, unix])
    assert server.stdout is not None
    assert server.stdout.readline() == f"nbd+unix:///?socket={tmp_path}/sock\n"
    with socket.create_connection(tcp.getsockname()) as client:
        assert greets(client)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "sock"))
        assert greets(client)
    server.terminate()
    assert server.wait(SECONDS) == 0
    server.communicate()
    tcp.close()
    unix.close()


def test_a_descriptor_that_is_not_listening() -> None:
    with socket.socket() as plain:
        server = start("null", sockets=[plain])
        _, text = server.communicate(timeout=SECONDS)
    assert server.returncode == 1
    assert "the descriptor 3 passed by LISTEN_FDS is not listening" in text


def test_a_socket_whose_clients_cannot_be_served() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")  # to any abstract name
        listener.listen()
        server = start("null", sockets=[listener])
        _, text = server.communicate(timeout=SECONDS)
    assert server.returncode == 1
    assert "the descriptor 3 passed by LISTEN_FDS is a socket of family 1 and type 5" in text
    assert "AF_UNIX, AF_INET, AF_INET6, AF_VSOCK" in text


def test_the_address_of_a_socket_is_named() -> None:
    """Not localhost, which may be another."""
    with socket.create_server(("127.0.0.2", 0)) as tcp:
        server = start("--print-uri", "null", sockets=[tcp])
        assert server.stdout is not None
        assert server.stdout.readline() == f"nbd://127.0.0.2:{tcp.getsockname()[1]}\n"
        server.terminate()
        server.communicate(timeout=SECONDS)


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        server = start("-v", "memory", "1M", sockets=[listener])
        assert server.stderr is not None
        name = os.fsdecode(listener.getsockname()[1:])
        for line in server.stderr:
            if "listening on" in line:
                assert f"listening on @{name}: " in line
                break
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.getsockname())
            assert greets(client)
        server.terminate()
        server.communicate(timeout=SECONDS)
        assert server.returncode == 0


def test_a_socket_of_vsock() -> None:
    """It is named, whether or not this machine has a way to connect to it."""
    try:
        listener = socket.socket(socket.AF_VSOCK)
        listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
    except OSError as error:
        pytest.skip(f"no vsock: {error}")
    with listener:
        listener.listen()
        port = listener.getsockname()[1]
        server = start("-v", "--print-uri", "memory", "1M", sockets=[listener])
        assert server.stdout is not None
        assert server.stdout.readline() == f"nbd+vsock://1:{port}\n"
        with socket.socket(socket.AF_VSOCK) as client:
            client.settimeout(1)
            try:
                client.connect((1, port))
            except OSError:  # the kernel has no loopback for it
                pass
            else:
                assert greets(client)
        server.terminate()
        _, text = server.communicate(timeout=SECONDS)
    assert server.returncode == 0
    assert f"listening on vsock any:{port}: nbd+vsock://1:{port}\n" in text


def test_options_that_contradict_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        server = start("-p", "3", "null", sockets=[tcp])
        _, text = server.communicate(timeout=SECONDS)
    assert server.returncode == 1
    assert "-p cannot be used when a service manager passes the sockets" in text


def test_variables_meant_for_another_process_are_ignored(tmp_path: Path) -> None:
    with Server("memory", "1M", environment={"LISTEN_PID": "1", "LISTEN_FDS": "1"}) as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.socket))
            assert greets(client)


def test_libnbd_activates_it() -> None:
    libnbd()  # or the test is skipped
    script = (
        "import sys; sys.path.append('/usr/lib/python3/dist-packages')\n"
        "import nbd\n"
        "h = nbd.NBD()\n"
        f"h.connect_systemd_socket_activation({[*NBDFORK, '-n', 'memory', '1M']!r})\n"
        "print(h.get_size())\n"
    )
    assert output(sys.executable, "-c", script) == "1048576\n"


def test_all_interfaces_and_both_families() -> None:
    with Server("null", listen=("-p", "0")) as server:
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            with socket.create_connection((address, server.port), SECONDS) as client:
                assert greets(client)


def test_one_family_only() -> None:
    for option, works, refused in (("-4", "127.0.0.1", "::1"), ("-6", "::1", "127.0.0.1")):
        with Server(option, "null", listen=("-p", "0")) as server:
            with socket.create_connection((works, server.port), SECONDS) as client:
                assert greets(client)
            try:
                socket.create_connection((refused, server.port), SECONDS).close()
            except ConnectionRefusedError:
                continue
            raise AssertionError(f"{option} listens on {refused}")


def test_an_address_by_name() -> None:
    with Server("null", listen=("-p", "0", "-i", "localhost", "-4")) as server:
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as client:
            assert greets(client)
        assert server.uri == f"nbd://127.0.0.1:{server.port}"


def test_a_service_name_and_the_default_port() -> None:
    """In a network of their own, where these ports are free."""
    need("unshare", "ip")
    script = """
        ip link set lo up
        for options in "" "-p nbd" "-p http"; do
            "$@" -P pid $options memory 1M || exit
            for port in 10809 80; do
                exec 3<>/dev/tcp/127.0.0.1/$port && head -c 8 <&3 && echo " $port"
            done 2>/dev/null
            read pid <pid && kill $pid
            tail -s 0.05 --pid=$pid -f /dev/null
        done
    """
    command = ["unshare", "-n", "bash", "-c", script, "sh", *NBDFORK]
    done = run(*command, cwd=os.environ.get("TMPDIR", "/tmp"))
    assert done.stdout.split() == ["NBDMAGIC", "10809", "NBDMAGIC", "10809", "NBDMAGIC", "80"]


def test_the_real_port_is_shown() -> None:
    with Server("-v", "null", listen=("-p", "0")) as server:
        assert server.port > 1023
        assert f"listening on 0.0.0.0:{server.port}, [::]:{server.port}" in server.log
