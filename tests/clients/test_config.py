"""Many exports of one server, by a config file: who gets which, and on which terms."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import NBDFORK, Server, eventually, nbdfork, need, output
from tests.support.libnbd import connected, libnbd
from tests.support.tls import Certificates


def written(directory: Path, text: str) -> Path:
    path = directory / "it.toml"
    path.write_text(text)
    return path


def names(where: str) -> list[str]:
    """Return the names of the exports that are listed at *where*."""
    handle = libnbd().NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(where)
    found: list[str] = []
    handle.opt_list(lambda name, description: found.append(name))
    handle.opt_abort()
    return found


def at(server: Server, name: str, more: str = "") -> str:
    return f"nbd+unix:///{name}?socket={server.socket}{more}"


def refusal(where: str) -> str:
    """Return the errno of libnbd when it cannot have the export at *where*."""
    with pytest.raises(libnbd().Error) as caught:
        libnbd().NBD().connect_uri(where)
    return str(caught.value.errno)


def test_a_thousand_exports(tmp_path: Path) -> None:
    text = "".join(
        f'[[export]]\nname = "{number}"\nplugin = "memory"\nsize = {512 + number * 512}\n'
        for number in range(1000)
    )
    with Server("--config", written(tmp_path, text)) as server:
        assert names(server.uri) == [str(number) for number in range(1000)]
        for number in (0, 500, 999):
            with connected(at(server, str(number))) as client:
                assert client.get_size() == 512 + number * 512
                client.pwrite(bytes([number % 251]) * 512, 0)
        with connected(at(server, "500")) as client:
            assert client.pread(512, 0) == bytes([500 % 251]) * 512
        assert refusal(at(server, "1000")) == "ENOENT"
        assert refusal(at(server, "")) == "ENOENT"


def test_different_kinds_of_disks_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(
        "import threading\n"
        "from nbdfork.plugin import Plugin\n"
        "together = threading.Barrier(2)\n"
        "class Waits(Plugin):\n"
        "    'answers two requests at once, or none'\n"
        "    def waits(self): return True\n"
        "    def get_size(self): return 1 << 20\n"
        "    def pread(self, count, offset):\n"
        "        together.wait(10)\n"
        "        return bytes(count)\n"
    )
    (tmp_path / "disk.img").write_bytes(os.urandom(8192))
    text = """
    [[export]]
    name = "file"
    default = true
    plugin = "file"
    file = "disk.img"
    read-only = true
    [[export]]
    name = "waits"
    plugin = "./waits.py"
    """
    with Server("--config", written(tmp_path, text)) as server:
        with connected(at(server, "")) as client:
            assert client.pread(8192, 0) == (tmp_path / "disk.img").read_bytes()
            assert client.is_read_only()
        with connected(at(server, "waits")) as client:
            buffers = [libnbd().Buffer(512) for _ in range(2)]
            cookies = [client.aio_pread(one, 0) for one in buffers]
            while cookies:
                client.poll(-1)
                cookies = [one for one in cookies if not client.aio_command_completed(one)]


def attempt_to_hold(uri: str) -> Any:
    """Return a client that is connected, or None if it is refused."""
    holder = libnbd().NBD()
    try:
        holder.connect_uri(uri)
    except libnbd().Error:
        return None
    return holder


def test_each_export_has_as_many_clients_as_it_may_have(tmp_path: Path) -> None:
    text = """
    [[export]]
    name = "one"
    plugin = "null"
    max-clients = 1
    [[export]]
    name = "any"
    plugin = "null"
    """
    with Server("--config", written(tmp_path, text)) as server:
        with connected(at(server, "one")):
            assert refusal(at(server, "one")) != "ENOENT"
            assert "is refused: 'one' has all its clients" in server.log
            with connected(at(server, "any")), connected(at(server, "any")):
                pass

        def comes_in() -> bool:
            try:
                with connected(at(server, "one")):
                    return True
            except libnbd().Error:
                return False

        eventually(comes_in)
        holder = eventually(lambda: attempt_to_hold(at(server, "one")))
        eventually(lambda: len(server.serving()) == 1)
        (worker,) = server.serving()
        assert refusal(at(server, "one")) != "ENOENT"
        worker.kill()
        eventually(comes_in)
        del holder


def test_each_export_has_its_own_rules(tmp_path: Path) -> None:
    text = f"""
    [[export]]
    name = "mine"
    plugin = "null"
    allow = "uid:{os.geteuid()}"
    [[export]]
    name = "others"
    plugin = "null"
    allow = "uid:{os.geteuid() + 1}"
    [[export]]
    name = "[x]"
    plugin = "null"
    deny = "any"
    """
    with Server("--config", written(tmp_path, text)) as server:
        assert names(server.uri) == ["mine"]
        with connected(at(server, "mine")):
            pass
        for name, quoted in (("others", "others"), ("[x]", "%5Bx%5D")):
            refusal(at(server, quoted))
            assert f"not allowed to have the export {name!r}" in server.log


def test_an_export_can_demand_tls_where_others_do_not(
    tmp_path: Path, certificates: Certificates
) -> None:
    text = f"""
    [server]
    tls-certificates = "{certificates.server}"
    [[export]]
    name = "open"
    plugin = "null"
    [[export]]
    name = "secret"
    plugin = "null"
    require-tls = true
    """
    with Server("--config", written(tmp_path, text)) as server:
        with connected(at(server, "open")):
            pass
        refusal(at(server, "secret"))
        eventually(lambda: "the client is refused: it does not use TLS" in server.log)
        secret = at(server, "secret", f"&tls-certificates={certificates.anonymous}")
        with connected(secret.replace("nbd+unix", "nbds+unix")) as client:
            assert client.get_tls_negotiated()


PREPARES = """
import os
from nbdfork.plugin import Parameter, Plugin, parse
class Prepares(Plugin):
    'notes when it is called'
    note = Parameter(parse.path, required=True, metavar='FILE', help='the notes')
    def write(self, what):
        with open(self.note, 'a') as file:
            file.write(what + ' ')
    def get_ready(self): self.write('get_ready')
    def after_fork(self): self.write('after_fork')
    def preconnect(self, read_only): self.write('preconnect')
    def cleanup(self): self.write('cleanup')
    def unload(self): self.write('unload')
    def finish(self): self.write('finish')
    def get_size(self): return 512
    def pread(self, count, offset): return bytes(count)
