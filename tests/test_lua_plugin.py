"""Scripts for nbdkit's Lua API: the same under nbdkit and nbdfork, and within a process."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nbdfork.plugin import Extent
from tests.harness import SECONDS, Server, eventually, let_all_reach, nbdfork, need
from tests.test_manual import source, unescaped
from tests.test_python_plugin import attempt, connect, facts, operations
from tests.test_structured import reason

nbd = pytest.importorskip("nbd")
if not os.environ.get("NBDFORK_CI"):
    pytest.importorskip("lupa")

from nbdfork.plugins.lua import Lua  # noqa: E402

RAM = Path(__file__).parent / "scripts" / "ram.lua"

MINIMUM = """\
function open(readonly) return 1 end
function get_size(h) return 65536 end
function pread(h, count, offset) return ("\\0"):rep(count) end
"""


def script(directory: Path, text: str, base: str = MINIMUM) -> Path:
    path = directory / "script.lua"
    path.write_text(f"{base}{text}\n")
    return path


def refusal(path: Path, *arguments: str, **options: Any) -> str:
    """Return what nbdfork says of a script that it refuses to start with."""
    done = nbdfork("-U", "-", "lua", path, *arguments, "--run", "true", **options)
    assert done.returncode == 1
    return done.stderr


# -- both servers -----------------------------------------------------------------------------


@contextmanager
def served_by_nbdkit(directory: Path, *arguments: str | Path) -> Iterator[str]:
    """Serve with a plugin of nbdkit's: the first of *arguments*, then those for it."""
    need("nbdkit")
    socket, pidfile = directory / "nbdkit.sock", directory / "nbdkit.pid"
    socket.unlink(missing_ok=True)
    pidfile.unlink(missing_ok=True)
    command = ["nbdkit", "-f", "-n", "-U", socket, "-P", pidfile, *arguments]
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: pidfile.exists() and pidfile.read_text())
        yield f"nbd+unix:///?socket={socket}"
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.mark.parametrize("failing", ["", "pread", "pwrite", "flush", "trim", "zero", "long"])
def test_every_operation_ends_as_with_nbdkit(failing: str, tmp_path: Path) -> None:
    arguments: list[str | Path] = ["lua", RAM, *([f"fail={failing}"] if failing else [])]
    with served_by_nbdkit(tmp_path, *arguments) as uri:
        expected = operations(uri)
    with Server("-n", *arguments) as server:
        assert operations(server.uri) == expected


def test_facts_are_those_of_nbdkit(tmp_path: Path) -> None:
    writable = "function pwrite(h, buf, offset) end"
    for path in (RAM, script(tmp_path, ""), script(tmp_path, writable)):
        with served_by_nbdkit(tmp_path, "lua", path) as uri:
            expected = facts(uri)
        with Server("-n", "lua", path) as server:
            found = facts(server.uri)
        for fact in (*expected, *found):
            fact.pop("can_fua", None)  # nbdkit promises it even without a flush
            fact.pop("can_fast_zero", None)  # nbdkit promises it, and refuses every one
        assert found == expected


def test_what_can_be_flushed_follows_from_the_callbacks(tmp_path: Path) -> None:
    text = "function pwrite(h, b, o) end function flush(h) error('the cache is full') end"
    with Server("-n", "lua", script(tmp_path, text)) as server:
        assert attempt(connect(server.uri).flush) == "EIO"


# -- state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5.3", "5.4", "5.5"])
def test_all_clients_share_the_disk_whatever_the_version(version: str) -> None:
    environment = {"NBDFORK_LUA": version}
    with Server("-n", "lua", RAM, "size=1048576", environment=environment) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1048576
        data = bytes(range(256)) * 4096
        one.pwrite(data, 0)
        assert other.pread(len(data), 0) == data
        one.shutdown()
        assert connect(server.uri).pread(256, 512) == bytes(range(256))


READS_PROCESS = """
function pread(h, count, offset)
    local stat = io.open("/proc/self/stat")
    local pid = string.pack(">I4", stat:read("n"))
    stat:close()
    return (MADE or pid):rep(count // 4)
end
"""


