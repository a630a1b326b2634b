"""What the demo may touch."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from workflows import demo


def test_a_folder_that_is_none_of_its_runs_is_left_alone(tmp_path: Path) -> None:
    """Whatever its name is."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(TesseraeError, match="no run of the demo"):
        demo._train(tmp_path / "store", folder, 1.0)
    assert (folder / "thesis.txt").read_text() == "mine"
