"""Planning gives the same recipe, plan, labels and metadata on every machine and every run."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.ingest import planning, restore
from pipeline.ingest.planning import class_runs
from pipeline.ingest.source_index import SourceIndex, load_origin
from pipeline.order import row_order
from pipeline.sources import open_source
from pipeline.store import arrays, layout, records
from pipeline.store.ledger import Ledger, encode_ledger, read_ledger
from pipeline.store.local import LocalObjects
from pipeline.store.open import open_objects
from pipeline.store.options import StoreOptions
from tests.damage import snapshot, touched
from tests.disk import recording
from tests.images import jpeg, make_folder, plan_inline
from tests.pipeline.store.test_recipe import MADE as RECIPE


def make_objects(root: Path) -> LocalObjects:
    objects = LocalObjects(str(root), "train-1")
    objects.begin()
    return objects


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images", 11)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


# Names around "/", which sorts between "." and "0", and names that are prefixes of others.
names = st.text("ab-./ 0é😀_", min_size=1, max_size=3).map(lambda name: name.replace("/", "~"))


@given(st.dictionaries(names, st.integers(1, 40), max_size=8), st.integers(1, 5))
def test_bisection_finds_the_same_classes_as_a_scan(counts: dict[str, int], chunks: int) -> None:
    """Class names are arbitrary, and the column has one chunk or several."""
    keys = [
        f"{name}/{number:02d}.JPEG" for name, count in counts.items() for number in range(count)
    ]
    keys.sort(key=str.encode)
    grouped = [
        (name, [number for number, _ in group])
        for name, group in groupby(enumerate(keys), lambda pair: pair[1].partition("/")[0])
    ]
    expected = [(name, indices[0], indices[-1] + 1) for name, indices in grouped]
    step = -(-len(keys) // chunks) or 1
    pieces = [keys[start : start + step] for start in range(0, len(keys), step)]
    column = pa.chunked_array([pa.array(p, pa.large_string()) for p in pieces], pa.large_string())
    assert class_runs(column) == expected
    assert len({name for name, _, _ in expected}) == len(expected)


def test_labels_are_indices_of_the_sorted_classes(tmp_path: Path, store: str) -> None:
    """Labels are in the order of rows; names that sort around the slash are handled."""
    for name in ("a", "a-b", "a b", "a.b", "a0", "é"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(3):
            (folder / f"{number}.JPEG").write_bytes(jpeg(number))
    objects, planned, _ = plan_inline(tmp_path / "images", store)
    recipe = records.load_recipe(objects)
    assert recipe.wnids == ["a", "a b", "a-b", "a.b", "a0", "é"]
    rows = SourceIndex(objects, planned)
    samples = [sample for shard in range(planned.num_shards) for sample in rows.shard(shard)]
    assert [recipe.wnids[s.label] for s in samples] == [s.key.partition("/")[0] for s in samples]
    labels = arrays.read_small(objects, "train", "label")
    assert labels.tolist() == [sample.label for sample in samples]


def test_rows_are_the_sorted_keys_in_the_order_of_the_seed(source: Path, store: str) -> None:
    """The order can be reproduced from the keys and the seed alone."""
    objects, planned, _ = plan_inline(source, store, seed=3)
    rows = SourceIndex(objects, planned)
    keys = [sample.key for shard in range(planned.num_shards) for sample in rows.shard(shard)]
    by_name = sorted(keys, key=str.encode)
    assert keys == [by_name[index] for index in row_order(11, 3)]


def test_planning_again_changes_nothing(source: Path, store: str) -> None:
    """No file is written again."""
    plan_inline(source, store)
    before = snapshot(Path(store))
    plan_inline(source, store)
    assert touched(before, snapshot(Path(store))) == set()
    assert set(before.data) == {
        "images.zarr/train/16/zarr.json",
        "images.zarr/train/8/zarr.json",
        "images.zarr/train/label/c.0",
        "images.zarr/train/label/zarr.json",
        "images.zarr/train/status/zarr.json",
        "images.zarr/train/zarr.json",
        "images.zarr/zarr.json",
        layout.RECIPE,
        layout.plan("train"),
        layout.ledger("train"),
    }


@pytest.mark.parametrize(
    "name", ["images.zarr/zarr.json", "images.zarr/train/8/zarr.json", layout.ledger("train")]
)
def test_planning_again_restores_damaged_files(source: Path, store: str, name: str) -> None:
    """An interrupted run may have left a partly written file."""
    plan_inline(source, store)
    before = snapshot(Path(store))
    (Path(store) / name).write_bytes(b"{")
    plan_inline(source, store)
    assert snapshot(Path(store)).data == before.data


def test_a_later_run_syncs_the_plan_of_an_earlier_one(
    source: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier run may have been killed before its files were durable."""
    objects, planned, _ = plan_inline(source, store)
    recipe = records.load_recipe(objects)
    with recording(monkeypatch, Path(store)) as ops:
        planning.write_metadata(objects, recipe, planned, (8, 16), {})
    assert ("sync_folder", ".") in ops
    assert ("sync_folder", "splits") in ops


