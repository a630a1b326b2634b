"""One task: what it makes, what it refuses, and what it does beside its own ghost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone.load import open_backbone
from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features import extract
from pipeline.features import shard as feature_shard
from pipeline.features.reader import open_features
from pipeline.features.shard import features_of, make_features, workspace
from pipeline.loader import Loader
from pipeline.store import arrays, document, features, layout, records
from pipeline.store.features import FeatureCommit
from pipeline.store.objects import open_objects
from tests.pipeline.features.small import (
    BOTH,
    DIM,
    FIRST,
    ROWS,
    SIZE,
    Begun,
    begin,
    change_weights,
    files,
    make,
)


def commit_of(run: Begun, shard: int) -> FeatureCommit | None:
    """What is committed of a shard."""
    return features.load_commit(run.objects, run.recipe, run.plan, shard)


def test_features_are_those_of_the_stored_pixels(store: Path, trunk: Path) -> None:
    """Of each readable row and of its mirror image; zeros for those in quarantine."""
    name = make(store, trunk, kinds=BOTH)
    found = open_features(store, name, "train")
    status = arrays.read_small(open_objects(str(store)), "train", "status")
    assert (status != 0).sum() == 2
    assert found.readable.tolist() == np.flatnonzero(status == 0).tolist()
    pixels = arrays.read_rows(open_objects(str(store)), "train", SIZE, 0, ROWS)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    backbone = open_backbone(trunk)
    rows = np.arange(ROWS)
    for kind, seen in (("plain", tensors), ("mirrored", tensors.flip(3))):
        expected = backbone.features(seen).numpy()
        expected[status != 0] = 0
        np.testing.assert_allclose(found.rows(rows, kind), expected, rtol=1e-4, atol=1e-5)


def test_features_are_those_of_what_a_loader_hands_out(store: Path, trunk: Path) -> None:
    """At another size, behind a cut, by maxima."""
    name = make(store, trunk, stored_size=8, cut=FIRST, pooling="max")
    found = open_features(store, name, "train")
    backbone = open_backbone(trunk, cut=FIRST, pooling="max")
    loader = Loader(store, size=8, batch_size=5, drop_last=False, rank=0, world=1)
    for batch in loader:
        assert isinstance(batch.images, torch.Tensor)
        np.testing.assert_allclose(
            found.rows(batch.rows.numpy()), backbone.features(batch.images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_and_kind_are_what_was_asked_for(
    store: Path, trunk: Path, precision: str
) -> None:
    """Computed short, stored short, both, or neither."""
    pixels = arrays.read_rows(open_objects(str(store)), "train", SIZE, 0, 8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    long = make(store, trunk, precision=precision)
    short = make(store, trunk, precision=precision, dtype="float16")
    found = [open_features(store, name, "train").rows(np.arange(8)) for name in (long, short)]
    there = np.isin(np.arange(8), open_features(store, long, "train").readable)
    expected = features_of(open_backbone(trunk), images, precision)
    np.testing.assert_allclose(found[0][there], expected[there], rtol=2e-2, atol=2e-2)
    assert np.array_equal(found[0].astype(np.float16).astype(np.float32), found[1])
    full = features_of(open_backbone(trunk), images, "float32")
    assert np.array_equal(found[0][there], full[there]) == (precision == "float32")


def test_a_task_says_how_far_it_is(
    store: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch after batch of readable rows, as Dask events of its run; without a worker to nobody."""
    said: list[tuple[str, dict[str, int]]] = []
    worker = SimpleNamespace(log_event=lambda topic, message: said.append((topic, message)))
    monkeypatch.setattr("pipeline.backbone.network.BATCH", 3)
    monkeypatch.setattr(feature_shard, "PROGRESS_SECONDS", 0.0)
    run = begin(store, trunk, kinds=BOTH)
    make_features(run.work, 1)
    assert said == []
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    make_features(run.work, 0)
    assert {topic for topic, _ in said} == {feature_shard.progress_topic(run.work.run)}
    assert [message for _, message in said] == [{"shard": 0, "rows": n} for n in (3, 6, 7)]


