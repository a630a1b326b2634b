"""The interface to zarr: the metadata of every array, and the small arrays of labels and status.

    images.zarr/                          zarr v3 group
      <split>/<size>    uint8 (N, size, size, 3)    sharded; its objects come from `shard`
      <split>/label     int32 (N,) fill -1          written by the planner
      <split>/status    uint8 (N,) fill 255         written by the finish step

Zarr itself creates everything in memory, and `Objects` writes it, so that zarr decides the content
and writing is durable. Metadata is re-encoded in one fixed form of JSON, so that equal stores have
equal bytes.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import iothread, loop, sync
from zarr.storage import MemoryStore

from pipeline.store import layout
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.codecs import parse_codec
from pipeline.store.derived import DerivedRecipe
from pipeline.store.encoded_shard import EncodedGeometry
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.urls import is_url

NOT_PREPARED = 255
"""The `status` of a row that no commit covers."""

_ZARR_STOP_TIMEOUT_SECONDS = 10.0

NamedBytes = tuple[str, bytes]
"""The name and the bytes of an object."""


def groups(split: str) -> list[NamedBytes]:
    """Return the zarr metadata of the two groups of a split: `images.zarr/` and the split in it.

    Args:
        split: The name of the split.

    Returns:
        Two pairs (name, bytes): of `images.zarr/zarr.json` and `images.zarr/<split>/zarr.json`,
        with names relative to the store. Nothing is written.
    """
    return [(f"{layout.IMAGES}/{path}zarr.json", _group()) for path in ("", f"{split}/")]


def image_array(recipe: Recipe, plan: Plan, size: int) -> NamedBytes:
    """Return the zarr metadata of the array of one size; nothing is written.

    Args:
        recipe: The recipe of the store, for its format, codec, and rows of a shard and a chunk.
        plan: The plan of the split, for its name and number of rows.
        size: The side of the squares in pixels.

    Returns:
        The pair (name, bytes) of `images.zarr/<split>/<size>/zarr.json`, a name relative to the
        store. It describes an array (num_rows, size, size, 3) uint8.
    """
    name = f"{layout.array(plan.split, str(size))}/zarr.json"
    # xarray opens a group only if a dimension has the same length in all of its arrays.
    names = ("height", "width") if recipe.format == 1 else (f"height_{size}", f"width_{size}")
    array = _Array(
        shape=(plan.num_rows, size, size, 3),
        dtype="uint8",
        # The rows need not be a multiple of a shard's: zarr requires only that those of a chunk
        # divide those of a shard.
        shard=(recipe.shard_rows, size, size, 3),
        chunk=(recipe.chunk_rows, size, size, 3),
        dimensions=("row", *names, "channel"),
        codec=recipe.codec,
    )
    return name, _metadata(array)


def derived_arrays(recipe: DerivedRecipe, plan: Plan, kinds: Iterable[str]) -> list[NamedBytes]:
    """Return the zarr metadata of a split's derived rows and of their groups; nothing is written.

    Args:
        recipe: The recipe of the rows.
        plan: The plan of the split, for its name and number of rows.
        kinds: The kinds of rows that are stored, of the recipe's `kinds`.

    Returns:
        Pairs (name, bytes), with names relative to the store: first the two groups, such as
        `features/<name>/features.zarr/zarr.json` and
        `features/<name>/features.zarr/<split>/zarr.json`, then `zarr.json` of the array of each
        kind, in the order of *kinds*. An array is (num_rows, ...) of the recipe's `row_shape` and
        dtype.
    """
    names = recipe.family.names
    root = names.array(recipe.name, "", "").rstrip("/")
    array = _Array(
        shape=(plan.num_rows, *recipe.row_shape),
        dtype=recipe.dtype,
        shard=(recipe.shard_rows, *recipe.row_shape),
        chunk=(recipe.chunk_rows, *recipe.row_shape),
        dimensions=("row", *recipe.dimensions),
    )
    text = _metadata(array)
    return [
        (f"{root}/zarr.json", _group()),
        (f"{root}/{plan.split}/zarr.json", _group()),
        *((f"{names.array(recipe.name, plan.split, kind)}/zarr.json", text) for kind in kinds),
    ]


def label_array(split: str, labels: NDArray[np.int32]) -> list[NamedBytes]:
    """Return the objects of the zarr array of labels of a split; nothing is written.

    Args:
        split: The name of the split.
        labels: (num_rows,) int32 in the order of rows; -1 for a row without a class. Neither the
            dtype nor the values are checked.

    Returns:
        Pairs (name, bytes), with names relative to the store: the chunks
        `images.zarr/<split>/label/c.0`, `c.1`, ..., then `images.zarr/<split>/label/zarr.json`.
    """
    return list(_small_array(split, "label", labels, fill=-1))


def status_array(split: str, status: NDArray[np.uint8]) -> list[NamedBytes]:
    """Return the objects of the zarr array of statuses of a split; nothing is written.

    Args:
        split: The name of the split.
        status: (num_rows,) uint8 in the order of rows; 0 for a readable row, otherwise the reason
            of its quarantine: 1 empty, 2 not an image, 3 truncated, 4 decompression bomb, 5
            corrupt, 6 unsupported, 7 crashed a decoder, 8 took too long. Neither the dtype nor the
            values are checked.

    Returns:
        Pairs (name, bytes), with names relative to the store: the chunks
        `images.zarr/<split>/status/c.0`, `c.1`, ..., then `images.zarr/<split>/status/zarr.json`.
    """
    return list(_small_array(split, "status", status, fill=NOT_PREPARED))


def small_metadata(plan: Plan) -> list[NamedBytes]:
    """Return the zarr metadata of a split's label and status arrays; nothing is written.

    Args:
        plan: The plan of the split, for its name and number of rows.

    Returns:
        Two pairs (name, bytes), with names relative to the store: of
        `images.zarr/<split>/label/zarr.json` and `images.zarr/<split>/status/zarr.json`.
    """
    shape = (plan.num_rows,)
    return [
        (f"{layout.array(plan.split, name)}/zarr.json", _metadata(array))
        for name, array in (
            ("label", _small(shape, "int32", fill=-1)),
            ("status", _small(shape, "uint8", fill=NOT_PREPARED)),
        )
    ]


def damaged_labels(objects: Objects, plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield each missing or damaged chunk of the labels of a split.

    It is meant for an unfinished split: no finish record lists the digests of its labels yet, but
    each chunk is followed by its checksum.

    Args:
        objects: The objects of the store, which are only read.
        plan: The plan of the split, for its name and number of rows.

    Yields:
        Pairs: the name of the chunk, relative to the store, and its problem, `missing` or
        `damaged`. Nothing is yielded if all chunks are intact.

    Raises:
        OSError: The disk reports an error, or a chunk is a folder.
        StoreDamagedError: A chunk is a device or a pipe.
        StoreError: The request to an object store failed.
    """
    chunk_rows = layout.small_chunk_rows(plan.num_rows)
    for chunk in range(-(-plan.num_rows // chunk_rows)):
        name = layout.small_chunk(plan.split, "label", chunk)
        try:
            data = objects.get(name)
        except FileNotFoundError:
            yield name, "missing"
            continue
        if len(data) != 4 * chunk_rows + CHECKSUM_BYTES or not has_valid_checksum(data):
            yield name, "damaged"


def encoded_arrays(plan: Plan, encoding: str, geometry: EncodedGeometry) -> list[NamedBytes]:
    """Return the zarr metadata of the bytes of encoded rows and of their group.

    Args:
        plan: The plan of the split, for its name and number of shards.
        encoding: The name of the encoded rows, such as `jpeg256@90`.
        geometry: The span of a shard and the bytes of a chunk.

    Returns:
        Two pairs (name, bytes), with names relative to the store: of
        `images.zarr/<split>/<encoding>/zarr.json` and `.../bytes/zarr.json`. The array is
        (number of shards * span,) uint8. Nothing is written.
    """
    array = _Array(
        shape=(plan.num_shards * geometry.span_bytes,),
        dtype="uint8",
        shard=(geometry.span_bytes,),
        chunk=(geometry.chunk_bytes,),
        dimensions=("byte",),
    )
    return [
        (f"{layout.array(plan.split, encoding)}/zarr.json", _group()),
        (f"{layout.encoded_array(plan.split, encoding, 'bytes')}/zarr.json", _metadata(array)),
    ]


def encoded_row_arrays(
    split: str, encoding: str, offset: NDArray[np.int64], shape: NDArray[np.int32]
) -> list[NamedBytes]:
    """Return the objects of the arrays that tell where encoded rows lie and how large they are.

    Args:
        split: The name of the split.
        encoding: The name of the encoded rows, such as `jpeg256@90`.
        offset: (num_rows, 2) int64: the first element of each row in the array `bytes`, and the
            one after its last; equal for a quarantined row.
        shape: (num_rows, 2) int32: the height and width of each picture in pixels; 0 and 0 for a
            quarantined row.

    Returns:
        Pairs (name, bytes), with names relative to the store: the chunks and the `zarr.json` of
        `images.zarr/<split>/<encoding>/offset`, then those of `.../shape`. Nothing is written.
    """
    return [
        *_small_array(split, f"{encoding}/offset", offset, fill=0, dimensions=("row", "end")),
        *_small_array(split, f"{encoding}/shape", shape, fill=0, dimensions=("row", "side")),
    ]


@dataclass(frozen=True, kw_only=True)
class _Array:
    """What zarr creates an array from; equal instances have the same metadata."""

    shape: tuple[int, ...]
    dtype: str
    chunk: tuple[int, ...]
    dimensions: tuple[str, ...]
    shard: tuple[int, ...] | None = None
    codec: str = "none"
    fill: int = 0

    def create(self, store: MemoryStore) -> zarr.Array[Any]:
        """Create the array, of which empty chunks are written, too."""
        return zarr.create_array(
            store,
            shape=self.shape,
            dtype=self.dtype,
            chunks=self.chunk,
            shards=self.shard,
            compressors=_compressors(self.codec),
            fill_value=self.fill,
            chunk_key_encoding=cast("Any", {"name": "default", "separator": "."}),
            dimension_names=self.dimensions,
            config={"write_empty_chunks": True},
        )


@lru_cache(maxsize=256)  # each preparation and verification of a split asks for them anew
def _metadata(array: _Array) -> bytes:
    """Return the text of an array's `zarr.json`."""
    store = MemoryStore()
    array.create(store)
    return _canonical_json(_contents_of_store(store)["zarr.json"])


def _small(
    shape: tuple[int, ...], dtype: str, *, fill: int, dimensions: tuple[str, ...] = ("row",)
) -> _Array:
    chunk = (layout.small_chunk_rows(shape[0]), *shape[1:])
    return _Array(shape=shape, dtype=dtype, chunk=chunk, dimensions=dimensions, fill=fill)


def _small_array(
    split: str,
    name: str,
    values: NDArray[Any],
    *,
    fill: int,
    dimensions: tuple[str, ...] = ("row",),
) -> Iterator[NamedBytes]:
    array = _small(values.shape, values.dtype.name, fill=fill, dimensions=dimensions)
    store = MemoryStore()
    array.create(store)[:] = values
    contents = _contents_of_store(store)
    for key in sorted(contents.keys() - {"zarr.json"}):
        yield f"{layout.array(split, name)}/{key}", contents[key]
    yield f"{layout.array(split, name)}/zarr.json", _metadata(array)


@cache
def _group() -> bytes:
    """Return the text of a group's `zarr.json`."""
    store = MemoryStore()
    zarr.create_group(store)
    return _canonical_json(_contents_of_store(store)["zarr.json"])


def _compressors(codec: str) -> list[Any]:
    name, level = parse_codec(codec)
    codecs: dict[str, Any] = {
        "none": None,
        "zstd": ZstdCodec(level=level, checksum=False),
        "blosc-lz4": BloscCodec(typesize=1, cname="lz4", clevel=5, shuffle="noshuffle"),
        "blosc-zstd": BloscCodec(
            typesize=1, cname="zstd", clevel=min(level, 9), shuffle="bitshuffle"
        ),
    }
    return [codec for codec in (codecs[name], Crc32cCodec()) if codec is not None]


def _contents_of_store(store: MemoryStore) -> dict[str, bytes]:
    prototype = default_buffer_prototype()

    async def read() -> dict[str, bytes]:
        contents = {}
        async for key in store.list():
            value = await store.get(key, prototype)
            if value is not None:
                contents[key] = value.to_bytes()
        return contents

    return sync(read())


def _canonical_json(text: bytes) -> bytes:
    return (json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n").encode()


def read_pixel_rows(
    objects: Objects, split: str, size: int, start: int, stop: int
) -> NDArray[np.uint8]:
    """Read rows *start* to *stop* - 1 of one size through zarr, without any of our own decoding.

    Args:
        objects: The objects of the store, for its path or URL.
        split: The name of the split.
        size: The side of the squares in pixels.
        start: The first row, at least 0.
        stop: The row after the last one; a number beyond the split's rows stands for its end.

    Returns:
        (stop - start, size, size, 3) uint8 RGB, fewer rows if the split ends before *stop*; zeros
        for quarantined rows and for those of missing shard objects.

    Raises:
        FileNotFoundError: The store has no array of that split and size.
        ValueError: A chunk does not match its checksum, or the array's `zarr.json` is damaged.
        Exception: A request to an object store failed: an error of that store's own package.
    """
    return np.asarray(_open_array(objects, split, str(size))[start:stop])


def read_encoded_row(
    objects: Objects, split: str, encoding: str, row: int
) -> tuple[bytes, int, int]:
    """Read one encoded row through zarr, without any of our own decoding.

    Args:
        objects: The objects of the store, for its path or URL.
        split: The name of the split, which is finished.
        encoding: The name of the encoded rows, such as `jpeg256@90`.
        row: The row, 0 to the split's number of rows - 1.

    Returns:
        The bytes of the image file, its height and its width in pixels; empty, 0 and 0 for a
        quarantined row. The bytes of a missing shard object are zeros.

    Raises:
        FileNotFoundError: The store has no such array of that split.
        ValueError: A chunk does not match its checksum, or a `zarr.json` is damaged.
        Exception: A request to an object store failed: an error of that store's own package.
    """
    start, stop = _open_array(objects, split, f"{encoding}/offset")[row].tolist()
    height, width = _open_array(objects, split, f"{encoding}/shape")[row].tolist()
    data = np.asarray(_open_array(objects, split, f"{encoding}/bytes")[start:stop])
    return data.tobytes(), height, width


def read_small(objects: Objects, split: str, name: str) -> NDArray[Any]:
    """Read the label or status array of a split through zarr.

    Args:
        objects: The objects of the store, for its path or URL.
        split: The name of the split.
        name: `label` or `status`.

    Returns:
        (num_rows,) int32 labels, -1 for none; or (num_rows,) uint8 statuses, 0 for a readable row,
        1 to 8 for the reason of its quarantine, 255 for a row whose status is not written yet.
        Where a chunk is missing, labels are -1 and statuses 255.

    Raises:
        FileNotFoundError: The store has no such array.
        ValueError: A chunk does not match its checksum, or the array's `zarr.json` is damaged.
        Exception: A request to an object store failed: an error of that store's own package.
    """
    return np.asarray(_open_array(objects, split, name)[:])


def _open_array(objects: Objects, split: str, name: str) -> Any:
    text = f"{objects.url}/{layout.array(split, name)}"
    # A local path is passed as a Path: zarr takes a text with `::` in it for a chain of URLs.
    return zarr.open_array(text if is_url(text) else Path(text), mode="r", zarr_format=3)


@atexit.register
def _stop_zarr() -> None:
    """Stop the event loop of zarr's thread and wait for the thread.

    Functions of atexit run in reverse order. Zarr's own runs after this one, waits for only 0.2 s,
    and on a busy machine closes a loop that is still running, which prints a traceback.
    """
    running, thread = loop[0], iothread[0]
    if running is not None and thread is not None:
        running.call_soon_threadsafe(running.stop)
        thread.join(_ZARR_STOP_TIMEOUT_SECONDS)
