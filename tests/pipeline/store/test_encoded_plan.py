"""The plan of an encoded array has room for its rows, and names their encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreMismatchError
from pipeline.store import layout
from pipeline.store.encoded_plan import (
    EncodedPlan,
    check_same_encoder,
    decode_encoded_plan,
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


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 2**32))
def test_a_span_has_room_for_its_rows(short_side: int, shard_rows: int, num_bytes: int) -> None:
    """It is a whole number of chunks, and the row table has a place of its own."""
    new_bytes = (1024 + 3 * short_side**2) * shard_rows
    for span, needed in (
        (span_of(Encoding(short_side, 90), num_bytes, shard_rows), num_bytes + new_bytes),
        (span_of(Encoding(), num_bytes, shard_rows), num_bytes),
    ):
        room = replace(MADE, span_bytes=span).geometry(shard_rows).room_bytes
        assert span % CHUNK_BYTES == 0
        assert needed <= room < needed + CHUNK_BYTES


def test_another_encoder_is_refused_by_name() -> None:
    """Another version of software that makes equal bytes is not."""
    check_same_encoder(MADE, MADE.encoder, "Pillow 2")
    with pytest.raises(StoreMismatchError, match="encoded by Pillow 1, and Pillow 2 makes other"):
        check_same_encoder(MADE, "b" * 32, "Pillow 2")
