"""What nbdfork prints of itself and of a plugin instead of serving."""

import os
import sys
import sysconfig
from collections.abc import Iterator

import nbdfork
from nbdfork import layers
from nbdfork.backend import load
from nbdfork.cli import UsageError
from nbdfork.options import TABLE, Options
from nbdfork.plugin import API_VERSION
from nbdfork.server.sandbox import landlock, seccomp

_SYNOPSIS = """\
usage: nbdfork [OPTION ...] PLUGIN [[KEY=]VALUE ...]
       nbdfork [OPTION ...] --help|--version|--dump-plugin PLUGIN
       nbdfork --help|--version|--dump-config
"""


def is_asked_for(options: Options) -> bool:
    """Return whether *options* ask for something to be printed, and not to serve."""
    return options.help or options.version or options.dump_config or options.dump_plugin


def show(options: Options) -> None:
    """Print what *options* ask for.  Raises `UsageError` or `ConfigError`."""
    found = layers.find(options)
    if options.help:
        print("\n".join([usage(), *map(load.help_text, found)]))
    elif options.version:
        print(f"nbdfork {nbdfork.__version__}")
        for layer in found:
            print(f"{layer.name} {layer.version}")
    elif options.dump_config:
        _print_pairs(configuration())
    elif options.plugin is None:
        raise UsageError("no plugin is given")
    else:
        made = layers.make(found)
        if options.arguments:  # without any, those that it needs are missing
            layers.configure(made, options)
        _print_pairs(load.dump(found[-1], made[-1].plugin))


def usage() -> str:
    """Return the text of `--help`."""
    lines = [_SYNOPSIS, "Options:"]
    for option in TABLE:
        names = ", ".join(option.names) + (f" {option.metavar}" if option.metavar else "")
        lines.append(
            f"  {names}\n      {option.help}" if len(names) > 25 else f"  {names:<27}{option.help}"
        )
    lines.append(f"\nPlugins: {', '.join(load.available(load.PLUGIN))}")
    lines.append(f"Filters: {', '.join(load.available(load.FILTER))}")
    lines.append("See nbdfork(1) for the whole manual.\n")
    return "\n".join(lines)


def configuration() -> Iterator[tuple[str, str]]:
    """Yield the key and value pairs of `--dump-config`: nbdkit's of 2016 first, in its order."""
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
    yield "exit_with_parent", "yes"
    yield "filterdir", load.directory(load.FILTER)
    yield "host_cpu", os.uname().machine
    yield "host_os", sys.platform
    yield "nbdkit_plugindir", load.nbdkit_directory() or ""
    yield "plugin_api_version", str(API_VERSION)
    yield "python", sys.executable
    yield "sandbox_landlock", str(landlock.version())
    yield "sandbox_seccomp", "yes" if seccomp.is_available() else "no"
    yield "tls", "yes"


def _print_pairs(pairs: Iterator[tuple[str, str]]) -> None:
    for key, value in pairs:
        print(f"{key}={value}")
