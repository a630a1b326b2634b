"""The plan of an encoded array of a split: where its rows lie, and which encoder makes them.

It is written before the first of its shards, once, and never changes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np

from pipeline.errors import StoreMismatchError
from pipeline.store import document, layout
from pipeline.store.encoded_shard import TABLE_ENTRY, EncodedGeometry
from pipeline.store.encoding import CHUNK_BYTES, Encoding
from pipeline.store.schema import Between, Digest, EncodingName, Format, Split

JPEG_ROOM_BYTES_PER_PIXEL = 3
"""The bytes that a shard of JPEG rows has room for, for each pixel of a square of the short side.

Photographs take less than one. Room costs nothing but an entry of the index for each chunk, so it
is generous: for long pictures, and for noise at the highest quality."""

JPEG_HEADER_BYTES = 1024
"""The bytes that a shard of JPEG rows has room for, for each row, whatever its pixels: quantization
and Huffman tables take 600, more than the pixels of an icon."""

JPEG_TABLE_BYTES = 620
"""The bytes of the tables and headers of a JPEG, for estimates."""

ASPECT = 4 / 3
"""The ratio of the sides of most photographs, for estimates."""

BYTES_PER_PIXEL = ((1, 50, 75, 90, 95, 100), (0.05, 0.14, 0.21, 0.36, 0.52, 1.1))
"""Qualities, and the bytes that a pixel of a small photograph takes at each, for estimates."""

MAX_SPAN_BYTES = 2**44
"""The largest number of bytes that a shard has room for."""


EncodedPlans = dict[str, "EncodedPlan"]
"""The plans of the encoded arrays of a split, by the names of the arrays."""


@dataclass(frozen=True, kw_only=True)
class EncodedPlan:
    """The plan of one encoded array of a split."""

    split: Split
    encoding: EncodingName
    """The name of the array, such as `jpeg256@90`."""
    plan: Digest
    """The digest of the plan of the split."""
    span_bytes: Annotated[int, Between(1, MAX_SPAN_BYTES)]
    """The elements of the array of bytes that each shard owns, a multiple of `chunk_bytes`."""
    chunk_bytes: Annotated[int, Between(1, 2**31)]
    """The bytes that share a checksum."""
    encoder: str
    """The digest of the probe images as encoded; empty for the source's own bytes."""
    software: str
    """The software behind that digest, for people. It is not part of the identity."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""

    def geometry(self, shard_rows: int) -> EncodedGeometry:
        """Return the places of bytes in the shard objects.

        Args:
            shard_rows: The rows of a shard, as in the plan of the split.
        """
        return EncodedGeometry(self.span_bytes, self.chunk_bytes, shard_rows)

    def encode(self) -> bytes:
        """Return the bytes of `splits/<split>.<encoding>.json`."""
        return document.encode_document(asdict(self))


def span_of(encoding: Encoding, longest_shard_bytes: int, shard_rows: int, num_rows: int) -> int:
    """Return the bytes that a shard of encoded rows has room for, a multiple of a chunk.

    The source's own bytes need exactly that much. JPEG rows have room for the source's bytes, some
    of which may be stored as they are, and for as many new ones as photographs need and more.

    Args:
        encoding: The encoding of the rows.
        longest_shard_bytes: The bytes of the samples of the shard that has most of them.
        shard_rows: The rows of a shard, for which its row table has entries.
        num_rows: The rows of the split; room for more would be in vain.
    """
    row_bytes = 0
    if not encoding.is_original:
        row_bytes = JPEG_HEADER_BYTES + JPEG_ROOM_BYTES_PER_PIXEL * encoding.short_side**2
    room = longest_shard_bytes + min(shard_rows, num_rows) * row_bytes
    return _whole_chunks(room + shard_rows * TABLE_ENTRY.itemsize)


def expected_bytes(encoding: Encoding, num_rows: int, source_bytes: int) -> int:
    """Return about how many bytes encoded rows take: those of the source, or of usual photographs.

    JPEG rows rarely take more than their source, which is stored as it is if it is small enough.

    Args:
        encoding: The encoding of the rows.
        num_rows: The number of rows.
        source_bytes: The bytes of their samples.
    """
    if encoding.is_original:
        return source_bytes
    pixels = encoding.short_side**2 * ASPECT
    row_bytes = JPEG_TABLE_BYTES + pixels * np.interp(encoding.quality, *BYTES_PER_PIXEL)
    return min(source_bytes, round(num_rows * row_bytes))


def _whole_chunks(num_bytes: int) -> int:
    return -(-num_bytes // CHUNK_BYTES) * CHUNK_BYTES


def decode_encoded_plan(data: bytes, name: str) -> EncodedPlan:
    """Decode and check the plan of an encoded array.

    It may be that of any split: the caller compares its `split` and `plan` with what it expects.

    Args:
        data: The bytes of the document.
        name: Its name in the store, for messages.

    Returns:
        The plan: `split`, `encoding`, the digest `plan` of the split's plan, `span_bytes`,
        `chunk_bytes`, and the `encoder`.

    Raises:
        StoreDamagedError: The bytes differ from those written, or a field is invalid.
        StoreError: The document has a format that this version does not read.
    """
    planned = document.decode_document_as(EncodedPlan, data, name)
    remainder = planned.span_bytes % planned.chunk_bytes
    document.check_value(name, "span_bytes modulo chunk_bytes", remainder, 0)
    return planned


def check_same_encoder(stored: EncodedPlan, encoder: str, software: str) -> None:
    """Refuse to add rows to an encoded array on a machine that encodes to other bytes.

    Args:
        stored: The plan of the array in the store.
        encoder: The digest of the probe images as this machine encodes them.
        software: The software that does, for the message.

    Raises:
        StoreMismatchError: This machine encodes the probe images to other bytes.
    """
    if stored.encoder != encoder:
        raise StoreMismatchError(
            f"the rows {stored.encoding} of the store were encoded by {stored.software}, and"
            f" {software} makes other bytes of the same pixels. Use that software, or"
            " prepare into a new store."
        )
