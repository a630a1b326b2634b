"""Encoded rows: what zarr-python reads of them, and how they enter and leave a store."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import StoreError, StoreMismatchError
from pipeline.images import probe
from pipeline.images.decode import decode
from pipeline.images.encode import encode_jpeg_row
from pipeline.images.rows import JPEG, SQUARE, RowFormat, make_rows
from pipeline.ingest import planning, verify, worker
from pipeline.ingest.finish import finish_split
from pipeline.ingest.shard_task import prepare_shard
from pipeline.store import layout, records
from pipeline.store.encoded_shard import read_rows_of_shard
from pipeline.store.encoding import CHUNK_BYTES
from pipeline.store.open import open_objects
from pipeline.store.options import StoreOptions
from tests.images import ENCODED, SMALL, jpeg, make_folder, plan_inline, prepare_inline


def images_of(store: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the images and the table of a store."""
    files = (*(store / "images.zarr").rglob("*"), store / "samples/train.parquet")
    return {str(f.relative_to(store)): f.read_bytes() for f in files if f.is_file()}


def rows_by_zarr(store: Path, encoding: str, split: str = "train") -> list[tuple[bytes, int, int]]:
    """Return the bytes, height and width of every encoded row, as zarr-python reads them."""
    group = zarr.open_group(store / layout.array(split, encoding), mode="r")
    data, offset, shape = (np.asarray(group[name][:]) for name in ("bytes", "offset", "shape"))
    return [
        (data[start:stop].tobytes(), height, width)
        for (start, stop), (height, width) in zip(offset.tolist(), shape.tolist(), strict=True)
    ]


def table_of(store: Path) -> list[dict[str, Any]]:
    return pq.read_table(store / "samples/train.parquet").to_pylist()


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 11), st.integers(0, 2), st.booleans(), st.integers(0, 99))
def test_rows_are_those_of_their_images(
    tmp_path_factory: pytest.TempPathFactory, images: int, bad: int, exif: bool, seed: int
) -> None:
    """Original rows are the files; JPEG rows those of the encoder; quarantined ones are empty."""
    folder = tmp_path_factory.mktemp("rows")
    source = make_folder(folder / "images", images + 3, bad=bad)
    wnid = source / "n00000000"
    (wnid / "a.PNG").write_bytes(png(40 + seed, 33))
    (wnid / "turned.JPEG").write_bytes(jpeg(seed, 70, 50, exif=orientation(6)))
    store = folder / "store"
    prepare_inline(source, str(store), encoded=ENCODED, exif=exif, **SMALL)
    recipe = records.load_recipe(open_objects(str(store)))
    rows = zip(rows_by_zarr(store, "jpeg16@90"), rows_by_zarr(store, "original"), strict=True)
    for line, (jpeg_row, original) in zip(table_of(store), rows, strict=True):
        data = (source / line["key"]).read_bytes()
        if line["status"]:
            assert jpeg_row == original == (b"", 0, 0)
            continue
        assert original == (data, line["height"], line["width"])
        decoded = decode(data, **recipe.decode_arguments)
        expected = encode_jpeg_row(data, decoded, short_side=16, quality=90, filter=recipe.filter)
        assert jpeg_row == expected
        with Image.open(io.BytesIO(jpeg_row[0])) as image:
            assert (image.height, image.width) == jpeg_row[1:]
            assert image.getexif().get(0x0112, 1) == 1


