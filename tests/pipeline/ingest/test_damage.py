"""Any damage is named and repaired to the same bytes, and nothing else is touched."""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.ingest.finish import finish_split
from pipeline.ingest.shard_task import prepare_shard
from pipeline.store import layout, records
from pipeline.store.open import open_objects
from tests.damage import Snapshot, category, choose, damage, files, snapshot, touched
from tests.images import ENCODED, SMALL, make_folder, plan_inline, prepare_inline
from tests.inline import repair_inline
from workflows.preparation.verify import verify_split

SPLITS = ("train", "val")
ARRAYS = ("8", "16", "jpeg16@90", "original")
MORE_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("truncate", "remove")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images of two splits."""
    root = tmp_path_factory.mktemp("images")
    make_folder(root / "train", 11, bad=1)
    make_folder(root / "val", 6)
    return root


def prepare_both(source: Path, store: Path) -> Path:
    for split in SPLITS:
        prepare_inline(source / split, str(store), split=split, encoded=ENCODED, **SMALL)
    return store


@pytest.fixture(scope="module")
def finished_store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_both(source, tmp_path_factory.mktemp("whole") / "store")


@pytest.fixture(scope="module")
def unfinished_store(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commit two of three shards of the first split, and none of the second."""
    store = tmp_path_factory.mktemp("begun") / "store"
    for split, shards in zip(SPLITS, (2, 0), strict=True):
        objects, _, work = plan_inline(
            source / split, str(store), split=split, encoded=ENCODED, **SMALL
        )
        for shard in range(shards):
            prepare_shard(work, shard)
        objects.end()
    return store


def problem_names(store: Path, *, unfinished: bool = False) -> set[str]:
    """Return the names of the objects that verification reports, in all splits."""
    objects = open_objects(str(store))
    splits = records.stored_splits(objects)
    problems = [problem for split in splits for problem in verify_split(objects, split)[1]]
    return {p.name for p in problems if unfinished or not p.unfinished}


def repair(monkeypatch: pytest.MonkeyPatch, store: Path, **options: str) -> int:
    splits = records.stored_splits(open_objects(str(store)))
    return sum(repair_inline(monkeypatch, str(store), split, **options) for split in splits)


