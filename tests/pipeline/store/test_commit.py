"""The commit: comes back as it was, with all it vouches for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError
from pipeline.store import commit
from pipeline.store.commit import Commit, Written

written = st.builds(
    Written,
    name=st.text("abc/._0", min_size=1),
    num_bytes=st.integers(0, 2**40),
    digest=st.text("0123456789abcdef", min_size=32, max_size=32),
)
values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
commits = st.builds(
    Commit,
    split=st.text("abc", min_size=1),
    shard=st.integers(0, 10**6),
    plan=st.text("0123456789abcdef", min_size=64, max_size=64),
    start=st.integers(0, 10**8),
    stop=st.integers(0, 10**8),
    arrays=st.dictionaries(st.integers(1, 4096).map(str), written, max_size=4),
    table=written,
    counts=st.dictionaries(st.sampled_from(["readable", "empty"]), st.integers(0, 1024)),
    provenance=st.dictionaries(st.text("abc"), values | st.lists(values), max_size=4),
)


@given(commits)
def test_a_commit_comes_back_as_it_was(made: Commit) -> None:
    """To the byte, whatever its provenance holds: so it can be restored from a copy."""
    data = made.encode()
    kept = commit.decode(data, "c")
    assert kept == made
    assert kept.encode() == data


@given(commits)
def test_a_commit_vouches_for_each_size_and_its_part(made: Commit) -> None:
    """No more, no less."""
    assert made.sizes == {int(size) for size in made.arrays}
    assert made.objects == [*made.arrays.values(), made.table]


@given(commits, st.data())
def test_half_a_commit_is_none(made: Commit, data: st.DataObject) -> None:
    """Wherever it breaks off."""
    text = made.encode()
    length = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(StoreDamagedError, match="c is damaged"):
        commit.decode(text[:length], "c")
