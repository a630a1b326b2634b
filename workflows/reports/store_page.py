"""Rendering of a store's report as an HTML page and as lines for the terminal.

`store_report` collects a `ReportModel`; this module renders it, the page with
`templates/store.html`. Names that come from data may hold markup, terminal escape sequences or
newlines, so they are always escaped. The lines of `terminal_summary` are plain text, to be printed
without interpreting markup.
"""

from __future__ import annotations

from workflows.reports.html import TEMPLATES, render
from workflows.reports.quarantine import Reason
from workflows.reports.store_model import ReportModel, RunReport, SplitReport
from workflows.terminal.formatting import (
    array_text,
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


def render_report(model: ReportModel) -> str:
    """Return the report as the text of one self-contained HTML page.

    Args:
        model: The data of the report, from `collect_report` of `workflows.reports.store_report`.
    """
    return render(TEMPLATES / "store.html", model=model, max_names=MAX_NAMES_ON_PAGE)


def terminal_summary(model: ReportModel) -> list[str]:
    """Return the report as lines of plain text, with control characters in names escaped.

    Args:
        model: The data of the report, from `collect_report` of `workflows.reports.store_report`.
    """
    out = [f"{model.store}: {counted(model.num_classes, 'class', 'es')}"]
    if model.notice:
        out.append(f"  Note: {model.notice}")
    for split in model.splits:
        out += _summary_split_lines(split)
    out += _quarantine_lines(model)
    out += [f"  recipe: {', '.join(f'{k} {v}' for k, v in model.recipe.items())}"]
    return [printable(line) for line in out]


def _summary_split_lines(split: SplitReport) -> list[str]:
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
    stored = [f"{array_text(name)} {bytes_text(n)}" for name, n in split.array_bytes.items()]
    if stored:
        out.append(f"    on disk      {', '.join(stored)}")
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
        spent = sum(run.step_seconds.values())
        steps = (f"{name} {share_text(part, spent)}" for name, part in run.step_seconds.items())
        out.append(f"    steps        {', '.join(steps)}; slowest: {run.slowest}")
    return out


def _quarantine_lines(model: ReportModel) -> list[str]:
    listed = model.quarantined[:MAX_NAMES_IN_TERMINAL]
    out = [f"    {r.split} row {r.row}  {r.key}  {r.status}: {r.reason}" for r in listed]
    more = sum(split.num_quarantined for split in model.splits) - len(listed)
    return [*out, f"    ... and {more:,} more in quarantine"] if out and more > 0 else out
