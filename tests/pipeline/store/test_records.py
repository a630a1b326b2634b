"""Records are read completely or not at all."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import layout, records
from pipeline.store.commit import Commit, ObjectRecord, decode_commit
from pipeline.store.local import LocalObjects
from pipeline.store.records import FinishRecord, decode_finish_record
from tests.pipeline.store.test_plan import MADE as PLAN
from tests.pipeline.store.test_recipe import MADE as RECIPE

COMMIT = Commit(
    split="train",
    shard=1,
    plan=PLAN.digest,
    start=4,
    stop=8,
    arrays={"8": ObjectRecord(layout.shard("train", 8, 1), 5, "0" * 32)},
    table=ObjectRecord(layout.part("train", 1), 5, "0" * 32),
    counts={"readable": 4},
)
DONE = FinishRecord(
    split="train",
    recipe="a" * 64,
    plan=PLAN.digest,
    num_rows=11,
    sizes=(8, 16),
    counts={"readable": 11},
    parts="0" * 32,
    objects=tuple(
        ObjectRecord(name, 5, "0" * 32) for name in sorted(layout.derived("train", 11, (8, 16)))
    ),
)


def test_a_decoded_finish_record_equals_the_encoded_one(objects: LocalObjects) -> None:
    """Sizes and objects are tuples again; a missing record is None."""
    assert records.load_finish_record(objects, "train") is None
    objects.put(layout.done("train"), DONE.encode())
    assert records.load_finish_record(objects, "train") == DONE


def test_encoded_arrays_are_recorded_where_there_are_some(objects: LocalObjects) -> None:
    """Documents without any are those of before; a foreign object or name is refused."""
    shard = ObjectRecord(layout.encoded_shard("train", "jpeg256@90", 1), 7, "1" * 32)
    commit = replace(COMMIT, encoded={"jpeg256@90": shard})
    assert b"encoded" not in COMMIT.encode()
    assert decode_commit(commit.encode(), "x") == commit
    assert decode_commit(COMMIT.encode(), "x") == COMMIT
    assert shard in commit.objects
    for wrong in ({"jpeg256@90": replace(shard, name="x")}, {"jpeg0@90": shard}):
        with pytest.raises(StoreDamagedError):
            decode_commit(replace(COMMIT, encoded=wrong).encode(), "x")

    names = layout.encoded_derived("train", 11, "original")
    done = replace(
        DONE,
        encoded=("original",),
        objects=(*DONE.objects, *(ObjectRecord(name, 5, "0" * 32) for name in sorted(names))),
    )
    assert b"encoded" not in DONE.encode()
    assert decode_finish_record(done.encode(), "x") == done
    for encoded in ((), ("jpeg256@90",), ("original", "original")):
        with pytest.raises(StoreDamagedError):
            decode_finish_record(replace(done, encoded=encoded).encode(), "x")


def test_a_missing_split_is_reported_with_the_existing_ones(objects: LocalObjects) -> None:
    """A missing store is reported by its missing recipe."""
    with pytest.raises(StoreError, match=r"no store at .*it has no recipe\.json"):
        records.load_recipe(objects)
    objects.put(layout.plan("val"), PLAN.encode())
    with pytest.raises(StoreError, match="no split 'train': it has 'val'"):
        records.load_plan(objects, "train")


def test_a_store_path_below_a_file_is_a_one_line_error(tmp_path: Path) -> None:
    """The error is the same as for a missing store."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="no store at"):
        records.load_recipe(LocalObjects(str(tmp_path / "file" / "x"), "reader"))


def test_a_document_of_another_kind_is_damaged(objects: LocalObjects) -> None:
    """The document is intact but has the wrong name."""
    documents = {
        layout.RECIPE: RECIPE.encode(),
        layout.plan("train"): PLAN.encode(),
        layout.done("train"): DONE.encode(),
        layout.commit("train", 1): COMMIT.encode(),
    }
    loads = {
        layout.RECIPE: lambda: records.load_recipe(objects),
        layout.plan("train"): lambda: records.load_plan(objects, "train"),
        layout.done("train"): lambda: records.load_finish_record(objects, "train"),
    }
    for name, load in loads.items():
        for kind in set(documents) - {name}:
            objects.put(name, documents[kind])
            with pytest.raises(StoreDamagedError, match="not the document that its name says"):
                load()
    objects.put(layout.commit("train", 1), PLAN.encode())
    assert records.load_commit(objects, "train", 1) is None


def test_damaged_records_raise_and_damaged_commits_are_none(objects: LocalObjects) -> None:
    """A damaged commit counts as missing, so its shard is prepared again."""
    objects.put(layout.RECIPE, RECIPE.encode()[:-2])
    objects.put(layout.done("train"), DONE.encode()[1:])
    objects.put(layout.commit("train", 1), COMMIT.encode()[:-1])
    with pytest.raises(StoreDamagedError, match=r"recipe\.json is damaged"):
        records.load_recipe(objects)
    with pytest.raises(StoreDamagedError, match=r"train\.done\.json is damaged"):
        records.load_finish_record(objects, "train")
    assert records.load_commit(objects, "train", 1) is None
    assert records.load_commit(objects, "train", 0) is None


def of(split: str, shard: int, **change: str) -> Commit:
    """Return the commit of another shard."""
    return replace(
        COMMIT,
        split=split,
        shard=shard,
        arrays={"8": ObjectRecord(layout.shard(split, 8, shard), 5, "0" * 32)},
        table=ObjectRecord(layout.part(split, shard), 5, "0" * 32),
        **change,
    )


def test_only_commits_of_the_plan_under_their_own_name_count(objects: LocalObjects) -> None:
    """Commits of another plan, misnamed copies and other files are ignored."""
    objects.put(layout.commit("train", 0), COMMIT.encode())
    objects.put(layout.commit("train", 1), COMMIT.encode())
    objects.put(layout.commit("train", 2), of("train", 2, plan="0" * 64).encode())
    objects.put(layout.commit("train", 3), of("val", 3).encode())
    objects.put(layout.commit("train", 4), of("train", 4).encode())  # the plan has shards 0 to 2
    objects.put("commits/train/notes.json", b"{}")
    assert records.load_commits(objects, PLAN) == {1: COMMIT}


@pytest.mark.parametrize(
    "name",
    [layout.plan("a"), layout.done("a"), layout.ledger("a"), layout.commit("a", 0)],
)
def test_a_split_is_found_by_any_of_its_records(objects: LocalObjects, name: str) -> None:
    """The loss of one record does not hide the split."""
    objects.put(name, b"x")
    objects.put("splits/.hidden", b"x")
    objects.put("splits/notes.txt", b"x")
    objects.put("commits/readme", b"x")
    assert records.stored_splits(objects) == ["a"]
