"""The encoded rows of a split as a reader sees them: where their bytes lie, and their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import layout, records
from pipeline.store.commit import Commit
from pipeline.store.encoded_plan import EncodedPlan
from pipeline.store.encoded_shard import EncodedGeometry, read_row_table
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.shard import encode_index
from pipeline.store.small_arrays import read_small_array


@dataclass(frozen=True)
class EncodedRows:
    """The places of the rows of one encoded array in its shard objects, and their sizes."""

    plan: EncodedPlan
    geometry: EncodedGeometry
    offset: NDArray[np.int64]
    """The first element of each row in the array of bytes, and the one after its last,
    (num_rows, 2) int64; equal for a row that must not be read."""
    shape: NDArray[np.int32]
    """The height and width of each picture in pixels, (num_rows, 2) int32."""

    @property
    def name(self) -> str:
        """The name of the array, such as `jpeg256@90`."""
        return self.plan.encoding

    @property
    def num_rows(self) -> int:
        """The number of rows of the split."""
        return len(self.offset)

    @property
    def framed_bytes(self) -> int:
        """The bytes of a chunk with its checksum."""
        return self.geometry.framed_bytes

    @property
    def index_bytes(self) -> int:
        """The bytes of a shard's index with its checksum."""
        return self.geometry.index_bytes

    @cached_property
    def num_bytes_of_rows(self) -> int:
        """The bytes of all rows together."""
        return int((self.offset[:, 1] - self.offset[:, 0]).sum())

    @cached_property
    def first_chunk(self) -> NDArray[np.int64]:
        """The number of the first chunk of each shard, (shards + 1,) int64, of all that exist.

        Chunks are counted from 0 over the whole split; the last element is their number.
        """
        shard_rows = self.geometry.shard_rows
        last = np.append(np.arange(shard_rows - 1, self.num_rows - 1, shard_rows), -1)
        used = self.offset[last, 1] - np.arange(len(last)) * self.geometry.span_bytes
        chunks = -(-(used + self.geometry.table_bytes) // self.geometry.chunk_bytes)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(chunks)])

    def num_chunks(self, shard: int) -> int:
        """Return the number of chunks that are present in one shard object.

        Args:
            shard: The number of the shard, from 0, which is not checked.
        """
        return int(self.first_chunk[shard + 1] - self.first_chunk[shard])

    def num_bytes(self, shard: int) -> int:
        """Return the length of one shard object in bytes, checksums and index included.

        Args:
            shard: The number of the shard, from 0, which is not checked.
        """
        return self.num_chunks(shard) * self.framed_bytes + self.index_bytes

    def index(self, shard: int) -> bytes:
        """Return the index that ends one shard object, with its checksum.

        Args:
            shard: The number of the shard, from 0, which is not checked.
        """
        geometry = self.geometry
        return encode_index(self.num_chunks(shard), geometry.chunks_per_shard, self.framed_bytes)

    def locate(
        self, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return where the bytes of rows lie in their shards, without checksums.

        Args:
            rows: (n,) int64, rows of the split in any order, whose range is not checked.

        Returns:
            Three arrays, each (n,) int64: the number of the shard of each row, the offset of its
            first byte in the span of that shard, and of the byte after its last.
        """
        shards = rows // self.geometry.shard_rows
        offsets = self.offset[rows] - (shards * self.geometry.span_bytes)[:, None]
        return shards, offsets[:, 0], offsets[:, 1]

    def chunks(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the chunks that hold some bytes of *rows*, counted over the whole split.

        Args:
            rows: (n,) int64, readable rows of the split in any order.

        Returns:
            (m,) int64, ascending, each chunk once.
        """
        shards, starts, stops = self.locate(rows)
        chunk_bytes = self.geometry.chunk_bytes
        first = self.first_chunk[shards] + starts // chunk_bytes
        counts = self.first_chunk[shards] + (stops - 1) // chunk_bytes + 1 - first
        # The numbers first, first + 1, ... of each row, one row after the other.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.unique(np.repeat(first, counts) + within)

    def locate_chunk(self, chunk: int) -> tuple[int, int]:
        """Return the shard of a chunk, and the number of the chunk in it.

        Args:
            chunk: The number of the chunk over the whole split.
        """
        shard = int(np.searchsorted(self.first_chunk, chunk, side="right")) - 1
        return shard, chunk - int(self.first_chunk[shard])


def read_encoded_rows(objects: Objects, plan: Plan, name: str) -> EncodedRows:
    """Read the places and sizes of the encoded rows of a finished split.

    Args:
        objects: The objects of the store.
        plan: The plan of the split.
        name: The name of the encoded rows, such as `jpeg256@90`.

    Raises:
        StoreDamagedError: The plan of the array, its offsets or its shapes are damaged or missing,
            or the plan is that of another array or plan of the split.
        StoreError: The plan has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    try:
        encoded_plan = _check_spans(records.load_encoded_plan(objects, plan, name), plan)
    except StoreError:
        document = layout.encoded_plan(plan.split, name)
        if objects.size(document) is not None:
            raise
        raise StoreDamagedError(f"{document} is missing. Run `tesserae repair`.") from None
    rows = EncodedRows(
        encoded_plan,
        encoded_plan.geometry(plan.shard_rows),
        read_small_array(objects, plan, f"{name}/offset", np.dtype("<i8"), 2),
        read_small_array(objects, plan, f"{name}/shape", np.dtype("<i4"), 2),
    )
    if not _are_possible(rows):
        raise StoreDamagedError(
            f"{layout.array(plan.split, name)} has offsets or shapes that its shards cannot have."
            " Run `tesserae repair`."
        )
    return rows


def read_row_tables(
    objects: Objects, plan: Plan, name: str, commits: Sequence[Commit]
) -> EncodedRows:
    """Read the places and sizes of the encoded rows of an unfinished split from its shards.

    Args:
        objects: The objects of the store.
        plan: The plan of the split.
        name: The name of the encoded rows, such as `jpeg256@90`.
        commits: The commits of the shards whose rows are read, each with this array. The rows of
            all other shards are empty.

    Raises:
        StoreDamagedError: A shard is missing or its row table damaged, or the plan of the array is
            damaged or that of another array or plan of the split.
        StoreError: There is no such array, or the request to an object store failed.
        OSError: The disk reports an error.
    """
    encoded_plan = _check_spans(records.load_encoded_plan(objects, plan, name), plan)
    geometry = encoded_plan.geometry(plan.shard_rows)
    shards = np.arange(plan.num_rows) // plan.shard_rows
    offset = np.repeat(shards * geometry.span_bytes, 2).reshape(-1, 2)
    shape = np.zeros((plan.num_rows, 2), np.int32)

    def read(commit: Commit) -> None:
        table = read_row_table(objects, commit.encoded[name], geometry)
        table = table[: commit.stop - commit.start]
        rows = slice(commit.start, commit.stop)
        offset[rows, 1] += table["stop"]
        offset[rows, 0][1:] = offset[rows, 1][:-1]
        shape[rows] = np.stack([table["height"], table["width"]], 1)

    # Each table is a read of its own, which costs a round trip on an object store.
    with ThreadPoolExecutor(records.READERS) as pool:
        list(pool.map(read, commits))
    return EncodedRows(encoded_plan, geometry, offset, shape)


def _check_spans(encoded_plan: EncodedPlan, plan: Plan) -> EncodedPlan:
    if plan.num_shards * encoded_plan.span_bytes >= 2**63:
        raise StoreDamagedError(
            f"{layout.encoded_plan(plan.split, encoded_plan.encoding)} states"
            f" {encoded_plan.span_bytes:,} bytes for each of {plan.num_shards:,} shards: expected"
            " fewer than 2^63 together. Run `tesserae repair`."
        )
    return encoded_plan


def _are_possible(rows: EncodedRows) -> bool:
    """Return True if the rows of each shard follow each other within its room, with sane sizes."""
    starts, stops = rows.offset[:, 0], rows.offset[:, 1]
    shard_starts = np.arange(len(starts)) // rows.geometry.shard_rows * rows.geometry.span_bytes
    is_first = np.arange(len(starts)) % rows.geometry.shard_rows == 0
    # Compared, not subtracted: a difference of untrusted numbers may overflow.
    expected_starts = np.where(is_first, shard_starts, np.append(0, stops[:-1]))
    return bool(
        (starts == expected_starts).all()
        and (starts <= stops).all()
        and (stops <= shard_starts + rows.geometry.room_bytes).all()
        and ((rows.shape > 0) == (starts < stops)[:, None]).all()
        and (rows.shape >= 0).all()
    )
