"""The options for TLS, which are some of `options`."""

from nbdfork import values
from nbdfork.declaration import Declared, Field, Flag, Option
from nbdfork.plugin import parse


class TlsOptions(Declared):
    """Whether clients use TLS, and what proves who is who."""

    tls = Field(
        "off",
        Option(
            "--tls off|on|require",
            "refuse, offer or demand TLS",
            parse.choice("off", "on", "require"),
            implies="-n",
        ),
    )
    tls_certificates = Field(
        None,
        Option(
            "--tls-certificates DIR",
            "the folder with the server's certificate and key",
            parse.path,
            implies="--tls=on",
        ),
    )
    tls_priority = Field[str | None](
        None,
        Option(
            "--tls-priority PRIORITY",
            "which versions of TLS, and ciphers, are agreed on (NORMAL)",
            values.text,
        ),
    )
    tls_psk = Field(
        None,
        Option(
            "--tls-psk FILE",
            "clients and their keys, instead of certificates",
            parse.path,
            implies="--tls=on",
            excludes={"--tls-verify-peer": "keys take the place of certificates"},
        ),
    )
    tls_verify_peer = Field(
        False,
        Flag(
            "--tls-verify-peer",
            "demand a certificate of each client that uses TLS",
            True,
            implies="--tls=on",
        ),
    )
