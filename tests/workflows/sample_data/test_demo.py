"""The demo: the files that it may remove, and its result."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from tests.commands import run
from workflows.sample_data import demo


def test_foreign_folders_are_not_deleted(tmp_path: Path) -> None:
    """A folder with the name of a run may contain somebody's files."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(TesseraeError, match="was not created by the demo"):
        demo._train_gan(tmp_path / "store", folder, 1.0)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_only_the_demos_own_runs_are_replaced(tmp_path: Path) -> None:
    """A user's own run in a folder of that name may be hours of work."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "options.json").write_text("{}")
    with pytest.raises(TesseraeError, match="was not created by the demo"):
        demo._remove_demo_run(folder)
    assert folder.is_dir()
    folder.rename(tmp_path / "mine")
    demo._remove_demo_run(folder)
    folder.mkdir()
    (folder / "options.json").write_text("{}")
    demo._remove_demo_run(folder)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_creates_a_store_three_runs_and_their_reports(tmp_path: Path) -> None:
    """A second run of the demo gives the same result."""
    words = ("demo", "--dir", tmp_path / "demo", "--images", 200, "--minutes", 0.2)
    for _ in range(2):
        ended = run(*words, scratch=tmp_path, seconds=280)
        assert ended.status == 0, ended.err
        for page in ("store", "run", "superres", "search"):
            assert (tmp_path / "demo" / page / "report.html").stat().st_size > 1_000
        assert "== train DeViSE" in ended.out
        assert "vehicle" in ended.out
        jpegs = tmp_path / "demo" / "store" / "images.zarr" / "train" / "jpeg128@90"
        assert f"JPEGs of 128 px and kept aspect among them: {jpegs}\n" in ended.out
        assert (jpegs / "bytes" / "c.0").is_file()
