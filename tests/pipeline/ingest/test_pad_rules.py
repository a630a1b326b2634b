"""A store of padded images keeps the rules by which it was started: other pixels, other places.

`tests/golden/pad-2` holds images, and a store with the fit `pad` that was made of them by rules 2,
which rounded the place and the shorter side of an image to whole pixels.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from pipeline.images import probe
from pipeline.images.resize import EXACT_PAD_RULES
from pipeline.ingest.recheck import recheck_rows
from pipeline.store import layout, records, table
from pipeline.store.open import open_objects
from tests.images import contents, prepare_inline
from tests.inline import repair_inline

GOLDEN = Path(__file__).parents[2] / "golden" / "pad-2"
CHOICES = {
    "sizes": (8, 16),
    "serves": 16,
    "shard_rows": 4,
    "chunk_rows": 2,
    "seed": 7,
    "fit": "pad",
}
GROWN = {
    "c.0.0.0.0": "6dc028ea7b4de787ae096a0e44874614809ef68e7230321fd34cf00a5e623270",
    "c.1.0.0.0": "cd38328f4b82d1a872d437e46ce713118b1f94c609292fde3934d41b454af37a",
    "c.2.0.0.0": "28deb156daecc877a99ed7f9fdf8a73da18ffaf83eff6d3a1dc7652bc8b155ab",
    "zarr.json": "e3eb48954856060d6a41716f371aa9a24ca6b10ba278b795fe1063686e2f152a",
}
"""SHA-256 of the objects of 12 px that the software of that time added to this store."""

SOURCE = GOLDEN / "images"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    recipe = records.load_recipe(open_objects(str(GOLDEN / "store")))
    probed = probe.probe(recipe.filter, rules=2)
    if (probed.decoder, probed.resizer) != (recipe.decoder, recipe.resizer):
        pytest.skip("this machine produces other pixels than the one that created the store")
    shutil.copytree(GOLDEN / "store", tmp_path / "store")
    return tmp_path / "store"


def pixels_of(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(store).items() if "/c." in name}


def test_an_interrupted_run_continues_under_its_rules(store: Path) -> None:
    """The continued run gives the same arrays and the same table."""
    shard = 1
    before = contents(store)
    for name in (
        layout.done("train"),
        layout.commit("train", shard),
        layout.part("train", shard),
        *(layout.shard("train", size, shard) for size in (8, 16)),
    ):
        (store / name).unlink()
    prepare_inline(SOURCE, str(store), **CHOICES)
    assert contents(store) == before


def test_a_further_size_follows_the_rules_of_the_store(store: Path) -> None:
    """The new objects equal those of the software of that time."""
    before = contents(store)
    prepare_inline(SOURCE, str(store), **{**CHOICES, "sizes": (8, 12, 16)})
    grown = contents(store)
    assert {name: grown[name] for name in before} == before
    added = {Path(name).name: grown[name] for name in grown if "/12/" in name}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in added.items()} == GROWN


def test_verification_and_repair_follow_the_rules_of_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is decoded again, and lost objects are made again as they were."""
    before = contents(store)
    for name in (layout.shard("train", 8, 1), layout.part("train", 2)):
        (store / name).write_bytes(b"damaged")
    assert repair_inline(monkeypatch, str(store), data=str(SOURCE)) == 0
    assert contents(store) == before
    assert list(recheck_rows(open_objects(str(store)), "train", 16)) == []


def test_a_new_store_places_its_images_exactly(store: Path, tmp_path: Path) -> None:
    """Its pixels differ where the place was rounded; the table does not."""
    new = tmp_path / "new"
    prepare_inline(SOURCE, str(new), **CHOICES)
    recipe = records.load_recipe(open_objects(str(new)))
    assert recipe.decode_rules == EXACT_PAD_RULES
    probed = probe.probe(recipe.filter, rules=recipe.decode_rules)
    assert (probed.decoder, probed.resizer) == (recipe.decoder, recipe.resizer)
    earlier = records.load_recipe(open_objects(str(store)))
    assert (earlier.decode_rules, earlier.decoder) == (2, recipe.decoder)
    assert earlier.resizer != recipe.resizer
    assert pixels_of(new) != pixels_of(store)
    lines = [
        table.decode_part((each / layout.table("train")).read_bytes()) for each in (new, store)
    ]
    assert lines[0].equals(lines[1])
    before = contents(new)
    (new / layout.shard("train", 8, 1)).unlink()
    (new / layout.commit("train", 1)).unlink()
    prepare_inline(SOURCE, str(new), **CHOICES)
    assert contents(new) == before
    assert list(recheck_rows(open_objects(str(new)), "train", 16)) == []


@pytest.mark.parametrize("fit", ["crop", "squish"])
def test_other_fits_keep_their_rules(tmp_path: Path, fit: str) -> None:
    """A new store has the recipe, and so the bytes, that a store had before."""
    prepare_inline(SOURCE, str(tmp_path / "store"), **{**CHOICES, "fit": fit})
    recipe = records.load_recipe(open_objects(str(tmp_path / "store")))
    assert recipe.decode_rules == 2
    probed = probe.probe(recipe.filter, rules=2)
    assert (probed.decoder, probed.resizer) == (recipe.decoder, recipe.resizer)
