"""Metadata and small arrays have zarr's content in an encoding that does not change."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import arrays, layout
from pipeline.store.encoded_shard import EncodedGeometry, EncodedShardComposer
from pipeline.store.local import LocalObjects
from pipeline.store.plan import Plan
from tests.commands import ROOT
from tests.pipeline.store.test_plan import MADE as PLAN
from tests.pipeline.store.test_recipe import MADE as RECIPE


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    objects = LocalObjects(str(tmp_path), "train-1")
    objects.begin()
    return objects


def write(objects: LocalObjects, contents: list[tuple[str, bytes]]) -> None:
    for name, data in contents:
        objects.put(name, data)


def read(data: bytes) -> Any:
    return json.loads(data)


def test_zarr_opens_the_hierarchy_by_its_root(objects: LocalObjects, tmp_path: Path) -> None:
    """Groups, both small arrays and an image array of every size are opened."""
    write(objects, [*arrays.groups("train"), *arrays.small_metadata(PLAN)])
    write(objects, [arrays.image_array(RECIPE, PLAN, size) for size in (8, 16)])
    group = zarr.open_group(tmp_path / layout.IMAGES, mode="r")["train"]
    assert isinstance(group, zarr.Group)
    assert sorted(group.array_keys()) == ["16", "8", "label", "status"]
    images = group["16"]
    assert isinstance(images, zarr.Array)
    assert (images.shape, images.dtype) == ((11, 16, 16, 3), np.uint8)
    assert (images.shards, images.chunks) == ((8, 16, 16, 3), (4, 16, 16, 3))
    assert images.metadata.dimension_names == ("row", "height_16", "width_16", "channel")  # type: ignore[union-attr]
    assert group["label"][:].tolist() == [-1] * 11  # type: ignore[index,union-attr]
    assert group["status"][:].tolist() == [255] * 11  # type: ignore[index,union-attr]


def test_xarray_opens_a_split_of_several_sizes(objects: LocalObjects, tmp_path: Path) -> None:
    """The image arrays of different sizes must have different dimensions."""
    xarray = pytest.importorskip("xarray")
    write(objects, [*arrays.groups("train"), *arrays.small_metadata(PLAN)])
    write(objects, [arrays.image_array(RECIPE, PLAN, size) for size in (8, 16)])
    opened = xarray.open_zarr(tmp_path / layout.IMAGES / "train", consolidated=False)
    sides = {f"{side}_{size}": size for side in ("height", "width") for size in (8, 16)}
    assert dict(opened.sizes) == {"row": 11, "channel": 3, **sides}


@pytest.mark.parametrize("codec", ["none", "zstd:3", "blosc-lz4", "blosc-zstd:5"])
def test_the_chunks_of_images_end_with_their_checksum(codec: str) -> None:
    """The checksum is the last codec after any compression."""
    from dataclasses import replace

    name, data = arrays.image_array(replace(RECIPE, codec=codec), PLAN, 8)
    assert name == "images.zarr/train/8/zarr.json"
    (sharding,) = read(data)["codecs"]
    names = [each["name"] for each in sharding["configuration"]["codecs"]]
    compressor = codec.partition(":")[0].partition("-")[0]
    assert names == ["bytes", *([] if codec == "none" else [compressor]), "crc32c"]
    assert sharding["configuration"]["index_location"] == "end"
    assert read(data)["fill_value"] == 0


@given(st.lists(st.integers(-1, 999), min_size=1, max_size=20))
def test_labels_are_one_chunk_with_its_checksum(labels: list[int]) -> None:
    """Labels are little-endian, and the metadata comes last."""
    contents = arrays.label_array("train", np.array(labels, np.int32))
    assert [name for name, _ in contents] == [
        "images.zarr/train/label/c.0",
        "images.zarr/train/label/zarr.json",
    ]
    data = contents[0][1]
    assert np.frombuffer(data[:-4], "<i4").tolist() == labels
    assert data[-4:] == google_crc32c.value(data[:-4]).to_bytes(4, "little")


def test_metadata_before_the_finish_equals_metadata_after_it() -> None:
    """The finish step need not write the metadata again."""
    finished = [
        arrays.label_array("train", np.zeros(11, np.int32))[-1],
        arrays.status_array("train", np.zeros(11, np.uint8))[-1],
    ]
    assert arrays.small_metadata(PLAN) == finished


def test_small_arrays_of_many_rows_have_several_chunks(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last chunk is padded."""
    monkeypatch.setattr(layout, "SMALL_CHUNK_ROWS", 4)
    status = np.arange(11, dtype=np.uint8)
    contents = arrays.status_array("train", status)
    assert [name.rpartition("/")[2] for name, _ in contents] == ["c.0", "c.1", "c.2", "zarr.json"]
    assert contents[2][1][:-4] == bytes([8, 9, 10, 255])
    write(objects, contents)
    assert arrays.read_small(objects, "train", "status").tolist() == status.tolist()