def test_a_script_can_ask_for_a_process_for_each_client(tmp_path: Path) -> None:
    text = "NBDFORK_PROCESSES = true\n"
    text += "function thread_model() return nbdkit.THREAD_MODEL_PARALLEL end"
    with Server("-n", "lua", script(tmp_path, text + READS_PROCESS)) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.pread(4, 0) != other.pread(4, 0)
        assert len(server.serving()) == 2


def test_what_was_made_before_the_fork_is_inherited(tmp_path: Path) -> None:
    text = "NBDFORK_PROCESSES = true\nfunction get_ready() MADE = pread(1, 4, 0) end"
    with Server("-n", "lua", script(tmp_path, text + READS_PROCESS)) as server:
        assert connect(server.uri).pread(4, 0) == connect(server.uri).pread(4, 0)


@pytest.mark.parametrize("processes", ["false", "true"])
def test_finalizers_run_once_where_the_disk_is(processes: str, tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = script(
        tmp_path,
        f"""
        NBDFORK_PROCESSES = {processes}
        local function finish(disk)
            local file = io.open("{log}", "a")
            file:write("last ", tostring(disk.last), "\\n")
            file:close()
        end
        disk = setmetatable({{}}, {{__gc = finish}})
        function pwrite(h, buf, offset) disk.last = offset end
        """,
    )
    with Server("-n", "lua", path) as server:
        client = connect(server.uri)
        client.pwrite(b"x", 512)
        client.shutdown()
    assert log.read_text() == ("last nil\n" if processes == "true" else "last 512\n")


def test_clients_of_one_process_take_turns(tmp_path: Path) -> None:
    """Threads share the interpreter: what one reads is never what another has asked for."""
    text = "function pread(h, n, offset) return string.pack('<I8', offset):rep(n // 8) end"

    def read(uri: str, number: int) -> bool:
        client = connect(uri)
        offsets = [(number * 977 + i * 131) % 120 * 512 for i in range(300)]
        return all(client.pread(512, at) == at.to_bytes(8, "little") * 64 for at in offsets)

    path = script(tmp_path, text)
    with Server("-n", "lua", path) as server, ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda number: read(server.uri, number), range(4)))


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("nbdkit.set_error(28) error('the moon is full')", 28, "the moon is full"),
        ("assert(1 == 2, 'the moon is full')", 5, "the moon is full"),
        ("error({code = 1})", 5, "(error object is a table value)"),
        ("error()", 5, "(error object is a nil value)"),
        ("error(setmetatable({}, {__tostring = function() return 'x' end}))", 5, "x"),
        ("return 1 + {}", 5, "attempt to perform arithmetic on a table value"),
    ],
)
def test_clients_hear_why(text: str, code: int, message: str, tmp_path: Path) -> None:
    with Server("-n", "lua", script(tmp_path, f"function pread(h, n, o)\n{text}\nend")) as server:
        assert reason(server) == (code, message)


def test_the_log_says_where(tmp_path: Path) -> None:
    """Lua itself cuts names of files that are longer than 59 characters."""
    directory = tmp_path / ("long" * 20)
    directory.mkdir()
    path = script(directory, "function pread(h, n, o)\nerror('the moon is full')\nend")
    with Server("-n", "lua", path) as server:
        assert reason(server) == (5, "the moon is full")
        assert f"pread: {path}:5: the moon is full\n" in server.log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("function config(k, v) error('bad value') end", "config: {path}:4: bad value"),
        (
            "function config(k, v) end function get_ready() error('no disk', 0) end",
            "{path}: get_ready: no disk",
        ),
        (
            "function config(k, v) os.exit(3) end",
            "{path}: config: the script called os.exit(3)",
        ),
        (
            "function config(k, v) end function thread_model() return 7 end",
            "{path}: thread_model returned 7",
        ),
        ("function", "load: {path}:5: <name> expected near <eof>"),
        ("error('too bad')", "load: {path}:4: too bad"),
        ("", "takes no parameters, but key=value is given"),
    ],
)
def test_a_bad_script_is_refused_with_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = script(tmp_path, text)
    said = refusal(path, "key=value")
    assert said.startswith("nbdfork: error: lua: ")
    assert message.format(path=path) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("missing", ["open", "get_size", "pread"])
def test_a_script_without_a_required_callback_is_refused(missing: str, tmp_path: Path) -> None:
    base = "".join(line for line in MINIMUM.splitlines(True) if f"function {missing}" not in line)
    assert f"the callback {missing} is missing" in refusal(script(tmp_path, "", base))


