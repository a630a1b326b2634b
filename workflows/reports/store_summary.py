"""What a run did and what the store holds now: in the terminal, and as `report.html`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.order import row_order
from pipeline.store import arrays, layout, records
from pipeline.store.lease import lease
from pipeline.store.objects import Objects, open_objects
from workflows.preparation.quarantine import by_reason
from workflows.reports.html import ContactSheet, contact_sheet
from workflows.reports.store import render_report, terminal_summary
from workflows.reports.store_facts import describe
from workflows.reports.store_model import Quarantined, ReportModel, RunReport, SplitReport

SHEET_PIXELS = 288 * 4
"""A contact sheet has as many pictures of a size as fit side by side into this."""

SHEET_PICTURES = 24


RUN = ".report"
"""Names the report's temp files, as no split can be named."""


def report_store(store: str, runs: dict[str, RunReport], *, notice: str = "") -> None:
    """Say in the terminal what is there now, and write the store's report.

    Args:
        store: Path or URL of the store.
        runs: What the command did, by split.
        notice: What a reader must know before any figure.
    """
    objects = open_objects(store, f"{RUN}-{uuid.uuid4().hex}")
    model = make_model(objects, runs, notice)
    for line in terminal_summary(model):
        print(line)
    with lease(objects, RUN, wait=True):  # two splits may be ready at the same time
        objects.begin()
        try:
            objects.put(layout.REPORT, render_report(model).encode())
        finally:
            objects.end()
    print(f"report: {objects.url}/{layout.REPORT}", flush=True)


def make_model(objects: Objects, runs: dict[str, RunReport], notice: str) -> ReportModel:
    """Gather what a report shows."""
    facts = describe(objects)
    recipe = facts["recipe"]
    names = ("fit", "filter", "shard_rows", "chunk_rows", "codec")
    return ReportModel(
        store=objects.url,
        num_classes=recipe["classes"],
        splits=tuple(_split(name, what, runs) for name, what in facts["splits"].items()),
        recipe={name.replace("_", " "): str(recipe[name]) for name in names},
        versions=recipe["software"],
        quarantined=tuple(_quarantined(facts["splits"])),
        sheets=tuple(_sheets(objects, facts["splits"])),
        notice=notice,
        made_at=time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )


def _split(name: str, what: dict[str, Any], runs: dict[str, RunReport]) -> SplitReport:
    return SplitReport(
        name=name,
        num_rows=what["rows"],
        finished=what["finished"],
        counts=what["counts"],
        bytes_by_size={int(size): kept["num_bytes"] for size, kept in what["sizes"].items()},
        run=runs.get(name),
        examples=tuple(by_reason(what["quarantine"])),
        remarks=tuple(by_reason(what["remarks"])),
    )


def _quarantined(splits: dict[str, Any]) -> Iterator[Quarantined]:
    for name, what in splits.items():
        for line in what["quarantine"]:
            yield Quarantined(name, line["row"], line["key"], line["word"], line["reason"])


def _sheets(objects: Objects, splits: dict[str, Any]) -> Iterator[ContactSheet]:
    classes = records.load_recipe(objects).classes
    for name, what in splits.items():
        if not what["finished"]:
            continue
        rows = _shown_rows(objects, name, what["rows"])
        labels = _labels(objects, name, rows, classes)
        for size in what["sizes_finished"]:
            count = min(len(rows), SHEET_PICTURES, max(1, (SHEET_PIXELS // size) * 2))
            images = [arrays.read_rows(objects, name, size, row, row + 1) for row in rows[:count]]
            if images:
                yield contact_sheet(np.concatenate(images), labels[:count], name)


def _shown_rows(objects: Objects, split: str, num_rows: int) -> list[int]:
    # Rows are in random order already: the first readable ones of an order of them will do.
    status = arrays.read_small(objects, split, "status")
    order = row_order(min(num_rows, 10_000), seed=0)
    return [int(row) for row in order[: 10 * SHEET_PICTURES] if status[row] == 0][:SHEET_PICTURES]


def _labels(
    objects: Objects, split: str, rows: Sequence[int], classes: Sequence[tuple[str, str]]
) -> list[str]:
    labels = arrays.read_small(objects, split, "label")
    return [
        (classes[label][1].partition(",")[0] or classes[label][0]) if label >= 0 else "no class"
        for label in labels[list(rows)].tolist()
    ]
