"""The first of the options, in the order of the alphabet; `options` has the others."""

import socket

from nbdfork import values
from nbdfork.declaration import Declared, Field, Flag, Gathered, Option
from nbdfork.plugin import parse

_MOST = 1_000_000


class FirstOptions(Declared):
    """The fields whose options come before `--help`."""

    family = Field(
        socket.AF_UNSPEC,
        Flag("-4, --ipv4-only", "use only IPv4 for listening", socket.AF_INET, not_activated=True),
        Flag("-6, --ipv6-only", "use only IPv6 for listening", socket.AF_INET6, not_activated=True),
    )
    allow = Gathered(
        Option("--allow RULE", "let only these clients in (may be repeated)", values.rule)
    )
    check = Field(
        False, Flag("--check", "say whether the server would start, and do not start it", True)
    )
    clients_per_worker = Field(
        1,
        Option(
            "--clients-per-worker N",
            "clients a worker serves before it is replaced ({default}; 0: any)",
            parse.whole(0, _MOST),
        ),
    )
    config = Field(
        None,
        Option(
            "--config FILE",
            "take options, and any number of exports, from FILE",
            parse.path,
            implies="-n",
            excludes={"--filter -e --dump-plugin": "the file says which exports there are"},
        ),
    )
    control = Field(
        None,
        Option(
            "--control SOCKET",
            "tell of clients, and take orders, on this Unix domain socket",
            parse.path,
        ),
    )
    debug = Gathered(  # (owner, flag, value)
        Option(
            "-D, --debug NAME.FLAG=N",
            "set a debug flag of nbdfork, the plugin or a filter (may be repeated)",
            values.debug_flag,
        )
    )
    deny = Gathered(Option("--deny RULE", "refuse these clients (may be repeated)", values.rule))
    drain_limit = Field(
        0.0,
        Option(
            "--drain-limit SECONDS",
            "time clients may stay once nobody is let in any more (0: any)",
            parse.delay,
        ),
    )
    dump_config = Field(False, Flag("--dump-config", "print how nbdfork was installed", True))
    dump_config_file = Field(
        False,
        Flag(
            "--dump-config-file",
            "print a config file for this command line",
            True,
            excludes={"--config": "there is one already"},
        ),
    )
    dump_plugin = Field(False, Flag("--dump-plugin", "print what is known of the plugin", True))
    export_name = Field(
        None,
        Option(
            "-e, --export, --export-name, --exportname EXPORTNAME",
            "serve only this export name",
            values.text,
            implies="-n",
        ),
    )
    exit_with_parent = Field(
        False, Flag("--exit-with-parent", "end when the parent process does", True, implies="-f")
    )
    filters = Gathered(  # the first is nearest to the client
        Option(
            "--filter FILTER", "put this filter before the plugin (may be repeated)", values.text
        )
    )
    foreground = Field(
        False, Flag("-f, --no-fork, --foreground", "do not fork into the background", True)
    )
    group = Field(
        None, Option("-g, --group GROUP", "change to this group, by name or number", values.text)
    )
    handshake_limit = Field(
        10.0,
        Option(
            "--handshake-limit, --timeout, --time-out SECONDS",
            "time a client has to choose an export ({default}; 0: any)",
            parse.delay,
        ),
    )
    hang_limit = Field(
        0.0,
        Option(
            "--hang-limit SECONDS",
            "time a call to the plugin may take before its worker is killed (0: any)",
            parse.delay,
        ),
    )
    hang_warning = Field(
        60.0,
        Option(
            "--hang-warning SECONDS",
            "time it may take before the log tells where it is ({default}; 0: any)",
            parse.delay,
        ),
    )