def check_random_damages(
    store: Path, monkeypatch: pytest.MonkeyPatch, seed: int, times: int
) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(times):
        before = snapshot(store)
        name, kind = choose(store, rng)
        damage(store, name, kind, rng)
        assert problem_names(store) == {name}, kind
        assert repair(monkeypatch, store) == 0
        after = snapshot(store)
        assert after.data == before.data, (name, kind)
        assert touched(before, after) == {name}, (name, kind)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_random_damage_is_named_and_repaired(
    store: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A byte is flipped, a file truncated or removed, one after the other in one store."""
    check_random_damages(store, monkeypatch, seed, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10, 20))
def test_much_more_random_damage_is_named_and_repaired(
    store: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The test of random damage is repeated two hundred times."""
    check_random_damages(store, monkeypatch, seed, 20)


@pytest.mark.parametrize("kind", ["flip", *MORE_KINDS])
def test_damage_to_every_kind_of_file_is_named_and_repaired(
    store: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each category of file is damaged once, so that nothing depends on chance."""
    names = {category(str(file.relative_to(store))): file for file in files(store)}
    assert len(names) == 19, sorted(names)
    rng = np.random.default_rng(0)
    before = snapshot(store)
    for file in names.values():
        damage(store, str(file.relative_to(store)), kind, rng)
        assert problem_names(store) == {str(file.relative_to(store))}
        assert repair(monkeypatch, store) == 0
    assert snapshot(store).data == before.data


@pytest.mark.parametrize(
    "record",
    [
        layout.RECIPE,
        layout.plan("train"),
        layout.done("train"),
        layout.ledger("train"),
        layout.commit("train", 1),
        layout.part("train", 1),
        layout.table("train"),
    ],
)
@pytest.mark.parametrize("kind", ["flip", pytest.param("remove", marks=pytest.mark.slow)])
def test_a_record_and_a_shard_damaged_together_are_repaired(
    store: Path, monkeypatch: pytest.MonkeyPatch, record: str, kind: str
) -> None:
    """The repair of the shard needs the record."""
    rng = np.random.default_rng(1)
    before = snapshot(store)
    shard = layout.shard("train", 16, 1)
    for name in (record, shard):
        damage(store, name, kind, rng)
    assert problem_names(store) == {record, shard}
    assert repair(monkeypatch, store) == 0
    after = snapshot(store)
    assert after.data == before.data
    assert touched(before, after) == {record, shard}


@pytest.mark.parametrize(
    "names",
    [
        (layout.part("train", 0), layout.table("train")),
        (layout.part("train", 0), layout.part("train", 2), layout.done("train")),
        (layout.done("train"), layout.table("train"), layout.array("train", "label") + "/c.0"),
        (layout.RECIPE, layout.ledger("train")),
        (layout.plan("train"), layout.done("train")),
        (layout.ledger("train"), layout.done("train")),
        (layout.array("train", "8") + "/zarr.json", layout.shard("train", 8, 0)),
    ],
)
def test_damage_to_a_file_and_its_copy_is_repaired(
    store: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """The files are restored from the next copy that is intact."""
    before = snapshot(store)
    for name in names:
        damage(store, name, "truncate", np.random.default_rng(2))
    assert problem_names(store) >= set(names) - {
        layout.table("train"),
        f"{layout.array('train', 'label')}/c.0",
    }
    assert repair(monkeypatch, store) == 0
    after = snapshot(store)
    assert after.data == before.data
    assert touched(before, after) == set(names)


def without_provenance(stored: Snapshot) -> dict[str, bytes]:
    return {
        name: data for name, data in stored.data.items() if name.startswith(("images", "samples"))
    }


def test_a_commit_without_a_copy_is_rebuilt_with_its_shard(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new commit differs in its provenance alone."""
    before = snapshot(store)
    for name in (layout.commit("train", 1), layout.ledger("train")):
        damage(store, name, "remove", np.random.default_rng(3))
    assert problem_names(store) == {layout.commit("train", 1), layout.ledger("train")}
    assert repair(monkeypatch, store) == 0
    after = snapshot(store)
    assert without_provenance(after) == without_provenance(before)
    assert problem_names(store, unfinished=True) == set()
    own = {layout.ledger("train"), layout.commit("train", 1), layout.part("train", 1)}
    own |= {layout.array_shard("train", array, 1) for array in ARRAYS}
    assert touched(before, after) == own


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flip", "truncate", "remove"])
def test_damage_to_an_unfinished_store_is_named_and_repaired(
    unfinished_store: Path,
    source: Path,
    finished_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """A run can continue the store afterwards, with the same result."""
    store = shutil.copytree(unfinished_store, tmp_path / "store")
    rng = np.random.default_rng(4)
    before = snapshot(store)
    for name in before.data:
        if name.startswith(tuple(f"images.zarr/val/{array}" for array in ARRAYS)):
            continue  # no shard of this split is committed
        if name.startswith("commits/") and kind == "remove":
            continue  # a shard without a commit counts as not made yet
        damage(store, name, kind, rng)
        assert problem_names(store) == {name}
        repair(monkeypatch, store)
        assert problem_names(store) == set()
        assert sorted(snapshot(store).data) == sorted(before.data)
    after = snapshot(store)
    assert {name for name in before.data if after.data[name] != before.data[name]} <= {
        layout.commit("train", shard) for shard in range(2)
    }
    assert problem_names(store, unfinished=True) == {layout.plan("train"), layout.plan("val")}
    prepare_both(source, store)
    assert without_provenance(snapshot(store)) == without_provenance(snapshot(finished_store))
    assert problem_names(store, unfinished=True) == set()


def test_a_shard_under_the_name_of_another_is_reported(store: Path) -> None:
    """The file is intact, but belongs to another shard."""
    for folder, name in (("images.zarr/train/8", "c.{}.0.0.0"), ("commits/train", "00000{}.json")):
        first, second = (store / folder / name.format(shard) for shard in range(2))
        shutil.copyfile(first, second)
        assert str(second.relative_to(store)) in problem_names(store)


def test_a_partly_added_size_is_verified_as_far_as_it_exists(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finish record still covers the first size alone."""
    prepare_inline(source / "train", str(tmp_path / "store"), sizes=(8,), serves=16, **SMALL)
    objects, plan, work = plan_inline(source / "train", str(tmp_path / "store"), **SMALL)
    prepare_shard(work, 0)
    array = layout.array("train", "16")
    assert problem_names(tmp_path / "store", unfinished=True) == {array}
    assert problem_names(tmp_path / "store") == set()
    for name in (f"{array}/zarr.json", layout.shard("train", 16, 0), layout.part("train", 2)):
        before = snapshot(tmp_path / "store")
        damage(tmp_path / "store", name, "flip", np.random.default_rng(5))
        assert problem_names(tmp_path / "store") == {name}
        assert repair(monkeypatch, tmp_path / "store") == 1
        after = snapshot(tmp_path / "store")
        assert after.data[name] == before.data[name]
        # The repair also updates the copies in the ledger.
        assert touched(before, after) <= {name, layout.ledger("train")}
    objects, plan, work = plan_inline(source / "train", str(tmp_path / "store"), **SMALL)
    for shard in range(1, plan.num_shards):
        prepare_shard(work, shard)
    assert problem_names(tmp_path / "store", unfinished=True) == {array}
    finish_split(objects.url, "train", work.run)
    assert problem_names(tmp_path / "store", unfinished=True) == set()


@pytest.mark.parametrize("encoding", ["jpeg8@50", "original"])
def test_a_damaged_plan_of_encoded_rows_without_a_copy_is_removed_and_written_again(
    source: Path, store: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """It may be that of rows that no shard has, as after a run that was killed at its start."""
    before = snapshot(store)
    (store / layout.encoded_plan("val", encoding)).write_text("damaged")
    (store / layout.ledger("val")).unlink()
    with suppress(StoreError):  # the split has rows that now lack a plan
        repair(monkeypatch, store)
    prepare_inline(source / "val", str(store), split="val", encoded=ENCODED, **SMALL)
    assert problem_names(store, unfinished=True) == set()
    assert snapshot(store).data == before.data
