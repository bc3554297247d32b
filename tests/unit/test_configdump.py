"""A command line as a config file: read again, it means the same."""

from pathlib import Path

import pytest

from nbdfork import disks
from nbdfork.cli import parse_arguments
from nbdfork.configdump import config_file
from nbdfork.options import ONLY_ON_COMMAND_LINE
from nbdfork.plugin import ConfigError

LINES = [
    ["memory", "1M"],
    ["-p", "1", "--port=2", "-r", "-fn", "memory", "size=0x"],
    ["-U", "a socket", "--no-keepalive", "--allow=any", "--allow", "::1", "pattern", "4k"],
    ["-e", 'x "\\\n\x7fé', "--filter=offset", "--filter", "offset", "pattern", "4k", "offset=512"],
    ["--tls=off", "--mask-handshake", "0x3", "--limit=files=7", "full", "4k"],
    ["-D", "nbdfork.backend.datapath=0", "-t", "3", "data", "1 @0x10 2", "size=64"],
]


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_what_is_printed_means_the_same(words: list[str], tmp_path: Path) -> None:
    words = [word.replace("0x", "1M") if word.startswith("size") else word for word in words]
    plain = parse_arguments(words)
    path = tmp_path / "it.toml"
    path.write_text(config_file(plain, words))
    again = parse_arguments(["--config", str(path)])
    alone = ONLY_ON_COMMAND_LINE | {"plugin", "arguments", "exports", "newstyle"}
    for key, value in vars(plain).items():
        if key not in alone:
            assert getattr(again, key) == value, key
    one, other = disks.shelf(plain), disks.shelf(again)
    assert one.disks[0].name == other.disks[0].name
    one.life.get_ready()
    other.life.get_ready()
    gates = [shelf.served().open(shelf.served().default()) for shelf in (one, other)]
    assert gates[0].size == gates[1].size
    assert bytes(gates[0].pread(64, 0)) == bytes(gates[1].pread(64, 0))


def test_secrets_are_better_in_files() -> None:
    words = ["curl", "http://localhost/", "password=sesame"]
    text = config_file(parse_arguments(words), words)
    assert '# Better in a file that few can read: password = { file = "PATH" }\n' in text


def test_what_cannot_be_served_is_not_printed() -> None:
    with pytest.raises(ConfigError, match="memory: unknown parameter x="):
        config_file(parse_arguments(["memory", "x=1"]), ["memory", "x=1"])
    words = ["-e", "\udcff", "null"]
    with pytest.raises(ConfigError, match="is not UTF-8"):
        config_file(parse_arguments(words), words)