def orientation(number: int) -> Image.Exif:
    """Return EXIF metadata with an orientation alone."""
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def png(width: int, height: int) -> bytes:
    """Return a PNG file."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("first", [("8", "16"), ENCODED, ("8", "original"), ("jpeg:16@90",)])
def test_arrays_may_be_added_in_any_order(tmp_path: Path, first: tuple[str, ...]) -> None:
    """A store that grew has the same bytes as one that was made at once; nothing is rewritten."""
    source = make_folder(tmp_path / "images", 10, bad=1)
    prepare_inline(source, str(tmp_path / "once"), encoded=ENCODED, **SMALL)
    grown = tmp_path / "grown"
    sizes = tuple(int(name) for name in first if name.isdecimal())
    encoded = tuple(name for name in first if not name.isdecimal())
    prepare_inline(source, str(grown), sizes=sizes, encoded=encoded, serves=16, **SMALL)
    before = {file: file.stat().st_mtime_ns for file in grown.rglob("c.*.0.0.0")}
    prepare_inline(source, str(grown), encoded=ENCODED, **SMALL)
    assert images_of(grown) == images_of(tmp_path / "once")
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_child_makes_the_same_rows(tmp_path: Path) -> None:
    """A shard that lost workers is decoded image by image."""
    source = make_folder(tmp_path / "images", 9, bad=1)
    for isolated in (False, True):
        store = str(tmp_path / f"store-{isolated}")
        objects, plan, work = plan_inline(source, store, encoded=ENCODED, **SMALL)
        for shard in range(plan.num_shards):
            prepare_shard(work, shard, isolated=isolated)
        finish_split(store, "train", work.run)
        objects.end()
    assert images_of(tmp_path / "store-True") == images_of(tmp_path / "store-False")


def test_committed_rows_are_read_before_the_split_is_finished(tmp_path: Path) -> None:
    """The row table of the shard tells where they lie."""
    source = make_folder(tmp_path / "images", 10, bad=1)
    objects, plan, work = plan_inline(source, str(tmp_path / "store"), encoded=ENCODED, **SMALL)
    reports = [prepare_shard(work, shard) for shard in range(plan.num_shards)]
    assert {name for report in reports for name in report.written_objects} >= {
        layout.encoded_shard("train", "original", shard) for shard in range(plan.num_shards)
    }
    for encoding in ("jpeg16@90", "original"):
        planned = records.load_encoded_plan(objects, plan, encoding)
        geometry = planned.geometry(plan.shard_rows)
        by_shard = [
            read_rows_of_shard(
                objects,
                records.load_commits(objects, plan)[shard].encoded[encoding],
                geometry,
                0,
                len(plan.rows(shard)),
            )
            for shard in range(plan.num_shards)
        ]
        finish_split(str(tmp_path / "store"), "train", work.run)
        read = [
            (row, *shape)
            for rows, shapes in by_shard
            for row, shape in zip(rows, shapes.tolist(), strict=True)
        ]
        assert read == rows_by_zarr(tmp_path / "store", encoding)


def test_rows_that_do_not_fit_are_a_sentence_before_anything_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard is not committed, and its object does not appear."""
    source = make_folder(tmp_path / "images", 4)
    monkeypatch.setattr(planning, "span_of", lambda *_: CHUNK_BYTES)
    (source / "n00000000/long.JPEG").write_bytes(jpeg(1) + bytes(CHUNK_BYTES))
    objects, plan, work = plan_inline(
        source, str(tmp_path / "store"), encoded=("original",), shard_rows=8, chunk_rows=4
    )
    with pytest.raises(StoreError, match="lower quality or a smaller short side"):
        prepare_shard(work, 0)
    assert records.load_commits(objects, plan) == {}
    assert not list((tmp_path / "store").rglob("c.*"))[1:], "the labels alone"


def test_icons_fit_although_the_headers_of_jpegs_are_longer_than_their_files(
    tmp_path: Path,
) -> None:
    """PNGs of a few pixels take 70 bytes each, and 630 as JPEGs."""
    source = tmp_path / "images"
    (source / "n00000000").mkdir(parents=True)
    for number in range(300):
        (source / f"n00000000/{number}.PNG").write_bytes(png(1 + number % 8, 8))
    prepare_inline(
        source, str(tmp_path / "store"), encoded=("jpeg:8@90",), shard_rows=300, chunk_rows=300
    )
    lengths = [len(data) for data, _, _ in rows_by_zarr(tmp_path / "store", "jpeg8@90")]
    assert sum(lengths) > CHUNK_BYTES


