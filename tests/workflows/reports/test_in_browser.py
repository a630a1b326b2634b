"""Tests of the reports in a real browser: they fit narrow screens, and can be read by everyone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.browser import contrast, emulated, images_without_text, page_width, rgb
from tests.workflows.reports.test_html import HOSTILE
from tests.workflows.reports.test_store_page import MODEL, bad_split, model, quarantine
from workflows.reports.images import encode_jpeg
from workflows.reports.store_model import ImageGrid
from workflows.reports.store_page import render_report
from workflows.reports.table import Table
from workflows.runs.report import render_run_page as render_run
from workflows.training.image_grid import grid_png
from workflows.training.run_folder import RunFolder

LONG = "n00000001/" + 40 * "very_long_name_" + ".JPEG"


def noise(size: int) -> NDArray[np.uint8]:
    """Return an image of *size* x *size* pixels."""
    return np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)


def store_page(folder: Path) -> str:
    """Return the report of a store with long, hostile names and images of two sizes."""
    image_grids = tuple(
        ImageGrid(
            "train",
            array,
            size,
            tuple((name, encode_jpeg(noise(size))) for name in (*HOSTILE, LONG)),
        )
        for array, size in (("32", 32), ("288", 288), ("jpeg256@90", 192))
    )
    keys = [*HOSTILE, LONG]
    splits = (*MODEL.splits, bad_split(len(keys)))
    return render_report(
        model(
            store=f"/{folder}/{LONG}",
            splits=splits,
            quarantined=quarantine(keys),
            image_grids=image_grids,
        )
    )


def run_page(folder: Path) -> str:
    """Return the report of a run with curves, samples, tables and images."""
    lines = [
        {
            "step": step,
            "generation": 1,
            "critic_loss": 1 / step,
            "estimate": -step * 1e5,
            LONG: 1,
            "generator_loss": -0.0042 - step * 1e-6,
        }
        for step in range(1, 300)
    ]
    lines += [{"what": "look", "step": 9, "generation": 1, "seen_hit1": 0.5, "seen_hit5": 0.75}]
    speed = {"images_per_second": 12_345.0, "wait_share": 0.02}
    lines += [{"what": "speed", "step": 9, "generation": 1, **speed}]
    lines += [{"what": "diverged", "step": 299, "generation": 1, "why": HOSTILE[1]}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    png = grid_png(np.stack([noise(64)] * 24))
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / "samples-000000009.png").write_bytes(png)
    columns = ["Class", *(f"hit@{k}" for k in range(1, 20))]
    table = Table("Classes", columns, [[name] + 19 * ["99.9"] for name in HOSTILE], ("Class",))
    evaluation: Any = SimpleNamespace(
        step=9,
        notice=HOSTILE[0],
        tables=[table],
        images=[(LONG, png)],
        metrics=lambda: iter([("distance", "0.5"), (LONG, LONG)]),
    )
    options = {"stage": "workflows.wgan.stage:Wgan", "steps": 300, "trunk": LONG}
    record = {"options": options, "data": {"store": LONG, "classes": list(HOSTILE)}, "versions": {}}
    return render_run(RunFolder(folder), record, evaluation)


Show = Callable[..., None]


@pytest.fixture(params=[store_page, run_page])
def show(request: pytest.FixtureRequest, chromium: Any, tmp_path: Path) -> Show:
    """Return a function that opens a report in the browser."""
    file = tmp_path / "report.html"
    file.write_text(request.param(tmp_path), encoding="utf-8")
    return lambda: chromium.get(file.as_uri())


def test_a_report_never_scrolls_sideways(show: Show, chromium: Any) -> None:
    """Wide tables and long names stay in their boxes, on a telephone and on a desk."""
    for width in (360, 400, 800, 1200):
        with emulated(chromium, width=width):
            show()
            assert page_width(chromium) <= width


def test_a_report_works_without_warnings(show: Show, chromium: Any) -> None:
    """All images are drawn and described, nothing violates the policy, and no name is run."""
    show()
    assert images_without_text(chromium) == []
    drawn = "return [...document.images].every(image => image.naturalWidth > 0)"
    assert chromium.execute_script(drawn)
    assert [entry["message"] for entry in chromium.get_log("browser")] == []
    text = chromium.find_element("tag name", "main").text
    for name in ("<script>alert(1)</script>", r"\x1b[31mred\x1b[0m\nnext", "{{ 7 * 6 }}"):
        assert name in text


def test_the_labels_of_an_axis_are_inside_the_chart(show: Show, chromium: Any) -> None:
    """The plotted area begins further right where the labels are long, such as -0.00425."""
    show()
    outside = """return [...document.querySelectorAll(".charts text")].filter(
        text => text.getBBox().x < 0).map(text => text.textContent)"""
    assert chromium.execute_script(outside) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_follows_the_colour_scheme(
    show: Show, chromium: Any, scheme: Literal["light", "dark"]
) -> None:
    """Text has a contrast of at least 4.5, and curves of at least 3, in both schemes."""
    with emulated(chromium, scheme=scheme):
        show()
        page, card = (rgb(chromium, name, "backgroundColor") for name in ("body", ".facts"))
        assert (sum(page) > 600) is (scheme == "light")
        for selector, ground, name, minimum in (
            ("body", page, "color", 4.5),
            (".quiet", page, "color", 4.5),
            ("h3", page, "color", 4.5),
            ("figcaption", page, "color", 4.5),
            (".pairs dt", page, "color", 4.5),
            (".facts dt", card, "color", 4.5),
            ("thead th", card, "color", 4.5),
            (".charts text", card, "fill", 4.5),
            *((f".curve-{n} polyline", card, "stroke", 3.0) for n in (1, 2)),
        ):
            if chromium.find_elements("css selector", selector):
                assert contrast(rgb(chromium, selector, name), ground) >= minimum, selector