def test_the_ledger_has_recipe_and_plan_from_the_start(source: Path, store: str) -> None:
    """An unfinished store can be repaired, too; copies of commits are kept."""
    objects, planned, _ = plan_inline(source, store)
    recipe = records.load_recipe(objects)
    copies = read_ledger(objects, "train").copies
    assert copies == {layout.RECIPE: recipe.encode(), layout.plan("train"): planned.encode()}
    full = {"commits/train/000000.json": planned.encode(), **copies}
    objects.put(layout.ledger("train"), encode_ledger(full.items())[:-1])
    planning.write_metadata(objects, recipe, planned, (8, 16), {})
    assert read_ledger(objects, "train") == Ledger(full, None)


def test_another_listing_is_refused_and_the_difference_named(source: Path, store: str) -> None:
    """The store is unchanged afterwards."""
    plan_inline(source, store)
    before = snapshot(Path(store))
    extra = source / "n00000000" / "n00000000_x.JPEG"
    extra.write_bytes(jpeg(99))
    with pytest.raises(StoreMismatchError, match="number of samples is 11 in the store, 12 now"):
        plan_inline(source, store)
    extra.unlink()
    with pytest.raises(StoreMismatchError, match="the seed is 0 in the store, 5 now"):
        plan_inline(source, store, seed=5)
    assert snapshot(Path(store)) == before


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"fit": "pad"}, "fit is 'crop' in the store, 'pad' was requested"),
        ({"codec": "zstd:3"}, "codec is 'none' in the store"),
        ({"shard_rows": 16}, "shard_rows is 8 in the store, 16 was requested"),
    ],
)
def test_another_recipe_is_refused_and_the_difference_named(
    source: Path, store: str, choices: dict[str, Any], sentence: str
) -> None:
    """Only options that were given count; the others are taken from the store."""
    plan_inline(source, store)
    with pytest.raises(StoreMismatchError, match=sentence):
        plan_inline(source, store, **choices)
    _, planned, _ = plan_inline(source, store, shard_rows=None, chunk_rows=None)
    assert planned.shard_rows == 8


def test_a_further_split_may_have_fewer_classes_but_no_others(
    tmp_path: Path, source: Path, store: str
) -> None:
    """A label means the same class in all splits."""
    plan_inline(source, store)
    class_folder = tmp_path / "few" / "n00000002"
    class_folder.mkdir(parents=True)
    (class_folder / "a.JPEG").write_bytes(jpeg(1))
    objects, _, _ = plan_inline(tmp_path / "few", store, split="val")
    assert arrays.read_small(objects, "val", "label").tolist() == [2]
    class_folder.rename(class_folder.with_name("n00000009"))
    with pytest.raises(StoreMismatchError, match="1 class is not among the store's 3: 'n00000009'"):
        plan_inline(tmp_path / "few", store, split="test")


def test_a_refused_seed_or_class_leaves_no_plan(source: Path, store: str) -> None:
    """A plan that cannot be read would be damage, and one of other classes could not be made."""
    objects, planned, config = plan_inline(source, store)
    recipe, origin = records.load_recipe(objects), load_origin(objects, planned)
    listed = planning.read_listing(open_source(str(source), config.split).list(lambda _: None))
    with pytest.raises(ValueError, match="seed is -1"):
        planning.make_plan(objects, "val", recipe, listed, origin, -1)
    few = replace(recipe, classes=recipe.classes[:2])
    with pytest.raises(StoreMismatchError, match="1 classes are not in the store's 2"):
        planning.make_plan(objects, "test", few, listed, origin, 0)
    assert records.stored_splits(objects) == ["train"]


def test_plans_without_a_recipe_are_damage(source: Path, store: str) -> None:
    """A new recipe would not match the plans."""
    plan_inline(source, store)
    (Path(store) / layout.RECIPE).unlink()
    with pytest.raises(StoreDamagedError, match=r"has plans but no recipe\.json"):
        plan_inline(source, store)


