"""The lua plugin: scripts written for nbdkit's Lua API, unmodified.

The script runs inside the server's processes, in the Lua that the package lupa brings.
`interpreter` makes the calls, and `host.lua` is the side of them that is written in Lua.
"""

from nbdfork.scripting import EmbeddedPlugin

from .interpreter import LuaInterpreter


class Lua(EmbeddedPlugin):
    """run a script written for nbdkit's Lua API"""

    name = "lua"

    def interpreter(self, path: str) -> LuaInterpreter:
        return LuaInterpreter(path, self.server.stop)