def test_any_number_of_threads_makes_the_same_bytes(
    store: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is computed by one of them."""
    monkeypatch.setattr("pipeline.backbone.network.BATCH", 2)
    seen = set()

    def noted(*told: Any) -> Any:
        seen.add(torch.get_num_threads())
        return features_of(*told)

    monkeypatch.setattr(feature_shard, "features_of", noted)
    other = Path(shutil.copytree(store, store.parent / "other"))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    name = make(store, trunk, kinds=BOTH)
    assert make(other, trunk, kinds=BOTH, threads=4) == name
    assert (torch.get_num_threads(), seen) == (3, {1})
    torch.set_num_threads(before)
    assert files(store, name) == files(other, name)


def test_of_two_tasks_the_first_to_write_wins(store: Path, trunk: Path) -> None:
    """The other machine's bytes differ in the last digit: both commit what is there."""
    run = begin(store, trunk)
    make_features(run.work, 1)
    ours = run.objects.get(run.shard("plain", 1))
    run.objects.remove(run.shard("plain", 1))
    run.objects.remove(layout.features_commit(run.recipe.name, "train", 1))
    theirs = bytes([*ours[:4], ours[4] ^ 1, *ours[5:]])
    run.objects.put(run.shard("plain", 1), theirs)
    make_features(run.work, 1)
    assert run.objects.get(run.shard("plain", 1)) == theirs
    kept = commit_of(run, 1)
    assert kept is not None
    assert kept.arrays == {"plain": records.fingerprint(run.shard("plain", 1), theirs)}
    run.objects.remove(layout.features_commit(run.recipe.name, "train", 1))
    run.objects.put(run.shard("plain", 1), theirs[:-1])
    with pytest.raises(StoreDamagedError, match="appeared damaged"):
        make_features(run.work, 1)
    assert commit_of(run, 1) is None


def test_what_is_committed_and_there_is_not_made_again(store: Path, trunk: Path) -> None:
    """A task that runs twice."""
    run = begin(store, trunk)
    first = make_features(run.work, 0)
    file = store / run.shard("plain", 0)
    before, commit = file.stat().st_mtime_ns, commit_of(run, 0)
    again = make_features(run.work, 0)
    assert (file.stat().st_mtime_ns, commit_of(run, 0)) == (before, commit)
    assert (first.num_rows, again.num_rows) == (8, 8)
    assert first.bytes_out == file.stat().st_size
    assert again.bytes_out == 0


def test_features_of_damaged_images_are_not_made(store: Path, trunk: Path) -> None:
    """Nothing is committed."""
    run = begin(store, trunk)
    file = store / layout.shard("train", SIZE, 1)
    data = bytearray(file.read_bytes())
    data[300] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreDamagedError, match="features are made of whole images alone"):
        make_features(run.work, 1)
    assert commit_of(run, 1) is None
    assert run.objects.size(run.shard("plain", 1)) is None


def test_images_that_are_just_made_anew_are_not_taken(store: Path, trunk: Path) -> None:
    """Their commit says of another number of rows that they can be read than the split does."""
    run = begin(store, trunk)
    kept = records.load_commit(run.objects, "train", 1)
    assert kept is not None
    counts = {**kept.counts, "readable": kept.counts["readable"] - 1, "crashed": 1}
    run.objects.put(layout.commit("train", 1), replace(kept, counts=counts).encode())
    with pytest.raises(StoreError, match="shard 1 of split 'train' was made anew since"):
        make_features(run.work, 1)
    run.objects.put(layout.commit("train", 1), replace(kept, plan="other").encode())
    with pytest.raises(StoreError, match="shard 1 of split 'train' is not committed"):
        make_features(run.work, 1)


