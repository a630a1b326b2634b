"""Encoded rows of earlier versions stay readable by later versions and by other readers."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from pipeline.ingest import verify
from pipeline.store import integrity, layout, records
from pipeline.store.encoded_shard import read_rows_of_shard
from pipeline.store.open import open_objects
from tests.damage import snapshot
from tests.golden.regenerate import CHOICES, ENCODED_CHOICES, make_source
from tests.images import prepare_inline

GOLDEN = Path(__file__).parents[2] / "golden"
STORE = GOLDEN / "encoded-1"
SPAN = 131_072
STOPS = {
    "jpeg16@90": ((877, 1734, 2610, 3475), (794, 1648, 2534, 3385), (874, 1745, 1745)),
    "original": ((1205, 2336, 3496, 4667), (707, 1768, 2902, 3943), (1161, 2222, 2222)),
}
"""The offsets after the last bytes of the rows of each shard; the last row is quarantined."""
SHAPES = {
    "jpeg16@90": [(16, width) for width in (24, 23, 22, 24, 21, 20, 26, 19, 22, 20)],
    "original": [(25, width) for width in (38, 36, 34, 37, 33, 32, 40, 30, 35, 31)],
}
DIGESTS = {
    "jpeg16@90": "eebaa35a 22cb0223 6668541b 4f6f0d9d 6f24d84a 0e5b4c06 f18967fe dac14119 2637a322"
    " 1fbc1701 e3b0c442",
    "original": "f6469397 a4c3932e 8f4fd3d7 e8bf7d3a 652258b2 4941f11f facd0ccc 522fa6cc c3f01dff"
    " 7d7cb82c e3b0c442",
}
"""The first digits of the SHA-256 of each row."""


def offsets(encoding: str) -> NDArray[np.int64]:
    """Return the offsets of all rows, (11, 2), from the stops of each shard."""
    pairs = [
        (shard * SPAN + start, shard * SPAN + stop)
        for shard, stops in enumerate(STOPS[encoding])
        for start, stop in zip((0, *stops), stops, strict=False)
    ]
    return np.array(pairs)


def digests(rows: list[bytes]) -> str:
    return " ".join(hashlib.sha256(row).hexdigest()[:8] for row in rows)


def check_arrays(read: Any, encoding: str) -> None:
    """Compare the three arrays of an encoding, as *read* returns them by name."""
    data, offset, shape = (np.asarray(read(name)) for name in ("bytes", "offset", "shape"))
    assert (data.shape, data.dtype) == ((3 * SPAN,), np.uint8)
    assert (offset.dtype, offset.tolist()) == (np.int64, offsets(encoding).tolist())
    assert shape.dtype == np.int32
    assert shape.tolist() == [[*pair] for pair in (*SHAPES[encoding], (0, 0))]
    assert digests([data[a:b].tobytes() for a, b in offset.tolist()]) == DIGESTS[encoding]


@pytest.mark.parametrize("encoding", STOPS)
def test_zarr_reads_golden_rows(encoding: str) -> None:
    """It needs nothing of ours."""
    group = zarr.open_group(STORE / layout.array("train", encoding), mode="r")
    check_arrays(lambda name: group[name][:], encoding)


@pytest.mark.parametrize("encoding", STOPS)
def test_tensorstore_reads_golden_rows(encoding: str) -> None:
    """An independent implementation reads the same."""
    tensorstore = pytest.importorskip("tensorstore")

    def read(name: str) -> NDArray[Any]:
        kvstore = {
            "driver": "file",
            "path": f"{STORE}/{layout.encoded_array('train', encoding, name)}/",
        }
        opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True)
        return np.asarray(opened.result().read().result())

    check_arrays(read, encoding)


@pytest.mark.parametrize("encoding", STOPS)
def test_the_row_tables_agree(encoding: str) -> None:
    """Rows are read shard by shard, as before the split is finished."""
    objects = open_objects(str(STORE))
    plan = records.load_plan(objects, "train")
    geometry = records.load_encoded_plan(objects, plan, encoding).geometry(plan.shard_rows)
    rows: list[bytes] = []
    shapes: list[list[int]] = []
    for shard, commit in sorted(records.load_commits(objects, plan).items()):
        written, stop = commit.encoded[encoding], len(plan.rows(shard))
        rows_of_shard, shapes_of_shard = read_rows_of_shard(objects, written, geometry, 0, stop)
        rows += rows_of_shard
        shapes += shapes_of_shard.tolist()
    assert digests(rows) == DIGESTS[encoding]
    assert shapes == [[*pair] for pair in (*SHAPES[encoding], (0, 0))]


def test_a_golden_store_verifies() -> None:
    """Verification finds no problem and writes nothing."""
    before = snapshot(STORE)
    objects = open_objects(str(STORE))
    checked = verify.read_records(objects, "train")
    problems = [p for _, p in integrity.check_objects(objects, checked.objects) if p is not None]
    assert [*checked.problems, *problems, *verify.check_finished(checked)] == []
    assert verify.check_planned(objects, checked) == []
    assert verify.unknown_objects(objects, checked) == []
    assert checked.done is not None
    assert (checked.done.sizes, checked.done.encoded) == ((), ("jpeg16@90", "original"))
    assert snapshot(STORE) == before


@pytest.mark.parametrize("name", ["format-1", "format-2"])
def test_a_store_of_before_gains_encoded_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its objects keep their bytes, and new documents have its format."""
    from pipeline.images import probe

    store = tmp_path / "store"
    shutil.copytree(GOLDEN / name, store)
    recipe = records.load_recipe(open_objects(str(store)))
    # As if this software were the one that created the store.
    software = probe.Probe(recipe.decoder, recipe.resizer)
    monkeypatch.setattr(probe, "probe", lambda _filter, **rules: software)
    before = snapshot(store)
    source = make_source(tmp_path / "images")
    encoded = ENCODED_CHOICES["encoded"]
    prepare_inline(source / "train", str(store), split="train", **{**CHOICES, "encoded": encoded})
    after = snapshot(store)
    changed = {file for file in before.data if after.data[file] != before.data[file]}
    shards = {layout.commit("train", shard) for shard in range(3)}
    assert changed == {layout.done("train"), layout.ledger("train"), *shards}
    checked = verify.read_records(open_objects(str(store)), "train")
    assert checked.done is not None
    assert checked.done.encoded == ("jpeg16@90", "original")
    plans = [*checked.encoded_plans.values()]
    assert {p.format for p in (*plans, checked.done)} == {recipe.format}
