"""The door to zarr: the metadata of every array, and the two small arrays, labels and status.

    images.zarr/                          zarr v3 group
      <split>/<size>    uint8 (N, size, size, 3)    sharded; its objects come from `shard`
      <split>/label     int32 (N,) fill -1          written by the planner
      <split>/status    uint8 (N,) fill 255         written by the finish step

Everything is made by zarr itself in memory and leaves through the one door for writing, so that
what zarr decides is zarr's and what must be durable is durable. Metadata is written as zarr means
it but in one fixed form of JSON, so that the same store has the same bytes.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import iothread, loop, sync
from zarr.storage import MemoryStore

from pipeline.store import layout
from pipeline.store.features import FeatureRecipe
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.shard import parse_codec
from pipeline.urls import is_url

NOT_PREPARED = 255
"""What `status` says of a row that no commit covers."""

_ZARR_STOP_SECONDS = 10.0

Named = tuple[str, bytes]


def groups(split: str) -> list[Named]:
    """The metadata of the hierarchy's two groups, as (name, bytes)."""
    store = MemoryStore()
    zarr.create_group(store)
    text = _json(_contents(store)["zarr.json"])
    return [(f"{layout.IMAGES}/{path}zarr.json", text) for path in ("", f"{split}/")]


def image_array(recipe: Recipe, plan: Plan, size: int) -> Named:
    """The metadata of one size's array, as (name, bytes)."""
    name = f"{layout.array(plan.split, str(size))}/zarr.json"
    # One dimension has one length in all arrays of a group, or xarray does not open the group.
    names = ("height", "width") if recipe.format == 1 else (f"height_{size}", f"width_{size}")
    dimensions = ("row", *names, "channel")
    text = _sharded(
        plan.num_rows,
        (size, size, 3),
        "uint8",
        (recipe.shard_rows, recipe.chunk_rows),
        _compressors(recipe.codec),
        dimensions,
    )
    return name, text


def feature_arrays(recipe: FeatureRecipe, plan: Plan, kinds: Iterable[str]) -> list[Named]:
    """The metadata of a split's features and of the groups that they are in, as (name, bytes)."""
    store = MemoryStore()
    zarr.create_group(store)
    group = _json(_contents(store)["zarr.json"])
    root = layout.features_array(recipe.name, "", "").rstrip("/")
    text = _sharded(
        plan.num_rows,
        (recipe.dim,),
        recipe.dtype,
        (recipe.shard_rows, recipe.chunk_rows),
        _compressors("none"),
        ("row", "feature"),
    )
    return [
        (f"{root}/zarr.json", group),
        (f"{root}/{plan.split}/zarr.json", group),
        *(
            (f"{layout.features_array(recipe.name, plan.split, kind)}/zarr.json", text)
            for kind in kinds
        ),
    ]


def _sharded(
    num_rows: int,
    shape: tuple[int, ...],
    dtype: str,
    shard_and_chunk_rows: tuple[int, int],
    compressors: list[Any],
    dimensions: tuple[str, ...],
) -> bytes:
    store = MemoryStore()
    shard_rows, chunk_rows = shard_and_chunk_rows
    # Never shorter than a shard, and the grid decides nothing else: zarr wants chunks that divide.
    zarr.create_array(
        store,
        shape=(num_rows, *shape),
        dtype=dtype,
        chunks=(chunk_rows, *shape),
        shards=(shard_rows, *shape),
        compressors=compressors,
        fill_value=0,
        chunk_key_encoding=cast("Any", {"name": "default", "separator": "."}),
        dimension_names=dimensions,
    )
    return _json(_contents(store)["zarr.json"])


def label_array(split: str, labels: NDArray[np.int32]) -> list[Named]:
    """The whole label array, (N,) int32, as (name, bytes), metadata last."""
    return list(_small_array(split, "label", labels, fill=-1))


def status_array(split: str, status: NDArray[np.uint8]) -> list[Named]:
    """The whole status array, (N,) uint8, as (name, bytes), metadata last."""
    return list(_small_array(split, "status", status, fill=NOT_PREPARED))


