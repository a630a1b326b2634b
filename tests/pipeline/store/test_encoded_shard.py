"""A composed shard of encoded rows equals zarr's byte for byte, and other readers agree."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from pipeline.errors import StoreError
from pipeline.store.encoded_shard import (
    EncodedGeometry,
    EncodedShardComposer,
    decode_row_table,
)
from pipeline.store.local import LocalObjects


def create(folder: Path, geometry: EncodedGeometry, shards: int) -> zarr.Array:
    """Create the zarr array of *shards* shards without content."""
    return zarr.create_array(
        folder,
        shape=(shards * geometry.span_bytes,),
        dtype="uint8",
        chunks=(geometry.chunk_bytes,),
        shards=(geometry.span_bytes,),
        compressors=[Crc32cCodec()],
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
    )


def compose(objects: LocalObjects, name: str, rows: list[bytes], geometry: EncodedGeometry) -> int:
    """Write one shard object; return its length."""
    writer = objects.create(name)
    composer = EncodedShardComposer(writer, geometry)
    for number, row in enumerate(rows):
        composer.append(row, *((number + 1, 2) if row else (0, 0)))
    written = composer.write_index()
    composer.finish()
    assert objects.size(name) == written.num_bytes
    return written.num_bytes


def opened_by_tensorstore(folder: Path) -> tensorstore.TensorStore:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    return tensorstore.open(spec).result()


@settings(max_examples=min(40, settings().max_examples), deadline=None)
@given(
    shards=st.lists(st.lists(st.binary(max_size=90), max_size=6), min_size=1, max_size=3),
    chunk_bytes=st.sampled_from([16, 33, 128, 2048]),
)
def test_independent_readers_find_every_row(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[bytes]], chunk_bytes: int
) -> None:
    """zarr-python writes the same bytes; both it and tensorstore read each row, and the table."""
    folder = tmp_path_factory.mktemp("encoded")
    geometry = EncodedGeometry(-(-700 // chunk_bytes) * chunk_bytes, chunk_bytes, 6)
    objects = LocalObjects(str(folder), "train-1")
    objects.begin()
    create(folder / "mine", geometry, len(shards))
    theirs = create(folder / "theirs", geometry, len(shards))
    for shard, rows in enumerate(shards):
        num_bytes = compose(objects, f"mine/c.{shard}", rows, geometry)
        chunks = geometry.num_chunks(num_bytes)
        assert chunks is not None
        start = shard * geometry.span_bytes
        used = chunks * chunk_bytes
        by_zarr = np.asarray(zarr.open_array(folder / "mine", mode="r")[start : start + used])
        by_tensorstore = (
            opened_by_tensorstore(folder / "mine")[start : start + used].read().result()
        )
        assert np.array_equal(by_zarr, by_tensorstore)
        table = decode_row_table(by_zarr[-geometry.table_bytes :].tobytes(), geometry)
        assert table is not None
        stops = [0, *table["stop"].tolist()]
        for row, (low, high) in zip(rows, itertools.pairwise(stops), strict=False):
            assert by_zarr[low:high].tobytes() == row
        data = (folder / "mine" / f"c.{shard}").read_bytes()
        for offset in (0, used - 1, used // 2):
            assert data[geometry.object_offset(offset)] == by_zarr[offset]
        theirs[start : start + used] = by_zarr
        if by_zarr.any():  # zarr leaves out chunks of zeros unless told otherwise
            with zarr.config.set({"array.write_empty_chunks": True}):
                again = zarr.open_array(folder / "theirs", mode="r+")
                again[start : start + used] = by_zarr
            assert (folder / "theirs" / f"c.{shard}").read_bytes() == data


@pytest.mark.slow
def test_a_row_of_200_mb_lies_among_a_thousand_others(tmp_path: Path) -> None:
    """Both readers return it whole."""
    geometry = EncodedGeometry(2**28, 2**17, 1024)
    rows = [bytes([number % 251]) * (20_000 + number) for number in range(1024)]
    rows[500] = np.random.default_rng(0).bytes(200_000_000)
    objects = LocalObjects(str(tmp_path), "train-1")
    objects.begin()
    array = create(tmp_path / "mine", geometry, 1)
    compose(objects, "mine/c.0", rows, geometry)
    stops = np.cumsum([len(row) for row in rows])
    by_tensorstore = opened_by_tensorstore(tmp_path / "mine")
    for number in (0, 499, 500, 501, 1023):
        low, high = int(stops[number]) - len(rows[number]), int(stops[number])
        assert np.asarray(array[low:high]).tobytes() == rows[number]
        assert by_tensorstore[low:high].read().result().tobytes() == rows[number]


def test_rows_that_exceed_the_span_are_an_error_before_they_are_lost(tmp_path: Path) -> None:
    """The error says how much room there is; a further row than the shard has is an error, too."""
    geometry = EncodedGeometry(128, 32, 2)
    objects = LocalObjects(str(tmp_path), "train-1")
    objects.begin()
    composer = EncodedShardComposer(objects.create("a"), geometry)
    composer.append(bytes(60), 1, 1)
    with pytest.raises(StoreError, match="room for 96 bytes of images, and its first 2 need 97"):
        composer.append(bytes(37), 1, 1)
    composer.append(bytes(36), 1, 1)
    with pytest.raises(IndexError):
        composer.append(b"", 0, 0)


@given(st.binary(min_size=32, max_size=32))
def test_a_damaged_row_table_is_refused_or_harmless(data: bytes) -> None:
    """Every accepted table has rising offsets within the shard, and no size without bytes."""
    geometry = EncodedGeometry(128, 32, 2)
    assert decode_row_table(data[1:], geometry) is None
    table = decode_row_table(data, geometry)
    if table is not None:
        stops = [0, *table["stop"].tolist()]
        assert stops == sorted(stops)
        assert stops[-1] <= geometry.room_bytes
        for (low, high), entry in zip(itertools.pairwise(stops), table, strict=True):
            assert (entry["height"] > 0) == (entry["width"] > 0) == (high > low)
