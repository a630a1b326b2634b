"""Tests of which files the demo may remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from tests.commands import run
from workflows.sample_data import demo


def test_a_folder_that_is_none_of_its_runs_is_left_alone(tmp_path: Path) -> None:
    """Whatever its name is."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(TesseraeError, match="was not created by the demo"):
        demo._train(tmp_path / "store", folder, 1.0)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_only_runs_that_it_made_itself_are_made_anew(tmp_path: Path) -> None:
    """Somebody's own run in a folder of that name is hours of work."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "options.json").write_text("{}")
    with pytest.raises(TesseraeError, match="was not created by the demo"):
        demo._clear(folder)
    assert folder.is_dir()
    folder.rename(tmp_path / "mine")
    demo._clear(folder)
    folder.mkdir()
    (folder / "options.json").write_text("{}")
    demo._clear(folder)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_ends_with_what_it_promises(tmp_path: Path) -> None:
    """A verified store, two networks with a report each, and answers; also the second time."""
    words = ("demo", "--dir", tmp_path / "demo", "--images", 200, "--minutes", 0.2)
    for _ in range(2):
        ended = run(*words, scratch=tmp_path, seconds=280)
        assert ended.status == 0, ended.err
        for page in ("store", "run", "search"):
            assert (tmp_path / "demo" / page / "report.html").stat().st_size > 1_000
        assert "== train DeViSE" in ended.out
        assert "vehicle" in ended.out