def small_metadata(plan: Plan) -> list[Named]:
    """The metadata of labels and status, which say of every row that nothing is known of it."""
    labels, status = np.empty(plan.num_rows, np.int32), np.empty(plan.num_rows, np.uint8)
    return [
        *_small_array(plan.split, "label", labels, fill=-1, write=False),
        *_small_array(plan.split, "status", status, fill=NOT_PREPARED, write=False),
    ]


def damaged_labels(objects: Objects, plan: Plan) -> Iterator[tuple[str, str]]:
    """What is wrong with labels that no finish step vouches for yet, as (name, what).

    Each chunk of them is followed by its checksum.
    """
    chunk_rows = layout.small_chunk_rows(plan.num_rows)
    for chunk in range(-(-plan.num_rows // chunk_rows)):
        name = f"{layout.array(plan.split, 'label')}/c.{chunk}"
        try:
            data = objects.get(name)
        except FileNotFoundError:
            yield name, "missing"
            continue
        checksum = google_crc32c.value(data[:-4]).to_bytes(4, "little")
        if len(data) != 4 * chunk_rows + 4 or data[-4:] != checksum:
            yield name, "damaged"


def _small_array(
    split: str, name: str, values: NDArray[Any], *, fill: int, write: bool = True
) -> Iterator[Named]:
    store = MemoryStore()
    made = zarr.create_array(
        store,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(layout.small_chunk_rows(len(values)),),
        compressors=[Crc32cCodec()],
        fill_value=fill,
        chunk_key_encoding=cast("Any", {"name": "default", "separator": "."}),
        dimension_names=("row",),
        config={"write_empty_chunks": True},
    )
    if write:
        made[:] = values
    contents = _contents(store)
    for key in sorted(contents, key=lambda key: (key == "zarr.json", key)):
        text = _json(contents[key]) if key == "zarr.json" else contents[key]
        yield f"{layout.array(split, name)}/{key}", text


def _compressors(codec: str) -> list[Any]:
    name, level = parse_codec(codec)
    made: dict[str, Any] = {
        "none": None,
        "zstd": ZstdCodec(level=level, checksum=False),
        "blosc-lz4": BloscCodec(typesize=1, cname="lz4", clevel=5, shuffle="noshuffle"),
        "blosc-zstd": BloscCodec(
            typesize=1, cname="zstd", clevel=min(level, 9), shuffle="bitshuffle"
        ),
    }
    return [codec for codec in (made[name], Crc32cCodec()) if codec is not None]


def _contents(store: MemoryStore) -> dict[str, bytes]:
    prototype = default_buffer_prototype()

    async def read() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            value = await store.get(key, prototype)
            if value is not None:
                found[key] = value.to_bytes()
        return found

    return sync(read())


def _json(text: bytes) -> bytes:
    return (json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n").encode()


def read_rows(objects: Objects, split: str, size: int, start: int, stop: int) -> NDArray[np.uint8]:
    """Rows of one size as zarr itself reads them, (stop - start, size, size, 3) uint8."""
    return np.asarray(_open_array(objects, split, str(size))[start:stop])


def read_small(objects: Objects, split: str, name: str) -> NDArray[Any]:
    """The label or status array as zarr itself reads it."""
    return np.asarray(_open_array(objects, split, name)[:])


def _open_array(objects: Objects, split: str, name: str) -> Any:
    text = f"{objects.url}/{layout.array(split, name)}"
    # As a path where it is one: of a text with `::` in it zarr makes a chain of fsspec.
    return zarr.open_array(text if is_url(text) else Path(text), mode="r", zarr_format=3)


@atexit.register
def _stop_zarr() -> None:
    """Stop the event loop of zarr's thread, and wait for the thread.

    Functions of atexit run in reverse order: zarr's own, afterwards, waits for 0.2 s, and on a
    busy machine then closes a loop that still runs, which ends in a traceback.
    """
    running, thread = loop[0], iothread[0]
    if running is not None and thread is not None:
        running.call_soon_threadsafe(running.stop)
        thread.join(_ZARR_STOP_SECONDS)