def test_without_lupa_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "lupa.py").write_text("raise ImportError\n")
    said = refusal(RAM, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert said == 'nbdfork: error: the lua plugin needs lupa: pip install "nbdfork[lua]"\n'


def test_an_unknown_version_is_refused() -> None:
    said = refusal(RAM, env={**os.environ, "NBDFORK_LUA": "5.1"})
    assert said == "nbdfork: error: lua: NBDFORK_LUA=5.1: set it to one of 5.3, 5.4, 5.5\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("return 'short'", "pread: returned string length < count bytes"),
        ("return nil", "pread: return value is not a string"),
        ("return 7", "pread: return value is not a string"),
        ("os.exit(7)", "the script called os.exit(7)"),
        ("return 1 + pread(h, n, 0)", "stack overflow"),
    ],
)
def test_a_read_that_is_none_fails_alone(text: str, message: str, tmp_path: Path) -> None:
    ok = "if offset > 0 then return ('ok'):rep(n // 2) end"
    path = script(tmp_path, f"function pread(h, n, offset) {ok} {text} end")
    with Server("-n", "lua", path) as server:
        client = connect(server.uri)
        assert attempt(lambda: client.pread(512, 0)) == "EIO"
        assert message in server.log
        assert client.pread(512, 512) == b"ok" * 256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("function can_write(h) return 1 end", "can_write: return value is not a boolean"),
        ("function get_size(h) return 'x' end", "get_size: return value is not an integer"),
        ("function open(readonly) end", "open returned nothing"),
        ("function pwrite() end function can_fua(h) return 7 end", "can_fua: returned 7"),
    ],
)
def test_facts_that_are_none_refuse_the_client(text: str, message: str, tmp_path: Path) -> None:
    with Server("-n", "lua", script(tmp_path, text)) as server:
        with pytest.raises(nbd.Error):
            connect(server.uri)
        assert message in server.log


# -- the life of the process ------------------------------------------------------------------


def test_a_process_that_dies_is_told_of_and_replaced() -> None:
    with Server("-n", "lua", RAM, "fail=kill") as server:
        client = connect(server.uri)
        with pytest.raises(nbd.Error):
            client.pwrite(b"x", 0)
        eventually(lambda: "signal 9" in server.log)
        assert connect(server.uri).pread(4, 0) == bytes(4)


def posix_version() -> str:
    """Return a version of Lua for which the machine has luaposix."""
    for version in ("5.4", "5.3"):
        for directory in ("/usr/share/lua", "/usr/local/share/lua"):
            if Path(directory, version, "posix").exists():
                return version
    if os.environ.get("NBDFORK_CI"):
        pytest.fail("not installed: luaposix")
    pytest.skip("not installed: luaposix")


def test_a_child_of_the_script_exits_as_it_is_meant_to(tmp_path: Path) -> None:
    """The module that forks is one written in C, at the place where Debian has it."""
    path = script(
        tmp_path,
        """
        local unistd, wait = require "posix.unistd", require "posix.sys.wait"
        local function status(way)
            local child = unistd.fork()
            if child ~= 0 then return select(3, wait.wait(child)) end
            if way == "exit" then os.exit(5) end
            if way == "error" then error("from a child") end
        end
        function pread(h, count, offset)
            local statuses = {}
            for _, way in ipairs {"exit", "error", "return"} do
                local found = status(way)
                if not found then return (" "):rep(count) end
                statuses[#statuses + 1] = found
            end
            return string.pack("c" .. count, table.concat(statuses, " "))
        end
        """,
    )
    with Server("-n", "lua", path, environment={"NBDFORK_LUA": posix_version()}) as server:
        client = connect(server.uri)
        assert bytes(client.pread(5, 0)) == b"5 1 0"
        assert bytes(client.pread(5, 0)) == b"5 1 0"
        assert "from a child\n" in server.log