def test_a_replaced_plan_of_encoded_rows_is_a_problem(tmp_path: Path) -> None:
    """Its digest is right, but the ledger contains the plan that the shards were written by."""
    source = make_folder(tmp_path / "images", 5)
    prepare_inline(source, str(tmp_path / "store"), encoded=ENCODED, **SMALL)
    objects = open_objects(str(tmp_path / "store"), "train-1")
    objects.begin()
    name = layout.encoded_plan("train", "original")
    planned = records.load_encoded_plan(objects, records.load_plan(objects, "train"), "original")
    objects.put(name, replace(planned, span_bytes=9 * CHUNK_BYTES).encode())
    split_records = verify.read_records(objects, "train")
    assert split_records.encoded_plans["original"] == planned
    assert [problem.name for problem in split_records.problems] == [name]


def test_too_many_rows_for_a_shard_are_a_sentence_before_a_plan_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that no reader accepts would stay in the store."""
    source = make_folder(tmp_path / "images", 4)
    store = tmp_path / "store"
    real = planning.span_of  # as if the split had enough rows to fill a shard
    monkeypatch.setattr(planning, "span_of", lambda *given: real(*given[:3], 2**22))
    with pytest.raises(StoreError, match="fewer --shard-rows"):
        prepare_inline(source, str(store), encoded=("jpeg:4096@90",), shard_rows=2**22)
    assert not (store / layout.encoded_plan("train", "jpeg4096@90")).exists()


def test_another_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the planner, and by a worker of another machine; original rows need no encoder."""
    source = make_folder(tmp_path / "images", 5)
    prepare_inline(source, str(tmp_path / "store"), encoded=ENCODED, **SMALL)
    _, _, work = plan_inline(source, str(tmp_path / "store"), encoded=ENCODED, **SMALL)
    monkeypatch.setattr(probe, "probe_encoder", lambda quality: "0" * 32)
    with pytest.raises(StoreMismatchError, match="other bytes of the same pixels"):
        plan_inline(source, str(tmp_path / "store"), encoded=ENCODED, **SMALL)
    with pytest.raises(StoreMismatchError, match=r"^on .*other bytes of the same pixels"):
        worker.Workspace(work)
    worker.Workspace(replace(work, arrays=("8", "original")))


def test_a_larger_short_side_than_planned_is_decoded_with_full_detail() -> None:
    """The reduced pixels that suffice for the squares are too few for the JPEG."""
    data = jpeg(3, 400, 330)
    arguments = {"fit": "pad", "serves": 20, "exif": False}
    formats = [RowFormat(SQUARE, 20), RowFormat(JPEG, 300, 90)]
    properties, (_, row) = make_rows(data, formats, filter="box", decode_arguments=arguments)
    assert properties.scale == 8
    assert row[1:] == (300, 364)
    full = decode(data, fit="crop", serves=300, exif=False)
    assert row == encode_jpeg_row(data, full, short_side=300, quality=90, filter="box")


def test_the_longest_shard_decides_the_span_and_the_estimate(tmp_path: Path) -> None:
    """The bytes of samples are read from the source index."""
    source = make_folder(tmp_path / "images", 10)
    objects, plan, work = plan_inline(source, str(tmp_path / "store"), encoded=ENCODED, **SMALL)
    options = StoreOptions(sizes=(8,), encoded=ENCODED)
    sizes = planning.ArraySizes(objects, records.load_recipe(objects), plan, options)
    for shard in range(plan.num_shards):
        prepare_shard(work, shard)
    finish_split(str(tmp_path / "store"), "train", work.run)
    lengths = [len(data) for data, _, _ in rows_by_zarr(tmp_path / "store", "original")]
    per_shard = [sum(lengths[start : start + 4]) for start in range(0, 10, 4)]
    assert [sizes.object_bytes("original", shard) for shard in range(3)] == per_shard
    span = records.load_encoded_plan(objects, plan, "original").span_bytes
    assert 0 <= span - (max(per_shard) + 4 * 16) < CHUNK_BYTES
