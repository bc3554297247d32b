"""The lua plugin: scripts written for nbdkit's Lua API, unmodified.

The script runs in this process, in the Lua that the package lupa brings: `interpreter` makes the
calls, and `host.lua` is their other half, in Lua.  What is common to scripts in any language is in
the host plugin.
"""

from nbdfork.scripting import EmbeddedPlugin

from .interpreter import LuaInterpreter


class Lua(EmbeddedPlugin):
    """run a script written for nbdkit's Lua API"""

    name = "lua"

    def interpreter(self, path: str) -> LuaInterpreter:
        return LuaInterpreter(path, self.server.stop)