def test_a_script_that_waits_does_not_keep_the_server_from_ending(tmp_path: Path) -> None:
    text = "function pwrite(h, buf, offset) while true do end end"
    with Server("-n", "lua", script(tmp_path, text)) as server:
        client = connect(server.uri)
        client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), 0)
        worker = eventually(server.serving)[0]
        os.kill(worker.pid, signal.SIGKILL)
        eventually(lambda: "signal 9" in server.log)
        assert connect(server.uri).pread(4, 0) == bytes(4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_the_script_runs_as_the_user_of_the_server(tmp_path: Path) -> None:
    let_all_reach(tmp_path)
    text = "function pread(h, n, o) return string.pack('c' .. n, io.popen('id -u'):read()) end"
    with Server("-n", "-u", "nobody", "lua", script(tmp_path, text)) as server:
        assert bytes(connect(server.uri).pread(512, 0)).rstrip(b"\0") == b"65534"


def test_debug_messages_are_in_the_verbose_log(tmp_path: Path) -> None:
    text = "function pread(h, n, o) nbdkit.debug('read ' .. n) return ('x'):rep(n) end"
    with Server("-v", "-n", "lua", script(tmp_path, text)) as server:
        assert connect(server.uri).pread(3000, 0) == b"x" * 3000
        assert "debug: read 3000\n" in server.log


def test_the_script_finds_in_lua_what_belongs_there(tmp_path: Path) -> None:
    text = "assert(not python and not package.loaded.python and not arg and os.exit and debug)"
    path = script(tmp_path, text, "#!/usr/sbin/nbdkit lua\n" + MINIMUM)
    with Server("-n", "lua", path) as server:
        assert connect(server.uri).pread(4, 0) == bytes(4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("io.popen('echo one; echo two'):read('a')", "one\ntwo\n"),
        ("io.popen('exit 3'):close()", "nil exit 3"),
        ("io.close(io.popen('kill -9 $$'))", "nil signal 9"),
        ("io.popen('cat > {out}', 'w'):write('text'):close()", "true exit 0"),
        ("(pcall(io.popen, 'true', 'x'))", "false"),
        ("os.execute('exit 4')", "nil exit 4"),
        ("os.execute('kill -9 $$')", "nil signal 9"),
        ("os.execute()", "true"),
        ("io.open('{out}', 'w'):close()", "true"),
    ],
)
def test_programs_can_be_run_as_in_any_lua(text: str, expected: str, tmp_path: Path) -> None:
    """Expected is what Debian's Lua says, which is built for POSIX; lupa's is not."""
    out = tmp_path / "out"
    path = script(
        tmp_path,
        "function pread(h, n, o)\n"
        f"local found = table.pack({text.format(out=out)})\n"
        "for i = 1, found.n do found[i] = tostring(found[i]) end\n"
        "return string.pack('c' .. n, table.concat(found, ' ')) end",
    )
    with Server("-n", "lua", path) as server:
        assert bytes(connect(server.uri).pread(512, 0)).rstrip(b"\0").decode() == expected
        if "cat" in text:
            assert out.read_text() == "text"


# -- what nbdkit's plugin does not have -------------------------------------------------------


