"""What the log says of a disk that is not where it should be."""

from pathlib import Path

import pytest

from tests.support.harness import Server, eventually
from tests.support.libnbd import connected


def check_told_once(*words: str | Path, said: str) -> None:
    """Check that a server with these *words* lets no client in, whatever style it speaks, and that
    its log has one line about that, an error, with *said* in it.
    """
    for style in ("-n", "-o"):
        with Server(style, *words) as server:
            with pytest.raises(Exception, match="nbd_connect_uri"), connected(server.uri):
                pass
            eventually(lambda server=server: said in server.log and not server.serving())  # type: ignore[misc]
            lines = [line for line in server.log.splitlines() if said in line]
            assert len(lines) == 1, server.log
            assert " error: " in lines[0]
