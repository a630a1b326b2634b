"""A commit is decoded as it was encoded, with all objects that it lists."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError
from pipeline.store import commit, layout
from pipeline.store.commit import Commit, ObjectRecord

digests = st.text("0123456789abcdef", min_size=32, max_size=32)
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@st.composite
def commits(draw):
    """Draw a commit of any shard, with the object names of the layout."""
    split, shard = draw(st.text("abc", min_size=1)), draw(st.integers(0, 10**6))
    sizes = draw(st.sets(st.integers(1, 4096), max_size=4))
    counts = draw(st.dictionaries(st.sampled_from(["readable", "empty"]), st.integers(0, 1024)))
    start = draw(st.integers(0, 10**8))

    def written(name: str) -> ObjectRecord:
        return ObjectRecord(name, draw(st.integers(0, 2**40)), draw(digests))

    return Commit(
        split=split,
        shard=shard,
        plan=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        start=start,
        stop=start + sum(counts.values()),
        arrays={str(size): written(layout.shard(split, size, shard)) for size in sizes},
        table=written(layout.part(split, shard)),
        counts=counts,
        provenance=draw(
            st.dictionaries(st.text("abc"), values | st.lists(values), max_size=4)
            | st.fixed_dictionaries({"image_seconds": st.floats(0, 86_400)})
        ),
    )


@given(commits())
def test_a_decoded_commit_equals_the_encoded_one(written: Commit) -> None:
    """The bytes are equal for any provenance, so a commit can be restored from a copy."""
    data = written.encode()
    decoded = commit.decode_commit(data, "c")
    assert decoded == written
    assert decoded.encode() == data


@given(commits())
def test_a_commit_lists_each_size_and_its_table_part(written: Commit) -> None:
    """A commit lists exactly these objects."""
    assert written.sizes == {int(size) for size in written.arrays}
    assert written.objects == [*written.arrays.values(), written.table]


@given(commits(), st.data())
def test_a_truncated_commit_is_damaged(written: Commit, data: st.DataObject) -> None:
    """A commit may be cut at any byte."""
    text = written.encode()
    length = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(StoreDamagedError, match="c is damaged"):
        commit.decode_commit(text[:length], "c")


COMMIT = Commit(
    split="train",
    shard=1,
    plan="0" * 64,
    start=4,
    stop=8,
    arrays={"8": ObjectRecord(layout.shard("train", 8, 1), 5, "0" * 32)},
    table=ObjectRecord(layout.part("train", 1), 5, "0" * 32),
    counts={"readable": 3, "empty": 1},
)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"table": ObjectRecord("../home/.ssh/authorized_keys", 5, "0" * 32)}, r"table\.name"),
        ({"table": ObjectRecord(layout.part("train", 0), 5, "0" * 32)}, r"table\.name"),
        ({"arrays": {"8": ObjectRecord("/etc/passwd", 5, "0" * 32)}}, r"arrays\.8\.name"),
        ({"arrays": {"16": COMMIT.arrays["8"]}}, r"arrays\.16\.name"),
        ({"arrays": {"abc": COMMIT.arrays["8"]}}, "a key of arrays"),
        ({"arrays": {"08": COMMIT.arrays["8"]}}, "a key of arrays"),
        ({"split": "../train"}, "split"),
        ({"shard": True}, "shard"),
        ({"shard": -1}, "shard"),
        ({"stop": 9}, "stop"),
        ({"counts": {"readable": 5, "empty": -1}}, r"counts\.empty"),
        ({"table": ObjectRecord(layout.part("train", 1), 10**400, "0" * 32)}, r"table\.num_bytes"),
        ({"provenance": {"image_seconds": "long"}}, r"provenance\.image_seconds"),
        ({"provenance": {"image_seconds": 1e300}}, r"provenance\.image_seconds"),
    ],
)
def test_a_commit_sealed_with_other_names_or_values_is_refused(change, key):
    """The digest is valid; the error names the file and the key."""
    commit.decode_commit(COMMIT.encode(), "c")
    with pytest.raises(
        StoreDamagedError, match=f"^c is not the document .*: {key} is .*: expected"
    ):
        commit.decode_commit(replace(COMMIT, **change).encode(), "c")
