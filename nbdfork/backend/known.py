"""What nbdkit 1.48.1 has: its plugins and filters with their parameters, and its options.

Taken from its manual pages and from `nbdkit --long-options` and `--short-options`.  It is for
messages and for the manual: nothing that is served depends on it.
"""

PLUGINS = {
    "blkio": "driver get",
    "cc": "CC CFLAGS EXTRA_CFLAGS script",
    "cdi": "layer name",
    "curl": (
        "cainfo capath connections cookie cookie-script cookie-script-renew cookiefile "
        "cookiejar followlocation header header-script header-script-renew http-version "
        "ipresolve password protocols proxy proxy-cainfo proxy-capath proxy-password "
        "proxy-user resolve ssl-cipher-list ssl-version sslverify tcp-keepalive tcp-nodelay "
        "timeout tls13-ciphers unix-socket-path url user user-agent"
    ),
    "data": "allocator base64 data raw size",
    "eval": "",
    "example1": "",
    "example2": "file",
    "example3": "size",
    "example4": "size",
    "file": "dir dirfd fadvise fd file reduce-memory-pressure",
    "floppy": "dir label size",
    "full": "size",
    "gcs": "bucket json-credentials key object-size size",
    "golang": "",
    "guestfs": "connect disk domain export format mount",
    "info": "mode",
    "iso": "dir params prog",
    "libvirt": "connect disk domain",
    "linuxdisk": "dir label size type",
    "lua": "script",
    "memory": "allocator size",
    "nbd": (
        "arg command dynamic-export export hostname port retry shared socket socket-fd tls "
        "tls-certificates tls-psk tls-username tls-verify uri vsock"
    ),
    "nfs": "url",
    "null": "size",
    "ocaml": "",
    "ondemand": "command dir label share size type wait",
    "ones": "byte size",
    "partitioning": "alignment file mbr-id partition-type type-guid",
    "pattern": "size stride upper",
    "perl": "script",
    "python": "script",
    "random": "fast seed size",
    "ruby": "script",
    "rust": "",
    "S3": "access-key bucket endpoint-url key object-size secret-key session-token size",
    "sh": "script",
    "sparse-random": "blocksize percent random-content runlength seed size",
    "split": "file",
    "ssh": (
        "compression config create create-mode create-size host identity known-hosts "
        "password path port timeout user verify-remote-host"
    ),
    "tcl": "script",
    "tmpdisk": "command label size type",
    "torrent": (
        "cache connections-limit download-rate-limit file listen-interfaces "
        "outgoing-interfaces torrent upload-rate-limit user-agent"
    ),
    "vddk": (
        "compression config cookie create create-adapter-type create-hwversion create-size "
        "create-type export file libdir nfchostport password port server single-link "
        "snapshot thumbprint transports unbuffered user vm xmlfile"
    ),
    "vram": "device size",
    "zero": "",
}
"""Plugins, and the keys of each."""

FILTERS = {
    "blocksize": "maxdata maxlen minblock",
    "blocksize-policy": (
        "blocksize-error-policy blocksize-maximum blocksize-minimum blocksize-preferred "
        "blocksize-write-disconnect"
    ),
    "bzip2": "",
    "cache": (
        "cache cache-high-threshold cache-low-threshold cache-max-size cache-min-block-size "
        "cache-on-read"
    ),
    "checkwrite": "",
    "count": "",
    "cow": "cow-block-size cow-on-cache cow-on-read",
    "ddrescue": "ddrescue-mapfile",
    "delay": (
        "delay-cache delay-close delay-extents delay-fast-zero delay-open delay-read "
        "delay-trigger delay-trim delay-write delay-zero rdelay wdelay"
    ),
    "error": "error error-file error-rate",
    "evil": "evil evil-probability evil-seed evil-stuck-probability",
    "exitlast": "",
    "exitwhen": (
        "exit-when-file-created exit-when-file-deleted exit-when-pipe-closed exit-when-poll "
        "exit-when-process-exits exit-when-script"
    ),
    "exportname": "default-export exportdesc exportname exportname-list exportname-strict",
    "ext2": "ext2file",
    "extentlist": "extentlist",
    "fua": "flush-on-close fua-mode fuamode",
    "gzip": "",
    "indexed-gzip": "gzip-index-path gzip-index-span",
    "ip": "allow deny",
    "limit": "limit",
    "log": "logappend logfile logscript",
    "luks": "passphrase",
    "lzip": "lzip-max-block lzip-max-depth",
    "map": "map map-size",
    "multi-conn": "multi-conn-exportname multi-conn-mode multi-conn-track-dirty",
    "nocache": "cache-mode cachemode",
    "noextents": "",
    "nofilter": "",
    "noparallel": "serialize",
    "nozero": "fast-zero-mode fastzeromode zero-mode zeromode",
    "offset": "offset range",
    "openonce": "",
    "partition": "partition partition-sectorsize",
    "pause": "pause-control",
    "protect": "protect",
    "qcow2dec": "",
    "rate": "burstiness connection-rate connection-rate-file rate rate-file",
    "readahead": "",
    "readonly": "readonly-file",
    "retry": "retries retry-delay retry-exponential retry-readonly",
    "retry-request": "retry-request-delay retry-request-open retry-request-retries",
    "rotational": "rotational",
    "scan": "scan-ahead scan-clock scan-forever scan-size",
    "spinning": "half-seek-time heads max-seek-time min-seek-time separate-heads",
    "stats": "statsappend statsfile statsthreshold",
    "swab": "swab-bits",
    "tar": "tar tar-entry tar-limit",
    "time-limit": "time-limit",
    "tls-fallback": "tlsreadme",
    "truncate": "round-down round-up truncate",
    "xor": "xor xorlen",
    "xz": "xz-max-block xz-max-depth",
}
"""Filters, and the keys of each."""

OPTIONS = (
    "-4 --ipv4-only",
    "-6 --ipv6-only",
    "-D --debug",
    "--dump-config",
    "--dump-plugin",
    "--exit-with-parent",
    "-e --export --export-name --exportname",
    "--filter",
    "-f --foreground --no-fork",
    "-g --group",
    "--help",
    "-i --ip-addr --ipaddr",
    "--keepalive --keep-alive",
    "--log",
    "--long-options",
    "--mask-handshake",
    "--name",
    "-n --new-style --newstyle",
    "--no-mc --no-meta-contexts",
    "--no-sr --no-structured-replies",
    "-o --old-style --oldstyle",
    "-P --pid-file --pidfile",
    "--print-uri --print-url --show-uri --show-url",
    "-p --port",
    "-r --read-only --readonly",
    "--run",
    "--selinux-label",
    "--short-options",
    "-s --single --stdin",
    "--swap",
    "-t --threads",
    "--timeout --time-out",
    "--tls",
    "--tls-certificates",
    "--tls-priority",
    "--tls-psk",
    "--tls-verify-peer",
    "-U --unix",
    "-u --user",
    "-v --verbose",
    "-V --version",
    "--vsock",
)
"""Options, each with all of its names."""
