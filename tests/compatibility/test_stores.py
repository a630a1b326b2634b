"""Stores and features that earlier versions wrote open, verify, are repaired and grow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.features.reader import open_features
from pipeline.images import probe
from pipeline.loader import Loader
from pipeline.store import features, layout, records, table
from pipeline.store.open import open_objects
from tests.compatibility.bundles import Bundle
from tests.compatibility.make_fixtures import DAMAGED, SIDE, SPLITS
from tests.damage import snapshot

SHARD = layout.shard("train", SIDE, 1)
"""The object that is damaged: rows 8 to 15."""


@pytest.fixture(autouse=True)
def same_software(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode and resize as if with the software that made the store, by the rules of its code.

    Images of the stored size are not resized, so their pixels are equal with any software.
    """
    recipe = records.load_recipe(open_objects(str(bundle.store)))
    code_rules = 2 if bundle.name == "before-rooms" else 1

    def probe_by(_filter: str, *, rules: int = 2) -> probe.Probe:
        another = "0" * len(recipe.decoder)
        digests = (recipe.decoder, recipe.resizer) if rules == code_rules else (another, another)
        return probe.Probe(*digests)

    monkeypatch.setattr(probe, "probe", probe_by)


def pixels_of(key: str, root: Path, split: str) -> np.ndarray:
    """Return the pixels of a source image, (SIDE, SIDE, 3) uint8."""
    data = (root / "source" / split / key).read_bytes()
    return np.frombuffer(data[-(SIDE * SIDE * 3) :], np.uint8).reshape(SIDE, SIDE, 3)


def keys_of(bundle: Bundle, split: str) -> list[str]:
    """Return the key of each row of a split."""
    rows = table.decode_part((bundle.store / layout.table(split)).read_bytes())
    keys: list[str] = rows["key"].to_pylist()
    return keys


def features_name(bundle: Bundle) -> str:
    """Return the name of the features of the store."""
    (name,) = features.names(open_objects(str(bundle.store)))
    return name


def test_every_file_of_a_store_verifies(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` checks every file and writes none."""
    before = snapshot(bundle.store)
    assert bundle.tesserae("verify", "store") == 0, capsys.readouterr()
    assert snapshot(bundle.store) == before
    recipe = records.load_recipe(open_objects(str(bundle.store)))
    assert recipe.format == bundle.format


def test_a_loader_reads_the_source_images(bundle: Bundle) -> None:
    """The loader returns every readable image once, with its pixels and its label."""
    loader = Loader(bundle.store, size=SIDE, batch_size=5, drop_last=False, rank=0, world=1)
    keys = keys_of(bundle, "train")
    rows = []
    for batch in loader:
        for row, label, image in zip(batch.rows, batch.labels, batch.images, strict=True):
            key = keys[int(row)]
            assert key.startswith(f"n{int(label):08d}/")
            np.testing.assert_array_equal(
                image.permute(1, 2, 0).numpy(), pixels_of(key, bundle.root, "train")
            )
            rows.append(int(row))
    assert len(rows) == len(set(rows)) == SPLITS["train"] - 1
    (absent,) = set(range(len(keys))) - set(rows)
    assert keys[absent] == f"n00000001/{DAMAGED}.ppm"


def test_a_damaged_shard_is_repaired(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` finds a damaged shard, and `repair` rebuilds its bytes from the source."""
    before = snapshot(bundle.store)
    file = bundle.store / SHARD
    file.write_bytes(file.read_bytes()[:-9] + bytes(9))
    assert bundle.tesserae("verify", "store") == 1
    assert SHARD in capsys.readouterr().out
    assert bundle.tesserae("repair", "store", "--data", "source") == 0
    assert bundle.tesserae("verify", "store") == 0, capsys.readouterr()
    assert snapshot(bundle.store).data == before.data


def test_a_split_and_a_size_are_added(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    """Added documents have the store's format, and existing objects keep their bytes."""
    before = snapshot(bundle.store).data
    words = ("prepare", "source", "store", "--max-bad", 0.1, "--no-dashboard")
    assert bundle.tesserae(*words, "--split", "test", "--sizes", SIDE) == 0
    assert bundle.tesserae(*words, "--split", "train", "--sizes", 8) == 0
    assert bundle.tesserae("verify", "store") == 0, capsys.readouterr()
    after = snapshot(bundle.store).data
    kept = {
        name: data for name, data in before.items() if not name.startswith(("commits", "splits"))
    }
    assert {name: after[name] for name in kept} == kept
    added = {name: json.loads(after[name]) for name in after if name.endswith(".json")}
    assert {d["format"] for d in added.values() if "digest" in d} == {bundle.format}
    sides = ["height", "width"] if bundle.format == 1 else ["height_8", "width_8"]
    assert added[f"{layout.array('train', '8')}/zarr.json"]["dimension_names"] == [
        *("row", *sides, "channel")
    ]
    assert len(Loader(bundle.store, "test", size=SIDE, batch_size=4, rank=0, world=1)) == 2


def test_features_are_read_and_made_for_a_further_split(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features of an added split join the existing ones, which keep their bytes."""
    name = features_name(bundle)
    for split, readable in (("train", SPLITS["train"] - 1), ("val", SPLITS["val"])):
        assert len(open_features(bundle.store, name, split).readable) == readable
    before = snapshot(bundle.store).data
    prepare = ("prepare", "source", "store", "--split", "test", "--sizes", SIDE)
    assert bundle.tesserae(*prepare, "--no-dashboard") == 0
    assert bundle.tesserae("features", "store", "--trunk", "trunk", "--mirrored") == 0
    assert features.names(open_objects(str(bundle.store))) == [name]
    after = snapshot(bundle.store).data
    assert {file: after[file] for file in before if file.startswith("features/")} == {
        file: data for file, data in before.items() if file.startswith("features/")
    }
    assert bundle.tesserae("verify", "store") == 0, capsys.readouterr()
    assert len(open_features(bundle.store, name, "test").readable) == SPLITS["test"]


def test_damaged_features_are_repaired(bundle: Bundle) -> None:
    """Repaired features are close to those that the earlier code computed."""
    name = features_name(bundle)
    rows = open_features(bundle.store, name, "train").readable
    before = open_features(bundle.store, name, "train").rows(rows)
    file = bundle.store / layout.FEATURES.shard(name, "train", "plain", 1)
    file.write_bytes(file.read_bytes()[:-9] + bytes(9))
    assert bundle.tesserae("verify", "store") == 1
    assert bundle.tesserae("features", "store", "--trunk", "trunk", "--repair") == 0
    assert bundle.tesserae("verify", "store") == 0
    after = open_features(bundle.store, name, "train").rows(rows)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
