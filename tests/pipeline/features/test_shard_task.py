"""One task: the features that it computes, the inputs that it refuses, and concurrent copies."""

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
from pipeline.features import extract, worker
from pipeline.features import shard_task as feature_shard
from pipeline.features.reader import open_features
from pipeline.features.shard_task import compute_shard
from pipeline.features.worker import compute_features, open_workspace, reproducible_sums
from pipeline.loader import Loader
from pipeline.store import arrays, derived, document, layout, records
from pipeline.store.features import FeatureCommit
from pipeline.store.fingerprint import fingerprint
from pipeline.store.open import open_objects
from tests.pipeline.features.small import (
    BOTH,
    DIM,
    FIRST,
    ROWS,
    SIZE,
    StartedRun,
    begin,
    change_weights,
    files,
    make,
)


def commit_of(run: StartedRun, shard: int) -> FeatureCommit | None:
    """Return the commit of a shard."""
    return derived.load_commit(run.objects, run.recipe, run.plan, shard)


def test_features_are_those_of_the_stored_pixels(store: Path, trunk: Path) -> None:
    """Readable rows and their mirrored copies match the network; quarantined rows are zeros."""
    name = make(store, trunk, kinds=BOTH)
    opened = open_features(store, name, "train")
    status = arrays.read_small(open_objects(str(store)), "train", "status")
    assert (status != 0).sum() == 2
    assert opened.readable.tolist() == np.flatnonzero(status == 0).tolist()
    pixels = arrays.read_pixel_rows(open_objects(str(store)), "train", SIZE, 0, ROWS)
    tensors = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    backbone = open_backbone(trunk)
    rows = np.arange(ROWS)
    for kind, oriented in (("plain", tensors), ("mirrored", tensors.flip(3))):
        expected = backbone.extract(oriented).numpy()
        expected[status != 0] = 0
        np.testing.assert_allclose(opened.rows(rows, kind), expected, rtol=1e-4, atol=1e-5)


