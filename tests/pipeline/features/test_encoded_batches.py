"""Features of encoded rows: of which pixels they are, and what damage they are never made of."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone.load import open_backbone
from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features import extract, worker
from pipeline.features.encoded_batches import decode_batch, encoded_batches
from pipeline.features.reader import open_features
from pipeline.features.shard_task import compute_shard
from pipeline.loader import Loader
from pipeline.loader.crops import Crop
from pipeline.loader.image_readers import CropDecoder
from pipeline.store import derived, layout, records
from pipeline.store.encoding import fitting_encoding
from pipeline.store.features import FeatureOptions
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from tests.encoded import prepare_encoded
from tests.images import prepare_inline
from tests.pipeline.features.small import BOTH, ROWS, SIZE, begin, files, make, problems

ENCODINGS = ("jpeg:20@90", "original")
SMALL: dict[str, Any] = {"shard_rows": 8, "chunk_rows": 4}


@pytest.fixture(scope="module")
def encoded_images(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of encoded rows alone, without any squares."""
    store = tmp_path_factory.mktemp("encoded") / "store"
    prepare_inline(source, str(store), sizes=(), encoded=ENCODINGS, **SMALL)
    return store


@pytest.fixture
def encoded(encoded_images: Path, tmp_path: Path) -> Path:
    """Return a copy of the store that a test may change."""
    return Path(shutil.copytree(encoded_images, tmp_path / "store"))


def cropping_trunk(trunk: Path, folder: Path) -> Path:
    """Copy a network, and make its preprocessing cut out 4/5 of the short side."""
    shutil.copytree(trunk, folder)
    file = folder / "preprocessor_config.json"
    fields = json.loads(file.read_text())
    side = {"height": SIZE, "width": SIZE}
    fields |= {"size": {"shortest_edge": 20}, "crop_size": side, "do_center_crop": True}
    file.write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("share", [1.0, 0.8])
def test_features_are_those_of_the_loader_s_centre_crops(
    encoded: Path, trunk: Path, tmp_path: Path, encoding: str, share: float
) -> None:
    """Both kinds, in several batches of a shard, as the network's preprocessing crops them."""
    if share != 1:
        trunk = cropping_trunk(trunk, tmp_path / "cropping")
    name = make(encoded, trunk, kinds=BOTH, encoded=encoding)
    stored = open_features(encoded, name, "train")
    assert stored.recipe.crop == f"centre {share} 1"
    assert stored.recipe.encoded == encoding.replace(":", "")
    assert f"-{stored.recipe.encoded}-" in name
    backbone = open_backbone(trunk)
    loader = Loader(
        encoded, encoded=encoding, crop=Crop(share=share), size=SIZE, batch_size=5,
        drop_last=False, rank=0, world=1,
    )  # fmt: skip
    for batch in loader:
        assert isinstance(batch.images, torch.Tensor)
        for kind, images in (("plain", batch.images), ("mirrored", batch.images.flip(3))):
            expected = backbone.extract(images)
            computed = stored.rows(batch.rows.numpy(), kind)
            np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-5)
    quarantined = np.setdiff1d(np.arange(ROWS), stored.readable)
    assert len(quarantined) == 2
    assert not stored.rows(quarantined).any()
    assert problems(encoded) == {}