def test_a_listing_is_reused_while_source_and_index_are_unchanged(source: Path, store: str) -> None:
    """After any change of source or index the source is listed again."""
    objects, _, _ = plan_inline(source, store)
    opened = open_source(str(source), "train")

    def is_cached() -> bool:
        return planning.cached_origin(objects, "train", opened, opened.root) is not None

    assert is_cached()
    assert planning.cached_origin(objects, "train", opened, "/elsewhere") is None
    assert planning.cached_origin(objects, "val", opened, opened.root) is None
    for name in (
        layout.source_index("train"),
        layout.source_index_record("train"),
        layout.plan("train"),
    ):
        file = Path(store) / name
        data = file.read_bytes()
        for damaged in (data[:-1], bytes([data[40] ^ 1]).join([data[:40], data[41:]]), b""):
            file.write_bytes(damaged)
            assert not is_cached(), name
        file.write_bytes(data)
        assert is_cached()
    (source / "n00000000" / "more.JPEG").write_bytes(b"x")
    assert not is_cached()


def test_labels_are_restored_from_the_source_index(source: Path, store: str) -> None:
    """No shard of the split is needed, since there may be none."""
    objects, planned, _ = plan_inline(source, store)
    before = snapshot(Path(store))
    name = f"{layout.array('train', 'label')}/c.0"
    objects.remove(name)
    restore.restore_labels(objects, planned)
    after = snapshot(Path(store))
    assert after.data == before.data
    assert touched(before, after) == {name}


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((), r"sizes are \[\]: expected one at least, or an encoding"),
        ((0,), r"sizes are \[0\]"),
        ((4097,), r"sizes are \[4097\]"),
        ((8, 8), r"sizes are \[8, 8\]: one is given twice"),
    ],
)
def test_invalid_sizes_are_refused(sizes: tuple[int, ...], sentence: str) -> None:
    """The error states the given sizes."""
    with pytest.raises(ValueError, match=sentence):
        StoreOptions(sizes=sizes)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"fit": "fill"}, "fit is 'fill': expected one of crop, pad, squish"),
        ({"filter": "cubic"}, "filter is 'cubic': expected one of bicubic, bilinear"),
        ({"codec": "gzip"}, "codec is 'gzip': expected none, zstd:LEVEL"),
    ],
)
def test_invalid_options_are_refused(tmp_path: Path, choice: dict[str, Any], sentence: str) -> None:
    """The error states the given option, for a store that does not exist yet."""
    with pytest.raises(ValueError, match=sentence):
        planning.check_options(open_objects(str(tmp_path / "store")), StoreOptions(**choice))


@given(st.integers(1, 8), st.integers(1, 9))
def test_the_size_of_a_shard_is_known_in_advance(num_rows: int, size: int) -> None:
    """A shard consists of chunks, their checksums, and the index with its checksum."""
    # RECIPE has 8 rows a shard and 4 a chunk: two chunks at most, and always two index entries.
    chunks = 1 if num_rows <= 4 else 2
    expected = chunks * (4 * size * size * 3 + 4) + 2 * 16 + 4
    assert planning.shard_bytes(RECIPE, size, num_rows) == expected


def test_a_run_without_enough_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error states both figures; compressed and remote stores are not checked."""
    objects = make_objects(tmp_path)
    monkeypatch.setattr(objects, "free_bytes", lambda: 10**9)
    planning.check_free_space(objects, RECIPE, 10**9)
    with pytest.raises(StoreError, match=r": 2,000,000,000 bytes needed, 1,000,000,000 free"):
        planning.check_free_space(objects, RECIPE, 2 * 10**9)
    with pytest.raises(StoreError, match=r"can only be streamed, .* need 2\.0 GB"):
        planning.check_spool_space(objects, 2 * 10**9)
    planning.check_free_space(open_objects("memory://x"), RECIPE, 10**15)


def test_a_sample_without_a_class_has_no_label() -> None:
    """The label of such a sample is -1."""
    keys = pa.chunked_array([pa.array(["-/1.JPEG", "n00000001/2.JPEG"], pa.large_string())])
    listed = planning.Listing(pa.table({"key": keys}), "0", class_runs(keys))
    assert listed.wnids == ["n00000001"]
    assert planning._labels_of_listing(listed, RECIPE).tolist() == [-1, 0]
    assert planning._labels_of_listing(listed, RECIPE).dtype == np.int32