@pytest.mark.parametrize("chunk_rows", [4, 11, 100])
def test_damaged_labels_are_detected_without_a_record_of_them(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    """A changed byte, a wrong length and a missing chunk are found."""
    monkeypatch.setattr(layout, "SMALL_CHUNK_ROWS", chunk_rows)
    contents = arrays.label_array("train", np.arange(11, dtype=np.int32))
    write(objects, contents)
    assert list(arrays.damaged_labels(objects, PLAN)) == []
    name, data = contents[-2]
    for damaged in (data[:-1], data + b"x", b"", bytes([data[0] ^ 1]) + data[1:]):
        objects.put(name, damaged)
        assert list(arrays.damaged_labels(objects, PLAN)) == [(name, "damaged")]
    objects.remove(name)
    assert list(arrays.damaged_labels(objects, PLAN)) == [(name, "missing")]


def test_metadata_has_a_reproducible_text() -> None:
    """Keys are sorted, whatever their order in zarr."""
    for _, data in [*arrays.groups("train"), arrays.image_array(RECIPE, PLAN, 8)]:
        again = json.dumps(read(data), sort_keys=True, indent=2) + "\n"
        assert data == again.encode()


def test_a_split_of_fewer_rows_than_a_shard_can_be_read(objects: LocalObjects) -> None:
    """One row is enough."""
    small = Plan(**{**vars(PLAN), "num_rows": 1})
    write(objects, [*arrays.groups("train"), arrays.image_array(RECIPE, small, 8)])
    assert arrays.read_pixel_rows(objects, "train", 8, 0, 1).shape == (1, 8, 8, 3)


ENDS_BUSY = """
import time
from zarr.core.sync import _get_loop
from pipeline.store import arrays
_get_loop().call_soon_threadsafe(time.sleep, 1.0)
"""


def test_a_process_exits_without_a_traceback_from_zarrs_loop() -> None:
    """On a busy machine, zarr alone would close a running loop and print a traceback."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_BUSY],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_encoded_rows_are_plain_arrays_of_one_group(objects: LocalObjects, tmp_path: Path) -> None:
    """Each row is the elements of `bytes` from its `offset` on, in zarr-python and tensorstore."""
    geometry = EncodedGeometry(256, 64, 4)
    rows = [b"abc", b"", bytes(range(100)), b"x", b"the last shard is shorter"]
    offset, shape = np.zeros((5, 2), np.int64), np.zeros((5, 2), np.int32)
    plan = Plan(**{**vars(PLAN), "num_rows": 5, "shard_rows": 4})
    write(objects, [*arrays.groups("train"), *arrays.encoded_arrays(plan, "jpeg8@90", geometry)])
    for shard in range(2):
        writer = objects.create(layout.encoded_shard("train", "jpeg8@90", shard))
        composer = EncodedShardComposer(writer, geometry)
        at = shard * geometry.span_bytes
        for row in range(4 * shard, min(5, 4 * shard + 4)):
            sides = (row + 1, 7) if rows[row] else (0, 0)
            composer.append(rows[row], *sides)
            offset[row], shape[row] = (at, at + len(rows[row])), sides
            at += len(rows[row])
        composer.write_index()
        composer.finish()
    write(objects, arrays.encoded_row_arrays("train", "jpeg8@90", offset, shape))

    group = zarr.open_group(tmp_path / layout.IMAGES, mode="r")["train/jpeg8@90"]
    written = {name.removeprefix(f"{layout.IMAGES}/") for name in objects.names(layout.IMAGES)}
    derived = layout.encoded_derived("train", 5, "jpeg8@90")
    assert {name.removeprefix(f"{layout.IMAGES}/") for name in derived} <= written
    assert np.array_equal(group["shape"][:], shape)
    folder = tmp_path / layout.encoded_array("train", "jpeg8@90", "bytes")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    by_tensorstore = tensorstore.open(spec).result()
    for row, (start, stop) in zip(rows, group["offset"][:].tolist(), strict=True):
        assert group["bytes"][start:stop].tobytes() == row
        assert by_tensorstore[start:stop].read().result().tobytes() == row
