"""Forged documents with a valid digest are either valid documents or refused.

An attacker can compute digests. For any value in any field, readers get a document of the right
types, within bounds and with the names of the layout, or a `StoreError`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.ingest.source_index import SourceIndexRecord
from pipeline.store import (
    arrays,
    commit,
    derived,
    document,
    layout,
    plan,
    recipe,
    records,
    schema,
    table,
)
from pipeline.store.commit import ObjectRecord
from pipeline.store.features import KINDS, FeatureCommit, FeatureFinishRecord, FeatureRecipe
from pipeline.store.ledger import read_ledger
from pipeline.store.local import LocalObjects
from pipeline.store.schema import SchemaError
from pipeline.store.split import open_split
from pipeline.store.upscaled import UpscaledCommit, UpscaledFinishRecord, UpscaledRecipe
from tests.hostile import mutated_fields, values
from tests.images import make_folder, prepare_inline
from tests.pipeline.store.test_commit import COMMIT
from tests.pipeline.store.test_plan import MADE as PLAN
from tests.pipeline.store.test_recipe import MADE as RECIPE
from tests.pipeline.store.test_records import DONE

FEATURES = FeatureRecipe(
    trunk="resnet",
    weights="a" * 64,
    cut="",
    pooling="end",
    stored_size=8,
    input_size=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    channels="RGB",
    precision="float32",
    dtype="float32",
    dim=4,
    images=RECIPE.digest,
    shard_rows=8,
    chunk_rows=4,
)
FEATURE_COMMIT = FeatureCommit(
    features=FEATURES.digest,
    split="train",
    shard=1,
    plan=PLAN.digest,
    pixels="0" * 32,
    arrays={
        kind: ObjectRecord(layout.FEATURES.shard(FEATURES.name, "train", kind, 1), 5, "0" * 32)
        for kind in KINDS
    },
    provenance={"seconds": 1.5, "host": "h"},
)
FEATURES_DONE = FeatureFinishRecord(
    features=FEATURES.digest,
    split="train",
    plan=PLAN.digest,
    num_rows=11,
    kinds=KINDS,
    parts="0" * 32,
    objects=tuple(
        ObjectRecord(name, 5, "0" * 32)
        for name in sorted(layout.FEATURES.in_finish_record(FEATURES.name, "train", KINDS))
    ),
)
UPSCALED = UpscaledRecipe(
    name="span-x4-32",
    network="span",
    weights="a" * 64,
    step=9,
    scale=4,
    stored_size=8,
    self_ensemble=False,
    precision="float32",
    images=RECIPE.digest,
    shard_rows=8,
    chunk_rows=4,
)
UPSCALED_COMMIT = UPSCALED.commit_of(
    split="train",
    shard=1,
    plan=PLAN.digest,
    pixels="0" * 32,
    arrays={
        "32": ObjectRecord(layout.UPSCALED.shard(UPSCALED.name, "train", "32", 1), 5, "0" * 32)
    },
)
UPSCALED_DONE = UPSCALED.finish_record_of(
    split="train",
    plan=PLAN.digest,
    num_rows=11,
    kinds=UPSCALED.kinds,
    parts="0" * 32,
    objects=tuple(
        ObjectRecord(name, 5, "0" * 32)
        for name in sorted(layout.UPSCALED.in_finish_record(UPSCALED.name, "train", UPSCALED.kinds))
    ),
)
DOCUMENTS: dict[str, tuple[Any, Any]] = {
    "recipe": (RECIPE, recipe.decode_recipe),
    "recipe of format 1": (
        replace(RECIPE, format=1, decode_rules=1, listing_rules=1, max_image_bytes=None),
        recipe.decode_recipe,
    ),
    "plan": (PLAN, plan.decode_plan),
    "commit": (replace(COMMIT, provenance={"image_seconds": 60.0}), commit.decode_commit),
    "done": (DONE, records.decode_finish_record),
    "recipe of features": (
        FEATURES,
        lambda *a: derived.decode_document(FeatureRecipe, *a),
    ),
    "commit of features": (
        FEATURE_COMMIT,
        lambda *a: derived.decode_document(FeatureCommit, *a),
    ),
    "done of features": (
        FEATURES_DONE,
        lambda *a: derived.decode_document(FeatureFinishRecord, *a),
    ),
    "recipe of upscaled images": (
        UPSCALED,
        lambda *a: derived.decode_document(UpscaledRecipe, *a),
    ),
    "commit of upscaled images": (
        UPSCALED_COMMIT,
        lambda *a: derived.decode_document(UpscaledCommit, *a),
    ),
    "done of upscaled images": (
        UPSCALED_DONE,
        lambda *a: derived.decode_document(UpscaledFinishRecord, *a),
    ),
}
"""A valid document of each kind, and the function that decodes it."""


def fields_of(written: Any) -> dict[str, Any]:
    """Return the fields of a document as they are in its text."""
    fields = json.loads(written.encode())
    del fields["digest"]
    return dict(fields)


def seal(fields: Any) -> bytes:
    """Return the document that a forger who knows the digest rule makes of any fields."""
    assume(isinstance(fields, dict) and "digest" not in fields)
    try:
        return document.encode_document(fields)
    except UnicodeEncodeError:  # nobody can write that
        assume(condition=False)
        raise


def shape(value: Any) -> Any:
    """Return the types of a JSON value, by key."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("kind", DOCUMENTS)
