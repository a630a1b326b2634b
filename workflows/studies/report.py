"""The report of a study: its answers, tables and figures, on the terminal and as a page."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cluster.limits import cores
from pipeline.installation import installed_version
from pipeline.memory import limit_bytes
from workflows.reports import html
from workflows.reports.figures import Figure, svg
from workflows.reports.table import Table
from workflows.terminal.formatting import bytes_text, printable
from workflows.training.writing import write

TEMPLATE = Path(__file__).with_name("templates") / "study.html"
"""The template of the page."""
PAGE_NAME = "report.html"
"""The name of the page in the folder of a study."""
VERSIONED = ("tesserae", "torch", "numpy", "transformers", "Pillow-SIMD", "pillow", "simplejpeg")
"""The packages whose versions the page names."""


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """The results of a study."""

    title: str
    """The title, such as `Crop, pad or squish`."""
    question: str
    """The question that the study answers, as a sentence."""
    answers: Sequence[str]
    """The answers to the question, each a sentence with its interval."""
    tables: Sequence[Table]
    """The tables, in the order in which they are printed."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """The figures by the name of their file, without `.svg`."""
    images: Sequence[tuple[str, bytes]] = ()
    """The images that the page shows, each as its caption and its PNG or JPEG file."""
    notes: Sequence[str] = ()
    """How it was measured: the data, the controls, and what settings were chosen by."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings that decide the results, as the folder has them."""


def publish(report: StudyReport, folder: Path) -> None:
    """Print the tables and answers of a study, and write its page and figures into its folder.

    They are `report.html`, which needs no other file, and an SVG file for each figure.

    Args:
        report: The results.
        folder: The folder, which exists.

    Raises:
        DiskFullError: The disk has no room for a file.
        OSError: A file cannot be written for another reason.
    """
    for table in report.tables:
        print(f"\n{printable(table.title)}")
        for line in table.lines():
            print(printable(line))
    print()
    for line in (*report.answers, *report.notes):
        print(printable(line))
    drawings = {name: svg(figure) for name, figure in report.figures.items()}
    for name, drawing in drawings.items():
        write(folder / f"{name}.svg", drawing.encode())
    page = html.render(
        TEMPLATE,
        title=report.title,
        report=report,
        # They come from a template that has escaped every text in them.
        drawings=[Markup(drawing) for drawing in drawings.values()],
        settings=[(name.replace("_", " "), _value_text(v)) for name, v in report.settings.items()],
        circumstances=list(circumstances()),
    )
    write(folder / PAGE_NAME, page.encode())
    print(f"report: {folder / PAGE_NAME}", flush=True)


def circumstances() -> Iterator[tuple[str, str]]:
    """Yield the names and values of what figures depend on: command, date, machine and versions."""
    yield "command", shlex.join(["tesserae", *sys.argv[1:]])
    yield "date", f"{datetime.now(UTC):%Y-%m-%d}"
    yield "machine", machine_text()
    yield "Python", platform.python_version()
    for package in VERSIONED:
        if installed := installed_version(package):
            yield package, installed


def machine_text(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the machine in a line: its processor, and the cores and memory that are available.

    Args:
        cpuinfo: The file that names the processor (default: that of Linux).
    """
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        model = None
    processor = platform.machine() if model is None else model[1]
    return f"{processor}, {cores()} cores, {bytes_text(limit_bytes())} of memory"


def _value_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
