"""The options: each declared once, and the frozen value that a command line becomes.

Parsing (`cli`) and `--help` work from these declarations, the completion for bash works from
`--help`, and tests hold the manual page against them.
"""

import socket
from typing import TYPE_CHECKING, Any

from nbdfork import values
from nbdfork.declaration import Field, Flag, Gathered, Option
from nbdfork.manners import NBDFORK
from nbdfork.plugin import parse
from nbdfork.tlsoptions import TlsOptions

if TYPE_CHECKING:
    from nbdfork.configfile import ExportTable

_MOST = 1_000_000
_FOR_TCP = "-p -i -4 -6"


class Options(TlsOptions):
    """What the user asked for.  Paths are absolute.

    The fields stand in the order in which `--help` has their options; those for TLS are in
    `tlsoptions`.
    """

    plugin = Field[str | None](None)
    arguments = Field[tuple[str, ...]](())
    manners = Field(NBDFORK)

    exports = Field[tuple["ExportTable", ...]](())  # those of the config file

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
            "--handshake-limit SECONDS",
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
    help = Field(False, Flag("-h, --help", "print this help, and that of PLUGIN if given", True))
    idle_limit = Field(
        0.0,
        Option(
            "--idle-limit SECONDS",
            "time a client may be silent, or not take its replies (0: any)",
            parse.delay,
        ),
    )
    address = Field(
        None,
        Option(
            "-i, --ip-addr, --ipaddr IPADDR",
            "listen on this address (all)",
            values.text,
            not_activated=True,
        ),
    )
    keepalive = Field(
        True,
        Flag("--keepalive", "find out if a client's machine is gone, by TCP (default)", True),
        Flag("--no-keepalive", "do not find out", False),
    )
    limits = Gathered(  # (name, value)
        Option(
            "--limit NAME=VALUE",
            "limit what a worker may use: core, cpu, files, memory or processes (may be repeated)",
            values.limit,
        )
    )
    log = Field(
        None,
        Option(
            "--log stderr|syslog|null|FILE",
            "where messages go",
            values.path_or("stderr", "syslog", "null"),
        ),
    )
    mask_handshake = Field(
        0xFFFF,
        Option(
            "--mask-handshake MASK",
            "offer only these handshake flags, to test clients",
            values.mask,
        ),
    )
    max_clients = Field(
        256,
        Option(
            "--max-clients N", "the most clients served at once ({default})", parse.whole(1, _MOST)
        ),
    )
    max_clients_per_address = Field[int | None](
        None,
        Option(
            "--max-clients-per-address N",
            "the most clients of one address or user (7/8 of all; 0: any)",
            parse.whole(0, _MOST),
        ),
    )
    memory_budget = Field[int | None](
        None,
        Option(
            "--memory-budget SIZE",
            "most data of all clients' large requests (half of the memory; 0: any)",
            parse.size,
        ),
    )
    name = Field[str | None](
        None,
        Option("--name NAME", "tell this server from others by a name, in messages", values.text),
    )
    no_extended_headers = Field(
        False,
        Flag("--no-eh, --no-extended-headers", "refuse extended headers, to test clients", True),
    )
    no_meta_contexts = Field(
        False,
        Flag("--no-mc, --no-meta-contexts", "refuse metadata contexts, to test clients", True),
    )
    no_structured_replies = Field(
        False, Flag("--no-sr, --no-structured-replies", "refuse structured replies and more", True)
    )
    newstyle = Field[bool | None](  # None: what the plugin's exports ask for
        None,
        Flag("-n, --new-style, --newstyle", "use the newstyle protocol", True),
        Flag(
            "-o, --old-style, --oldstyle",
            "use the oldstyle protocol (default)",
            False,
            excludes={"-n": "a server speaks one of them"},
        ),
    )
    pidfile = Field(
        None,
        Option(
            "-P, --pid-file, --pidfile PIDFILE", "write the server's process ID there", parse.path
        ),
    )
    port = Field(
        "10809",
        Option(
            "-p, --port PORT",
            "listen on this TCP port ({default}; 0: any free one)",
            values.port,
            not_activated=True,
        ),
    )
    print_uri = Field(False, Flag("--print-uri", "print the server's NBD URI", True))
    read_only = Field(False, Flag("-r, --read-only, --readonly", "let no client write", True))
    run = Field(
        None,
        Option(
            "--run CMD",
            "run CMD, and serve as long as it runs",
            values.text,
            implies="-f",
            not_activated=True,
        ),
    )
    sandbox = Field(
        "off",
        Option(
            "--sandbox off|auto|require",
            "take from workers what their plugin does not need ({default})",
            parse.choice("off", "auto", "require"),
        ),
    )
    shutdown_limit = Field(
        10.0,
        Option(
            "--shutdown-limit SECONDS",
            "time workers have to finish when the server ends ({default})",
            parse.delay,
        ),
    )
    single = Field(
        False,
        Flag(
            "-s, --stdin, --single",
            "serve one client on stdin/stdout",
            True,
            implies="-f",
            excludes={
                f"{_FOR_TCP} -U --run --print-uri": "with -s the client is on stdin and stdout",
                "--max-clients --max-clients-per-address --spare-workers --clients-per-worker"
                " --hang-limit --hang-warning --allow --deny --worker-uids --memory-budget"
                " --control --drain-limit": ("with -s there is one client and no pool of workers"),
            },
            not_activated=True,
        ),
    )
    spare_workers = Field(
        4,
        Option(
            "--spare-workers N",
            "idle workers to keep ready for clients ({default})",
            parse.whole(1, _MOST),
        ),
    )
    threads = Field(
        None,
        Option(
            "-t, --threads N",
            "requests of one client served at once (16 if they wait)",
            parse.whole(1, 1024),
        ),
    )
    unix = Field(  # "-" is a private socket
        None,
        Option(
            "-U, --unix SOCKET|-",
            "listen on a Unix domain socket; -: a private one",
            values.path_or("-"),
            excludes={f"{_FOR_TCP} --keepalive": "these are for TCP"},
            not_activated=True,
        ),
    )
    unix_mode = Field[int | None](
        None,
        Option(
            "--unix-mode MODE",
            "permissions of that socket, in octal (as the umask has it)",
            values.permissions,
            not_activated=True,
        ),
    )
    user = Field(
        None, Option("-u, --user USER", "change to this user, by name or number", values.text)
    )
    verbose = Field(False, Flag("-v, --verbose", "print debugging messages", True))
    version = Field(
        False, Flag("-V, --version", "print the version, and that of PLUGIN if given", True)
    )
    worker_uids = Field(  # the first and the last
        None,
        Option(
            "--worker-uids FIRST-LAST",
            "give each worker a user of its own, of these numbers",
            values.user_range,
            excludes={"-u": "each worker has a user of its own, and the supervisor is root"},
        ),
    )

    @classmethod
    def fields(cls) -> tuple[Field[Any], ...]:
        """Return the fields, those for TLS in their alphabetical place."""
        tls = TlsOptions.fields()
        own = super().fields()[: -len(tls)]
        place = own.index(Options.unix)
        return (*own[:place], *tls, *own[place:])


FIELDS = Options.fields()

TABLE: tuple[Option[Any], ...] = tuple(option for field in FIELDS for option in field.options)
"""All options, in the order of `--help`."""

ONLY_ON_COMMAND_LINE = frozenset(
    {
        *("check", "config", "dump_config", "dump_config_file", "dump_plugin", "export_name"),
        *("filters", "help", "single", "version"),
    }
)
"""The fields whose options a config file cannot have: it says such things in another way, if it
can."""
