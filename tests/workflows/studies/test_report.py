"""The report of a study: what is printed, and the files in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.reports.figures import Estimate, interval_figure
from workflows.reports.table import Table
from workflows.studies.report import StudyReport, machine_text, publish


def test_a_report_has_its_answers_tables_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page holds its figures, which are also files; names from data are escaped."""
    rows = [Estimate(label="crop", value=1.0, low=0.5, high=1.5)]
    report = StudyReport(
        title="Crop, pad or squish",
        question="Which policy loses least?",
        answers=["pad: no difference seen"],
        tables=[
            Table("Arms", ["arm", "top-1, %"], [["<i>crop</i>", "60.0"], ["pad", "1"]], ["arm"])
        ],
        figures={"arms": interval_figure("Accuracy", rows, across="top-1, %")},
        images=[("no critic, <i>seed</i>", b"\x89PNG...")],
        notes=["Settings were chosen by validation rows."],
        settings={"epochs": 2, "sizes": [64, 72]},
    )
    publish(report, tmp_path)
    printed = capsys.readouterr().out
    assert "<i>crop</i>      60.0\npad                 1\n" in printed
    assert f"report: {tmp_path / 'report.html'}" in printed
    page = (tmp_path / "report.html").read_text()
    drawing = (tmp_path / "arms.svg").read_text()
    assert drawing in page
    assert "&lt;i&gt;crop" in page
    assert "data:image/png;base64,iVBORy4uLg==" in page
    assert "no critic, &lt;i&gt;seed" in page
    for text in ("no difference seen", "Settings were chosen by", "64, 72", "torch", "machine"):
        assert text in page


def test_the_machine_is_named(tmp_path: Path) -> None:
    """Without a file that names the processor, its architecture does."""
    file = tmp_path / "cpuinfo"
    file.write_text("flags\t: avx2\nmodel name\t: Example 9000\nmodel name\t: Example 9000\n")
    assert machine_text(file).startswith("Example 9000, ")
    assert " cores, " in machine_text(tmp_path / "missing")
