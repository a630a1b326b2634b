"""Listings: their digest, their order, and the keys that they refuse."""

import hashlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sources import listing as listing_module
from pipeline.sources.listing import ListedSample, ListingBuilder, listing_digest, sort_listing

part = st.text(
    st.characters(blacklist_characters="/\t\n\r\0", blacklist_categories=["Cs"]), min_size=1
).filter(lambda text: text not in (".", ".."))
keys = st.tuples(part, part).map("/".join)
sizes = st.dictionaries(keys, st.integers(0, 2**62), max_size=50)


def table_of(samples: dict[str, int]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array(list(samples), pa.large_string()),
            "num_bytes": pa.array(list(samples.values()), pa.int64()),
        }
    )


def plain_digest(samples: dict[str, int]) -> str:
    lines = [f"{key}\t{samples[key]}\n" for key in sorted(samples, key=str.encode)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@given(sizes, st.integers(1, 7))
def test_the_digest_is_that_of_the_sorted_lines(samples, slice_rows):
    """The digest equals that of `sort` and `sha256sum`, for any order and slices."""
    before, listing_module.SLICE_ROWS = listing_module.SLICE_ROWS, slice_rows
    try:
        table = sort_listing(table_of(samples))
        assert listing_digest(table) == plain_digest(samples)
        assert table["key"].to_pylist() == sorted(samples, key=str.encode)
    finally:
        listing_module.SLICE_ROWS = before


@given(sizes.filter(lambda samples: len(samples) > 2))
def test_the_digest_of_chunked_and_sliced_tables_is_the_same(samples):
    """Offsets of slices into shared Arrow buffers do not change the digest."""
    table = sort_listing(table_of(samples))
    pieces = pa.concat_tables([table.slice(i, 1) for i in range(len(table))])
    assert listing_digest(pieces) == plain_digest(samples)
    first = table["key"][0].as_py()
    remaining = {key: size for key, size in samples.items() if key != first}
    assert listing_digest(table.slice(1)) == plain_digest(remaining)


def test_the_digest_is_fixed():
    """The digest never changes, since stores hold it."""
    samples = {"n01440764/b.JPEG": 5, "n01440764/a.JPEG": 10, "n01440764 /a": 0, "é/ü": 1}
    expected = "d1bb16b933cd256f99209b1dd954cc547699c328fa648605662d2b2a74cda8a4"
    assert listing_digest(sort_listing(table_of(samples))) == plain_digest(samples) == expected


@pytest.mark.parametrize(
    "key",
    ["a", "/a", "a/", "a/b/c", "", "a\t/b", "a/b\n", "a/\r", "a/\0", "../b", "a/..", "./b", "a/."],
)
def test_an_invalid_key_is_refused_and_shown(key):
    """Tabs and line breaks would forge lines of the digest, and dots would leave the folder."""
    with pytest.raises(SourceError) as caught:
        sort_listing(table_of({"ok/ok": 1, key: 1}))
    assert repr(key) in str(caught.value)


def test_names_may_hold_dots():
    """Only the parts '.' and '..' are refused."""
    samples = {"..a/.b": 1, "a../b..": 2, ".../...": 3}
    assert len(sort_listing(table_of(samples))) == 3


def test_two_samples_with_one_key_are_refused_with_both_locations():
    """The error names both files."""
    builder = ListingBuilder()
    builder.collect(
        "one.tar", [ListedSample("a/x", 1, 512), ListedSample("a/y", 1, 1024)], lambda _: None
    )
    builder.collect("two.tar", [ListedSample("a/y", 2, 2048)], lambda _: None)
    with pytest.raises(SourceError, match=r"'a/y': 'one.tar' at byte 1024 and 'two.tar' at byte"):
        sort_listing(builder.finish())


def test_a_name_that_is_not_utf8_is_refused_and_shown():
    """A name of a file system that is no UTF-8 is refused, since a key must be text."""
    builder = ListingBuilder()
    with pytest.raises(SourceError, match=r"'a/\\udcff' in one.tar is not valid UTF-8"):
        builder.collect("one.tar", [ListedSample("a/\udcff", 1, 0)], lambda _: None)


def test_links_have_the_bytes_of_their_targets():
    """A link has the bytes of its target, even if that comes later or in another batch."""
    builder = ListingBuilder()
    rows = [
        ListedSample("a/l", 0, 0, "a/x"),
        *(ListedSample(f"a/{i}", i, i) for i in range(20000)),
        ListedSample("a/x", 7, 9),
    ]
    seen: list[int] = []
    builder.collect("one.tar", rows, seen.append)
    table = sort_listing(builder.finish())
    rows_by_key = {row["key"]: row for row in table.slice(len(table) - 2).to_pylist()}
    assert rows_by_key["a/l"] == {"key": "a/l", "num_bytes": 7, "path": "one.tar", "offset": 9}
    assert sum(seen) == 20001
    builder = ListingBuilder()
    builder.collect("one.tar", [ListedSample("a/l", 0, 0, "a/gone")], lambda _: None)
    with pytest.raises(SourceError, match="'a/l' is a link to 'a/gone', which is not among"):
        builder.finish()


def test_paths_stay_a_dictionary_through_sorting():
    """Paths of a million rows in a thousand tars stay a dictionary of a thousand names."""
    builder = ListingBuilder()
    builder.collect("b.tar", [ListedSample("b/x", 1, 0)], lambda _: None)
    builder.collect("a.tar", [ListedSample("a/x", 1, 0)], lambda _: None)
    table = sort_listing(builder.finish())
    assert table.schema.field("path").type == pa.dictionary(pa.int32(), pa.string())
    assert table["path"].to_pylist() == ["a.tar", "b.tar"]
    assert table["path"].num_chunks == 1
