"""What the log and the client are told of an error."""

import errno
import re

import pytest

from nbdfork.backend.errors import PluginFailed, cause, starting, told
from nbdfork.plugin import ConfigError, PartialError


class Telling(OSError):
    def __str__(self) -> str:
        return "more than the client hears"


class Library(OSError):
    """What a library raises, whose text nobody here has chosen."""


@pytest.mark.parametrize(
    ("error", "logged", "heard"),
    [
        (OSError(errno.EIO, "broken"), "broken", "broken"),
        (OSError(errno.ENOENT, "No such file", "/disk"), "/disk: No such file", "No such file"),
        (OSError("only a text"), "only a text", "only a text"),
        (TimeoutError("timed out"), "timed out", "timed out"),
        (OSError(errno.EIO, "no", "/d-\udcff"), r"/d-\udcff: no", "no"),
        (Telling(errno.EIO, "broken"), "more than the client hears", "broken"),
        (PartialError(errno.EIO, "broken", 7), "broken", "broken"),
        (Library("GET /?token=hush"), "GET /?token=hush", "Library: see the server's log"),
    ],
    ids=repr,
)
def test_the_log_is_told_all_and_the_client_what_was_meant_for_it(
    error: OSError, logged: str, heard: str
) -> None:
    assert cause(error) == logged
    assert told(error) == heard


def test_of_a_bug_the_client_hears_its_kind_and_a_reference() -> None:
    one, other = (PluginFailed(KeyError("/etc/secret")) for _ in range(2))
    assert one.errno == errno.EIO
    assert re.fullmatch(r"KeyError in the plugin \(reference [0-9a-f]{6}\)", told(one))
    assert told(one) != told(other)
    assert PluginFailed(MemoryError()).errno == errno.ENOMEM


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("size=0: too small"), "size=0: too small"),
        (PermissionError(errno.EACCES, "Permission denied", "/d"), "disk: .*denied: '/d'"),
        (KeyError("x"), r"disk: get_ready failed: KeyError: 'x' \(-v tells where\)"),
    ],
    ids=repr,
)
def test_whatever_is_raised_at_the_start_is_for_the_user(error: Exception, text: str) -> None:
    with pytest.raises(ConfigError, match=text), starting("disk", "get_ready"):
        raise error
