"""The report of a store and its last run, as `report.html` and as lines for the terminal.

Callers fill a `ReportModel`, and this module renders it. Names that come from data may hold markup,
terminal escape sequences or newlines, so they are always escaped. The lines of `terminal_summary`
are plain text, to be printed without interpreting markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.filesystem import write_file
from workflows.preparation.quarantine import Reason
from workflows.reports.html import (
    ContactSheet,
    bar,
    code,
    contact_sheet,
    facts,
    page,
    sheet_figures,
    sheet_style,
    table,
    text,
)
from workflows.reports.store_model import Quarantined, ReportModel, RunReport, SplitReport
from workflows.terminal.formatting import (
    bytes_text,
    counted,
    per_second,
    printable,
    seconds_text,
    share_text,
)

MAX_NAMES_ON_PAGE = 1_000
MAX_NAMES_IN_TERMINAL = 10
MAX_REASONS_IN_TERMINAL = 8


def write_report(path: Path, model: ReportModel) -> None:
    """Write the HTML page to *path* atomically."""
    write_file(path, [render_report(model).encode()], durable=True)


def render_report(model: ReportModel) -> str:
    """Return the report as one self-contained HTML page."""
    names = [f"sheet{index}" for index in range(len(model.sheets))]
    style = "".join(map(sheet_style, model.sheets, names))
    body = [
        f'<p class="quiet">Tesserae store</p><h1 class="mono">{text(model.store)}</h1>',
        f'<p class="notice">{text(model.notice)}</p>' if model.notice else "",
        facts(_key_figures(model)),
        *_splits(model),
        *_runs(model),
        *_stages(model),
        *_quarantine(model),
        *_remarks(model),
        *_sheets(model, names),
        *_recipe_and_software(model),
    ]
    return page(f"{model.store} - Tesserae", filter(None, body), style)


def _key_figures(model: ReportModel) -> list[tuple[str, str, str]]:
    committed = sum(split.num_committed for split in model.splits)
    bad = sum(split.num_quarantined for split in model.splits)
    on_disk = sum(sum(split.bytes_by_size.values()) for split in model.splits)
    planned = sum(split.num_rows for split in model.splits)
    return [
        ("Rows", f"{committed:,}", "" if committed == planned else f"of {planned:,}"),
        ("Readable", f"{committed - bad:,}", share_text(committed - bad, committed)),
        ("Quarantined", f"{bad:,}", share_text(bad, committed) if bad else ""),
        ("Classes", f"{model.num_classes:,}", ""),
        ("Arrays on disk", bytes_text(on_disk), ""),
    ]


def _splits(model: ReportModel) -> list[str]:
    sizes = sorted({size for split in model.splits for size in split.bytes_by_size})
    columns = ["=Split", "=State", ">Rows", ">Readable", ">Quarantined"]
    columns += [f">{size} px on disk" for size in sizes]
    rows = (_split_row(split, sizes) for split in model.splits)
    return ["<h2>Splits</h2>", table(columns, rows)]


def _split_row(split: SplitReport, sizes: list[int]) -> list[str]:
    missing = split.num_rows - split.num_committed
    remaining = f"{missing:,} rows missing" if missing else "not finished"
    readable = split.num_committed - split.num_quarantined
    return [
        text(split.name),
        "finished" if split.finished else remaining,
        f"{split.num_committed:,}",
        f"{readable:,}",
        f"{split.num_quarantined:,}",
        *(_bytes(split.bytes_by_size.get(size)) for size in sizes),
    ]


def _runs(model: ReportModel) -> list[str]:
    rows = [_run_row(split.name, split.run) for split in model.splits if split.run is not None]
    columns = ["=Split", ">Rows", ">Time", ">Images/s", ">MB/s in", ">MB/s out", "=Slowest stage"]
    return ["<h2>This run</h2>", table(columns, rows)] if rows else []


def _run_row(name: str, run: RunReport) -> list[str]:
    return [
        text(name),
        f"{run.num_rows:,}",
        seconds_text(run.seconds),
        per_second(run.num_rows, run.seconds),
        per_second(run.bytes_in / 1e6, run.seconds),
        per_second(run.bytes_out / 1e6, run.seconds),
        text(run.slowest or "-"),
    ]


def _stages(model: ReportModel) -> list[str]:
    out = []
    for split in model.splits:
        run = split.run
        if run is None or run.slowest is None:
            continue
        spent = sum(run.stage_seconds.values())
        rows = [
            [text(stage), bar(_fraction(part, spent)), seconds_text(part), share_text(part, spent)]
            for stage, part in run.stage_seconds.items()
        ]
        out += [
            f"<h2>Time per stage: {text(split.name)}</h2>",
            f'<p class="quiet">{seconds_text(spent)} in total over all workers.</p>',
            table(["=Stage", "|", ">Time", ">Share"], rows),
        ]
    return out


def _quarantine(model: ReportModel) -> list[str]:
    bad = sum(split.num_quarantined for split in model.splits)
    if not bad:
        return ["<h2>Quarantine</h2>", '<p class="quiet">Every row is readable.</p>']
    reasons = [
        [text(split.name), text(why), f"{count:,}"]
        for split in model.splits
        for why, count in split.reasons
    ]
    listed = model.quarantined[:MAX_NAMES_ON_PAGE]
    names = [
        [text(row.split), f"{row.row:,}", code(row.key), text(row.status), text(row.reason)]
        for row in listed
    ]
    extent = "All rows" if len(listed) == bad else f"{len(listed):,} of {bad:,} rows"
    return [
        "<h2>Quarantine</h2>",
        '<p class="quiet">These rows are stored as zeros, and no loader returns them. The array'
        " <code>status</code> and the table identify them.</p>",
        table(["=Split", "=Reason", ">Rows"], reasons),
        *_reason_table(model, "examples"),
        f"<h3>{extent}, by key</h3>",
        table(["=Split", ">Row", "Key", "=Status", "Decoder message"], names),
    ]


def _reason_table(model: ReportModel, kind: str) -> list[str]:
    rows = [
        [text(split.name), text(r.status), text(r.reason), f"{r.num_rows:,}", code(r.key)]
        for split in model.splits
        for r in getattr(split, kind)
    ]
    columns = ["=Split", "=Status", "Decoder message", ">Rows", "Example"]
    return [table(columns, rows)] if rows else []


def _remarks(model: ReportModel) -> list[str]:
    rows = _reason_table(model, "remarks")
    return ["<h2>Readable rows with a remark</h2>", *rows] if rows else []


def _sheets(model: ReportModel, names: list[str]) -> list[str]:
    out = ["<h2>Stored images</h2>"] if model.sheets else []
    for sheet, name in zip(model.sheets, names, strict=True):
        title = f"{sheet.title}, {sheet.size} px" if sheet.title else f"{sheet.size} px"
        out += [f"<h3>{text(title)}</h3>", sheet_figures(sheet, name)]
    return out


def _recipe_and_software(model: ReportModel) -> list[str]:
    made_at = f"<footer>{text(model.made_at)}</footer>" if model.made_at else ""
    return [
        "<h2>Recipe</h2>",
        table(["=Parameter", "Value"], _pairs(model.recipe)),
        "<h2>Software</h2>",
        table(["=Software", "Version"], _pairs(model.versions)),
        made_at,
    ]


def _pairs(entries: Mapping[str, str]) -> Iterable[list[str]]:
    return ([text(name), code(value)] for name, value in entries.items())


def terminal_summary(model: ReportModel) -> list[str]:
    """Return the report as lines of plain text."""
    out = [f"{model.store}: {counted(model.num_classes, 'class', 'es')}"]
    if model.notice:
        out.append(f"  Note: {model.notice}")
    for split in model.splits:
        out += _split_lines(split)
    out += _quarantine_lines(model)
    out += [f"  recipe: {', '.join(f'{k} {v}' for k, v in model.recipe.items())}"]
    return [printable(line) for line in out]


def _split_lines(split: SplitReport) -> list[str]:
    state = "finished" if split.finished else "not finished"
    readable = split.num_committed - split.num_quarantined
    planned = "" if split.num_committed == split.num_rows else f" of {split.num_rows:,}"
    out = [
        f"  {split.name}: {state}, {split.num_committed:,}{planned} rows, {readable:,} readable,"
        f" {split.num_quarantined:,} quarantined"
    ]
    if split.reasons:
        reasons = ", ".join(f"{count:,} {why}" for why, count in split.reasons)
        out.append(f"    quarantined  {reasons}")
    out += [f"      {_reason_text(reason)}" for reason in split.examples[:MAX_REASONS_IN_TERMINAL]]
    if len(split.examples) > MAX_REASONS_IN_TERMINAL:
        out.append(f"      ... and {len(split.examples) - MAX_REASONS_IN_TERMINAL:,} more reasons")
    out += [f"    remark       {_reason_text(remark)}" for remark in split.remarks]
    sizes = sorted(split.bytes_by_size.items())
    if sizes:
        on_disk = ", ".join(f"{size} px {bytes_text(count)}" for size, count in sizes)
        out.append(f"    on disk      {on_disk}")
    return out if split.run is None else out + _run_lines(split.run)


def _reason_text(reason: Reason) -> str:
    return f"{reason.num_rows:,} {reason.status}: {reason.reason}, e.g. {reason.key}"


def _run_lines(run: RunReport) -> list[str]:
    rate = per_second(run.num_rows, run.seconds)
    mb_in = per_second(run.bytes_in / 1e6, run.seconds)
    mb_out = per_second(run.bytes_out / 1e6, run.seconds)
    out = [
        f"    this run     {run.num_rows:,} rows in {seconds_text(run.seconds)}, {rate} images/s,"
        f" {mb_in} MB/s in, {mb_out} MB/s out"
    ]
    if run.slowest is not None:
        spent = sum(run.stage_seconds.values())
        stages = (f"{name} {share_text(part, spent)}" for name, part in run.stage_seconds.items())
        out.append(f"    stages       {', '.join(stages)}; slowest: {run.slowest}")
    return out


def _quarantine_lines(model: ReportModel) -> list[str]:
    listed = model.quarantined[:MAX_NAMES_IN_TERMINAL]
    out = [f"    {r.split} row {r.row}  {r.key}  {r.status}: {r.reason}" for r in listed]
    more = sum(split.num_quarantined for split in model.splits) - len(listed)
    return [*out, f"    ... and {more:,} more in quarantine"] if out and more > 0 else out


def _bytes(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else bytes_text(num_bytes)


def _fraction(part: float, total: float) -> float:
    return part / total if total else 0.0


__all__ = [
    "ContactSheet",
    "Quarantined",
    "ReportModel",
    "RunReport",
    "SplitReport",
    "contact_sheet",
    "render_report",
    "terminal_summary",
    "write_report",
]
