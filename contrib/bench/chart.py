"""The picture: a bar for each server in each cell, drawn as SVG by hand.

The bars of a cell are relative to the best of it, and the longer is the better, also where less
is better; the figures themselves stand beside the bars.
"""

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from contrib.bench.cells import GROUPS
from contrib.bench.report import Row, shown

WIDTH = 960
LEFT = 340
BAR = 400
"""The length of the longest bar."""

HEIGHT = 11
STEP = 13
GAP = 10
TITLE = 34

COLOURS = {
    "nbdfork": "#1b7837",
    "nbdfork class": "#7fbf7b",
    "nbdkit": "#2166ac",
    "qemu-nbd": "#b2182b",
    "nbd-server": "#e08214",
    "chroot nbdkit": "#67a9cf",
    "chroot qemu-nbd": "#ef8a62",
    "chroot nbd-server": "#fdb863",
    "limit": "#bdbdbd",
    "bare python": "#bdbdbd",
}
OTHER = "#757575"

STYLE = ".bold{font-weight:bold;font-size:13px}.unit,.value{fill:#555;font-size:9px}"


def svg(title: str, rows: Sequence[Row]) -> str:
    """Return the picture of all rows that have something to show."""
    body: list[str] = []
    top = 20 + TITLE
    for name, group in GROUPS.items():
        members = [row for row in rows if row.cell.group == name and _bars(row)]
        if not members:
            continue
        body.append(_text(16, top + 14, group.title, "bold"))
        top += TITLE - GAP
        for row in members:
            bars = _bars(row)
            body.append(_text(LEFT - 10, top + HEIGHT - 1, row.cell.name, anchor="end"))
            body.append(_text(LEFT - 10, top + HEIGHT + 11, _unit(row), "unit", anchor="end"))
            body.extend(_drawn(bars, top))
            top += STEP * max(2, len(bars)) + GAP
    return "\n".join([*_head(title, top + GAP), *body, "</svg>"]) + "\n"


def _bars(row: Row) -> list[tuple[str, float, float]]:
    """Return name, value and length (0 to 1) of each bar."""
    found = [(name, value) for name in row.columns if (value := row.median(name)) is not None]
    positive = [value for _, value in found if value > 0]
    if not positive:
        return []
    if row.cell.load.less_is_better:
        best = min(positive)
        return [(name, value, best / value if value > 0 else 1.0) for name, value in found]
    best = max(positive)
    return [(name, value, max(value, 0.0) / best) for name, value in found]


def _drawn(bars: Sequence[tuple[str, float, float]], top: float) -> Iterator[str]:
    for index, (name, value, length) in enumerate(bars):
        y = top + index * STEP
        colour = COLOURS.get(name, OTHER)
        width = max(1.0, length * BAR)
        yield f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{HEIGHT}" fill="{colour}"/>'
        yield _text(LEFT + width + 6, y + HEIGHT - 2, f"{name} {shown(value)}", "value")


def _unit(row: Row) -> str:
    load = row.cell.load
    return f"{load.unit} (less is better)" if load.less_is_better else load.unit


def _head(title: str, height: float) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">'
    )
    yield f"<style>{STYLE}</style>"
    yield f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    yield _text(16, 26, title, "bold")
    yield _text(16, 42, "Bars are relative to the best of each row; longer is better.", "unit")


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    of_class = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y}"{of_class} text-anchor="{anchor}">{escape(text)}</text>'
