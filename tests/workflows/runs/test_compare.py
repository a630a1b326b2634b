"""The page of several runs: their curves in the same charts, and what differs between them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.reports.test_html import HOSTILE
from workflows.cli import main
from workflows.runs.compare import _differences, _summary, open_runs, render_comparison
from workflows.runs.report import render_run_page


def make_run(folder: Path, rate: float, *, steps: int = 150, **options: Any) -> Path:
    """Write a run of a classifier with a loss, an accuracy, two evaluations and a speed."""
    folder.mkdir(parents=True)
    record = {
        "options": {"stage": "classify", "steps": steps, "learning_rate": rate, **options},
        "data": {"store": "store", "split": "train"},
        "versions": {"torch": "2.9"},
    }
    (folder / "options.json").write_text(json.dumps(record))
    lines: list[dict[str, Any]] = [
        {"step": step, "generation": 1, "loss": math.exp(-rate * step), "accuracy": step / steps}
        for step in range(1, steps + 1)
    ]
    lines += [
        {"step": step, "generation": 1, "what": "look", "held_out_loss": rate, "bias": -1.5}
        for step in (50, 100)
    ]
    speed = {"images_per_second": 640.0, "wait_share": 0.01}
    lines.append({"step": 100, "generation": 1, "what": "speed", **speed})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path / "slow", 0.01, mixup=0.5),
        make_run(tmp_path / "fast", 0.05),
        make_run(tmp_path / "others" / "fast", 0.05, steps=90),
    ]


def test_only_what_differs_is_listed(runs: list[Path]) -> None:
    """An option that a run lacks has a dash; runs of one name have their paths."""
    compared = open_runs(runs)
    table = _differences(compared)

    assert [run.label for run in compared] == ["slow", str(runs[1]), str(runs[2])]
    assert list(table.columns) == ["Option", "slow", str(runs[1]), str(runs[2])]
    assert table.rows == [
        ("steps", "150", "150", "90"),
        ("learning rate", "0.01", "0.05", "0.05"),
        ("mixup", "0.5", "-", "-"),
    ]
    assert _differences(compared[1:2] * 2).rows == []


def test_each_run_has_a_line_in_the_table(runs: list[Path]) -> None:
    """A run that diverged says so; one without a step has none."""
    with (runs[1] / "metrics.jsonl").open("a") as file:
        line = {"step": 150, "generation": 1, "what": "diverged", "why": "the loss is NaN"}
        file.write(json.dumps(line))
    (runs[2] / "metrics.jsonl").unlink()

    assert _summary(open_runs(runs)).rows == [
        ("slow", "classify", "150", "640", ""),
        (str(runs[1]), "classify", "150", "640", "diverged"),
        (str(runs[2]), "classify", "0", "-", ""),
    ]


def test_metrics_that_are_missing_or_not_finite_are_left_out(runs: list[Path]) -> None:
    """Of a run of another version, for example."""
    with (runs[0] / "metrics.jsonl").open("a") as file:
        for speed in ({}, {"images_per_second": None, "wait_share": None}):
            line = {"step": 150, "generation": 1, "what": "speed", **speed}
            file.write(json.dumps(line) + "\n")
    opened = open_runs(runs)
    assert _summary(opened).rows[0] == ("slow", "classify", "150", "640", "")
    assert "Images/s" in render_run_page(opened[0].folder, opened[0].record, None)
    assert "slow" in render_comparison(opened)


def test_the_command_compares(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It evaluates nothing, so an option of an evaluation has no effect."""
    file = tmp_path / "pages.html"

    status = main(["report", *map(str, runs), "-o", str(file), "--device", "cpu"])

    said = capsys.readouterr().out
    assert status == 0
    assert "notice: --device has no effect on a comparison.\n" in said
    assert "slow: step 150: loss 0.2231, accuracy 1\n" in said
    assert said.endswith(f"comparison: {file}\n")
    page = file.read_text()
    assert not re.search(r"(src|href)=", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    assert not list(tmp_path.rglob("report.html"))


def test_a_folder_that_is_no_run_is_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No page is written."""
    (tmp_path / "empty").mkdir()
    page = tmp_path / "page.html"
    assert main(["report", str(runs[0]), str(tmp_path / "empty"), "-o", str(page)]) == 1
    assert "empty" in capsys.readouterr().err
    assert not page.exists()


# --- in a browser ---------------------------------------------------------------------------------

STATE = """
const models = [...Bokeh.documents[0]._all_models.values()];
const lines = models.filter(model => model.type == "GlyphRenderer");
const shown = models.filter(model => model.type == "Figure" && model.visible);
return {
    charts: shown.map(plot => [plot.title.text, plot.y_scale.type]),
    alphas: lines.map(line => [line.glyph.line_width.value, line.glyph.line_alpha.value]),
    runs: [...new Set(lines.map(line => line.name.slice(0, line.name.lastIndexOf(": "))))],
    hidden: lines.filter(line => !line.visible).map(line => line.name),
};
"""

CLICK_LEGEND = """
const models = [...Bokeh.documents[0]._all_models.values()];
const legend = models.find(model => model.type == "Legend");
legend.items[0].renderers.forEach(line => { line.visible = !line.visible });
return legend.items[0].renderers.map(line => line.name);
"""


def alphas(state: dict[str, Any]) -> tuple[set[float], set[float]]:
    """Return the opacities of smoothed lines, which are wider, and of raw ones."""
    smooth, raw = ({a for width, a in state["alphas"] if width == w} for w in (2, 1))
    return smooth, raw


def press(chromium: Any, label: str) -> None:
    """Press a button of the page, which is inside of shadow roots."""
    script = """
    const find = root => [...root.querySelectorAll("*")].flatMap(
        e => [...(e.matches(".bk-btn") ? [e] : []), ...(e.shadowRoot ? find(e.shadowRoot) : [])]);
    find(document).find(e => e.textContent == arguments[0]).click();
    """
    chromium.execute_script(script, label)


def test_the_page_works_in_a_browser(runs: list[Path], tmp_path: Path, chromium: Any) -> None:
    """Its buttons change scale and form; a hostile name is text; nothing violates the policy."""
    runs.append(make_run(tmp_path / HOSTILE[0].replace("/", "_"), 0.02, remark=HOSTILE[0]))
    file = tmp_path / "comparison.html"
    file.write_text(render_comparison(open_runs(runs)), encoding="utf-8")

    chromium.get(file.as_uri())
    first = chromium.execute_script(STATE)
    press(chromium, "Log")
    logarithmic = chromium.execute_script(STATE)
    press(chromium, "Both")
    both = chromium.execute_script(STATE)
    press(chromium, "Raw")
    raw = chromium.execute_script(STATE)
    clicked = chromium.execute_script(CLICK_LEGEND)
    press(chromium, "Both")
    hidden = chromium.execute_script(STATE)

    titles = ["Loss", "Accuracy (%)", "Bias", "Training rate (images/s)"]
    assert first["charts"] == [[title, "LinearScale"] for title in titles]
    assert logarithmic["charts"] == [[title, "LogScale"] for title in titles]
    assert (alphas(first), first["hidden"]) == (({1}, {0}), [])
    assert alphas(both) == ({1}, {0.35})
    assert alphas(raw) == ({0}, {1})
    assert clicked == ["slow: training images"] * 2
    assert hidden["hidden"] == clicked
    assert sorted(first["runs"]) == sorted(run.label for run in open_runs(runs))
    messages = [entry["message"] for entry in chromium.get_log("browser")]
    assert [message for message in messages if "[bokeh " not in message] == []