def test_features_match_the_images_of_a_loader(store: Path, trunk: Path) -> None:
    """The test uses another size, a cut and maximum pooling."""
    name = make(store, trunk, stored_size=8, cut=FIRST, pooling="max")
    opened = open_features(store, name, "train")
    backbone = open_backbone(trunk, cut=FIRST, pooling="max")
    loader = Loader(store, size=8, batch_size=5, drop_last=False, rank=0, world=1)
    for batch in loader:
        assert isinstance(batch.images, torch.Tensor)
        np.testing.assert_allclose(
            opened.rows(batch.rows.numpy()), backbone.extract(batch.images), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_and_dtype_are_as_requested(store: Path, trunk: Path, precision: str) -> None:
    """Precision and dtype are independent of each other."""
    pixels = arrays.read_pixel_rows(open_objects(str(store)), "train", SIZE, 0, 8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    float32_name = make(store, trunk, precision=precision)
    float16_name = make(store, trunk, precision=precision, dtype="float16")
    read_rows = [
        open_features(store, name, "train").rows(np.arange(8))
        for name in (float32_name, float16_name)
    ]
    readable = np.isin(np.arange(8), open_features(store, float32_name, "train").readable)
    expected = compute_features(open_backbone(trunk), images, precision)
    np.testing.assert_allclose(read_rows[0][readable], expected[readable], rtol=2e-2, atol=2e-2)
    assert np.array_equal(read_rows[0].astype(np.float16).astype(np.float32), read_rows[1])
    full = compute_features(open_backbone(trunk), images, "float32")
    assert np.array_equal(read_rows[0][readable], full[readable]) == (precision == "float32")


def test_a_task_reports_its_progress(
    store: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker reports each batch as a Dask event of the run; other processes report nothing."""
    messages: list[tuple[str, dict[str, int]]] = []
    dask_worker = SimpleNamespace(
        log_event=lambda topic, message: messages.append((topic, message))
    )
    monkeypatch.setattr("pipeline.backbone.network.CPU_BATCH_SIZE", 3)
    monkeypatch.setattr(feature_shard, "PROGRESS_SECONDS", 0.0)
    run = begin(store, trunk, kinds=BOTH)
    compute_shard(run.work, 1)
    assert messages == []
    monkeypatch.setattr("distributed.get_worker", lambda: dask_worker)
    compute_shard(run.work, 0)
    assert {topic for topic, _ in messages} == {feature_shard.progress_topic(run.work.run)}
    assert [message for _, message in messages] == [{"shard": 0, "rows": n} for n in (3, 6, 7)]


def test_any_number_of_threads_computes_the_same_bytes(
    store: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single thread computes each batch."""
    monkeypatch.setattr("pipeline.backbone.network.CPU_BATCH_SIZE", 2)
    thread_counts = set()

    def recording(*arguments: Any) -> Any:
        thread_counts.add(torch.get_num_threads())
        return compute_features(*arguments)

    monkeypatch.setattr(worker, "compute_features", recording)
    other_store = Path(shutil.copytree(store, store.parent / "other"))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    name = make(store, trunk, kinds=BOTH)
    assert make(other_store, trunk, kinds=BOTH, threads=4) == name
    assert (torch.get_num_threads(), thread_counts) == (3, {1})
    torch.set_num_threads(before)
    assert files(store, name) == files(other_store, name)


def test_the_first_of_two_tasks_to_write_wins(store: Path, trunk: Path) -> None:
    """The other machine's bytes differ in the last digit, and both commit the existing ones."""
    run = begin(store, trunk)
    compute_shard(run.work, 1)
    ours = run.objects.get(run.shard("plain", 1))
    run.objects.remove(run.shard("plain", 1))
    run.objects.remove(layout.FEATURES.commit(run.recipe.name, "train", 1))
    theirs = bytes([*ours[:4], ours[4] ^ 1, *ours[5:]])
    run.objects.put(run.shard("plain", 1), theirs)
    compute_shard(run.work, 1)
    assert run.objects.get(run.shard("plain", 1)) == theirs
    commit = commit_of(run, 1)
    assert commit is not None
    assert commit.arrays == {"plain": fingerprint(run.shard("plain", 1), theirs)}
    run.objects.remove(layout.FEATURES.commit(run.recipe.name, "train", 1))
    run.objects.put(run.shard("plain", 1), theirs[:-1])
    with pytest.raises(StoreDamagedError, match="was written by another task and is damaged"):
        compute_shard(run.work, 1)
    assert commit_of(run, 1) is None


def test_committed_features_are_not_computed_again(store: Path, trunk: Path) -> None:
    """A second run of the task writes nothing."""
    run = begin(store, trunk)
    first = compute_shard(run.work, 0)
    file = store / run.shard("plain", 0)
    before, commit = file.stat().st_mtime_ns, commit_of(run, 0)
    again = compute_shard(run.work, 0)
    assert (file.stat().st_mtime_ns, commit_of(run, 0)) == (before, commit)
    assert (first.num_rows, again.num_rows) == (8, 8)
    assert first.bytes_out == file.stat().st_size
    assert again.bytes_out == 0


def test_features_of_damaged_images_are_not_computed(store: Path, trunk: Path) -> None:
    """Nothing is committed for a damaged shard of images."""
    run = begin(store, trunk)
    file = store / layout.shard("train", SIZE, 1)
    data = bytearray(file.read_bytes())
    data[300] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreDamagedError, match="Networks read intact images only"):
        compute_shard(run.work, 1)
    assert commit_of(run, 1) is None
    assert run.objects.size(run.shard("plain", 1)) is None


def test_images_that_changed_since_the_finish_are_refused(store: Path, trunk: Path) -> None:
    """The commit of such images counts other readable rows than the split's record."""
    run = begin(store, trunk)
    commit = records.load_commit(run.objects, "train", 1)
    assert commit is not None
    counts = {**commit.counts, "readable": commit.counts["readable"] - 1, "crashed": 1}
    run.objects.put(layout.commit("train", 1), replace(commit, counts=counts).encode())
    with pytest.raises(StoreError, match="shard 1 of split 'train' was rebuilt after"):
        compute_shard(run.work, 1)
    run.objects.put(layout.commit("train", 1), replace(commit, plan="other").encode())
    with pytest.raises(StoreError, match="shard 1 of split 'train' is not committed"):
        compute_shard(run.work, 1)


def test_another_network_or_other_code_is_refused(store: Path, trunk: Path, tmp_path: Path) -> None:
    """A worker that finds other weights or other code computes nothing."""
    folder = Path(shutil.copytree(trunk, tmp_path / "model"))
    run = begin(store, folder)
    change_weights(folder)
    with pytest.raises(StoreMismatchError, match="is not the network of the features"):
        compute_shard(run.work, 1)
    with pytest.raises(StoreMismatchError, match="runs another version of Tesserae"):
        compute_shard(replace(run.work, code="0" * 64), 1)


def test_a_run_that_has_ended_cannot_write(store: Path, trunk: Path) -> None:
    """A task that is still computing finds the folder of its run removed."""
    run = begin(store, trunk)
    compute_shard(run.work, 0)
    newer = begin(store, trunk)
    with pytest.raises(StoreError, match="the command has ended"):
        compute_shard(run.work, 1)
    with pytest.raises(StoreError, match="another run of the same split has started since"):
        open_workspace(run.work).objects.put_new(run.shard("plain", 1), b"late")
    compute_shard(newer.work, 1)
    newer.objects.end()
    with pytest.raises(StoreError, match="the command has ended"):
        compute_shard(newer.work, 2)


def test_features_that_are_not_finite_are_refused(store: Path, trunk: Path, tmp_path: Path) -> None:
    """The features overflow float16, and the error names the row."""
    folder = Path(shutil.copytree(trunk, tmp_path / "model"))
    change_weights(folder, 1e6)
    with pytest.raises(StoreError, match=r"features of row \d+ \(plain\) contain NaN or infinity"):
        make(store, folder, dtype="float16")


def test_an_unusable_gpu_is_an_error(store: Path, trunk: Path) -> None:
    """The task does not fall back to the processor, whose features differ."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    run = begin(store, trunk)
    with pytest.raises(StoreError, match=r"a worker has a GPU that torch .* cannot use"):
        compute_shard(replace(run.work, gpu=True), 0)


def test_a_gpu_computes_in_full_float32() -> None:
    """By default torch uses TF32 for convolutions."""
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    with reproducible_sums(torch.device("cuda")):
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (False, True, False)
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_nearly_the_same_features(store: Path, trunk: Path) -> None:
    """Two runs on the GPU give identical bytes."""
    run = begin(store, trunk, kinds=BOTH)
    for shard in range(3):
        compute_shard(replace(run.work, gpu=True), shard)
    extract.finish(*run.context)
    run.objects.end()
    first = files(store, run.recipe.name)
    rows = np.arange(ROWS)
    gpu = open_features(store, run.recipe.name, "train").rows(rows)
    shutil.rmtree(store / layout.FEATURES.folder)
    run = begin(store, trunk, kinds=BOTH)
    for shard in range(3):
        compute_shard(replace(run.work, gpu=True), shard)
    extract.finish(*run.context)
    assert files(store, run.recipe.name) == first
    shutil.rmtree(store / layout.FEATURES.folder)
    cpu = open_features(store, make(store, trunk), "train").rows(rows)
    np.testing.assert_allclose(gpu, cpu, rtol=1e-3, atol=1e-4)
    assert gpu.shape == (ROWS, DIM)


def test_a_commit_records_its_inputs(store: Path, trunk: Path) -> None:
    """The commit records pixels and recipe, and as provenance the host and the software."""
    run = begin(store, trunk)
    compute_shard(run.work, 2)
    commit = commit_of(run, 2)
    images = records.load_commit(run.objects, "train", 2)
    assert commit is not None
    assert images is not None
    assert commit.pixels == images.arrays[str(SIZE)].digest
    assert commit.features == run.recipe.digest
    assert {
        "seconds",
        "host",
        "torch",
        "transformers",
        "device",
        "probe",
    } == commit.provenance.keys()
    file = layout.FEATURES.commit(run.recipe.name, "train", 2)
    fields = document.decode_document(run.objects.get(file), file)
    for key, value in (("features", "x"), ("shard", 1), ("split", "val"), ("plan", "x")):
        run.objects.put(file, document.encode_document({**fields, key: value}))
        assert commit_of(run, 2) is None, key
