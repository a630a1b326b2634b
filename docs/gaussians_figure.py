"""Draw the table of `tesserae study gaussians` in docs/benchmarks.md as a figure.

Run as a program, this file writes docs/pictures/gaussians.svg, which docs/from-gan-to-wgan.md
shows. A test compares the file with the table.
"""

from __future__ import annotations

import re
from pathlib import Path

from workflows.reports.figures import Point, point_figure, svg

DOCS = Path(__file__).resolve().parent
PICTURE = DOCS / "pictures" / "gaussians.svg"
"""The figure."""
SERIES = {
    "uniform noise": "no network",
    "one Gaussian of the same mean and spread": "no network",
    "real data": "no network",
    "`wgan`, paper": "wgan",
    "`wgan-gp`, paper": "wgan-gp",
    "`dcgan`, paper": "dcgan",
    "`lsgan`, paper": "lsgan",
    "`hinge`, paper": "hinge",
}
"""The series of each drawn row of the table, by the beginning of its first cell."""
LABELS = {"uniform noise": "noise", "one Gaussian": "one Gaussian", "real data": "real data"}
"""The label of each control, by the beginning of its first cell."""


def drawing() -> str:
    """Return the figure as the text of an SVG file."""
    table = (DOCS / "benchmarks.md").read_text().split("`tesserae study gaussians`", 1)[1]
    series: dict[str, list[Point]] = {}
    for line in table.split("\n\n")[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = next((name for key, name in SERIES.items() if cells[0].startswith(key)), None)
        if name is None:
            continue
        label = next((text for key, text in LABELS.items() if cells[0].startswith(key)), "")
        shares, distances = (re.findall(r"\d+\.\d+", cell) for cell in cells[2:4])
        for share, distance in zip(shares, distances, strict=True):
            point = Point(x=float(share), y=float(distance), label=label)
            series.setdefault(name, []).append(point)
    figure = point_figure(
        "25 Gaussians: points on a mode, and their distance to the data", series,
        across="points within 3 standard deviations of a mode, %",
        upwards="sliced Wasserstein distance to the data; each dot is a seed",
    )  # fmt: skip
    return svg(figure)


if __name__ == "__main__":
    PICTURE.write_text(drawing())
