"""The options: what the command line says, as one frozen value, and the table of their names.

The table is what the command line is parsed by; `--help` is printed from it, and the manual
page and the completion are held against it by tests.
"""

from typing import NamedTuple


class Option(NamedTuple):
    """One option: all its names, its argument's name (None if it takes none), and its help."""

    names: tuple[str, ...]
    metavar: str | None
    help: str

    @property
    def key(self) -> str:
        """The name it is known by in the program: its last long name."""
        return self.names[-1].lstrip("-")

    @property
    def shown(self) -> str:
        """The name it is called by in messages: its first."""
        return self.names[0]


TABLE = (
    Option(("-4", "--ipv4-only"), None, "use only IPv4 for listening"),
    Option(("-6", "--ipv6-only"), None, "use only IPv6 for listening"),
    Option(
        ("--clients-per-worker",), "N", "clients a worker serves before it is replaced (1; 0: any)"
    ),
    Option(("-D", "--debug"), "NAME.FLAG=N", "set a debug flag of nbdfork or of the plugin"),
    Option(("--dump-config",), None, "print how nbdfork was installed"),
    Option(("--dump-plugin",), None, "print what is known of the plugin"),
    Option(
        ("-e", "--export", "--export-name", "--exportname"),
        "EXPORTNAME",
        "serve only this export name (implies -n)",
    ),
    Option(("--exit-with-parent",), None, "end when the parent process does (implies -f)"),
    Option(("--filter",), "FILTER", "put this filter before the plugin (may be repeated)"),
    Option(("-f", "--no-fork", "--foreground"), None, "do not fork into the background"),
    Option(("-g", "--group"), "GROUP", "change to this group, by name or number"),
    Option(("--handshake-limit",), "SECONDS", "time a client has to choose an export (10; 0: any)"),
    Option(("--help",), None, "print this help, and that of PLUGIN if given"),
    Option(("-i", "--ip-addr", "--ipaddr"), "IPADDR", "listen on this address (all)"),
    Option(("--keepalive",), None, "set TCP keepalive on connections"),
    Option(("--log",), "stderr|syslog|null|FILE", "where messages go"),
    Option(("--mask-handshake",), "MASK", "offer only these handshake flags, to test clients"),
    Option(("--max-clients",), "N", "the most clients served at once (256)"),
    Option(("--no-eh", "--no-extended-headers"), None, "refuse extended headers, to test clients"),
    Option(("--no-mc", "--no-meta-contexts"), None, "refuse metadata contexts, to test clients"),
    Option(("--no-sr", "--no-structured-replies"), None, "refuse structured replies and more"),
    Option(("-n", "--new-style", "--newstyle"), None, "use the newstyle protocol"),
    Option(("-o", "--old-style", "--oldstyle"), None, "use the oldstyle protocol (default)"),
    Option(("-P", "--pid-file", "--pidfile"), "PIDFILE", "write the server's process ID there"),
    Option(("-p", "--port"), "PORT", "listen on this TCP port (10809; 0: any free one)"),
    Option(("--print-uri",), None, "print the server's NBD URI"),
    Option(("-r", "--read-only", "--readonly"), None, "let no client write"),
    Option(("--run",), "CMD", "run CMD, and serve as long as it runs (implies -f)"),
    Option(
        ("--shutdown-limit",), "SECONDS", "time workers have to finish when the server ends (10)"
    ),
    Option(("-s", "--stdin", "--single"), None, "serve one client on stdin/stdout (implies -f)"),
    Option(("--spare-workers",), "N", "idle workers to keep ready for clients (4)"),
    Option(("-t", "--threads"), "N", "requests of one client served at once (16 if they wait)"),
    Option(("--tls",), "off|on|require", "refuse, offer or demand TLS (implies -n)"),
    Option(("--tls-certificates",), "DIR", "the folder with the server's certificate and key"),
    Option(("--tls-psk",), "FILE", "clients and their keys, instead of certificates"),
    Option(("--tls-verify-peer",), None, "demand a certificate of each client that uses TLS"),
    Option(("-U", "--unix"), "SOCKET|-", "listen on a Unix domain socket; -: a private one"),
    Option(("-u", "--user"), "USER", "change to this user, by name or number"),
    Option(("-v", "--verbose"), None, "print debugging messages"),
    Option(("-V", "--version"), None, "print the version, and that of PLUGIN if given"),
)


class Options(NamedTuple):
    """What the user asked for.  Paths are absolute."""

    plugin: str | None = None
    arguments: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()  # the first is nearest to the client

    # What to print instead of serving.
    help: bool = False
    version: bool = False
    dump_config: bool = False
    dump_plugin: bool = False

    # Where to listen.  In single mode, and if sockets are inherited, nowhere.
    ipaddr: str | None = None
    port: str = "10809"
    ipv4_only: bool = False
    ipv6_only: bool = False
    unix: str | None = None  # "-" is a private socket
    single: bool = False
    keepalive: bool = False

    # What clients get.
    newstyle: bool = False
    exportname: str | None = None
    readonly: bool = False
    handshake_limit: float = 10.0
    threads: int | None = None
    mask_handshake: int = 0xFFFF
    no_extended_headers: bool = False
    no_structured_replies: bool = False
    no_meta_contexts: bool = False

    # How clients are protected.
    tls: str = "off"  # or "on" or "require"
    tls_certificates: str | None = None
    tls_psk: str | None = None
    tls_verify_peer: bool = False

    # The process.
    foreground: bool = False
    exit_with_parent: bool = False
    run: str | None = None
    pidfile: str | None = None
    user: str | None = None
    group: str | None = None
    print_uri: bool = False
    shutdown_limit: float = 10.0

    # The pool.
    max_clients: int = 256
    spare_workers: int = 4
    clients_per_worker: int = 1

    # Messages.
    verbose: bool = False
    log: str | None = None
    debug: tuple[tuple[str, str, int], ...] = ()  # (owner, flag, value)
