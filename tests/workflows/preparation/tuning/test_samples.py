"""The images that settings are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import sources
from tests.images import make_folder
from workflows.preparation.tuning import samples as tuning_samples
from workflows.preparation.tuning.samples import samples_of_source


def test_samples_are_in_a_random_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted ones would be of a single class, whose images may be smaller than others."""
    folder = make_folder(tmp_path, 60)
    source = sources.open_source(str(folder), "train")
    with samples_of_source("train", source) as drawn, samples_of_source("train", source) as again:
        paths = [sample.path for sample in drawn.samples]
        assert paths == [sample.path for sample in again.samples]
    assert sorted(paths) == sorted(f"{p.parent.name}/{p.name}" for p in folder.glob("*/*"))
    assert paths != sorted(paths)
    assert len({path.partition("/")[0] for path in paths[:15]}) == 3
    assert all(s.num_bytes == (folder / s.path).stat().st_size for s in drawn.samples)
    monkeypatch.setattr(tuning_samples, "MAX_SAMPLES", 7)
    listed: list[int] = []
    check = lambda listing: listed.append(listing.num_rows)  # noqa: E731
    with samples_of_source("train", source, check=check) as few:
        assert [sample.path for sample in few.samples] == paths[:7]
    assert listed == [60]
