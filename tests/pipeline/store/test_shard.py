"""A composed shard equals zarr's byte for byte, and other readers agree."""

from pathlib import Path

import numpy as np
import pytest
import tensorstore
import xxhash
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.store import arrays, layout
from pipeline.store.codecs import compressor, decompressor, parse_codec
from pipeline.store.local import LocalObjects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.shard import ShardComposer

CODECS = ["none", "zstd:3", "blosc-lz4", "blosc-zstd:1"]


def make_recipe(shard_rows: int, chunk_rows: int, codec: str) -> Recipe:
    return Recipe(
        fit="crop",
        filter="bicubic",
        serves=288,
        exif=False,
        decoder="d",
        resizer="r",
        software={},
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        codec=codec,
        classes=(("n01440764", "tench"),),
        decode_rules=2,
    )


def make_plan(recipe: Recipe, num_rows: int) -> Plan:
    return Plan(
        split="train",
        recipe=recipe.digest,
        num_rows=num_rows,
        listing="",
        order_version=1,
        seed=0,
        shard_rows=recipe.shard_rows,
    )


def compose(objects: LocalObjects, recipe: Recipe, plan: Plan, images: NDArray[np.uint8]) -> None:
    """Write *images*, (N, size, size, 3) uint8, as the shards of a split."""
    size = images.shape[1]
    metadata = [*arrays.groups("train"), arrays.image_array(recipe, plan, size)]
    for name, data in metadata:
        objects.put(name, data)
    for shard in range(plan.num_shards):
        writer = objects.create(layout.shard("train", size, shard))
        composer = ShardComposer(
            writer,
            row_bytes=size * size * 3,
            shard_rows=recipe.shard_rows,
            chunk_rows=recipe.chunk_rows,
            codec=recipe.codec,
        )
        for row in plan.rows(shard):
            composer.append(images[row].tobytes())
        written = composer.write_index()
        composer.finish()
        data = (Path(objects.url) / written.name).read_bytes()
        assert written.num_bytes == len(data)
        assert written.digest == xxhash.xxh3_128(data).hexdigest()


def begun(folder: Path) -> LocalObjects:
    objects = LocalObjects(str(folder), "train-test")
    objects.begin()
    return objects


@settings(max_examples=min(25, settings().max_examples), deadline=None)
@given(
    codec=st.sampled_from(CODECS),
    chunk_rows=st.integers(1, 5),
    chunks=st.integers(1, 4),
    num_rows=st.integers(1, 45),
    seed=st.integers(0, 2**32),
)
def test_a_composed_shard_equals_zarrs_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    codec: str,
    chunk_rows: int,
    chunks: int,
    num_rows: int,
    seed: int,
) -> None:
    """Any shape, codec and fill is tested, with black rows and short last shards."""
    folder = tmp_path_factory.mktemp("shard")
    recipe = make_recipe(chunk_rows * chunks, chunk_rows, codec)
    plan = make_plan(recipe, num_rows)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num_rows, 6, 6, 3), np.uint8)
    images[rng.random(num_rows) < 0.4] = 0
    ours = begun(folder / "ours")
    compose(ours, recipe, plan, images)

    theirs = begun(folder / "theirs")
    name, metadata = arrays.image_array(recipe, plan, 6)
    theirs.put(name, metadata)
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(folder / "theirs" / layout.array("train", "6"), mode="r+")
        for shard in range(plan.num_shards):
            rows = plan.rows(shard)
            array[rows.start : rows.stop] = images[rows.start : rows.stop]
    for shard in range(plan.num_shards):
        name = layout.shard("train", 6, shard)
        assert ours.get(name) == theirs.get(name)


@pytest.mark.parametrize("codec", CODECS)
def test_two_other_readers_read_the_same_pixels(tmp_path: Path, codec: str) -> None:
    """zarr-python and tensorstore are independent readers."""
    recipe = make_recipe(32, 4, codec)
    plan = make_plan(recipe, 75)
    images = np.random.default_rng(0).integers(0, 256, (75, 8, 8, 3), np.uint8)
    images[40:48] = 0
    compose(begun(tmp_path), recipe, plan, images)
    path = tmp_path / layout.array("train", "8")
    assert np.array_equal(zarr.open_array(path, mode="r")[:], images)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    assert np.array_equal(tensorstore.open(spec).result().read().result(), images)


def test_row_offsets_follow_the_formula(tmp_path: Path) -> None:
    """Chunk k of an uncompressed shard begins at k * (chunk bytes + 4)."""
    recipe = make_recipe(12, 3, "none")
    images = np.random.default_rng(1).integers(0, 256, (8, 4, 4, 3), np.uint8)
    objects = begun(tmp_path)
    compose(objects, recipe, make_plan(recipe, 8), images)
    data = objects.get(layout.shard("train", 4, 0))
    row_bytes, chunk_bytes = 48, 3 * 48
    for row in range(8):
        offset = row // 3 * (chunk_bytes + 4) + row % 3 * row_bytes
        assert data[offset : offset + row_bytes] == images[row].tobytes()
    index = np.frombuffer(data[-(4 * 16 + 4) : -4], "<u8").reshape(4, 2)
    assert index[3].tolist() == [2**64 - 1] * 2
    assert data[2 * (chunk_bytes + 4) + 96 : 2 * (chunk_bytes + 4) + 144] == bytes(48)


def test_a_row_of_another_size_is_refused(tmp_path: Path) -> None:
    """Such a row would shift the offsets of all following rows."""
    writer = begun(tmp_path).create("object")
    composer = ShardComposer(writer, row_bytes=12, shard_rows=4, chunk_rows=4, codec="none")
    with pytest.raises(ValueError, match="a row has 13 bytes: expected 12"):
        composer.append(bytes(13))
    writer.abort()


@pytest.mark.parametrize(
    "codec",
    ["", "gzip", "zstd", "zstd:0", "zstd:23", "zstd:x", "none:1", "blosc-zstd:10", "zstd:-1"],
)
def test_an_unsupported_codec_is_refused(codec: str) -> None:
    """The error contains the value and the expected values."""
    with pytest.raises(ValueError, match=r"codec is .*expected none"):
        parse_codec(codec)


@settings(max_examples=min(60, settings().max_examples), deadline=None)
@given(
    length=st.one_of(st.integers(1, 70_000), st.sampled_from([255, 256, 65_791, 65_792, 2**20])),
    codec=st.sampled_from(["zstd:1", "zstd:9", "blosc-lz4", "blosc-zstd:3"]),
    off=st.sampled_from([-1, 1, 100]),
)
def test_a_decompressed_chunk_of_another_length_is_refused(
    length: int, codec: str, off: int
) -> None:
    """A shorter chunk would leave old pixels without an error of the codec."""
    compress, decompress = compressor(codec), decompressor(codec)
    assert compress is not None
    assert decompress is not None
    pixels = np.arange(length, dtype=np.uint32).astype(np.uint8)
    data = memoryview(compress(pixels))
    out = np.zeros(length, np.uint8)
    decompress(data, out)
    assert (out == pixels).all()
    if length + off > 0:
        with pytest.raises(ValueError, match=f"{length} bytes: expected {length + off}"):
            decompress(data, np.zeros(length + off, np.uint8))
    if codec.startswith("blosc"):  # its decoder would read past the end
        with pytest.raises(ValueError, match=f"-1 bytes: expected {length}"):
            decompress(data[:-1], out)