@given(data=st.data())
def test_a_sealed_document_is_valid_or_refused(kind: str, data: st.DataObject) -> None:
    """An accepted document encodes to the same text, so nothing was converted."""
    written, decode = DOCUMENTS[kind]
    changed = data.draw(mutated_fields(fields_of(written)))
    text = seal(changed)
    try:
        decoded = decode(text, "NAME")
    except StoreError as e:
        assert str(e).startswith("NAME ")  # noqa: PT017 - it may also be taken
        return
    assert type(decoded) is type(written)
    assert decoded.encode() == text
    loose = {"provenance", "software", "classes", "class_numbers", "arrays", "mean", "std"}
    for key, value in fields_of(written).items():
        if key not in loose | {"sizes", "kinds", "objects", "counts"}:
            assert shape(changed[key]) == shape(value)


@given(values)
def test_any_value_in_place_of_a_document_is_refused(value: Any) -> None:
    """Lists, numbers and `{}` are refused, for example."""
    text = (json.dumps(value) + "\n").encode()
    for _, decode in DOCUMENTS.values():
        with pytest.raises(StoreError):
            decode(text, "NAME")


@pytest.mark.parametrize("depth", [30, 900, 100_000])
def test_deeply_nested_documents_are_refused(depth: int) -> None:
    """At any depth, neither reading nor encoding exhausts the stack."""
    text = COMMIT.encode().replace(b'"provenance": {}', b'"provenance": {"x": %s1%s}')
    with pytest.raises(StoreDamagedError):
        commit.decode_commit(text % (b"[" * depth, b"]" * depth), "c")
    if depth < 500:
        deep: Any = 1
        for _ in range(depth):
            deep = [deep]
        sealed = document.encode_document({**fields_of(COMMIT), "provenance": {"x": deep}})
        with pytest.raises(StoreDamagedError, match=r"provenance\.x holds objects in objects"):
            commit.decode_commit(sealed, "c")


@given(mutated_fields({"rows": {"name": "x", "num_bytes": 5, "digest": "0" * 32}, "format": 2}))
def test_the_record_of_the_source_index_is_read_or_refused(fields: Any) -> None:
    """The source index is a cache, so its record is not one of the documents."""
    try:
        decoded = document.decode_document_as(SourceIndexRecord, seal(fields), "NAME")
    except StoreError:
        return
    assert json.loads(json.dumps(asdict(decoded))) == fields


