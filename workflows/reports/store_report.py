"""The report at the end of a run, printed to the terminal and written as `report.html`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.order import row_order
from pipeline.store import arrays, layout, records
from pipeline.store.encoded_plan import ASPECT
from pipeline.store.encoding import ORIGINAL
from pipeline.store.lease import lease
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from workflows.reports.encoded_images import EncodedImages
from workflows.reports.images import encode_jpeg
from workflows.reports.quarantine import by_reason
from workflows.reports.store_info import describe_store
from workflows.reports.store_model import (
    ImageGrid,
    Quarantined,
    ReportModel,
    RunReport,
    SplitReport,
)
from workflows.reports.store_page import render_report, terminal_summary

GRID_PIXELS = 288 * 4
"""The width in pixels that decides how many images of an array a grid shows, in two lines."""

MAX_STRIP_PIXELS = 192
"""The largest height in pixels at which encoded rows are shown."""

MAX_GRID_IMAGES = 24


RUN = ".report"
"""The name of the report's lease and temporary files; no split can have it."""


def report_store(store: str, runs: dict[str, RunReport], *, notice: str = "") -> None:
    """Print a summary of the store, and write its report to `STORE/report.html`.

    A report that another command is writing is waited for. An earlier report is replaced.

    Args:
        store: Path or URL of the store.
        runs: The totals of the command's run, by split, such as `{"train": RunReport(num_rows=9,
            seconds=1.5)}`; splits without an entry had nothing to do, and an empty dictionary is
            valid.
        notice: A notice that is shown before all figures (default: none).

    Raises:
        StoreError: There is no store, its recipe is damaged, a document or chunk of the encoded
            rows that the report shows is damaged, or the store cannot be written.
        ValueError: A chunk of an image, a label or a status that the report shows is damaged.
    """
    objects = open_objects(store, f"{RUN}-{uuid.uuid4().hex}")
    model = collect_report(objects, runs, notice)
    for line in terminal_summary(model):
        print(line)
    with lease(objects, RUN, wait=True):  # two commands may finish different splits together
        objects.begin()
        try:
            objects.put(layout.REPORT, render_report(model).encode())
        finally:
            objects.end()
    print(f"report: {objects.url}/{layout.REPORT}", flush=True)


def collect_report(objects: Objects, runs: dict[str, RunReport], notice: str) -> ReportModel:
    """Collect the data of a store's report, with a sample of its images.

    Nothing is written.

    Args:
        objects: The objects of the store, from `open_objects(STORE)` of `pipeline.store.open`.
        runs: The totals of the command's run, by split, such as `{"train": RunReport(num_rows=9,
            seconds=1.5)}`; a split without an entry gets none.
        notice: A notice that is shown before all figures; empty for none.

    Returns:
        The plain values of the report, for `store_page`: the counts, bytes and last run of each
        split, the recipe, the quarantined rows, and grids of stored images with their classes. A
        split of which neither the plan nor its copy can be read is left out.

    Raises:
        StoreError: There is no store, its recipe is damaged, or a document or chunk of the encoded
            rows that the report shows is.
        ValueError: A chunk of an image, a label or a status that the report shows is damaged.
    """
    facts = describe_store(objects)
    splits = {name: split for name, split in facts["splits"].items() if split["rows"] is not None}
    records.load_recipe(objects)  # raises the error that says why the facts would have no recipe
    recipe = facts["recipe"]
    names = ("fit", "filter", "shard_rows", "chunk_rows", "codec")
    return ReportModel(
        store=objects.url,
        num_classes=recipe["classes"],
        splits=tuple(_split(name, split, runs) for name, split in splits.items()),
        recipe={name.replace("_", " "): str(recipe[name]) for name in names},
        versions={**recipe["software"], **_encoder(splits)},
        quarantined=tuple(_quarantined(splits)),
        image_grids=tuple(_image_grids(objects, splits)),
        notice=notice,
        written_at=time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )


