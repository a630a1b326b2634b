"""The page of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.runs.options import ReportOptions
from workflows.runs.report import _flags_without_effect, render_run_page
from workflows.training.run_folder import RunFolder
from workflows.training.stage_registry import STAGES, StageEntry


@pytest.mark.parametrize("name", [None, "jpeg256@90"])
def test_the_page_names_the_rows_that_were_read(tmp_path: Path, name: str | None) -> None:
    """A run of an earlier version records no encoded rows."""
    run = RunFolder(tmp_path / "run")
    data = {"size": 64} if name is None else {"size": 64, "encoded": name}
    run.create_or_continue({"stage": "wgan", "stored_size": 64}, {"data": data})
    page = render_run_page(run, run.read_options(), None)
    assert (f'encoded rows</th><td class="text">{name}</td>' in page) == (name is not None)


def test_files_that_are_no_grids_of_the_run_are_left_out(tmp_path: Path) -> None:
    """A file beside the grids, whose name has no step, is not on the page."""
    run = RunFolder(tmp_path / "run")
    run.create_or_continue({"stage": "wgan"}, {})
    run.save_samples("samples", 500, b"grid")
    for name in ("copy", "a-copy", "samples-000000500 2", "samples-500"):
        (run.path / "samples" / f"{name}.png").write_bytes(b"other")
    page = render_run_page(run, run.read_options(), None)
    assert page.count(";base64,") == 1
    assert "samples, step 500" in page


@pytest.mark.parametrize(
    ("stage", "flags"),
    [
        ("wgan", ["--clip-model", "--judge", "--judge-blocks", "--self-ensemble"]),
        ("classify", ["--backbone", "--clip-model", "--samples", "--judge", "--judge-blocks",
                      "--self-ensemble"]),
        ("devise", ["--backbone", "--judge", "--judge-blocks", "--self-ensemble"]),
        ("superres", ["--backbone", "--clip-model"]),
    ],
)  # fmt: skip
def test_options_without_effect_on_a_stage_are_named(
    tmp_path: Path, stage: str, flags: list[str]
) -> None:
    """They are those that were passed, and that the evaluation of the stage does not use."""
    options = ReportOptions(
        runs=(tmp_path,), backbone="a", clip_model="b", samples=9, device="cpu", store="c",
        judge="d", judge_blocks=("e", "f"), self_ensemble=True,
    )  # fmt: skip
    assert sorted(_flags_without_effect(STAGES[stage], options)) == sorted(flags)
    assert _flags_without_effect(STAGES[stage], ReportOptions(runs=(tmp_path,))) == []
    foreign = StageEntry("a stage", "options", "stage")
    assert _flags_without_effect(foreign, options) == []
