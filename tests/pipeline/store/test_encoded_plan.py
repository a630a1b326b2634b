"""The plan of an encoded array has room for its rows, and names their encoder."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreMismatchError
from pipeline.images.decode import decode
from pipeline.images.encode import encode_jpeg_row
from pipeline.store import layout
from pipeline.store.encoded_plan import (
    EncodedPlan,
    check_same_encoder,
    decode_encoded_plan,
    expected_bytes,
    span_of,
)
from pipeline.store.encoding import CHUNK_BYTES, Encoding
from tests.pipeline.store.test_plan import MADE as PLAN

MADE = EncodedPlan(
    split="train",
    encoding="jpeg256@90",
    plan=PLAN.digest,
    span_bytes=4 * CHUNK_BYTES,
    chunk_bytes=CHUNK_BYTES,
    encoder="a" * 32,
    software="Pillow 1",
)


def test_a_decoded_plan_equals_the_encoded_one() -> None:
    """Its name is no name of a plan of a split."""
    assert decode_encoded_plan(MADE.encode(), "x") == MADE
    assert layout.encoded_plan("train", "jpeg256@90") == "splits/train.jpeg256@90.json"
    assert MADE.geometry(8).room_bytes == 4 * CHUNK_BYTES - 8 * 16


@pytest.mark.parametrize(
    "changes", [{"encoding": "jpeg0@90"}, {"span_bytes": CHUNK_BYTES + 1}, {"split": "a/b"}]
)
def test_an_invalid_plan_is_refused(changes: dict[str, object]) -> None:
    """Its digest is right, so its author wrote it so."""
    with pytest.raises(StoreDamagedError):
        decode_encoded_plan(replace(MADE, **changes).encode(), "x")  # type: ignore[arg-type]


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 9000), st.integers(1, 2**32))
def test_a_span_has_room_for_its_rows(
    short_side: int, shard_rows: int, num_rows: int, num_bytes: int
) -> None:
    """It is a whole number of chunks, and the row table has a place of its own."""
    new_bytes = (1024 + 3 * short_side**2) * min(shard_rows, num_rows)
    for span, needed in (
        (
            span_of(Encoding(short_side, 90), num_bytes, shard_rows, num_rows),
            num_bytes + new_bytes,
        ),
        (span_of(Encoding(), num_bytes, shard_rows, num_rows), num_bytes),
    ):
        room = replace(MADE, span_bytes=span).geometry(shard_rows).room_bytes
        assert span % CHUNK_BYTES == 0
        assert needed <= room < needed + CHUNK_BYTES


def test_another_encoder_is_refused_by_name() -> None:
    """Another version of software that makes equal bytes is not."""
    check_same_encoder(MADE, MADE.encoder, "Pillow 2")
    with pytest.raises(StoreMismatchError, match="encoded by Pillow 1, and Pillow 2 makes other"):
        check_same_encoder(MADE, "b" * 32, "Pillow 2")


@pytest.mark.parametrize("short_side", [64, 128, 256])
@pytest.mark.parametrize("quality", [50, 75, 90, 95])
def test_photographs_take_about_the_bytes_that_are_expected(short_side: int, quality: int) -> None:
    """A run is refused by this figure if the disk has less room."""
    folder = os.environ.get("TESSERAE_DATA", "")
    files = sorted(Path(folder, "imagenet").rglob("*.JPEG"))[::40] if folder else []
    if not files:
        pytest.skip("TESSERAE_DATA names no folder of real photographs")
    photographs = [file.read_bytes() for file in files]
    num_bytes = sum(
        len(encode_jpeg_row(
            data, decode(data, fit="crop", serves=short_side, exif=False),
            short_side=short_side, quality=quality, filter="bicubic",
        ).data)
        for data in photographs
    )  # fmt: skip
    encoding, source_bytes = Encoding(short_side, quality), sum(map(len, photographs))
    expected = expected_bytes(encoding, len(photographs), source_bytes)
    assert 0.75 <= expected / num_bytes <= 1.33
    assert expected_bytes(encoding, len(photographs), 10) == 10
    assert expected_bytes(Encoding(), len(photographs), source_bytes) == source_bytes