@given(
    st.lists(
        mutated_fields({"name": layout.RECIPE, "text": RECIPE.encode().decode()}).map(json.dumps)
        | st.sampled_from(["[" * 100_000, "{}", "5", "null", '{"name": 5, "text": 5}', "\x00"])
        | st.just(json.dumps({"name": "../keys", "text": RECIPE.encode().decode()})),
        max_size=4,
    )
)
@example(['{"name": "recipe.json", "text": ["x"]}'])
def test_a_ledger_returns_only_copies_with_names_of_the_layout(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    """Other names are ignored, and no line is an error."""
    objects = LocalObjects(str(tmp_path_factory.mktemp("ledger")), "train-1")
    objects.begin()
    objects.put(layout.ledger("train"), "\n".join(lines).encode())
    ledger = read_ledger(objects, "train")
    assert ledger.damage == "damaged"
    assert ledger.copies.keys() <= {layout.RECIPE, layout.plan("train")}
    for text in ledger.copies.values():
        assert document.decode_document(text, "NAME")


@pytest.mark.parametrize("kind", ["commit", "done"])
def test_features_list_only_their_own_objects(tmp_path, kind: str) -> None:
    """Repair removes and recomputes the objects that features list."""
    objects = LocalObjects(str(tmp_path), "train-1")
    objects.begin()
    stranger = ObjectRecord("../keys", 5, "0" * 32)
    if kind == "commit":
        bad = replace(FEATURE_COMMIT, arrays={"plain": stranger})
        objects.put(layout.FEATURES.commit(FEATURES.name, "train", 1), bad.encode())
        assert derived.load_commit(objects, FEATURES, PLAN, 1) is None
        objects.put(layout.FEATURES.commit(FEATURES.name, "train", 1), FEATURE_COMMIT.encode())
        assert derived.load_commit(objects, FEATURES, PLAN, 1) == FEATURE_COMMIT
        return
    bad_done = replace(FEATURES_DONE, objects=(*FEATURES_DONE.objects[1:], stranger))
    objects.put(layout.FEATURES.done(FEATURES.name, "train"), bad_done.encode())
    with pytest.raises(StoreDamagedError, match="the names of objects"):
        derived.load_finish_record(objects, FeatureRecipe, FEATURES.name, "train")


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (int, True, "x is True: expected a whole number"),
        (int, 1.0, r"x is 1\.0: expected a whole number"),
        (int, 2**63, "x is 9223372036854775808: expected a whole number"),
        (float, 10**400, "x is a number of 1329 bits: expected a finite number"),
        (float, float("nan"), "x is nan: expected a finite number"),
        (float, True, "x is True: expected a finite number"),
        (str, b"", "x is b'': expected a string"),
        (bool, 1, "x is 1: expected true or false"),
        (tuple[int, ...], "ab", "x is 'ab': expected a list"),
        (tuple[int, ...], [1, "b"], r"x\[1\] is 'b': expected a whole number"),
        (tuple[str, str], ["a"], "x is a list of 1: expected a list of 2"),
        (dict[str, int], {"a": "b"}, r"x\.a is 'b': expected a whole number"),
        (dict[schema.SizeText, int], {"abc": 1}, "a key of x is 'abc': expected a size in pixels"),
        (int | None, "a", "x is 'a': expected a whole number"),
        (ObjectRecord, {"name": "a"}, r"x\.digest is missing"),
        (ObjectRecord, [], "x is a list of 0: expected an object"),
        (schema.Split, "a/b", "x is 'a/b': expected letters, digits"),
        (schema.Size, 0, "x is 0: expected a whole number from 1 to 4096"),
        (str, "a" * 100, None),
        (float, 1, None),
        (int | None, None, None),
        (None, None, None),
    ],
)
def test_an_invalid_value_is_reported_with_its_field(
    annotation: Any, value: Any, sentence: str | None
) -> None:
    """The error contains the value and what was expected."""
    if sentence is None:
        assert schema.check(annotation, value, "x") == value
        return
    with pytest.raises(SchemaError, match=f"^{sentence}"):
        schema.check(annotation, value, "x")


def test_long_values_are_shortened_in_errors() -> None:
    """A value of a megabyte is not printed."""
    with pytest.raises(SchemaError) as caught:
        schema.check(int, "a" * 2**20, "x")
    assert len(str(caught.value)) < 200


def test_a_split_with_labels_of_no_class_is_refused(tmp_path) -> None:
    """A label is used as an index of classes."""
    source = make_folder(tmp_path / "images", 5)
    prepare_inline(source, str(tmp_path / "store"), sizes=(8,))
    objects = LocalObjects(str(tmp_path / "store"), "train-1")
    objects.begin()
    num_rows = records.load_plan(objects, "train").num_rows
    for bad in (-2, 2**30):
        labels = np.full(num_rows, bad, np.int32)
        for name, data in arrays.label_array("train", labels):
            objects.put(name, data)
        with pytest.raises(StoreDamagedError, match=f"holds labels {bad} to {bad}: expected -1"):
            open_split(objects, "train", [8])


def test_invalid_tables_raise_a_store_error() -> None:
    """Arrow's errors for invalid tables are explained."""
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"row": [1]}), sink)
    for data in (b"", b"PAR1", b"PAR1" * 100, sink.getvalue().to_pybytes()):
        with pytest.raises(StoreDamagedError, match=r"^NAME "):
            table.decode_part(data, "NAME")
