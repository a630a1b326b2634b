"""Answers of every kind: exact cosines, in order, of rows that may be answered, k of them."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.neighbours import KINDS, Index, build
from pipeline.neighbours import exact as exact_room
from pipeline.neighbours import index as index_room
from pipeline.neighbours import vectors as vectors_room

WAYS = (*KINDS, "torch")
"""The kinds, and exact ones on a device of torch: here the processor."""


def made(way: str, vectors: NDArray[Any], **options: Any) -> Index:
    """An index that is searched in one of the ways."""
    if way == "torch":
        return build("exact", vectors, device="cpu", **options)
    if way == "lsh":
        options = {"bits": 32, **options}
    return build(way, vectors, **options)


def oracle(
    vectors: NDArray[Any], queries: NDArray[Any], k: int, may: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """By brute force in float64: *may*: (q, n), which rows may be answered."""
    wide, asked = vectors.astype(np.float64), queries.astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(wide, axis=1)
        cosines = np.linalg.norm(asked, axis=1)[:, None]
        cosines = ((asked @ wide.T) / cosines / lengths).astype(np.float32)
    may = may & (lengths > 1e-30) & (lengths < 1e30)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1)
    for query, row in enumerate(cosines):
        there = sorted((-row[place], place) for place in np.flatnonzero(may[query]))[:k]
        scores[query, : len(there)] = [-score for score, _ in there]
        rows[query, : len(there)] = [place for _, place in there]
    return scores, rows


@contextmanager
def small_blocks(margin: int = 0) -> Iterator[None]:
    """Blocks of a few rows and queries, as if there were millions."""
    with (
        patch.multiple(exact_room, QUERIES=2, PRODUCTS=2, LEAST_ROWS=3, MOST_ROWS=4),
        patch.object(index_room, "MARGIN", margin),
        patch.object(index_room, "BLOCK_NUMBERS", 5),
        patch.object(vectors_room, "BLOCK_NUMBERS", 7),
    ):
        yield


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[np.float32], int]:
    """Vectors of small whole numbers, so that many are equal, parallel or zero; queries; k."""
    dim = draw(st.integers(1, 4))
    numbers = st.integers(-2, 2)
    one = st.lists(numbers, min_size=dim, max_size=dim)
    vectors = np.array(draw(st.lists(one, min_size=1, max_size=30)), np.float32)
    for row in draw(st.lists(st.integers(0, len(vectors) - 1), max_size=3)):
        vectors[row, 0] = draw(st.sampled_from([np.nan, np.inf, 3e38]))
    queries = np.array(draw(st.lists(one.filter(any), min_size=1, max_size=5)), np.float32)
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    with np.errstate(over="ignore"):
        vectors = vectors.astype(dtype)
    few = st.integers(1, 4)  # of which most rows are not candidates
    return vectors, queries, draw(few | few | st.integers(1, 35))


@pytest.mark.parametrize("way", ["exact", "torch"])
@given(case=cases(), margin=st.sampled_from([0, 1, 3, 16]))
def test_exact_answers_are_those_of_brute_force(way: str, case: Any, margin: int) -> None:
    """Of equal scores the lower row; rows that are zero or not finite never; -1 beyond the last."""
    vectors, queries, k = case
    index = made(way, vectors)
    scores, rows = oracle(vectors, queries, k, np.ones((len(queries), len(vectors)), np.bool_))
    with small_blocks(margin):
        found = index.search(queries, k)
    assert found.rows.tolist() == rows.tolist()
    np.testing.assert_array_equal(found.scores, scores)
    assert (found.scores.dtype, found.rows.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("way", WAYS)
@given(case=cases(), margin=st.sampled_from([0, 2]), data=st.data())
def test_only_rows_that_may_be_answered_are(
    way: str, case: Any, margin: int, data: st.DataObject
) -> None:
    """Those that are kept, but the one of each query; as a mask and as rows."""
    vectors, queries, k = case
    total = len(vectors)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    but = st.integers(-1, total - 1)
    own = np.array(data.draw(st.lists(but, min_size=len(queries), max_size=len(queries))))
    may = mask & (np.arange(total) != own[:, None])
    _, rows = oracle(vectors, queries, k, may)
    index = made(way, vectors)
    with small_blocks(margin):
        for keep in (mask, np.flatnonzero(mask)):
            found = index.search(queries, k, keep=keep, but=own)
            if way in ("exact", "torch"):
                assert found.rows.tolist() == rows.tolist()
            assert ((found.rows >= 0).sum(1) == np.minimum(may_be(vectors, may).sum(1), k)).all()
            for query, answers in enumerate(found.rows):
                assert all(may[query, row] for row in answers if row >= 0)


def may_be(vectors: NDArray[Any], may: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without those that have no direction."""
    finite = (np.abs(vectors.astype(np.float64)) < 1e30).all(1)
    return may & finite & (vectors != 0).any(1)


