"""What nbdfork prints of itself and of a plugin instead of serving."""

import importlib.util
import os
import sys
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator

import nbdfork
from nbdfork import layers, speedups
from nbdfork.backend import load
from nbdfork.backend.arguments import help_rows
from nbdfork.backend.handle import Handle
from nbdfork.backend.load import Found, Kind
from nbdfork.cli import UsageError
from nbdfork.manners import Manners
from nbdfork.options import TABLE, Options
from nbdfork.plugin import API_VERSION, ConfigError, parameters_of
from nbdfork.server.sandbox import landlock, seccomp

_SYNOPSIS = """\
usage: {0} [OPTION ...] PLUGIN [[KEY=]VALUE ...]
       {0} [OPTION ...] --config FILE
       {0} [OPTION ...] --help|--version|--dump-plugin PLUGIN
       {0} --help|--version|--dump-config
"""

_COLUMNS = 80


def is_asked_for(options: Options) -> bool:
    """Return whether *options* ask for something to be printed, and not to serve."""
    asked = (options.help, options.version, options.dump_config, options.dump_plugin)
    return any((*asked, options.short_options, options.long_options))


def show(options: Options) -> None:
    """Print what *options* ask for.  Raises `UsageError` or `ConfigError`."""
    found = layers.find(options)
    if options.help:
        print("\n\n".join([*map(layer_help, reversed(found)), usage(options.manners)]))
    elif options.version:
        print(f"{options.manners.program} {options.manners.version}")
        for layer in found:
            print(f"{layer.name} {layer.version}")
    elif options.short_options or options.long_options:
        names = (name for option in TABLE for name in option.names)
        print(*(name for name in names if (name[1] == "-") is options.long_options), sep="\n")
    elif options.dump_config:
        _print_pairs(configuration(options.manners).items())
    elif options.plugin is None:
        raise UsageError("no plugin is given")
    else:
        made = layers.make(found)
        if options.arguments:  # without any, those that it needs are missing
            layers.configure(made, options)
        else:
            made[-1].plugin.server = Handle(single=options.single, name=options.name)
        _print_pairs(load.dump(found[-1], made[-1].plugin, found[:-1]))


def usage(manners: Manners) -> str:
    """Return what `--help` says of the command."""
    options = [
        (
            ", ".join(option.names) + (f" {option.metavar}" if option.metavar else ""),
            option.help_for(manners.defaults),
        )
        for option in TABLE
    ]
    return "\n".join(
        [
            _SYNOPSIS.format(manners.program),
            *("Options:", *_table(options, 25), ""),
            *("Plugins:", *_table(_descriptions(load.PLUGIN), 12), ""),
            *("Filters:", *_table(_descriptions(load.FILTER), 12), ""),
            "See nbdfork(1) for the whole manual.",
        ]
    )


def layer_help(found: Found) -> str:
    """Return what `--help` says of a plugin or filter."""
    lines = [f"{found.kind.word}: {found.name} - {load.description(found.plugin_class)}"]
    lines = textwrap.wrap(lines[0], _COLUMNS, subsequent_indent="  ")
    lines += [f"({found.path})", *found.help_lines]
    rows = help_rows(parameters_of(found.plugin_class))
    width = max((len(form) for form, _ in rows), default=0)
    return "\n".join([*lines, *_table(rows, min(width, 25))])


def _table(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield lines of two columns; what is wider than the first has a line of its own."""
    indent = " " * (width + 4)
    for left, right in rows:
        begin = f"  {left:<{width}}  "
        if len(left) > width:
            yield begin.rstrip()
            begin = indent
        yield from textwrap.wrap(
            right,
            _COLUMNS,
            initial_indent=begin,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )


def _descriptions(kind: Kind) -> Iterator[tuple[str, str]]:
    for name in load.available(kind):
        try:
            yield name, load.description(load.find(name, kind).plugin_class)
        except ConfigError:  # one of another package
            yield name, "(cannot be loaded)"


def configuration(manners: Manners) -> dict[str, str]:
    """Return the keys of `--dump-config` and their values: nbdkit's of 2016 first, in its order."""
    return {**dict(_configuration()), **manners.configuration}


def _has_zstd() -> bool:
    try:
        return importlib.util.find_spec("backports.zstd") is not None
    except ModuleNotFoundError:  # there is not even the package that it would be in
        return importlib.util.find_spec("compression") is not None  # since Python 3.14


def _configuration() -> Iterator[tuple[str, str]]:
    from nbdfork import credentials  # and all that it imports

    paths = sysconfig.get_paths()
    system = sys.prefix in ("/usr", "/usr/local")
    yield "bindir", paths["scripts"]
    yield "libdir", os.path.dirname(os.path.dirname(os.path.abspath(nbdfork.__file__)))
    yield "mandir", os.path.join(paths["data"], "share", "man")
    yield "name", "nbdfork"
    yield "plugindir", load.directory(load.PLUGIN)
    yield "sbindir", paths["scripts"]
    yield "sysconfdir", "/etc" if system else os.path.join(sys.prefix, "etc")
    yield "version", nbdfork.__version__
    major, minor, _ = nbdfork.__version__.split(".")
    yield "version_major", major
    yield "version_minor", minor
    yield "datadir", _data_directory(paths["data"])
    yield "exit_with_parent", "yes"
    yield "filterdir", load.directory(load.FILTER)
    yield "host_cpu", os.uname().machine
    yield "host_os", sys.platform
    yield "nbdkit_plugindir", load.nbdkit_directory() or ""
    yield "plugin_api_version", str(API_VERSION)
    yield "python", sys.executable
    yield "sandbox_landlock", str(landlock.version())
    yield "sandbox_seccomp", "yes" if seccomp.is_available() else "no"
    yield "speedups", "yes" if speedups.AVAILABLE else "no"
    yield "tls", "yes"
    # What nbdkit has added since.
    yield "max_api_version", "2"
    yield "root_tls_certificates_dir", f"{credentials.ROOT_DIRECTORY}/nbdfork"
    yield "run_default_socket", "TCP"
    yield "selinux", "yes" if os.path.exists("/sys/fs/selinux/enforce") else "no"
    yield "soext", "so"
    yield "timeout_option", "yes"
    yield "vsock_option", "yes"
    yield "zstd", "yes" if _has_zstd() else "no"


def _data_directory(prefix: str) -> str:
    """Return where the files for a service are: below share, or in the source."""
    source = os.path.join(
        os.path.dirname(os.path.dirname(nbdfork.__file__)), "contrib", "packaging"
    )
    return source if os.path.isdir(source) else os.path.join(prefix, "share", "nbdfork")


def _print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    for key, value in pairs:
        print(f"{key}={value}")
