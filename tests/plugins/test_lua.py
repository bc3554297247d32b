"""What is about Lua only: its versions, its values and errors, and the programs that it runs."""

import os
import signal
import sys
from pathlib import Path

import pytest
from nbdfork.plugins.lua.interpreter import LuaInterpreter

from nbdfork.plugin import ConfigError
from tests.support.harness import Server, eventually, nbdfork
from tests.support.libnbd import connect, libnbd
from tests.support.raw import reason
from tests.support.scripting import LUA, shares_its_disk


@pytest.fixture(autouse=True)
def _lua() -> None:
    LUA.need()


# -- state ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5.3", "5.5"])
def test_all_clients_share_the_disk_whatever_the_version(version: str) -> None:
    """That of all other tests is 5.4."""
    environment = {"NBDFORK_LUA": version}
    with Server("-n", "lua", LUA.ram, "size=1048576", environment=environment) as server:
        assert connect(server.uri).get_size() == 1048576
        assert shares_its_disk(server)


@pytest.mark.parametrize("processes", ["false", "true"])
def test_finalizers_run_once_where_the_disk_is(processes: str, tmp_path: Path) -> None:
    log = tmp_path / "end"
    path = LUA.script(
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


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("assert(1 == 2, 'the moon is full')", 5, "the moon is full"),
        ("error({code = 1})", 5, "(error object is a table value)"),
        ("error()", 5, "(error object is a nil value)"),
        ("error(setmetatable({}, {__tostring = function() return 'x' end}))", 5, "x"),
        ("return 1 + {}", 5, "attempt to perform arithmetic on a table value"),
    ],
)
def test_clients_hear_why(text: str, code: int, message: str, tmp_path: Path) -> None:
    with LUA.server(tmp_path, f"function pread(h, n, o)\n{text}\nend") as server:
        assert reason(server) == (code, message)


def test_the_log_says_where(tmp_path: Path) -> None:
    """Lua itself cuts names of files that are longer than 59 characters."""
    directory = tmp_path / ("long" * 20)
    directory.mkdir()
    path = LUA.script(directory, "function pread(h, n, o)\nerror('the moon is full')\nend")
    with Server("-n", "lua", path) as server:
        assert reason(server) == (5, "the moon is full")
        assert f"pread: {path}:5: the moon is full\n" in server.log


def test_without_lupa_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "lupa.py").write_text("raise ImportError\n")
    said = LUA.refusal(LUA.ram, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert said == 'nbdfork: error: the lua plugin needs lupa: pip install "nbdfork[lua]"\n'


def test_an_unknown_version_is_refused() -> None:
    said = LUA.refusal(LUA.ram, env={**os.environ, "NBDFORK_LUA": "5.1"})
    assert said == "nbdfork: error: lua: NBDFORK_LUA=5.1: set it to one of 5.3, 5.4, 5.5\n"


def test_a_lupa_without_this_lua(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBDFORK_LUA", "5.3")
    monkeypatch.setitem(sys.modules, "lupa.lua53", None)
    with pytest.raises(ConfigError, match=r"lua: this lupa has no Lua 5\.3: set NBDFORK_LUA"):
        LuaInterpreter("disk.lua", lambda: None)


# -- the life of the process ------------------------------------------------------------------


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
    path = LUA.script(
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
    with LUA.server(tmp_path, text) as server:
        client = connect(server.uri)
        client.aio_pwrite(libnbd().Buffer.from_bytearray(bytearray(512)), 0)
        worker = eventually(server.serving)[0]
        os.kill(worker.pid, signal.SIGKILL)
        eventually(lambda: "signal 9" in server.log)
        assert connect(server.uri).pread(4, 0) == bytes(4)


def test_the_script_finds_in_lua_what_belongs_there(tmp_path: Path) -> None:
    text = "assert(not python and not package.loaded.python and not arg and os.exit and debug)"
    path = LUA.script(tmp_path, text, "#!/usr/sbin/nbdkit lua\n" + LUA.minimum)
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
    path = LUA.script(
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


def test_what_a_script_prints_is_printed_once(tmp_path: Path) -> None:
    text = "print('loading') function get_ready() print('ready') end"
    done = nbdfork(
        "-n", "-U", "-", "lua", LUA.script(tmp_path, text), "--run", "nbdinfo --size $uri"
    )
    assert done.stdout.splitlines() == ["loading", "ready", "65536"]
