"""A plan is decoded as it was encoded, cuts rows into shards, and names every difference."""

from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreMismatchError
from pipeline.store import document, layout, plan
from pipeline.store.plan import Plan

MADE = Plan(
    split="train",
    recipe="a" * 64,
    num_rows=11,
    listing="b" * 64,
    order_version=1,
    seed=0,
    shard_rows=4,
)

plans = st.builds(
    Plan,
    split=st.text("abc-_1", min_size=1),
    recipe=st.text("0123456789abcdef", min_size=64, max_size=64),
    num_rows=st.integers(1, 4 * 10**6),
    listing=st.text("0123456789abcdef", min_size=64, max_size=64),
    order_version=st.just(1),
    seed=st.integers(0, 2**64 - 1),
    shard_rows=st.integers(1, 10**4),
)


@given(plans)
def test_a_decoded_plan_equals_the_encoded_one(written: Plan) -> None:
    """The digest is equal for any seed of 64 bits."""
    decoded = plan.decode_plan(written.encode(), layout.plan(written.split))
    assert decoded == written
    assert decoded.digest == written.digest


@given(plans.filter(lambda written: written.num_rows < 10**5))
def test_shards_have_every_row_once(written: Plan) -> None:
    """Shards contain the rows in order, and only the last one may be short."""
    shards = [written.rows(shard) for shard in range(written.num_shards)]
    assert shards[0].start == 0
    assert shards[-1].stop == written.num_rows
    assert all(a.stop == b.start for a, b in pairwise(shards))
    assert {len(rows) for rows in shards[:-1]} <= {written.shard_rows}
    assert 1 <= len(shards[-1]) <= written.shard_rows


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"recipe": "c" * 64}, "the recipe's digest is aaaa.* in the store, cccc.* now"),
        ({"num_rows": 12}, "the number of samples is 11 in the store, 12 now"),
        ({"listing": "c" * 64}, "the digest of the listing is bbbb.* in the store, cccc.* now"),
        ({"order_version": 2}, "the order's version is 1 in the store, 2 now"),
        ({"seed": 5}, "the seed is 0 in the store, 5 now"),
        ({"shard_rows": 8}, "the rows of a shard is 4 in the store, 8 now"),
        ({"seed": 5, "num_rows": 1}, "the number of samples is 11 .*; the seed is 0"),
    ],
)
def test_each_difference_between_plans_is_named(changed: dict[str, Any], sentence: str) -> None:
    """The error contains both values."""
    plan.check_same_plan(MADE, MADE)
    with pytest.raises(StoreMismatchError, match=f"split 'train' was planned .*{sentence}"):
        plan.check_same_plan(MADE, replace(MADE, **changed))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"split": "../../home"}, "split"),
        ({"split": "a" * 101}, "split"),
        ({"num_rows": 0}, "num_rows"),
        ({"num_rows": 10**400}, "num_rows is a number of 1329 bits"),
        ({"num_rows": 1.0}, "num_rows"),
        ({"num_rows": True}, "num_rows"),
        ({"shard_rows": 10**30}, "shard_rows"),
        ({"recipe": "x"}, "recipe"),
        ({"listing": None}, "listing"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_a_plan_sealed_with_other_values_is_refused(change, key):
    """The digest is valid; the error names the file and the key."""
    fields = {**asdict(MADE), **change}
    with pytest.raises(StoreDamagedError, match=f"^p is not the document .*: {key}.*: expected"):
        plan.decode_plan(document.encode_document(fields), "p")


def test_a_plan_of_too_many_shards_is_refused():
    """Readers load the documents of all shards."""
    with pytest.raises(ValueError, match=r"at most 4,194,304 shards\. Choose more --shard-rows"):
        replace(MADE, num_rows=2**40, shard_rows=1)
    fields = {**asdict(MADE), "num_rows": 2**40, "shard_rows": 1}
    with pytest.raises(StoreDamagedError, match="at most 4,194,304 shards"):
        plan.decode_plan(document.encode_document(fields), "p")


def test_a_damaged_plan_is_named() -> None:
    """The error for a damaged plan names its file."""
    with pytest.raises(StoreDamagedError, match=r"splits/train\.json is damaged"):
        plan.decode_plan(MADE.encode()[:-1], layout.plan("train"))
