"""A recipe is decoded as it was encoded, refuses invalid values, and names every difference."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreMismatchError
from pipeline.store import document, recipe
from pipeline.store.recipe import DECODE_RULES, FILTERS, FITS, LISTING_RULES, MISSING_END, Recipe

MADE = Recipe(
    fit="crop",
    filter="bicubic",
    serves=288,
    exif=False,
    decoder="a" * 32,
    resizer="b" * 32,
    software={"decoder": "one", "resizer": "two"},
    shard_rows=8,
    chunk_rows=4,
    codec="none",
    classes=(("n00000001", "tench"), ("n00000002", "")),
    decode_rules=2,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
recipes = st.builds(
    Recipe,
    fit=st.sampled_from(FITS),
    filter=st.sampled_from(FILTERS),
    serves=st.integers(1, 4096),
    exif=st.booleans(),
    decoder=st.text("0123456789abcdef", min_size=32, max_size=32),
    resizer=st.text("0123456789abcdef", min_size=32, max_size=32),
    software=st.dictionaries(texts, texts, max_size=3),
    shard_rows=st.just(64),
    chunk_rows=st.sampled_from([1, 2, 16, 64]),
    codec=st.sampled_from(["none", "zstd:3", "blosc-lz4", "blosc-zstd:5"]),
    classes=st.lists(st.tuples(texts, texts), max_size=4).map(tuple),
    decode_rules=st.integers(1, DECODE_RULES),
    listing_rules=st.integers(1, LISTING_RULES),
    missing_end=st.sampled_from(MISSING_END),
    max_image_bytes=st.integers(1, 2**40),
)
FIRST = {
    "format": 1,
    "decode_rules": 1,
    "listing_rules": 1,
    "missing_end": "refuse",
    "max_image_bytes": None,
}
first_recipes = recipes.map(lambda written: replace(written, **FIRST))


@given(recipes | first_recipes)
def test_a_decoded_recipe_equals_the_encoded_one(written: Recipe) -> None:
    """The text is equal to the byte."""
    data = written.encode()
    decoded = recipe.decode_recipe(data)
    assert decoded == written
    assert decoded.encode() == data
    assert decoded.digest == written.digest
    assert f'"digest": "{written.digest}"'.encode() in data


def test_a_store_of_format_1_has_only_rules_1() -> None:
    """A recipe of format 1 has no field for later rules."""
    first = replace(MADE, **FIRST)
    assert not any(name in first.encode() for name in (b"rules", b"missing_end", b"image_bytes"))
    for choice in ({"missing_end": "keep"}, {"max_image_bytes": 9}):
        with pytest.raises(ValueError, match="a store of format 1 decodes by rules 1"):
            replace(first, **choice)
    with pytest.raises(ValueError, match="decode_rules is 2: expected 1 to 1"):
        replace(first, decode_rules=2)
    with pytest.raises(ValueError, match="listing_rules is 3: expected 1 to 2"):
        replace(MADE, listing_rules=3)


LIMITS = {"missing_end", "max_image_bytes"}


@pytest.mark.parametrize(
    ("absent", "listing_rules"), [({"class_numbers", *LIMITS}, 1), (LIMITS, 2)]
)
def test_the_first_recipes_of_format_2_lack_fields(absent: set[str], listing_rules: int) -> None:
    """They name rules 2, which no code followed yet; the document and its digest stay."""
    fields = {name: value for name, value in vars(MADE).items() if name not in absent}
    data = document.encode_document(fields)
    earlier = recipe.decode_recipe(data)
    assert (earlier.decode_rules, earlier.listing_rules) == (1, listing_rules)
    assert (earlier.missing_end, earlier.max_image_bytes) == ("refuse", None)
    assert earlier.class_numbers == ()
    assert (earlier.encode(), earlier.digest) == (data, document.digest(fields))
    assert pickle.loads(pickle.dumps(earlier)).encode() == data
    recipe.check_same_recipe(earlier, replace(MADE, max_image_bytes=None, decode_rules=1))


@pytest.mark.parametrize("absent", [{"class_numbers"}, {"missing_end"}, {"decode_rules", *LIMITS}])
def test_a_recipe_that_no_version_wrote_is_refused(absent: set[str]) -> None:
    """A field is missing that every version has written beside the others."""
    fields = {name: value for name, value in vars(MADE).items() if name not in absent}
    with pytest.raises(StoreDamagedError, match=f"{min(absent)} is missing"):
        recipe.decode_recipe(document.encode_document(fields))


def test_only_the_first_rules_have_no_limit() -> None:
    """A recipe with rules 2 and an explicit null is refused."""
    with pytest.raises(StoreDamagedError, match="max_image_bytes is None: expected at least 1"):
        recipe.decode_recipe(document.encode_document({**vars(MADE), "max_image_bytes": None}))


@given(recipes, st.data())
def test_any_changed_byte_of_a_recipe_is_detected(written: Recipe, data: st.DataObject) -> None:
    """A change of white space is detected, too."""
    text = bytearray(written.encode())
    offset = data.draw(st.integers(0, len(text) - 1))
    text[offset] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreDamagedError, match=r"recipe\.json is damaged"):
        recipe.decode_recipe(bytes(text))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"fit": "stretch"}, "fit is 'stretch': expected one of crop, pad, squish"),
        ({"filter": "cubic"}, "filter is 'cubic': expected one of bicubic"),
        ({"serves": 0}, "serves is 0: expected at least 1"),
        ({"chunk_rows": 3}, "a shard of 8 rows cannot be divided into chunks of 3"),
        ({"codec": "gzip"}, "codec is 'gzip': expected none"),
    ],
)
def test_invalid_recipes_are_refused(changed: dict[str, Any], sentence: str) -> None:
    """The error contains the value and the expected values."""
    with pytest.raises(ValueError, match=sentence):
        replace(MADE, **changed)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"fit": "pad"}, "fit is 'crop' in the store, 'pad' was requested"),
        ({"filter": "box"}, "filter is 'bicubic' in the store, 'box' was requested"),
        ({"serves": 72}, "serves is 288 in the store, 72 was requested"),
        ({"exif": True}, "exif is False in the store, True was requested"),
        ({"shard_rows": 16}, "shard_rows is 8 in the store, 16 was requested"),
        ({"chunk_rows": 2}, "chunk_rows is 4 in the store, 2 was requested"),
        ({"codec": "zstd:3"}, "codec is 'none' in the store, 'zstd:3' was requested"),
        (
            {"decoder": "c" * 32},
            r"the decoder produces other pixels here \(one, probe cccccccccccc\)",
        ),
        (
            {"resizer": "c" * 32},
            r"the resizer produces other .*than the one .*\(two, probe bbbbbbbbbbbb",
        ),
        (
            {"classes": (("n00000003", ""),)},
            "another source: 1 class is not among the store's 2: 'n00000003'",
        ),
    ],
)
def test_each_difference_between_recipes_is_named(changed: dict[str, Any], sentence: str) -> None:
    """The error contains both values."""
    with pytest.raises(StoreMismatchError, match=sentence):
        recipe.check_same_recipe(MADE, replace(MADE, **changed))


def test_all_differences_are_named_at_once() -> None:
    """A user should not find them one run after the other."""
    requested = replace(MADE, fit="pad", codec="zstd:3", resizer="c" * 32)
    with pytest.raises(StoreMismatchError, match=r"fit is .*codec is .*the resizer produces"):
        recipe.check_same_recipe(MADE, requested)


def test_fewer_classes_and_another_software_description_are_no_difference() -> None:
    """A split need not contain every class, and the probe decides about software."""
    requested = replace(MADE, classes=MADE.classes[1:], software={"decoder": "three"})
    recipe.check_same_recipe(MADE, requested)
    recipe.check_same_recipe(MADE, replace(MADE, classes=()))


def test_only_five_of_many_unknown_classes_are_named() -> None:
    """The error contains their number."""
    requested = replace(MADE, classes=tuple((f"x{i}", "") for i in range(9)))
    with pytest.raises(StoreMismatchError, match=r"9 classes .*'x4', \.\.\."):
        recipe.check_same_recipe(MADE, requested)