def _split(name: str, split_facts: dict[str, Any], runs: dict[str, RunReport]) -> SplitReport:
    return SplitReport(
        name=name,
        num_rows=split_facts["rows"],
        finished=split_facts["finished"],
        counts=split_facts["counts"],
        array_bytes={
            array: facts["num_bytes"]
            for array, facts in {**split_facts["sizes"], **split_facts["encoded"]}.items()
        },
        run=runs.get(name),
        examples=tuple(by_reason(split_facts["quarantine"])),
        remarks=tuple(by_reason(split_facts["remarks"])),
    )


def _encoder(splits: dict[str, Any]) -> dict[str, str]:
    """Return the software that encoded rows, in words, as `encoder`; nothing without such rows."""
    arrays = (array for split in splits.values() for array in split["encoded"].values())
    encoders = sorted({array["encoder"] for array in arrays if array["encoder"] is not None})
    return {"encoder": "; ".join(encoders)} if encoders else {}


def _quarantined(splits: dict[str, Any]) -> Iterator[Quarantined]:
    for name, split in splits.items():
        for line in split["quarantine"]:
            yield Quarantined(name, line["row"], line["key"], line["word"], line["reason"])


def _image_grids(objects: Objects, splits: dict[str, Any]) -> Iterator[ImageGrid]:
    classes = records.load_recipe(objects).classes
    for name, split in splits.items():
        if not split["finished"]:
            continue
        rows = _shown_rows(objects, name, split["rows"])
        labels = _labels(objects, name, rows, classes)
        captioned = list(zip(labels, rows, strict=True))
        stored = [*map(str, split["sizes_finished"]), *split["encoded_finished"]]
        # Source files have the pictures of the other arrays, so they are shown only without these.
        for array in [array for array in stored if array != ORIGINAL] or stored:
            grid = _squares if array.isdecimal() else _strip
            image_grid = grid(objects, name, array, captioned)
            if image_grid.images:
                yield image_grid


def _squares(
    objects: Objects, split: str, array: str, captioned: Sequence[tuple[str, int]]
) -> ImageGrid:
    """Return the grid of an array of pixels, from rows with captions."""
    size = int(array)
    images = tuple(
        (label, encode_jpeg(arrays.read_pixel_rows(objects, split, size, row, row + 1)[0]))
        for label, row in captioned[: _images_in_grid(size)]
    )
    return ImageGrid(split, array, size, images)


def _strip(
    objects: Objects, split: str, array: str, captioned: Sequence[tuple[str, int]]
) -> ImageGrid:
    """Return the grid of an encoded array, from rows with captions; what is no image is skipped."""
    rows = EncodedImages.open(objects, records.load_plan(objects, split), array)
    height = min(rows.encoding.short_side or MAX_STRIP_PIXELS, MAX_STRIP_PIXELS)
    selected = captioned[: _images_in_grid(round(height * ASPECT))]
    files = [(label, rows.page_image(row, height)) for label, row in selected]
    images = tuple((label, file) for label, file in files if file is not None)
    return ImageGrid(split, array, height, images)


def _images_in_grid(width: int) -> int:
    return min(MAX_GRID_IMAGES, max(1, (GRID_PIXELS // width) * 2))


def _shown_rows(objects: Objects, split: str, num_rows: int) -> list[int]:
    # Rows are stored in random order, so a permutation of the first ones is a fair sample.
    status = arrays.read_small(objects, split, "status")
    order = row_order(min(num_rows, 10_000), seed=0)
    return [int(row) for row in order[: 10 * MAX_GRID_IMAGES] if status[row] == 0][:MAX_GRID_IMAGES]


def _labels(
    objects: Objects, split: str, rows: Sequence[int], classes: Sequence[tuple[str, str]]
) -> list[str]:
    labels = arrays.read_small(objects, split, "label")
    return [
        (classes[label][1].partition(",")[0] or classes[label][0]) if label >= 0 else "no class"
        for label in labels[list(rows)].tolist()
    ]
