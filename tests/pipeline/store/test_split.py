"""An open split contains only rows that are complete at every requested size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import StoreMismatchError
from pipeline.ingest.shard_task import prepare_shard
from pipeline.ingest.worker import workspace
from pipeline.store import layout, records
from pipeline.store.open import open_objects
from pipeline.store.split import open_split, restrict_to_labels, restrict_to_pictures
from tests.images import make_folder, plan_inline, prepare_inline


@pytest.fixture
def grown(tmp_path):
    """Return an unfinished split of two shards at 8 px, of which only the first has 16 px."""
    source = make_folder(tmp_path / "images", 12)
    objects, plan, work = plan_inline(source, str(tmp_path / "store"))
    small, both = replace(work, arrays=("8",)), replace(work, arrays=("8", "16"))
    for shard in range(plan.num_shards):
        prepare_shard(both if shard == 0 else small, shard)
    workspace.cache_clear()
    return objects, plan


def test_a_partial_split_contains_only_rows_with_all_sizes(grown):
    """A row without one of the sizes would be black."""
    objects, plan = grown
    missing = np.arange(plan.rows(1).start, plan.num_rows)
    assert open_split(objects, "train", [8], allow_partial=True).excluded.tolist() == []
    assert (
        open_split(objects, "train", [16], allow_partial=True).excluded.tolist() == missing.tolist()
    )
    both = open_split(objects, "train", [8, 16], allow_partial=True)
    assert both.excluded.tolist() == missing.tolist()


def test_readable_rows_are_all_but_the_absent_ones(grown):
    """A copy of the split with fewer labels has fewer readable rows."""
    objects, plan = grown
    split = open_split(objects, "train", [16], allow_partial=True)
    first = plan.rows(1).start
    assert split.readable.tolist() == [row < first for row in range(plan.num_rows)]
    assert split.readable_rows.tolist() == list(range(first))
    assert restrict_to_labels(split, []).readable_rows.tolist() == []


def test_a_plan_of_another_recipe_is_refused(grown):
    """Rows of such a plan would be read at wrong offsets."""
    objects, _ = grown
    recipe = records.load_recipe(objects)
    objects.put(layout.RECIPE, replace(recipe, chunk_rows=2).encode())
    with pytest.raises(StoreMismatchError, match=r"train\.json belongs to another recipe"):
        open_split(objects, "train", [8], allow_partial=True)


def test_rows_of_small_pictures_are_excluded(tmp_path):
    """The short side counts, and a split of other rows has another digest."""
    source = make_folder(tmp_path / "images", 12, bad=1)  # 40 to 51 px wide and high
    prepare_inline(source, str(tmp_path / "store"), sizes=(), encoded=("original",))
    split = open_split(open_objects(str(tmp_path / "store")), "train", [], encoded=["original"])
    (unreadable,) = split.excluded
    short = split.encoded["original"].shape.min(1)
    for side in (1, 40, 45, 51, 52, 10_000):
        restricted = restrict_to_pictures(split, "original", side)
        expected = (short >= side) & (np.arange(12) != unreadable)
        assert restricted.readable.tolist() == expected.tolist()
        assert restricted.labels.tolist() == split.labels.tolist()
        is_same = int(expected.sum()) == 11
        assert (restricted.digest == split.digest) == is_same
    assert split.excluded.tolist() == [unreadable]
    digests = {restrict_to_pictures(split, "original", side).digest for side in (44, 45, 46)}
    assert len(digests) == 3
