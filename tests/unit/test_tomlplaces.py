"""Where keys stand in a TOML document: the same keys that tomllib finds, each on its line."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbdfork.tomlplaces import Path, lines

KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True),
    st.sampled_from(['"a.b"', "'c d'", '"\\u00e9"', '""']),
)
SCALARS = st.sampled_from(
    [
        *("1", "-2.5", "true", "inf", "1979-05-27 07:32:00", "0x1f"),
        *('"a # [b] \\" = {"', "'c \\'", '"""\nx = 1\n"" \\""""""', "'''\n[t]\n'' '''''", '""'),
    ]
)
SPACES = st.sampled_from(["", " ", "\n", " # ] } x = 1\n", "\n\n\t"])


@st.composite
def arrays(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    inside = [draw(SPACES) + value + draw(SPACES) for value in draw(st.lists(values, max_size=3))]
    end = draw(st.sampled_from(["", ","])) if inside else ""
    return f"[{','.join(inside)}{end}{draw(SPACES)}]"


@st.composite
def inline_tables(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    keys = draw(st.lists(KEYS, max_size=3, unique=True))
    return "{" + ", ".join(f"{key} = {draw(values)}" for key in keys) + " }"


VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=6)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(" . ".join)
STATEMENTS = st.one_of(
    st.tuples(DOTTED, VALUES).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    DOTTED.map(lambda key: f"[{key}]"),
    DOTTED.map(lambda key: f"[[ {key} ]] # [x]"),
    st.sampled_from(["", "  # x = 1"]),
)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of all values in *value*."""
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for key, one in inside:
        yield (*path, key)
        yield from paths(one, (*path, key))


@given(st.lists(STATEMENTS, max_size=12))
def test_every_key_has_a_line_and_nothing_else_has(statements: list[str]) -> None:
    kept: list[str] = []
    for statement in statements:  # those that are TOML together
        try:
            tomllib.loads("\n".join([*kept, statement]))
        except tomllib.TOMLDecodeError:
            continue
        kept.append(statement)
    text = "\n".join(kept)
    found = lines(text)
    assert found.keys() == set(paths(tomllib.loads(text)))
    last = text.count("\n") + 1
    assert all(1 <= line <= last for line in found.values())


TEXT = """\
# a comment
top = 1
[server]
allow = [
  "one",   # its line
  "two",
]

[[export]]
name = '''
three lines'''
plugin = "x"
a.b = { c = 1,  "d" = [2] }
[[export]]
"quoted key" = 1
  [export.parameters]
  size = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("server",), 3),
        (("server", "allow"), 4),
        (("server", "allow", 1), 6),
        (("export", 0), 9),
        (("export", 0, "name"), 10),
        (("export", 0, "plugin"), 12),
        (("export", 0, "a", "b", "d", 0), 13),
        (("export", 1), 14),
        (("export", 1, "quoted key"), 15),
        (("export", 1, "parameters", "size"), 17),
    ],
    ids=str,
)
def test_the_line_is_where_the_key_stands(path: Path, line: int) -> None:
    assert lines(TEXT)[path] == line