@pytest.mark.parametrize("way", ["exact", "torch"])
@given(case=cases(), pictures=st.integers(1, 31))
def test_of_a_picture_and_its_copies_the_best_is_answered(
    way: str, case: Any, pictures: int
) -> None:
    """As many different ones as are asked for, and as there are."""
    vectors, queries, k = case
    every = np.ones((len(queries), len(vectors)), np.bool_)
    scores, rows = oracle(vectors, queries, len(vectors), every)
    index = made(way, vectors)
    with small_blocks():
        found = index.search(queries, k, ids=pictures)
        named = index.search(queries, k, ids=np.arange(len(vectors)) % pictures)
    assert found.rows.tolist() == named.rows.tolist()
    for query in range(len(queries)):
        best: dict[int, tuple[int, float]] = {}
        for row, score in zip(rows[query].tolist(), scores[query].tolist(), strict=True):
            if row >= 0:
                best.setdefault(row % pictures, (row, score))
        expected = [*best.values(), *[(-1, -np.inf)] * k][:k]
        got = zip(found.rows[query].tolist(), found.scores[query].tolist(), strict=True)
        assert list(got) == expected


def test_with_copies_the_row_itself_is_all_of_them() -> None:
    """Who looks for what is like a picture is not shown it mirrored."""
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((20, 8)).astype(np.float32)
    mirrored = np.concatenate([pictures, pictures + 0.01])
    for own in (np.arange(20), np.arange(20, 40)):
        found = build("exact", mirrored).search(pictures, 5, but=own, ids=20)
        assert not np.any(found.rows % 20 == np.arange(20)[:, None])
        assert (found.rows >= 0).all()


@pytest.mark.parametrize("way", ["exact", "torch"])
def test_of_equal_vectors_the_lowest_rows_are_answered(way: str) -> None:
    """Whether all but one are asked for, or one."""
    for total in range(1, 9):
        index = made(way, np.ones((total, 3), np.float32))
        for k in range(1, total + 1):
            for margin in (0, 1):
                with small_blocks(margin):
                    found = index.search(np.ones((3, 3), np.float32), k)
                assert found.rows.tolist() == [list(range(k))] * 3


@pytest.mark.parametrize("way", ["exact", "torch"])
def test_many_vectors_and_queries_have_the_answers_of_brute_force(way: str) -> None:
    """In blocks as they are."""
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((20_000, 16)).astype(np.float32)
    queries = rng.standard_normal((300, 16)).astype(np.float32)
    vectors[10_000:10_050] = vectors[:50]
    keep = rng.random(20_000) < 0.6
    index = made(way, vectors)
    for may in (np.ones(20_000, np.bool_), keep, np.arange(20_000) % 50 == 7):
        found = index.search(queries, 10, keep=may)
        for query in range(0, 300, 30):
            scores, rows = oracle(vectors, queries[query : query + 1], 10, may[None])
            assert found.rows[query].tolist() == rows[0].tolist()
            assert found.scores[query].tolist() == scores[0].tolist()


