"""Draw the rooms of the code and the imports between them, from the code itself.

MkDocs calls `on_page_content` as a hook (`mkdocs.yml`). It puts the drawing in the place of
`<div id="rooms"></div>`, so the drawing on the page of the architecture cannot differ from the
imports. Run as a program, this file prints the drawing as a page of HTML.

Each package is a panel. A room stands in a row above all rooms that it imports, and the import
contracts of `pyproject.toml` order the rows further. Rooms that import each other share a box. Two
kinds of arrows are left out, because there would be too many to read: those that follow from other
arrows, and those to the bottom row of a panel.
"""

from __future__ import annotations

import ast
import functools
import itertools
import random
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

MARKER = '<div id="rooms"></div>'
"""The element of a page that the drawing replaces."""

TITLES = {
    "workflows": "what you run",
    "pipeline": "the data path",
    "cluster": "where it runs",
}
"""The purpose of each package, by its name, in the order of the panels."""

CHARACTER_WIDTH, LINE_HEIGHT = 6.7, 15
"""Size of a character of a room's name in pixels, for the font in `STYLE`."""

MARGIN, HEADING_HEIGHT, ROW_GAP, POINT_GAP, PANEL_GAP = 12, 34, 30, 10, 28
"""Distances in pixels. An arrow that passes a row keeps `POINT_GAP` from boxes and arrows."""

TRIES, SWEEPS, CROSSING = 60, 16, 80
"""How many first orders are tried, how often the boxes of each are moved downwards or upwards, and
how many pixels of detour one crossing less is worth."""

STYLE = """
.rooms { display: block; width: 100%; margin: 1.5em auto; }
.rooms-wide { max-width: 780px; }
.rooms-narrow { max-width: 400px; display: none; }
@media screen and (max-width: 640px) {
  .rooms-wide { display: none; }
  .rooms-narrow { display: block; }
}
.rooms text { font: 11px monospace; fill: var(--md-default-fg-color, #222); text-anchor: middle; }
.rooms .rooms-title { font: bold 13px sans-serif; text-anchor: start; }
.rooms .rooms-purpose { font-weight: normal; fill: var(--md-default-fg-color--light, #666); }
.rooms rect { fill: var(--md-default-bg-color, #fff); stroke: var(--md-typeset-a-color, #46a); }
.rooms .rooms-panel { fill: var(--md-code-bg-color, #f4f4f4); stroke: none; }
.rooms .rooms-bottom { stroke: var(--md-default-fg-color--lighter, #bbb); }
.rooms path { fill: none; stroke: var(--md-default-fg-color--light, #666); }
.rooms .rooms-package { stroke-width: 2.5; }
.rooms marker path { fill: var(--md-default-fg-color--light, #666); stroke: none; }
"""
"""The colours are those of the theme, so they follow its change between light and dark."""

Room = str
Group = tuple[str, ...]
"""The names of a room and of those with which it forms a circle of imports; mostly one name."""


def on_page_content(content: str, **_: Any) -> str:
    """Return the HTML of a page with the drawing in place of the marker. MkDocs calls this."""
    return content.replace(MARKER, drawing()) if MARKER in content else content


def drawing() -> str:
    """Return the drawing as HTML: the variant for wide and the one for narrow screens."""
    return f"<style>{STYLE}</style>{_wide()}{_narrow()}"