"""


def test_a_plugin_is_begun_only_where_a_client_wants_it(tmp_path: Path) -> None:
    (tmp_path / "prepares.py").write_text(PREPARES)
    text = "".join(
        f"[[export]]\nname = '{name}'\nplugin = './prepares.py'\nnote = '{name}'\n" for name in "ab"
    )
    with Server("--config", written(tmp_path, text)) as server:
        for _ in range(2):
            with connected(at(server, "a")):
                pass
    in_a_worker = "after_fork preconnect cleanup "
    notes = {name: (tmp_path / name).read_text() for name in "ab"}
    assert notes["b"] == "get_ready unload finish "
    assert notes["a"].startswith("get_ready ")
    assert notes["a"].endswith("unload finish ")
    assert sorted(notes["a"].split()[1:-2]) == sorted(in_a_worker.split() * 2)


def test_one_export_that_needs_one_process_has_all_served_by_one(tmp_path: Path) -> None:
    (tmp_path / "counts.py").write_text(
        "from nbdfork.plugin import Plugin\n"
        "class Counts(Plugin):\n"
        "    'counts its clients in a variable'\n"
        "    clients = 0\n"
        "    def one_process(self): return True\n"
        "    def open(self, name, read_only):\n"
        "        Counts.clients += 1\n"
        "        return self\n"
        "    def get_size(self): return 512 * self.clients\n"
        "    def pread(self, count, offset): return bytes(count)\n"
    )
    text = """
    [[export]]
    name = "counts"
    plugin = "./counts.py"
    [[export]]
    name = "ram"
    plugin = "memory"
    size = "1M"
    """
    with Server("--config", written(tmp_path, text)) as server:
        for size in (512, 1024):
            with connected(at(server, "counts")) as client, connected(at(server, "ram")) as other:
                assert (client.get_size(), other.get_size()) == (size, 1 << 20)
        assert len(server.workers()) == 1


def test_one_client_on_standard_input_chooses_among_all(tmp_path: Path) -> None:
    need("nbdinfo")
    text = "".join(
        f"[[export]]\nname = '{n}'\nplugin = 'memory'\nsize = {512 * n}\n" for n in (1, 2)
    )
    command = [*NBDFORK, "-s", "--config", str(written(tmp_path, text))]
    handle = libnbd().NBD()
    handle.set_export_name("2")
    handle.connect_command(command)
    assert handle.get_size() == 1024
    handle.shutdown()


def test_workers_in_sandboxes_reach_the_files_of_all_exports(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 512)
    text = "".join(f"[[export]]\nname = '{n}'\nplugin = 'file'\nfile = '{n}'\n" for n in "ab")
    with Server("--sandbox=auto", "--config", written(tmp_path, text)) as server:
        for name in "ab":
            with connected(at(server, name)) as client:
                assert client.pread(512, 0) == name.encode() * 512


# -- the command ------------------------------------------------------------------------------


def test_check_tells_what_a_start_would(tmp_path: Path) -> None:
    path = written(tmp_path, "[[export]]\nplugin = 'memory'\nsize = '1M'\n")
    done = nbdfork("--check", "--config", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r".*it\.toml: 1 export, newstyle: no fault was found\n", done.stdout)
    written(tmp_path, "[[export]]\nplugin = 'memory'\nsise = '1M'\n")
    for words in (["--check"], []):
        done = nbdfork(*words, "--config", path)
        assert done.returncode == 1
        assert "it.toml:3: export.sise: memory: unknown parameter sise=; did" in done.stderr
    assert nbdfork("--check", "memory", "1M").stdout.startswith("memory: 1 export, oldstyle")
    assert nbdfork("--check", "memory").returncode == 1


def test_a_command_line_can_be_had_as_a_file(tmp_path: Path) -> None:
    text = output(*NBDFORK, "--dump-config-file", "-U", "x", "--filter=log", "null", "logfile=l")
    assert 'plugin = "null"\nfilters = ["log"]\nlogfile = ' in text
    assert nbdfork("--check", "--config", written(tmp_path, text)).returncode == 0


def test_secrets_of_the_file_are_shown_nowhere(tmp_path: Path) -> None:
    (tmp_path / "hides.py").write_text(
        "from nbdfork.plugin import Plugin, Secret\n"
        "class Hides(Plugin):\n"
        "    'has a secret'\n"
        "    password = Secret(str, metavar='PASSWORD', help='x')\n"
        "    def get_size(self): return len(self.password)\n"
        "    def pread(self, count, offset): return bytes(count)\n"
    )
    (tmp_path / "key").write_text("sesame")
    text = "[[export]]\nplugin = './hides.py'\npassword = { file = 'key' }\n"
    with Server("-v", "--config", written(tmp_path, text)) as server:
        with connected(at(server, "")) as client:
            assert client.get_size() == 6
        shown: Any = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert b"sesame" not in shown
        assert "sesame" not in server.log