@pytest.mark.parametrize("way", ["exact", "torch"])
def test_more_equal_vectors_than_are_looked_at_again(way: str) -> None:
    """A thousand copies: the lowest rows of them, whatever the products' last bits say."""
    rng = np.random.default_rng(1)
    few = rng.standard_normal((4, 37)).astype(np.float32)
    kinds = rng.integers(4, size=4001)
    index = made(way, few[kinds])
    for batch in (few[:1], few):
        found = index.search(batch, 7)
        for query, rows in enumerate(found.rows):
            assert rows.tolist() == np.flatnonzero(kinds == query)[:7].tolist()


def test_answers_do_not_depend_on_who_else_is_asked() -> None:
    """A query alone, among few and among many: the same scores to the last bit."""
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((9000, 33)).astype(np.float32)
    queries = rng.standard_normal((300, 33)).astype(np.float32)
    index = build("exact", vectors)
    together = index.search(queries, 12)
    for size in (1, 2, 3, 17):
        found = index.search(queries[:size], 12)
        np.testing.assert_array_equal(found.rows, together.rows[:size])
        np.testing.assert_array_equal(found.scores, together.scores[:size])


def test_lengths_say_nothing() -> None:
    """From the shortest that counts to the longest; beyond, a vector has no direction."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((50, 5)).astype(np.float32)
    lengths = np.logspace(-29, 29, 50).astype(np.float32)[:, None]
    query = rng.standard_normal((3, 5)).astype(np.float32)
    found = build("exact", vectors * lengths).search(query * np.float32(1e25), 50)
    plain = build("exact", vectors).search(query, 50)
    np.testing.assert_allclose(found.scores, plain.scores, atol=3e-7)
    out = np.array([[1e-31, 0], [3e38, 3e38], [1, 1]], np.float32)
    assert build("exact", out).search(out[2:], 3).rows.tolist() == [[2, -1, -1]]


def test_what_has_no_direction_alone_is_answered_by_nothing() -> None:
    """Every kind, and none of them fails."""
    for way in WAYS:
        index = made(way, np.zeros((3, 2), np.float32))
        found = index.search(np.ones((2, 2), np.float32), 2)
        assert found.rows.tolist() == [[-1, -1]] * 2
        assert np.isneginf(found.scores).all()
        assert index.facts["usable"] == 0


def test_no_queries_have_no_answers() -> None:
    """An empty batch is one."""
    found = build("exact", np.ones((3, 2), np.float32)).search(np.empty((0, 2), np.float32), 4)
    assert found.rows.shape == found.scores.shape == (0, 4)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ([[1, 0], [0, 0]], "query 1 has length 0.0"),
        ([[1, 0], [1, 1], [0, np.nan]], "query 2 is nan at place 1"),
        ([[-np.inf, 0]], "query 0 is -inf at place 0"),
        ([[1, 0, 0]], r"shape \(1, 3\): expected floats of shape \(q, 2\)"),
        ([1, 0], r"shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_a_query_without_direction_is_refused(way: str, query: Any, said: str) -> None:
    """With the value; nothing is searched."""
    with pytest.raises(ValueError, match=said):
        made(way, np.eye(2, dtype=np.float32)).search(np.array(query, np.float32), 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 1, "keep": np.ones(2, np.bool_)}, r"keep is of shape \(2,\): expected \(3,\)"),
        ({"k": 1, "keep": np.array([0, 3])}, "keep has row 3: expected 0 to 2"),
        ({"k": 1, "keep": np.array([-1])}, "keep has row -1"),
        ({"k": 1, "keep": np.array([0.0])}, "keep is of float64: expected rows"),
        ({"k": 1, "but": np.array([3])}, "but has row 3: expected -1 to 2"),
        ({"k": 1, "but": np.array([0, 1])}, r"but is of shape \(2,\): expected \(1,\)"),
        ({"k": 1, "ids": np.arange(2)}, r"ids are of shape \(2,\): expected \(3,\)"),
        ({"k": 1, "ids": 0}, "ids are 0"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(words: Any, said: str) -> None:
    """With the value and what was expected."""
    index = build("exact", np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=said):
        index.search(np.ones((1, 3), np.float32), **words)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.ones((2, 3)), "float64 of shape"),
        (np.ones(3, np.float32), r"shape \(3,\)"),
        (np.ones((3, 0), np.float32), r"shape \(3, 0\)"),
        (np.ones((0, 3), np.float32), "no vectors"),
    ],
)
def test_vectors_of_another_shape_or_type_are_refused(vectors: Any, said: str) -> None:
    """Before anything is made of them."""
    with pytest.raises(ValueError, match=said):
        build("exact", vectors)


def test_a_mapped_array_stays_where_it_is(tmp_path: Path) -> None:
    """It is kept, not copied, and a search takes memory for its blocks alone."""
    rng = np.random.default_rng(4)
    file = tmp_path / "vectors.npy"
    np.save(file, rng.standard_normal((200_000, 16)).astype(np.float16))
    mapped = np.load(file, mmap_mode="r")
    index = build("exact", mapped)
    assert index.vectors.array is mapped
    queries = rng.standard_normal((256, 16)).astype(np.float32)
    tracemalloc.start()
    try:
        index.search(queries, 10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # all products would be 205 MB, all vectors as float32 13 MB


def test_as_many_answers_as_there_are_rows_take_blocks_too() -> None:
    """All of them are compared in float64, a part at a time."""
    rng = np.random.default_rng(4)
    index = build("exact", rng.standard_normal((60_000, 256)).astype(np.float16))
    query = rng.standard_normal((1, 256)).astype(np.float32)
    tracemalloc.start()
    try:
        found = index.search(query, 60_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(found.rows[0].tolist()) == list(range(60_000))
    assert peak < 80e6  # at once they would take 123 MB


@pytest.mark.parametrize("way", WAYS)
def test_threads_search_one_index_at_once(way: str) -> None:
    """Four of them: each has the answers that it has alone."""
    rng = np.random.default_rng(5)
    index = made(way, rng.standard_normal((3000, 24)).astype(np.float32))
    queries = rng.standard_normal((4, 40, 24)).astype(np.float32)
    alone = [index.search(some, 9).rows for some in queries]
    wrong: list[int] = []
    start = threading.Barrier(4)

    def ask(which: int) -> None:
        start.wait()
        answers = [index.search(queries[which], 9).rows for _ in range(5)]
        wrong.extend(which for rows in answers if not np.array_equal(rows, alone[which]))

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_device_that_is_not_there_is_a_sentence() -> None:
    """And only an exact index has one."""
    with pytest.raises(TesseraeError, match="cannot be held on cuda:99"):
        build("exact", np.eye(2, dtype=np.float32), device="cuda:99")
    with pytest.raises(ValueError, match="only an exact index"):
        build("hnsw", np.eye(2, dtype=np.float32), device="cpu")


def test_products_in_fewer_bits_are_trusted_less() -> None:
    """Whoever trains may have set torch to such: answers are still exact."""
    rng = np.random.default_rng(6)
    vectors = rng.standard_normal((3000, 64)).astype(np.float32)
    queries = vectors[:50] + 0.1
    plain = build("exact", vectors).search(queries, 10)
    index = build("exact", vectors, device="cpu")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert (index.nominator.slack or 0) > 2**-8
        found = index.search(queries, 10)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(found.rows, plain.rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_answers_as_the_processor_does() -> None:
    """To the last bit: it names candidates, and they are compared here."""
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((200_000, 300)).astype(np.float32)
    vectors[100:200] = vectors[:100]
    vectors[5] = np.nan
    queries = rng.standard_normal((500, 300)).astype(np.float32)
    on_gpu, here = build("exact", vectors, device="cuda"), build("exact", vectors)
    for words in ({}, {"keep": np.arange(0, 200_000, 3)}, {"ids": 100_000}):
        found, plain = on_gpu.search(queries, 10, **words), here.search(queries, 10, **words)
        np.testing.assert_array_equal(found.rows, plain.rows)
        np.testing.assert_array_equal(found.scores, plain.scores)


def test_importing_the_room_loads_none_of_its_libraries() -> None:
    """Faiss and torch are loaded where they are needed."""
    code = "import sys, pipeline.neighbours; print({'faiss', 'torch', 'zarr'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "set()"