def test_any_batch_and_number_of_threads_gives_the_same_bytes(
    encoded: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two rows begin and end within chunks of the encoded bytes."""
    monkeypatch.setattr("pipeline.backbone.network.CPU_BATCH_SIZE", 2)
    other = Path(shutil.copytree(encoded, encoded.parent / "other"))
    name = make(encoded, trunk, encoded="original")
    assert make(other, trunk, encoded="original", threads=3) == name
    assert files(encoded, name) == files(other, name)


@pytest.mark.parametrize("batch_rows", [1, 3, 100])
@pytest.mark.parametrize("pool", [False, True])
def test_rows_that_cross_chunks_are_read_once(
    store: Path, source: Path, batch_rows: int, pool: bool
) -> None:
    """Chunks of 512 bytes are smaller than rows; the whole object is compared with its digest."""
    prepare_encoded(source, str(store), ["original"], sizes=())
    objects = open_objects(str(store))
    split = open_split(objects, "train", [], encoded=["original"])
    decoder = CropDecoder(split, "original", Crop(), 0)
    loader = Loader(store, encoded="original", size=8, order="sequential", batch_size=ROWS,
                    drop_last=False, rank=0, world=1)  # fmt: skip
    (batch,) = loader
    assert isinstance(batch.images, torch.Tensor)
    expected = dict(zip(batch.rows.tolist(), batch.images.permute(0, 2, 3, 1), strict=True))
    seen = []
    with ThreadPoolExecutor(2) as threads:
        for shard in range(split.plan.num_shards):
            commit = records.load_commit(objects, "train", shard)
            assert commit is not None
            rows = [row for row in split.plan.rows(shard) if split.readable[row]]
            for numbers, data in encoded_batches(
                objects, commit.encoded["original"], split.encoded["original"],
                np.array(rows, np.int64), batch_rows,
            ):  # fmt: skip
                assert len(numbers) <= batch_rows
                pixels = decode_batch(decoder, numbers, data, 8, threads if pool else None)
                for row, image in zip(numbers.tolist(), pixels, strict=True):
                    assert np.array_equal(image, expected[row])
                seen += numbers.tolist()
    assert seen == split.readable_rows.tolist()


@pytest.mark.parametrize("where", ["row", "end", "missing", "other"])
def test_no_features_of_damaged_rows_are_committed(encoded: Path, trunk: Path, where: str) -> None:
    """A flipped bit is detected in a row, and behind all rows; so is another object."""
    run = begin(encoded, trunk, encoded="jpeg:20@90")
    file = encoded / layout.encoded_shard("train", "jpeg20@90", 1)
    data = bytearray(file.read_bytes())
    if where == "missing":
        file.unlink()
    elif where == "other":
        other = encoded / layout.encoded_shard("train", "jpeg20@90", 0)
        file.write_bytes(other.read_bytes())
    else:
        data[40 if where == "row" else -1] ^= 1
        file.write_bytes(bytes(data))
    with pytest.raises(StoreDamagedError, match=r"differs from its commit|is damaged"):
        compute_shard(run.work, 1)
    assert derived.load_commit(run.objects, run.recipe, run.plan, 1) is None
    compute_shard(run.work, 0)


def test_features_of_rows_that_were_repaired_otherwise_are_computed_again(
    encoded: Path, trunk: Path
) -> None:
    """A commit names the digest of the encoded shard that the features were computed from."""
    name = make(encoded, trunk, encoded="jpeg:20@90")
    objects = open_objects(str(encoded))
    commit = records.load_commit(objects, "train", 1)
    assert commit is not None
    changed = replace(commit.encoded["jpeg20@90"], digest="0" * 32)
    text = replace(commit, encoded={**commit.encoded, "jpeg20@90": changed}).encode()
    (encoded / layout.commit("train", 1)).write_bytes(text)
    run = begin(encoded, trunk, encoded="jpeg:20@90")
    assert run.recipe.name == name
    assert extract.missing_shards(*run.context, ("plain",)) == [1]
    assert "images that have changed" in problems(encoded)[layout.FEATURES.commit(name, "train", 1)]


def test_a_split_without_squares_gives_its_most_suitable_rows(encoded: Path, trunk: Path) -> None:
    """Squares that do not exist are refused by name, as are encoded rows."""
    objects, backbone = open_objects(str(encoded)), open_backbone(trunk)

    def resolve(**choices: Any) -> Any:
        return extract.resolve_feature_recipe(objects, "train", backbone, FeatureOptions(**choices))

    assert resolve() == resolve(encoded="jpeg:20@90")
    assert resolve() != resolve(encoded="original")
    with pytest.raises(StoreError, match=r"no images of 16 px: it has jpeg20@90, original"):
        resolve(stored_size=16)
    with pytest.raises(StoreError, match=r"no encoded rows jpeg:9@90: it has jpeg20@90, original"):
        resolve(encoded="jpeg:9@90")
    with pytest.raises(ValueError, match="Omit --size"):
        resolve(encoded="original", stored_size=16)


def test_a_split_with_squares_is_read_as_before(store: Path, source: Path, trunk: Path) -> None:
    """Encoded rows beside squares change neither name nor bytes of their features."""
    before = begin(store, trunk)
    prepare_inline(source, str(store), sizes=(), encoded=("original",), serves=SIZE)
    after = begin(store, trunk)
    assert (after.recipe, after.recipe.encode()) == (before.recipe, before.recipe.encode())
    assert b"encoded" not in before.recipe.encode()
    assert b"crop" not in before.recipe.encode()
    other = begin(store, trunk, encoded="original")
    assert other.recipe.digest != before.recipe.digest
    assert "encoded" in other.recipe.encode().decode()
    make(store, trunk)
    why = extract.explain_extraction(*other.context, ("plain",))
    assert "images squares of 16 px, not original" in why


def test_crops_of_another_version_are_refused(
    encoded: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the features must not be of other crops."""
    run = begin(encoded, trunk)
    monkeypatch.setattr("pipeline.loader.crops.CROP_VERSION", 2)
    worker.open_workspace.cache_clear()
    with pytest.raises(StoreMismatchError, match=r"crops 'centre 1\.0 1', and this version"):
        compute_shard(run.work, 0)


def test_the_folder_of_a_renamed_network_keeps_its_features(encoded: Path, trunk: Path) -> None:
    """Features are found again by their digest, also if their recipe was lost."""
    name = make(encoded, trunk)
    renamed = trunk.parent / "renamed"
    if not renamed.exists():
        shutil.copytree(trunk, renamed)
    assert begin(encoded, renamed).recipe.name == name
    (encoded / layout.FEATURES.recipe(name)).unlink()
    assert begin(encoded, renamed).recipe.name == name


@pytest.mark.parametrize(
    ("side", "expected"),
    [(100, "jpeg128@80"), (128, "jpeg128@80"), (200, "jpeg256@90"), (257, "original")],
)
def test_the_smallest_rows_that_suffice_suit_best(side: int, expected: str) -> None:
    """Of two of the same short side, the higher quality does; without enough, the largest."""
    names = ["original", "jpeg256@80", "jpeg128@80", "jpeg256@90"]
    assert fitting_encoding(names, side).array_name == expected
    assert fitting_encoding(names[1:3], 300).array_name == "jpeg256@80"


def test_a_damaged_chunk_gives_no_row(encoded: Path) -> None:
    """Its checksum is compared before the digest of the whole object can be."""
    objects = open_objects(str(encoded))
    split = open_split(objects, "train", [], encoded=["original"])
    commit = records.load_commit(objects, "train", 0)
    assert commit is not None
    file = encoded / layout.encoded_shard("train", "original", 0)
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(bytes(data))
    rows = split.encoded["original"]
    batches = encoded_batches(objects, commit.encoded["original"], rows, np.arange(8), 1)
    with pytest.raises(StoreDamagedError, match="differs from its commit"):
        next(batches)
