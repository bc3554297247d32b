"""The options: each declared once, and the frozen value that a command line becomes.

Parsing (`cli`) and `--help` work from these declarations, the completion for bash works from
`--help`, and tests hold the manual page against them.
"""

from typing import TYPE_CHECKING, Any

from nbdfork import values
from nbdfork.declaration import Field, Flag, Gathered, Option
from nbdfork.firstoptions import FirstOptions
from nbdfork.manners import NBDFORK
from nbdfork.plugin import parse
from nbdfork.tlsoptions import TlsOptions

if TYPE_CHECKING:
    from nbdfork.configfile import ExportTable

_MOST = 1_000_000
_FOR_TCP = "-p -i -4 -6"


class Options(FirstOptions, TlsOptions):
    """What the user asked for.  Paths are absolute.

    The fields stand in the order in which `--help` has their options; those up to
    `--hang-warning` are in `firstoptions`, and those for TLS in `tlsoptions`.
    """

    plugin = Field[str | None](None)
    arguments = Field[tuple[str, ...]](())
    manners = Field(NBDFORK)

    exports = Field[tuple["ExportTable", ...]](())  # those of the config file

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
        Flag(
            "--keepalive, --keep-alive",
            "find out if a client's machine is gone, by TCP (default)",
            True,
        ),
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
            "--log default|stderr|syslog|null|FILE",
            "where messages go",
            values.destination,
        ),
    )
    long_options = Field(False, Flag("--long-options", "print the names of long options", True))
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
    print_uri = Field(
        False,
        Flag(
            "--print-uri, --print-url, --show-uri, --show-url", "print the server's NBD URI", True
        ),
    )
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
    selinux_label = Field[str | None](
        None,
        Option(
            "--selinux-label LABEL",
            "give the listening socket this label of SELinux",
            values.text,
            not_activated=True,
        ),
    )
    short_options = Field(False, Flag("--short-options", "print the names of short options", True))
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
                f"{_FOR_TCP} -U --run --print-uri --vsock --selinux-label": (
                    "with -s the client is on stdin and stdout"
                ),
                "--dump-plugin": "-s serves, and the other prints",
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
    swap = Field(
        False, Flag("--swap", "keep the server's memory from being swapped out to its disk", True)
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
            excludes={_FOR_TCP: "these are for TCP"},
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
    vsock = Field(
        False,
        Flag(
            "--vsock",
            "listen on -p as a port for virtual machines, and not on TCP",
            True,
            excludes={"-i -4 -6": "these are for TCP", "-U": "there is one way to listen"},
            not_activated=True,
        ),
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
        """Return the fields, those of the base classes in their places."""
        own = [value for value in vars(Options).values() if isinstance(value, Field)]
        first, tls = own.index(Options.help), own.index(Options.unix)
        return (
            *own[:first],
            *FirstOptions.fields(),
            *own[first:tls],
            *TlsOptions.fields(),
            *own[tls:],
        )


FIELDS = Options.fields()

TABLE: tuple[Option[Any], ...] = tuple(option for field in FIELDS for option in field.options)
"""All options, in the order of `--help`."""

ONLY_ON_COMMAND_LINE = frozenset(
    {
        *("check", "config", "dump_config", "dump_config_file", "dump_plugin", "export_name"),
        *("filters", "help", "long_options", "short_options", "single", "version"),
    }
)
"""The fields whose options a config file cannot have: it says such things in another way, if it
can."""
