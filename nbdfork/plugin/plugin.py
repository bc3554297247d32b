"""The contract, the server's side: `Plugin`, one configured source of disks.

A plugin lives as long as the server.  It is made and configured in the supervisor, and every
worker inherits a copy of it; the workers' copies know nothing of each other.  `Plugin.open`
makes an `Export` for each client.  A plugin that needs nothing of its own for each client is
its own export: it overrides `get_size`, `pread` and so on directly.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import Any

from nbdfork.plugin.export import Export, ExportInfo
from nbdfork.plugin.parameters import Parameter, Secret, parameters_of, shown
from nbdfork.plugin.server import Server
from nbdfork.types import Needs


class ThreadModel(enum.IntEnum):
    """What must not happen at the same time; the values are nbdkit's.

    The requests of one client come one after another in any case, but for `Plugin.waits` and
    `--threads`.
    """

    SERIALIZE_CONNECTIONS = 0
    """One client at a time, all by one long-lived worker: plain variables are safe."""

    SERIALIZE_ALL_REQUESTS = 1
    """One request at a time, whoever sent it: a lock is held across all workers."""

    SERIALIZE_REQUESTS = 2
    """One request at a time for each client."""

    PARALLEL = 3
    """Anything may happen at any time."""


class Plugin(Export):
    """One configured source of disks.

    The docstring's first line is the plugin's description.  Class attributes of type
    `Parameter` are its parameters.  The methods below are called in this order; those up to
    `check_access` may raise `ConfigError`, and the user will see it.
    """

    debug_flags: Mapping[str, str] = {}
    """The flags that `-D PLUGIN.FLAG=N` can set, with a line of help each."""

    api_version: int = 1
    """The version of the contract that this plugin needs (`API_VERSION`): an older nbdfork refuses
    to load it.
    """

    server: Server = Server()
    """The server that this plugin is part of; set before the parameters are."""

    def __init_subclass__(cls) -> None:
        """Raise TypeError for a parameter whose attribute takes the place of a contract's name."""
        super().__init_subclass__()
        for name, value in vars(cls).items():
            if isinstance(value, Parameter) and hasattr(Plugin, name):
                raise TypeError(
                    f"{cls.__name__}.{name} is a part of every plugin and cannot be a parameter;"
                    f" give the attribute another name, and say key={value.key!r}"
                )

    def __init__(self, **parameters: Any) -> None:
        """Make a plugin; in a program, its *parameters* can be given as values or as text.

        They go by their keys, with "_" for "-".  Raises TypeError for one that is not declared,
        ValueError for text that is wrong.
        """
        self.debug: dict[str, int] = dict.fromkeys(self.debug_flags, 0)
        declared = {
            key.replace("-", "_"): parameter for key, parameter in parameters_of(type(self)).items()
        }
        for name, value in parameters.items():
            if name not in declared:
                raise TypeError(f"{type(self).__name__} has no parameter {name!r}")
            parameter = declared[name]
            if isinstance(value, str):
                value = self._parsed(parameter, value)
            parameter.__set__(self, value)

    def _parsed(self, parameter: Parameter[Any], text: str) -> Any:
        try:
            value = parameter.parse(text)
        except ValueError as error:
            argument = shown(parameter.key, text, secret=isinstance(parameter, Secret))
            raise ValueError(f"{type(self).__name__}: {argument}: {error}") from None
        return (value,) if parameter.repeatable else value

    def dump_plugin(self) -> Mapping[str, str]:
        """Return what `--dump-plugin` prints beyond the usual, by key."""
        return {}

    def config(self, key: str, value: str) -> None:
        """Take a `key=value` argument that is not a declared parameter.

        Override it to take keys that cannot be declared; they come in the order of the command
        line, together with the declared ones.
        """
        raise self._missing("config")

    def config_complete(self) -> None:
        """All parameters are set: check them together."""

    def thread_model(self) -> ThreadModel:
        """Return what must not happen at the same time."""
        return ThreadModel.PARALLEL

    def one_process(self) -> bool:
        """Whether one long-lived worker must serve all clients, each in a thread of its own,
        because they share what is in this process's memory.
        """
        return False

    def waits(self) -> bool | None:
        """Whether requests spend their time waiting for something else, as a network does.

        Then several requests of one client are carried out at the same time, each in a thread
        (`--threads`), if the thread model is `PARALLEL`: an export's methods must bear that.
        Large reads are not preceded by a look for holes, which would be one more wait.  None is for
        a disk that may wait or not: the server finds out, for each client again and again.
        """
        return False

    def has_named_exports(self) -> bool:
        """Whether clients choose among exports by their names.

        The server then speaks the newstyle protocol, the one that has names, also without `-n`.
        """
        return False

    def needs(self) -> Needs:
        """Return what a process needs to serve clients.  Called once, after `get_ready`.

        What it does not need is taken away from it, before `after_fork`, as far as the system lets
        the server do that.  What is open, and modules that are imported, it has in any case.
        """
        return Needs(anything=True)

    def get_ready(self) -> None:
        """Make what all clients share.  Called once, before the workers are forked and before
        privileges are dropped: what is made here must be shared by its nature (an open file,
        `SharedBuffer` ...), because each worker has its own copy of everything else.
        """

    def check_access(self, read_only: bool) -> None:
        """Check that what clients will get can be opened, and warn of what cannot be written though
        it is not *read_only*.  Called once, after `get_ready`, with the rights of the user who will
        serve them, perhaps in a process that ends then.  `ConfigError` or OSError ends the start.
        """

    def after_fork(self) -> None:
        """Called in each worker before it serves its first client.

        One that was killed with a client always gets an heir, so state that it has left is seen.
        """

    def preconnect(self, read_only: bool) -> None:
        """A client has connected, and nothing has been said yet.  OSError refuses it."""

    def list_exports(self, read_only: bool) -> Iterable[ExportInfo]:
        """Return the exports that clients are shown."""
        return [ExportInfo()]

    def default_export(self, read_only: bool) -> str:
        """Return the name of the export that a client gets when it names none."""
        return ""

    def open(self, export_name: str, read_only: bool) -> Export:
        """Return the export *export_name* for a new client.

        OSError refuses the client; with errno ENOENT it is told that there is no such export.
        """
        return self

    def cleanup(self) -> None:
        """Called in each worker after its last client: the counterpart of `after_fork`."""

    def unload(self) -> None:
        """Called once after the last client, where the state is that clients have left: in the
        process that has served all of them, if there was one (`Server.one_process`), otherwise in
        the supervisor.
        """

    def finish(self) -> None:
        """Called once in the supervisor, last of all: the counterpart of `get_ready`.

        Here, programs that were started and files that were made there are put away.
        """
