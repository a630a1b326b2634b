"""A store of format 1 with labels 0 to 11 keeps its own order of classes in every operation."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreMismatchError
from pipeline.images import probe
from pipeline.sources.options import SourceOptions
from pipeline.store import arrays, layout, records
from pipeline.store.open import open_objects
from tests.golden.numbered import CHOICES, STORE, make_source
from tests.images import contents, prepare_inline
from tests.inline import repair_inline

TEXT_ORDER = ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the store; this machine appears to have the software that prepared it."""
    recipe = records.load_recipe(open_objects(str(STORE)))
    software = probe.Probe(recipe.decoder, recipe.resizer)
    monkeypatch.setattr(probe, "probe", lambda *_, **__: software)
    return shutil.copytree(STORE, tmp_path / "store")


def labels(store: Path, split: str) -> dict[str, int]:
    """Return the label of each class in the keys, which must be unique."""
    table = pq.read_table(store / layout.table(split))
    stored = arrays.read_small(open_objects(str(store)), split, "label")
    labels_by_class: dict[str, int] = {}
    for line in table.to_pylist():
        label = int(stored[line["row"]])
        assert labels_by_class.setdefault(line["key"].split("/")[0], label) == label
    return labels_by_class


def test_format_1_labels_are_in_bytewise_order(store: Path) -> None:
    """The class 10 has the label 2."""
    recipe = records.load_recipe(open_objects(str(store)))
    assert (recipe.wnids, recipe.listing_rules, recipe.class_numbers) == (TEXT_ORDER, 1, ())
    assert labels(store, "train") == {name: label for label, name in enumerate(TEXT_ORDER)}


def test_a_format_1_store_is_resumed_by_its_own_rules(store: Path, tmp_path: Path) -> None:
    """The listing is unchanged, and a lost shard is prepared again with the same bytes."""
    before = contents(store)
    for name in (layout.commit("train", 1), layout.shard("train", 8, 1), layout.done("train")):
        (store / name).unlink()
    prepare_inline(make_source(tmp_path / "source") / "train.tar", str(store), **CHOICES)
    assert labels(store, "train") == {name: label for label, name in enumerate(TEXT_ORDER)}
    assert contents(store) == before


def test_a_format_1_store_is_repaired_by_its_own_rules(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels are repaired from the source, too."""
    expected = (store / layout.array("train", "label") / "c.0").read_bytes()
    (store / layout.shard("train", 8, 2)).unlink()
    (store / layout.array("train", "label") / "c.0").write_bytes(b"x")
    source = make_source(tmp_path / "source") / "train.tar"
    assert repair_inline(monkeypatch, str(store), data=str(source)) == 0
    assert (store / layout.array("train", "label") / "c.0").read_bytes() == expected


def test_a_further_split_of_a_format_1_store_has_its_order(store: Path, tmp_path: Path) -> None:
    """The class 10 has the label 2 in val as it has in train."""
    source = make_source(tmp_path / "source")
    prepare_inline(source / "val.tar", str(store), split="val", **CHOICES)
    assert labels(store, "val") == labels(store, "train")


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("none", "-1", r"'-1'.*listing rules 1"),
        ("beyond", "12", r"'12'.*listing rules 1"),
    ],
)
def test_classes_that_rules_1_cannot_express_are_refused(
    store: Path, tmp_path: Path, name: str, label: str, message: str
) -> None:
    """A class that the store lacks is refused; under these rules -1 is a class."""
    source = make_source(tmp_path / "source", (name, label))
    with pytest.raises(StoreMismatchError, match=message):
        prepare_inline(source / "val.tar", str(store), split="val", **CHOICES)


def test_options_of_later_rules_are_refused(store: Path) -> None:
    """An option such as --recursive would list by other rules than the store's."""
    chosen: dict[str, Any] = {"recursive": "first"}
    with pytest.raises(ValueError, match="uses listing rules 1, which do not support --recursive"):
        SourceOptions.of(chosen, rules=1)
