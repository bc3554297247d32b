"""A name that is no plugin or filter: what is said of it is true."""

import re
from pathlib import Path

import pytest

from nbdfork.backend import absent, load
from nbdfork.backend.arguments import unknown
from nbdfork.backend.load import FILTER, PLUGIN, Kind
from nbdfork.options import TABLE
from nbdfork.plugin import ConfigError


def of(kind: Kind) -> dict[str, str]:
    return dict(absent.PLUGINS if kind is PLUGIN else absent.FILTERS)


@pytest.mark.parametrize("kind", [PLUGIN, FILTER], ids=lambda kind: kind.word)
def test_what_is_there_is_not_called_absent(kind: Kind) -> None:
    assert not of(kind).keys() & set(load.available(kind))


@pytest.mark.parametrize("kind", [PLUGIN, FILTER], ids=lambda kind: kind.word)
def test_what_takes_its_place_is_there(kind: Kind) -> None:
    options = {name for option in TABLE for name in option.names}
    for instead in of(kind).values():
        assert set(re.findall(r"(?<=\bthe )[a-z0-9]+(?= plugin)", instead)) <= {
            *load.available(PLUGIN)
        }
        assert set(re.findall(r"(?<=--filter=)[a-z0-9]+", instead)) <= {*load.available(FILTER)}
        assert set(re.findall(r"(?<![a-z])--?[a-z][a-z-]*", instead)) <= options


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (FILTER, "indexed-gzip", "there is no filter 'indexed-gzip'. nbdkit has it"),
        (FILTER, "indexed-gzip", "nbdfork has not; instead: --filter=gzip keeps such an index"),
        (PLUGIN, "gcs", "nbdfork has not; instead: the fsspec plugin"),
        (PLUGIN, "cow", "There is a filter of this name: --filter=cow."),
        (PLUGIN, "gzpi", "Did you mean 'gzip'?"),
        (PLUGIN, "indexed-gzip", "there is no plugin 'indexed-gzip'. The plugins are"),
    ],
)
def test_a_name_that_others_have(kind: Kind, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load.find(name, kind)
    assert message in str(caught.value)


def test_a_disk_in_place_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my disk.img").touch()
    Path("images").mkdir()
    for given, command in {
        "my disk.img": "nbdfork file 'my disk.img'",
        "./my disk.img": "nbdfork file './my disk.img'",
        "images": "nbdfork file dir=images",
        "./images": "nbdfork file dir=./images",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load.find(given)
        assert f"Did you mean: {command}?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"is not a file$"):
        load.find("./nothing")
    with pytest.raises(ConfigError, match=r"The filters are:|is not a Python file"):
        load.find("my disk.img", FILTER)


def test_a_filter_in_c_is_called_one() -> None:
    with pytest.raises(ConfigError, match="nbdkit's, in C: nbdfork runs nbdkit's plugins, but"):
        load.find("/usr/lib/nbdkit/filters/nbdkit-cow-filter.so", FILTER)


@pytest.mark.parametrize(
    ("layer", "key", "text"),
    [
        ("tmpdisk", "label", "nbdkit has it, nbdfork has not."),
        ("blocksize", "maxlen", "nbdkit has it, nbdfork has not."),
        ("mine", "luks-key", ""),
        ("mine", "passphrase", "nbdkit's filter luks takes it"),
    ],
)
def test_a_key_that_nbdkit_has(layer: str, key: str, text: str) -> None:
    said = absent.explanation_of_key(layer, key)
    assert said.startswith(text) if text else not said
    assert text in str(unknown(layer, key, "x", ["size"]))
