"""All targets by their names, and where the input is that each begins with.

The docstring of a target is its invariant; whatever it raises breaks it.
"""

from collections.abc import Callable

from tests.fuzz import clients, far, inside
from tests.support.paths import TESTS

CORPUS = TESTS / "fuzz" / "corpus"
"""A directory for each target, a file for each input: good ones, and those that have broken it."""

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        clients.client_hello,
        clients.extended_headers,
        clients.handshake,
        clients.oldstyle,
        clients.simple_replies,
        clients.structured_replies,
        far.config_file,
        far.data_language,
        far.gzip_data,
        far.http_reply,
        far.lz4_data,
        far.options,
        far.partition_table,
        far.s3_error,
        far.script_output,
        far.sftp_replies,
        far.xz_data,
        far.zstd_data,
        inside.helper_replies,
        inside.scoreboard,
    )
}