def imports(package: str) -> dict[Room, set[Room]]:
    """Return which rooms of a package each of its rooms imports, at the top or within functions.

    A room is a folder or a module directly in the package.
    """
    edges: dict[Room, set[Room]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if not room.startswith("__"):
            names = [name.split(".") for name in _imported_names(path.read_text(encoding="utf-8"))]
            edges.setdefault(room, set()).update(
                parts[1] for parts in names if parts[0] == package and len(parts) > 1
            )
    return {room: targets & edges.keys() - {room} for room, targets in edges.items()}


@functools.cache
def _imported_names(source: str) -> tuple[str, ...]:
    """Return the dotted names of the modules that a source text imports, and of what it takes."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def contract_layers(package: str) -> list[list[Room]]:
    """Return the rooms of a package in the layers of its import contract, the upper ones first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in settings["tool"]["importlinter"]["contracts"]:
        container = contract.get("containers", [""])[0]
        layers = [
            [f"{container}.{room}".strip(".") for room in layer.split(" | ")]
            for layer in contract.get("layers", [])
        ]
        if layers and all(room.startswith(f"{package}.") for layer in layers for room in layer):
            return [[room.removeprefix(f"{package}.") for room in layer] for layer in layers]
    return []


def rows_and_arrows(package: str) -> tuple[list[list[Group]], dict[Group, set[Group]]]:
    """Return the rows of a package, the top row first, and the arrows that are drawn.

    A group stands one row below the lowest of those that import it or that the contract puts above
    it.
    """
    edges = imports(package)
    reached = _reachable(edges)
    groups = {
        room: tuple(o for o in edges if o == room or (o in reached[room] and room in reached[o]))
        for room in edges
    }
    imported: dict[Group, set[Group]] = {group: set() for group in groups.values()}
    for room, targets in edges.items():
        imported[groups[room]] |= {groups[target] for target in targets} - {groups[room]}
    below = {group: set(targets) for group, targets in imported.items()}
    for upper, lower in itertools.pairwise(contract_layers(package)):
        for room in upper:
            below[groups[room]] |= {groups[other] for other in lower}
    rows: list[list[Group]] = []
    while below:
        lower = set().union(*below.values())
        rows.append(sorted(below.keys() - lower))
        if not rows[-1]:
            raise ValueError(f"imports within {package} break its contract; run `make lint`")
        for group in rows[-1]:
            del below[group]
    far = _reachable(imported)
    arrows = {
        group: {
            target
            for target in targets
            if target not in rows[-1] and not any(target in far[other] for other in targets)
        }
        for group, targets in imported.items()
    }
    return rows, arrows


def _reachable(edges: dict[Any, set[Any]]) -> dict[Any, set[Any]]:
    """Return what each key reaches along the edges, through any number of others."""
    reached = {key: set(targets) for key, targets in edges.items()}
    for through in edges:
        for targets in reached.values():
            if through in targets:
                targets |= reached[through]
    return reached


@dataclass(eq=False)
class Box:
    """A box that shows names; without names, a point where an arrow passes a row."""

    names: Group
    above: list[Box] = field(default_factory=list)
    """The boxes from which arrows come, in the next row above."""
    below: list[Box] = field(default_factory=list)
    """The boxes to which arrows lead, in the next row below."""
    x: float = 0.0
    """Centre in pixels."""
    y: float = 0.0
    """Upper edge in pixels."""

    def __post_init__(self) -> None:
        self.width = max((len(name) * CHARACTER_WIDTH + 10 for name in self.names), default=2.0)
        self.height = len(self.names) * LINE_HEIGHT + 9.0


class Panel:
    """The rows of one package, with a position for each box.

    Args:
        package: Name of the package.
        left, top, width: Position and width in pixels; `height` follows from the rows.
        gap: Smallest distance in pixels between neighbouring boxes.
    """

    def __init__(self, package: str, left: float, top: float, width: float, gap: float) -> None:
        self.package, self.left, self.top, self.width, self.gap = package, left, top, width, gap
        rows, arrows = rows_and_arrows(package)
        self.rows = [[Box(group) for group in row] for row in rows]
        levels = {group: level for level, row in enumerate(rows) for group in row}
        boxes = {box.names: box for row in self.rows for box in row}
        for group, targets in sorted(arrows.items()):
            for target in sorted(targets):
                between = self.rows[levels[group] + 1 : levels[target]]
                _connect(boxes[group], boxes[target], between)
        y = top + HEADING_HEIGHT
        for row in self.rows:
            height = max(box.height for box in row)
            for box in row:
                box.height = box.height if box.names else height
                box.y = y + (height - box.height) / 2
            y += height + ROW_GAP
        self.height = y - ROW_GAP + MARGIN - top
        seeds = range(TRIES)
        self._arrange(min(seeds, key=self._arrange))

    def _arrange(self, seed: int) -> float:
        """Place the boxes, beginning with an order that *seed* draws; return how bad the result is.

        Boxes move to the middle between those to which arrows lead. Bad are crossings and long
        ways to the side.
        """
        draws = random.Random(seed)
        for row in self.rows:
            draws.shuffle(row)
            for rank, box in enumerate(row):
                box.x = self.left + self.width * (rank + 0.5) / len(row)
        for sweep in range(SWEEPS):
            for row in self.rows if sweep % 2 else reversed(self.rows):
                for box in row:
                    connected = box.above + box.below
                    if connected:
                        box.x = sum(other.x for other in connected) / len(connected)
                row.sort(key=lambda box: box.x)
                self._separate(row)
        badness = 0.0
        for row in self.rows:
            arrows = [(box.x, target.x) for box in row for target in box.below]
            badness += sum(abs(start - end) for start, end in arrows)
            badness += CROSSING * sum(
                (start - other_start) * (end - other_end) < 0
                for (start, end), (other_start, other_end) in itertools.combinations(arrows, 2)
            )
        return badness

    def _separate(self, row: list[Box]) -> None:
        """Move the boxes of a row apart where they overlap, and into the panel."""
        distances = [
            (box.width + following.width) / 2
            + (self.gap if box.names and following.names else POINT_GAP)
            for box, following in itertools.pairwise(row)
        ]
        offsets = list(itertools.accumulate(distances, initial=0.0))
        # A row without overlaps is one in which these numbers do not decrease.
        free = [box.x - offset for box, offset in zip(row, offsets, strict=True)]
        pushed_right = itertools.accumulate(free, max)
        pushed_left = reversed(list(itertools.accumulate(reversed(free), min)))
        first = self.left + MARGIN + row[0].width / 2
        last = self.left + self.width - MARGIN - row[-1].width / 2 - offsets[-1]
        for box, offset, *sides in zip(row, offsets, pushed_right, pushed_left, strict=True):
            box.x = offset + max(first, min(last, sum(sides) / 2))

    def svg(self, head: str) -> str:
        """Return the elements of the panel; *head* is the id of the marker at the end of arrows."""
        boxes = [box for row in self.rows for box in row if box.names]
        return "".join(
            [
                f'<rect class="rooms-panel" x="{self.left}" y="{self.top:.0f}" '
                f'width="{self.width}" height="{self.height:.0f}" rx="6"/>',
                f'<text class="rooms-title" x="{self.left + MARGIN}" y="{self.top + 21:.0f}">'
                f'{self.package} <tspan class="rooms-purpose">{TITLES[self.package]}</tspan>'
                "</text>",
                *(
                    f'<path d="{path}" marker-end="url(#{head})"/>'
                    for box in boxes
                    for path in _arrows(box)
                ),
                *(_text_box(box, "rooms-bottom" if box in self.rows[-1] else "") for box in boxes),
            ]
        )


def _text_box(box: Box, style: str) -> str:
    """Return the elements of a box and its names; *style* is its class in the style sheet."""
    lines = "".join(
        f'<text x="{box.x:.1f}" y="{box.y + LINE_HEIGHT * (line + 1):.1f}">{name}</text>'
        for line, name in enumerate(box.names)
    )
    return (
        f'<rect class="{style}" x="{box.x - box.width / 2:.1f}" y="{box.y:.1f}" '
        f'width="{box.width:.1f}" height="{box.height}" rx="4"/>{lines}'
    )


def _arrows(box: Box) -> Iterator[str]:
    """Yield the arrows that leave a box, as data of paths through the points that each passes."""
    for target in box.below:
        previous, following = box, target
        x = _port(box, target, box.below)
        path = f"M{x:.1f} {box.y + box.height:.1f}"
        while True:
            y = previous.y + previous.height
            end = _port(following, previous, following.above)
            middle = (y + following.y) / 2
            path += (
                f"V{y:.1f}C{x:.1f} {middle:.1f} {end:.1f} {middle:.1f} {end:.1f} {following.y:.1f}"
            )
            if following.names:
                break
            previous, following, x = following, following.below[0], end
        yield path


def _connect(box: Box, target: Box, between: list[list[Box]]) -> None:
    """Add an arrow with a point in each row that it passes, so that boxes keep clear of it."""
    for row in between:
        point = Box(())
        row.append(point)
        box.below.append(point)
        point.above.append(box)
        box = point
    box.below.append(target)
    target.above.append(box)


def _port(box: Box, other: Box, connected: list[Box]) -> float:
    """Return where on the edge of a box its arrow to or from another one begins or ends."""
    rank = sorted(connected, key=lambda box: box.x).index(other)
    step = min(9.0, box.width / (len(connected) + 1))
    return box.x + (rank - (len(connected) - 1) / 2) * step


def _wide() -> str:
    """Return the variant with pipeline and cluster side by side."""
    upper = Panel("workflows", 0, 0, 690, gap=34)
    top = upper.height + PANEL_GAP
    lower = [Panel("pipeline", 0, top, 370, gap=14), Panel("cluster", 380, top, 310, gap=14)]
    for panel in lower:
        panel.height = max(other.height for other in lower)
    arrows = [f"M{panel.left + panel.width / 2} {upper.height}V{top}" for panel in lower]
    return _svg("rooms-wide", 690, [upper, *lower], arrows)


def _narrow() -> str:
    """Return the variant with one panel below the other; an arrow passes pipeline on the right."""
    upper = Panel("workflows", 0, 0, 352, gap=10)
    middle = Panel("pipeline", 0, upper.height + PANEL_GAP, 352, gap=10)
    lower = Panel("cluster", 0, middle.top + middle.height + PANEL_GAP, 352, gap=14)
    arrows = [
        f"M176 {upper.height}V{middle.top}",
        f"M352 {upper.height - 20}H362V{lower.top + 20}H352",
    ]
    return _svg("rooms-narrow", 368, [upper, middle, lower], arrows)


def _svg(name: str, width: int, panels: list[Panel], arrows: list[str]) -> str:
    """Return a drawing of panels, with arrows between them, each given as the data of a path."""
    head = f"{name}-head"
    lines = "".join(
        f'<path class="rooms-package" d="{arrow}" marker-end="url(#{head})"/>' for arrow in arrows
    )
    return (
        f'<svg class="rooms {name}" viewBox="0 0 {width} {panels[-1].top + panels[-1].height:.0f}" '
        f'role="img" aria-label="The rooms of the code and their imports">'
        f'<marker id="{head}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
        f"{''.join(panel.svg(head) for panel in panels)}{lines}</svg>"
    )


if __name__ == "__main__":
    sys.stdout.write(f"<!doctype html><title>Rooms</title>{drawing()}")
