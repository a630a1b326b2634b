"""Building blocks of self-contained HTML pages: style, tables, bars and embedded images.

`text` escapes every text exactly once, where it enters the page. A page loads no external
resources, and its content security policy forbids it to.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workflows.terminal.formatting import printable

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbfa; --card: #fff; --ink: #1c1d20;
  --quiet: #63666d; --line: #e3e3df; --accent: #2f6f5e; --track: #ecece8; --warn: #9a4a12;
  --warn-ground: #fdf3e7; }
@media (prefers-color-scheme: dark) { :root { --ground: #16171a; --card: #1e2024; --ink: #e7e7e4;
  --quiet: #9b9ea6; --line: #32353b; --accent: #6fc3a9; --track: #2b2e34; --warn: #f0b37e;
  --warn-ground: #33271a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 72px; }
h1, h1.mono { font-size: 24px; line-height: 1.25; margin: 0; font-weight: 650; }
h2 { font-size: 17px; margin: 44px 0 12px; font-weight: 650; }
h3 { font-size: 14px; margin: 24px 0 8px; font-weight: 600; color: var(--quiet); }
p { margin: 6px 0; max-width: 75ch; } .quiet { color: var(--quiet); }
code, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.92em; overflow-wrap: anywhere; }
.notice { border-left: 3px solid var(--warn); background: var(--warn-ground); color: var(--ink);
  padding: 10px 14px; margin: 20px 0 0; border-radius: 0 6px 6px 0; max-width: none; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1px;
  margin: 24px 0 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; }
.facts div { box-shadow: 0 0 0 1px var(--line); padding: 12px 16px; }
.facts dt { color: var(--quiet); font-size: 13px; }
.facts dd { margin: 0; font-size: 21px; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts dd small { display: block; font-size: 13px; font-weight: 400; color: var(--quiet); }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; width: fit-content; min-width: min(560px, 100%); max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 16px; text-align: left; vertical-align: top; }
thead th { font-weight: 500; font-size: 13px; color: var(--quiet); white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr + tr td { border-top: 1px solid var(--line); }
.number { text-align: right; white-space: nowrap; }
.word { white-space: nowrap; }
.bar { width: 320px; min-width: 100px; vertical-align: middle; }
.bar i { display: block; height: 8px; border-radius: 4px; background: var(--track); }
.bar b { display: block; height: 8px; border-radius: 4px; background: var(--accent); }
.sheet { display: flex; flex-wrap: wrap; gap: 14px 10px; }
.sheet figure { margin: 0; }
.sheet i { display: block; border-radius: 3px; background-repeat: no-repeat;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.sheet figcaption { font-size: 12px; color: var(--quiet); line-height: 1.35; padding-top: 4px;
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
  overflow-wrap: anywhere; }
footer { margin-top: 56px; color: var(--quiet); font-size: 13px; }
"""
KINDS = {">": ' class="number"', "=": ' class="word"', "|": ' class="bar"'}
MIN_CAPTION_PIXELS = 72
"""The minimum width of a caption, so that words are not broken."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class ContactSheet:
    """Images of one size, tiled row by row in one JPEG."""

    size: int
    labels: tuple[str, ...]
    columns: int
    jpeg: bytes
    title: str = ""


def contact_sheet(
    images: NDArray[np.uint8], labels: Sequence[str], title: str = ""
) -> ContactSheet:
    """Tile *images* into one JPEG, at their own size.

    Args:
        images: The (n, size, size, 3) uint8 RGB images.
        labels: The n captions, shown as text below the images.
        title: The title of the sheet, e.g. the split (default: none).

    Raises:
        ValueError: The shape of *images* or the number of labels is wrong.
    """
    count, size = images.shape[:2]
    if images.ndim != 4 or images.shape[1:] != (size, size, 3) or count != len(labels):
        raise ValueError(
            f"a contact sheet of {len(labels)} labels needs images of shape ({len(labels)}, size,"
            f" size, 3), got {images.shape}."
        )
    columns = max(1, math.ceil(math.sqrt(count)))
    rows = max(1, -(-count // columns))
    grid = np.zeros((rows * columns, size, size, 3), np.uint8)
    grid[:count] = images
    sheet = grid.reshape(rows, columns, size, size, 3).swapaxes(1, 2)
    pixels = sheet.reshape(rows * size, columns * size, 3)
    return ContactSheet(size, tuple(labels), columns, encode_jpeg(pixels), title)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return (height, width, 3) uint8 RGB *pixels* as a JPEG of high quality.

    It looks like the original, and takes a quarter of the bytes of a PNG.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=95, subsampling=0)
    return file.getvalue()


def text(value: str) -> str:
    """Return *value* escaped for HTML, with control characters as visible escapes."""
    return html.escape(printable(value))


def code(value: str) -> str:
    """Return *value* escaped for HTML inside a `code` element."""
    return f"<code>{text(value)}</code>"


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """Return a complete HTML page.

    Args:
        title: The title of the page, as plain text.
        body: The parts of the body, as HTML.
        style: CSS that is added to `STYLE` (default: none).
    """
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>{STYLE}{style}</style></head><body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def facts(entries: Iterable[tuple[str, str, str]]) -> str:
    """Return large figures side by side, from plain-text (name, value, remark) entries."""
    cells = (
        f"<div><dt>{text(name)}</dt><dd>{text(value)}"
        f"{f'<small>{text(remark)}</small>' if remark else ''}</dd></div>"
        for name, value, remark in entries
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as HTML.

    Args:
        columns: The headings; `>name` aligns a column to the right, `=name` keeps its words on one
            line, and `|name` is a column of bars.
        rows: The cells of each row as HTML; data must have been escaped by `text`.
    """
    kinds = [KINDS.get(name[:1], "") for name in columns]
    head = "".join(
        f"<th{kind}>{text(name[1:] if kind else name)}</th>"
        for name, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{k}>{cell}</td>' for k, cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{inside}</table></div>'


def bar(share: float) -> str:
    """Return a horizontal bar that fills the fraction *share* of its cell, clipped to 0 to 1."""
    return f'<i><b style="width: {min(1.0, max(0.0, share)):.1%}"></b></i>'


def sheet_style(sheet: ContactSheet, name: str) -> str:
    """Return the CSS of the class *name*, which embeds the JPEG of a contact sheet once."""
    data = base64.b64encode(sheet.jpeg).decode("ascii")
    return (
        f".{name} figure {{ width: {max(sheet.size, MIN_CAPTION_PIXELS)}px; }}"
        f" .{name} i {{ width: {sheet.size}px; height: {sheet.size}px;"
        f" background-image: url(data:image/jpeg;base64,{data}); }}\n"
    )


def sheet_figures(sheet: ContactSheet, name: str) -> str:
    """Return the images of a contact sheet as HTML, each with its label below."""
    figures = []
    for index, label in enumerate(sheet.labels):
        row, column = divmod(index, sheet.columns)
        at = f"background-position: -{column * sheet.size}px -{row * sheet.size}px"
        figures.append(
            f'<figure><i role="img" aria-label="{text(label)}" style="{at}"></i>'
            f'<figcaption title="{text(label)}">{text(label)}</figcaption></figure>'
        )
    return f'<div class="sheet {name}">{"".join(figures)}</div>'
