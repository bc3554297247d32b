"""The chain: a plugin behind its filters, and their configuration.

It knows the layers, hands out arguments and debug flags, and tells what of all layers is the
strictest.  When their methods are called is the business of `life`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import reduce
from operator import or_
from typing import NamedTuple, TypeVar

from nbdfork.backend import load
from nbdfork.backend.arguments import Assignment, magic_key, split, takes_any_key, unknown
from nbdfork.backend.errors import starting
from nbdfork.backend.handle import Handle
from nbdfork.plugin import (
    ConfigError,
    Filter,
    Needs,
    Plugin,
    Secret,
    ThreadModel,
    parameters_of,
    shown,
)

log = logging.getLogger(__name__)

T = TypeVar("T")


class Layer(NamedTuple):
    """A plugin, or a filter, and the name it goes by."""

    name: str
    plugin: Plugin


def check_contract(name: str, plugin: Plugin) -> None:
    """Raise `ConfigError` if *plugin*, which is its own export, lacks what every export has."""
    plugin_class = type(plugin)
    if plugin_class.open is not Plugin.open:  # what that returns is known for each client only
        return
    for method, *others in (("get_size",), ("pread", "pread_into")):
        if any(getattr(plugin_class, m) is not getattr(Plugin, m) for m in (method, *others)):
            continue
        import difflib  # only needed after a typing mistake

        own = sorted(set(dir(plugin_class)) - set(dir(Plugin)))
        close = difflib.get_close_matches(method, own, 1, cutoff=0.75)
        hint = f"is {close[0]} meant to be it?" if close else "every disk needs it"
        raise ConfigError(f"{name}: the class {plugin_class.__name__} has no {method}(); {hint}")


class Chain:
    """A plugin behind its *filters*, the first of which is nearest to the client.

    `server` is the handle that all layers have.  `lock` is held in everything that clients make a
    layer do, if its thread model demands one.  *server*: that of other chains of the same server.
    `label` is the name that users know it by, and `configuration` tells apart what they want it to
    be; by these it is known again when another program takes over.
    """

    def __init__(
        self, plugin: Layer, filters: Sequence[Layer] = (), *, server: Handle | None = None
    ) -> None:
        self.name = plugin.name
        self.layers = (*filters, plugin)
        self.top = self.layers[0].plugin
        self.server = server or Handle()
        self.label = ""
        self.configuration = ""
        self.lock: AbstractContextManager[object] | None = None
        for above, below in zip(self.layers, self.layers[1:], strict=False):
            assert isinstance(above.plugin, Filter)
            above.plugin.next = below.plugin
        for layer in self.layers:
            layer.plugin.server = self.server

    # -- configuration ------------------------------------------------------------------

    def configure(self, arguments: Iterable[str]) -> None:
        """Give the layers their parameters, as a command line has them.  Raises `ConfigError`."""
        configuration = Configuration(self)
        for argument in arguments:
            configuration.set(*split(argument))
        configuration.finish()

    def without_secrets(self, words: Iterable[str]) -> list[str]:
        """Return *words* of a command line as they may be shown."""
        secret = {
            key
            for layer in self.layers
            for key, parameter in parameters_of(type(layer.plugin)).items()
            if isinstance(parameter, Secret)
        }
        guess = any(takes_any_key(layer.plugin) for layer in self.layers)

        def without(word: str) -> str:
            key, value = split(word)
            if key is not None and not secret.isdisjoint((key, key.rpartition(".")[2])):
                return shown(key, value, secret=True)
            return shown(key, value) if guess and key is not None else word

        return [without(word) for word in words]

    def set_debug_flag(self, owner: str, flag: str, value: int) -> None:
        """Set a debug flag of a layer (`-D OWNER.FLAG=N`).  Raises `ConfigError`."""
        for layer in self.layers:
            if layer.name == owner:
                break
        else:
            names = ", ".join(["nbdfork", *(layer.name for layer in self.layers)])
            raise ConfigError(f"-D {owner}.{flag}: {owner!r} is none of: {names}")
        if flag not in layer.plugin.debug:
            known = ", ".join(layer.plugin.debug) or "none"
            raise ConfigError(f"-D {owner}.{flag}: no such debug flag; the plugin has: {known}")
        layer.plugin.debug[flag] = value

    # -- what all layers together demand; a bug of one is a `ConfigError` ----------------

    def thread_model(self) -> ThreadModel:
        """Return the strictest thread model of all layers."""
        return min(self._each("thread_model", lambda plugin: plugin.thread_model()))

    def waits(self) -> bool | None:
        """Return whether several requests of one client should be carried out at once.

        None: that is to be found out.
        """
        answers = set(self._each("waits", lambda plugin: plugin.waits()))
        return True if True in answers else None if None in answers else False

    def has_named_exports(self) -> bool:
        """Return whether clients choose among exports by their names."""
        return any(layer.plugin.has_named_exports() for layer in self.layers)

    def needs(self) -> Needs:
        """Return what all layers need of the system to serve clients."""
        return reduce(or_, self._each("needs", lambda plugin: plugin.needs()))

    def acts_before_clients(self) -> bool:
        """Return whether a layer does something in a worker that has no client yet."""
        return any(type(layer.plugin).after_fork is not Plugin.after_fork for layer in self.layers)

    def one_process(self) -> bool:
        """Return whether one process must serve all clients, at once or one after another."""
        return self.thread_model() is ThreadModel.SERIALIZE_CONNECTIONS or any(
            self._each("one_process", lambda plugin: plugin.one_process())
        )

    def _each(self, fact: str, ask: Callable[[Plugin], T]) -> Iterator[T]:
        """Yield the answer of each layer."""
        for layer in self.layers:
            with starting(layer.name, fact):
                answer = ask(layer.plugin)
            yield answer


class Configuration:
    """The layers of *chain* while they are given their parameters.

    A key goes to the first layer, from the client's side, that declares it, or to the one that is
    named before it; what none declares, to the plugin, if it takes any key.
    """

    def __init__(self, chain: Chain) -> None:
        log.debug("%s: config", chain.name)
        check_contract(*chain.layers[-1])
        self._name = chain.name
        self._layers = chain.layers
        self._plugin = chain.layers[-1].plugin
        self._assignments = [Assignment(layer.plugin, layer.name) for layer in chain.layers]

    def set(self, key: str | None, text: str) -> None:
        """Give *text* to whichever layer takes *key*; None: there is no key.

        Raises `ConfigError`.
        """
        assignments = self._assignments
        if key is None:
            assignments, key = self._magic()
        elif not any(key in assignment.declared for assignment in assignments):
            assignments, key = self._addressed(key)
        for assignment in assignments:
            if key in assignment.declared:
                assert key is not None
                assignment.set(key, text)
                return
        if key is None or not takes_any_key(self._plugin):
            known = [known for one in assignments for known in one.declared]
            filters = load.filters_with(key) if key is not None else []
            raise unknown(self._name, key, text, known, filters)
        self._set_undeclared(key, text)

    def _magic(self) -> tuple[list[Assignment], str | None]:
        """Return who takes an argument without a key, and by which key.

        That is the plugin, and when it has what it takes, the first filter that takes one.
        """
        *filters, last = self._assignments
        own = magic_key(type(self._plugin))
        if own is not None and last.takes(own):
            return [last], own
        for layer, assignment in zip(self._layers, filters, strict=False):
            key = magic_key(type(layer.plugin))
            if key is not None and assignment.takes(key):
                return [assignment], key
        return (self._assignments if own is None else [last]), own

    def _addressed(self, key: str) -> tuple[list[Assignment], str]:
        """Return who is meant by LAYER.KEY, or by LAYER.N.KEY if there are several of that name,
        and KEY; if nobody is, everybody and *key*.
        """
        name, _, rest = key.partition(".")
        pairs = zip(self._layers, self._assignments, strict=True)
        named = [assignment for layer, assignment in pairs if layer.name == name]
        number, _, last = rest.partition(".")
        if number.isdecimal() and last and named:
            if not 1 <= int(number) <= len(named):
                raise ConfigError(f"{key}=: there are {len(named)} layers with the name {name!r}")
            named, rest = named[int(number) - 1 : int(number)], last
        if not any(rest in assignment.declared for assignment in named):
            return self._assignments, key
        return named, rest

    def set_own(self, place: int, key: str, text: str) -> None:
        """Give *text* to the layer at that *place* of the chain.  Raises `ConfigError`."""
        assignment = self._assignments[place]
        layer = self._layers[place]
        if key in assignment.declared:
            assignment.set(key, text)
        elif layer.plugin is self._plugin and takes_any_key(self._plugin):
            self._set_undeclared(key, text)
        else:
            raise unknown(layer.name, key, text, assignment.declared)

    def _set_undeclared(self, key: str, text: str) -> None:
        with starting(self._name, "config"):
            self._plugin.config(key, text)

    def finish(self) -> None:
        """All has been given: let the layers look at it together.  Raises `ConfigError`."""
        for assignment in self._assignments:
            assignment.finish()
        for layer in reversed(self._layers):
            with starting(layer.name, "config_complete"):
                layer.plugin.config_complete()