def test_another_network_or_another_tesserae_is_refused(
    store: Path, trunk: Path, tmp_path: Path
) -> None:
    """A worker that finds other weights makes nothing."""
    folder = Path(shutil.copytree(trunk, tmp_path / "model"))
    run = begin(store, folder)
    change_weights(folder)
    with pytest.raises(StoreMismatchError, match="is another network"):
        make_features(run.work, 1)
    with pytest.raises(StoreMismatchError, match="there is another Tesserae"):
        make_features(replace(run.work, code="0" * 64), 1)


def test_a_run_that_has_ended_can_write_nothing(store: Path, trunk: Path) -> None:
    """A ghost of it, still computing, finds its folder gone."""
    run = begin(store, trunk)
    make_features(run.work, 0)
    newer = begin(store, trunk)
    with pytest.raises(StoreError, match="the run has ended"):
        make_features(run.work, 1)
    with pytest.raises(StoreError, match="another run of the same split has begun since"):
        workspace(run.work).objects.put_new(run.shard("plain", 1), b"late")
    make_features(newer.work, 1)
    newer.objects.end()
    with pytest.raises(StoreError, match="the run has ended"):
        make_features(newer.work, 2)


def test_numbers_that_are_none_are_refused(store: Path, trunk: Path, tmp_path: Path) -> None:
    """Too large for float16; the row is named."""
    folder = Path(shutil.copytree(trunk, tmp_path / "model"))
    change_weights(folder, 1e6)
    with pytest.raises(StoreError, match=r"no finite numbers for row \d+ \(plain\)"):
        make(store, folder, dtype="float16")


def test_a_worker_whose_gpu_cannot_be_used_says_so(store: Path, trunk: Path) -> None:
    """Rather than compute slowly, and otherwise."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    run = begin(store, trunk)
    with pytest.raises(StoreError, match=r"a worker has a GPU that torch .* cannot use"):
        make_features(replace(run.work, gpu=True), 0)


def test_a_gpu_computes_in_what_was_asked_for() -> None:
    """Not in a shorter float32, which torch takes for convolutions unless it is told."""
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    with feature_shard._exact(torch.device("cuda")):
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, True, False)
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_makes_nearly_the_same(store: Path, trunk: Path) -> None:
    """And the same bytes each time."""
    run = begin(store, trunk, kinds=BOTH)
    for shard in range(3):
        make_features(replace(run.work, gpu=True), shard)
    extract.finish(*run.what)
    run.objects.end()
    first = files(store, run.recipe.name)
    rows = np.arange(ROWS)
    gpu = open_features(store, run.recipe.name, "train").rows(rows)
    shutil.rmtree(store / layout.FEATURES)
    run = begin(store, trunk, kinds=BOTH)
    for shard in range(3):
        make_features(replace(run.work, gpu=True), shard)
    extract.finish(*run.what)
    assert files(store, run.recipe.name) == first
    shutil.rmtree(store / layout.FEATURES)
    cpu = open_features(store, make(store, trunk), "train").rows(rows)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-4)
    assert gpu.shape == (ROWS, DIM)


def test_a_commit_says_of_what_it_is(store: Path, trunk: Path) -> None:
    """Of which pixels, of which recipe; and as provenance where and with what."""
    run = begin(store, trunk)
    make_features(run.work, 2)
    kept = commit_of(run, 2)
    images = records.load_commit(run.objects, "train", 2)
    assert kept is not None
    assert images is not None
    assert kept.pixels == images.arrays[str(SIZE)].digest
    assert kept.features == run.recipe.digest
    assert {"seconds", "host", "torch", "transformers", "device", "probe"} == kept.provenance.keys()
    file = layout.features_commit(run.recipe.name, "train", 2)
    fields = document.decode(run.objects.get(file), file)
    for key, value in (("features", "x"), ("shard", 1), ("split", "val"), ("plan", "x")):
        run.objects.put(file, document.encode({**fields, key: value}))
        assert commit_of(run, 2) is None, key
