"""Records are read completely or not at all, and the ledger has a copy of each."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import document, layout, records
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.local import LocalObjects
from pipeline.store.records import FinishRecord
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


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    objects = LocalObjects(str(tmp_path), "train-1")
    objects.begin()
    return objects


def test_a_decoded_finish_record_equals_the_encoded_one(objects: LocalObjects) -> None:
    """Sizes and objects are tuples again; a missing record is None."""
    assert records.load_finish_record(objects, "train") is None
    objects.put(layout.done("train"), DONE.encode())
    assert records.load_finish_record(objects, "train") == DONE


def test_a_missing_split_is_reported_with_the_existing_ones(objects: LocalObjects) -> None:
    """A missing store is reported by its missing recipe."""
    with pytest.raises(StoreError, match=r"no store at .*it has no recipe\.json"):
        records.load_recipe(objects)
    objects.put(layout.plan("val"), PLAN.encode())
    with pytest.raises(StoreError, match="no plan for split 'train': it has 'val'"):
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
    assert records.splits(objects) == ["a"]


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(texts, st.dictionaries(texts, texts, max_size=3), max_size=5))
def test_a_ledger_preserves_each_document(
    fields: dict[str, dict[str, str]],
) -> None:
    """Any content is preserved, line breaks included."""
    documents = {
        name: document.encode_document(
            {**{k: v for k, v in value.items() if k != "digest"}, "format": 1}
        )
        for name, value in fields.items()
    }
    data = records.encode_ledger(documents.items())
    assert data.count(b"\n") == len(documents) + 1
    assert dict(records._ledger_lines(data)) == documents


def test_a_damaged_ledger_returns_its_intact_copies(objects: LocalObjects) -> None:
    """Any damage is reported."""
    name = layout.ledger("train")
    documents = {layout.RECIPE: RECIPE.encode(), layout.plan("train"): PLAN.encode()}
    intact = records.encode_ledger(documents.items())
    assert records.read_ledger(objects, "train") == records.Ledger({}, "missing")
    objects.put(name, intact)
    assert records.read_ledger(objects, "train") == records.Ledger(documents, None)
    for offset in range(0, len(intact), 7):
        objects.put(name, intact[:offset] + bytes([intact[offset] ^ 4]) + intact[offset + 1 :])
        ledger = records.read_ledger(objects, "train")
        assert ledger.damage == "damaged", offset
        assert set(ledger.copies.values()) <= set(documents.values())
        assert len(ledger.copies) >= 1
    for lines in (intact.split(b"\n")[:1], intact.split(b"\n")[:2], [b""]):
        objects.put(name, b"\n".join(lines))
        assert records.read_ledger(objects, "train").damage == "damaged"


def test_an_object_exists_only_with_its_recorded_bytes(objects: LocalObjects) -> None:
    """Length and digest must agree."""
    written = records.fingerprint("a", b"hello")
    assert not records.is_intact(objects, written)
    for data, intact in ((b"hello", True), (b"hellp", False), (b"hell", False)):
        objects.put("a", data)
        assert records.is_intact(objects, written) is intact


def test_piecewise_writing_gives_the_same_fingerprint(objects: LocalObjects) -> None:
    """The fingerprint of the pieces equals that of the whole."""
    writer = objects.create("a")
    noting = records.FingerprintWriter(writer)
    for piece in (b"he", b"", b"llo"):
        noting.write(memoryview(piece))
    noting.finish()
    writer.abort()
    assert noting.written() == records.fingerprint("a", b"hello")
    assert objects.get("a") == b"hello"
    assert records.digest_of(objects, "a") == noting.written().digest
