"""The disks of a server: those of a config file, or the one of a command line.

Both are found, made and configured by `layers`; here, what goes wrong with one of a file is said
with the place where it stands.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir, contextmanager
from typing import TYPE_CHECKING

from nbdfork import layers
from nbdfork.assembly import Disk, Shelf
from nbdfork.backend import load
from nbdfork.backend.chain import Chain, Configuration
from nbdfork.backend.handle import Handle
from nbdfork.backend.life import Life
from nbdfork.options import Options
from nbdfork.plugin import ConfigError, parameters_of
from nbdfork.server.admission import Rule, Rules

if TYPE_CHECKING:
    from nbdfork.configfile import ExportTable, Place, Setting


def shelf(options: Options, confine: Callable[[], None] | None = None) -> Shelf:
    """Return what *options* ask to be served, all of it configured.

    *confine*: see `Server.confine`.  Raises `ConfigError`.
    """
    if options.config is None:
        chain = layers.configure(layers.make(layers.find(options)), options, confine)
        chain.configuration = _digest(options.plugin, options.filters, options.arguments)
        name = options.export_name if options.manners.only_export else None
        return Shelf.of(Disk(chain, name, options.read_only, options.threads))
    server = Handle(single=options.single, name=options.name, confine=confine)
    disks = [_disk(table, options, server) for table in options.exports]
    layers.set_debug_flags([disk.chain for disk in disks], options)
    default = next((table.name for table in options.exports if table.is_default), None)
    if default is None and any(disk.name == "" for disk in disks):
        default = ""
    return Shelf(Life(*(disk.chain for disk in disks)), disks, default)


def _disk(table: "ExportTable", options: Options, server: Handle) -> Disk:
    with chdir(os.path.dirname(table.place.file)):
        chain = _chain(table, server)
        rules = Rules(tuple(_rules(table.allow)), tuple(_rules(table.deny)))
    if table.with_tls and options.tls == "off":
        raise table.place.error(
            "require-tls = true, but the server offers no TLS (tls, in [server])"
        )
    chain.label = table.name or ""
    chain.configuration = _digest(table.plugin, table.filters, table.settings)
    return Disk(
        chain,
        table.name,
        table.read_only or options.read_only,
        table.threads or options.threads,
        table.description,
        table.with_tls,
        table.max_clients,
        rules,
    )


def _digest(*parts: object) -> str:
    """Return what tells one configuration from others, and shows no secret of it."""
    from hashlib import sha256

    return sha256(repr([_plain(part) for part in parts]).encode(errors="replace")).hexdigest()


def _plain(value: object) -> object:
    """Return *value* without the places where its parts stand in a file."""
    if isinstance(value, tuple):
        named: dict[str, object] = getattr(value, "_asdict", dict)()
        if named:
            return {key: _plain(part) for key, part in named.items() if key != "place"}
        return [_plain(part) for part in value]
    return value


def _chain(table: "ExportTable", server: Handle) -> Chain:
    """Return the plugin and the filters of *table*, configured."""
    tables = [(one, load.FILTER) for one in table.filters] + [(table.plugin, load.PLUGIN)]
    made = []
    for one, kind in tables:
        with _at(one.place):
            made += layers.make([load.find(one.name, kind)])
    *filters, plugin = made
    chain = Chain(plugin, filters, server=server)
    with _at(table.place):
        configuration = Configuration(chain)
    _demand_clear(table, chain)
    for place, (one, _) in enumerate(tables):
        for setting in one.settings:
            with _at(setting.place):
                configuration.set_own(place, setting.key, setting.text)
    for setting in table.settings:
        with _at(setting.place, setting.key):
            configuration.set(setting.key, setting.text)
    with _at(table.place):
        configuration.finish()
    return chain


def _demand_clear(table: "ExportTable", chain: Chain) -> None:
    """Raise `ConfigError` if a layer has a parameter that is called as a key of every export."""
    from nbdfork.configfile import EXPORT_KEYS

    given = {setting.key for one in (*table.filters, table.plugin) for setting in one.settings}
    for layer in chain.layers:
        for key in parameters_of(type(layer.plugin)).keys() & set(EXPORT_KEYS) - given:
            if key in table.keys:
                raise table.place.error(
                    f"{key} is a key of every export, and a parameter of {layer.name}: write"
                    f" parameters.{key} for that, or both"
                )


def _rules(settings: "Iterable[Setting]") -> Iterator[Rule]:
    for setting in settings:
        try:
            rule = Rule.parse(setting.text)
        except ValueError as error:
            raise setting.place.error(f"{setting.text}: {error}") from None
        if rule.exports is not None:
            raise setting.place.error(
                f"{setting.text}: the rule is for this export; leave out 'for'"
            )
        yield rule


@contextmanager
def _at(place: "Place", key: str = "") -> Iterator[None]:
    """Say of an error that it is at *place*, and what may be meant by a *key* that nobody takes."""
    try:
        yield
    except ConfigError as error:
        from nbdfork.configfile import EXPORT_KEYS, near

        hint = near(key, EXPORT_KEYS) if "unknown parameter" in str(error) else ""
        raise place.error(f"{error}{hint}") from error