def test_callbacks_are_given_the_flags_at_the_end(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        local seen = {}
        local function note(...)
            for _, value in ipairs {...} do seen[#seen + 1] = tostring(value) end
        end
        function pread(h, n, o) return string.pack("c" .. n, table.concat(seen, " ")) end
        function can_fua(h) return nbdkit.FUA_NATIVE end
        function flush(h, flags) note("flush", flags) end
        function pwrite(h, buf, offset, flags) note("pwrite", flags & nbdkit.FLAG_FUA) end
        function trim(h, count, offset, flags) note("trim", flags) end
        function zero(h, count, offset, may_trim, flags) note("zero", may_trim, flags) end
        """,
    )
    with Server("-n", "lua", path) as server:
        client = connect(server.uri)
        client.flush()
        client.pwrite(b"x", 0, nbd.CMD_FLAG_FUA)
        client.trim(512, 0, nbd.CMD_FLAG_FUA)
        client.zero(512, 0, nbd.CMD_FLAG_FUA)
        client.zero(512, 0, nbd.CMD_FLAG_NO_HOLE)
        seen = bytes(client.pread(64, 0)).rstrip(b"\0").decode()
        assert seen == "flush 0 pwrite 2 trim 2 zero true 3 zero false 0"


@pytest.mark.parametrize("fails", ["error('not here')", ""])
def test_zeroes_are_written_if_the_script_says_so(fails: str, tmp_path: Path) -> None:
    text = f"function zero() nbdkit.set_error(95) {fails} end"
    path = script(tmp_path, text, RAM.read_text())
    with Server("-n", "lua", path) as server:
        client = connect(server.uri)
        client.pwrite(b"x" * 1024, 0)
        client.zero(512, 0)
        assert client.pread(1024, 0) == bytes(512) + b"x" * 512


def test_further_callbacks_and_functions(tmp_path: Path) -> None:
    path = script(
        tmp_path,
        """
        function list_exports(readonly) return {"one", {"two", "the second"}} end
        function default_export(readonly) return "one" end
        function open(readonly) return {name = nbdkit.export_name()} end
        function get_size(h) return nbdkit.parse_size("64k") end
        function export_description(h) return "this is " .. h.name end
        function block_size(h) return {512, 4096, 65536} end
        function can_cache(h) return nbdkit.CACHE_NATIVE end
        function cache(h, count, offset) end
        function can_multi_conn(h) return nbdkit.parse_bool("yes") end
        function extents(h, count, offset)
            local nothing = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
            return {{offset, 512, 0}, {offset + 512, count, nothing}}
        end
        """,
    )
    plugin = Lua(script=str(path))
    plugin.config_complete()
    plugin.get_ready()
    plugin.after_fork()
    names = [tuple(one) for one in plugin.list_exports(False)]
    assert names == [("one", ""), ("two", "the second")]
    assert plugin.default_export(False) == "one"
    export: Any = plugin.open("two", False)
    assert export.get_size() == 65536
    assert export.description() == "this is two"
    assert tuple(export.block_size()) == (512, 4096, 65536)
    assert export.can_cache()
    assert export.can_multi_conn()
    export.cache(512, 0)
    assert export.extents(1024, 2048, 0) == [Extent(2048, 512, 0), Extent(2560, 1024, 3)]
    export.close()
    plugin.cleanup()
    plugin.unload()


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("8s", 4096), ("1B", 1), ("100M", 100 << 20), ("7E", 7 << 60)],
)
def test_sizes(text: str, size: int, tmp_path: Path) -> None:
    path = script(tmp_path, "function config(key, value) print(nbdkit.parse_size(value)) end")
    assert f"{size}\n" in nbdfork("--dump-plugin", "lua", path, f"size={text}").stdout


@pytest.mark.parametrize("text", ["", "k", "1Q", "1.5k", "-1", "8E", "9" * 30, "1 k"])
def test_what_is_no_size(text: str, tmp_path: Path) -> None:
    path = script(tmp_path, "function config(key, value) nbdkit.parse_size(value) end")
    assert re.search(f"(not|too large) a size: '{text}'", refusal(path, f"size={text}"))


def test_a_script_can_end_the_server(tmp_path: Path) -> None:
    text = "function pwrite() end function flush(h) nbdkit.shutdown() end"
    with Server("-n", "lua", script(tmp_path, text)) as server:
        connect(server.uri).flush()
        assert server.process.wait(SECONDS) == 0


def test_dump_plugin_tells_of_the_script(tmp_path: Path) -> None:
    path = script(tmp_path, "function dump_plugin() print('mine=yes') end")
    done = nbdfork("--dump-plugin", "lua", path)
    assert "mine=yes\n" in done.stdout
    assert "lua_version=5.4\n" in done.stdout


def test_what_a_script_prints_is_printed_once(tmp_path: Path) -> None:
    text = "print('loading') function get_ready() print('ready') end"
    done = nbdfork("-n", "-U", "-", "lua", script(tmp_path, text), "--run", "nbdinfo --size $uri")
    assert done.stdout.splitlines() == ["loading", "ready", "65536"]


def test_the_ram_disk_of_the_page_works(tmp_path: Path) -> None:
    displays = re.findall(r"^\.Bd .*?\n(.*?)^\.Ed", source("nbdfork-lua-plugin.3"), re.M | re.S)
    path = script(tmp_path, "", unescaped(displays[-1]))
    with Server("-n", "lua", path) as server:
        one, other = connect(server.uri), connect(server.uri)
        assert one.get_size() == 1024 * 1024
        one.pwrite(bytes(range(256)) * 8, 1536)
        assert other.pread(4096, 1024) == bytes(512) + bytes(range(256)) * 8 + bytes(1536)
