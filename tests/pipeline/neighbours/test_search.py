"""Search results of every kind of index: exact cosines in order, of allowed rows, k of them."""

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
from pipeline.neighbours import exact as exact_module
from pipeline.neighbours import index as index_module
from pipeline.neighbours import vectors as vectors_module

BACKENDS = (*KINDS, "torch")
"""The kinds of index, and the exact one on a torch device, which is the processor here."""


def build_index(backend: str, vectors: NDArray[Any], **options: Any) -> Index:
    """Return an index that is searched by one of `BACKENDS`."""
    if backend == "torch":
        return build("exact", vectors, device="cpu", **options)
    if backend == "lsh":
        options = {"bits": 32, **options}
    return build(backend, vectors, **options)


def oracle(
    vectors: NDArray[Any], queries: NDArray[Any], k: int, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return results by brute force in float64; *allowed* is (q, n) bool, the allowed rows."""
    wide, wide_queries = vectors.astype(np.float64), queries.astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(wide, axis=1)
        cosines = np.linalg.norm(wide_queries, axis=1)[:, None]
        cosines = ((wide_queries @ wide.T) / cosines / lengths).astype(np.float32)
    allowed = allowed & (lengths > 1e-30) & (lengths < 1e30)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1)
    for query, row in enumerate(cosines):
        best = sorted((-row[column], column) for column in np.flatnonzero(allowed[query]))[:k]
        scores[query, : len(best)] = [-score for score, _ in best]
        rows[query, : len(best)] = [column for _, column in best]
    return scores, rows


@contextmanager
def small_blocks(margin: int = 0) -> Iterator[None]:
    """Split the work into blocks of a few rows and queries inside the block."""
    with (
        patch.multiple(exact_module, QUERY_BLOCK=2, MAX_PRODUCTS=2, MIN_ROWS=3, MAX_ROWS=4),
        patch.object(index_module, "MARGIN", margin),
        patch.object(index_module, "MAX_BLOCK_ELEMENTS", 5),
        patch.object(vectors_module, "MAX_BLOCK_ELEMENTS", 7),
    ):
        yield


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[np.float32], int]:
    """Draw vectors of small integers, so that many are equal, parallel or zero; queries; k."""
    dim = draw(st.integers(1, 4))
    numbers = st.integers(-2, 2)
    vector = st.lists(numbers, min_size=dim, max_size=dim)
    vectors = np.array(draw(st.lists(vector, min_size=1, max_size=30)), np.float32)
    for row in draw(st.lists(st.integers(0, len(vectors) - 1), max_size=3)):
        vectors[row, 0] = draw(st.sampled_from([np.nan, np.inf, 3e38]))
    queries = np.array(draw(st.lists(vector.filter(any), min_size=1, max_size=5)), np.float32)
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    with np.errstate(over="ignore"):
        vectors = vectors.astype(dtype)
    small_k = st.integers(1, 4)  # for which most rows are not candidates
    return vectors, queries, draw(small_k | small_k | st.integers(1, 35))


@pytest.mark.parametrize("backend", ["exact", "torch"])
@given(case=cases(), margin=st.sampled_from([0, 1, 3, 16]))
def test_exact_answers_are_those_of_brute_force(backend: str, case: Any, margin: int) -> None:
    """The lower of equal rows comes first, unusable rows never appear, and -1 fills up the rest."""
    vectors, queries, k = case
    index = build_index(backend, vectors)
    scores, rows = oracle(vectors, queries, k, np.ones((len(queries), len(vectors)), np.bool_))
    with small_blocks(margin):
        results = index.search(queries, k)
    assert results.rows.tolist() == rows.tolist()
    np.testing.assert_array_equal(results.scores, scores)
    assert (results.scores.dtype, results.rows.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=cases(), margin=st.sampled_from([0, 2]), data=st.data())
def test_only_allowed_rows_are_results(
    backend: str, case: Any, margin: int, data: st.DataObject
) -> None:
    """Rows are restricted by *keep*, as a mask or as row numbers, and by one exclusion a query."""
    vectors, queries, k = case
    total = len(vectors)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    excluded_row = st.integers(-1, total - 1)
    excluded = np.array(
        data.draw(st.lists(excluded_row, min_size=len(queries), max_size=len(queries)))
    )
    allowed = mask & (np.arange(total) != excluded[:, None])
    _, rows = oracle(vectors, queries, k, allowed)
    index = build_index(backend, vectors)
    with small_blocks(margin):
        for keep in (mask, np.flatnonzero(mask)):
            results = index.search(queries, k, keep=keep, exclude=excluded)
            if backend in ("exact", "torch"):
                assert results.rows.tolist() == rows.tolist()
            assert (
                (results.rows >= 0).sum(1) == np.minimum(usable_rows(vectors, allowed).sum(1), k)
            ).all()
            for query, answers in enumerate(results.rows):
                assert all(allowed[query, row] for row in answers if row >= 0)


def usable_rows(vectors: NDArray[Any], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return *allowed* without the vectors that have no direction."""
    finite = (np.abs(vectors.astype(np.float64)) < 1e30).all(1)
    return allowed & finite & (vectors != 0).any(1)


@pytest.mark.parametrize("backend", ["exact", "torch"])
@given(case=cases(), pictures=st.integers(1, 31))
def test_only_the_best_row_of_each_id_is_a_result(backend: str, case: Any, pictures: int) -> None:
    """A search returns as many different ids as requested, or as there are."""
    vectors, queries, k = case
    every = np.ones((len(queries), len(vectors)), np.bool_)
    scores, rows = oracle(vectors, queries, len(vectors), every)
    index = build_index(backend, vectors)
    with small_blocks():
        results = index.search(queries, k, ids=pictures)
        by_id = index.search(queries, k, ids=np.arange(len(vectors)) % pictures)
    assert results.rows.tolist() == by_id.rows.tolist()
    for query in range(len(queries)):
        best: dict[int, tuple[int, float]] = {}
        for row, score in zip(rows[query].tolist(), scores[query].tolist(), strict=True):
            if row >= 0:
                best.setdefault(row % pictures, (row, score))
        expected = [*best.values(), *[(-1, -np.inf)] * k][:k]
        got = zip(results.rows[query].tolist(), results.scores[query].tolist(), strict=True)
        assert list(got) == expected


def test_excluding_a_row_excludes_its_mirrored_copy() -> None:
    """The neighbours of an image include neither the image nor its mirrored copy."""
    rng = np.random.default_rng(0)
    pictures = rng.standard_normal((20, 8)).astype(np.float32)
    mirrored = np.concatenate([pictures, pictures + 0.01])
    for own in (np.arange(20), np.arange(20, 40)):
        results = build("exact", mirrored).search(pictures, 5, exclude=own, ids=20)
        assert not np.any(results.rows % 20 == np.arange(20)[:, None])
        assert (results.rows >= 0).all()


@pytest.mark.parametrize("backend", ["exact", "torch"])
def test_the_lowest_rows_of_equal_vectors_are_results(backend: str) -> None:
    """The number of results ranges up to the number of vectors."""
    for total in range(1, 9):
        index = build_index(backend, np.ones((total, 3), np.float32))
        for k in range(1, total + 1):
            for margin in (0, 1):
                with small_blocks(margin):
                    results = index.search(np.ones((3, 3), np.float32), k)
                assert results.rows.tolist() == [list(range(k))] * 3


@pytest.mark.parametrize("backend", ["exact", "torch"])
def test_many_vectors_and_queries_have_the_answers_of_brute_force(backend: str) -> None:
    """The default block sizes split these vectors and queries."""
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((20_000, 16)).astype(np.float32)
    queries = rng.standard_normal((300, 16)).astype(np.float32)
    vectors[10_000:10_050] = vectors[:50]
    keep = rng.random(20_000) < 0.6
    index = build_index(backend, vectors)
    for allowed in (np.ones(20_000, np.bool_), keep, np.arange(20_000) % 50 == 7):
        results = index.search(queries, 10, keep=allowed)
        for query in range(0, 300, 30):
            scores, rows = oracle(vectors, queries[query : query + 1], 10, allowed[None])
            assert results.rows[query].tolist() == rows[0].tolist()
            assert results.scores[query].tolist() == scores[0].tolist()


@pytest.mark.parametrize("backend", ["exact", "torch"])
def test_ties_beyond_the_candidates_are_searched_completely(backend: str) -> None:
    """The lowest of a thousand copies are returned, whatever the rounding of their products."""
    rng = np.random.default_rng(1)
    distinct = rng.standard_normal((4, 37)).astype(np.float32)
    kinds = rng.integers(4, size=4001)
    index = build_index(backend, distinct[kinds])
    for batch in (distinct[:1], distinct):
        results = index.search(batch, 7)
        for query, rows in enumerate(results.rows):
            assert rows.tolist() == np.flatnonzero(kinds == query)[:7].tolist()


def test_results_do_not_depend_on_the_other_queries() -> None:
    """A query has bit-identical scores alone, in a small batch and in a large one."""
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((9000, 33)).astype(np.float32)
    queries = rng.standard_normal((300, 33)).astype(np.float32)
    index = build("exact", vectors)
    together = index.search(queries, 12)
    for size in (1, 2, 3, 17):
        results = index.search(queries[:size], 12)
        np.testing.assert_array_equal(results.rows, together.rows[:size])
        np.testing.assert_array_equal(results.scores, together.scores[:size])


def test_lengths_do_not_change_the_results() -> None:
    """Vectors of all usable lengths have the same results; beyond them there is no direction."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((50, 5)).astype(np.float32)
    lengths = np.logspace(-29, 29, 50).astype(np.float32)[:, None]
    query = rng.standard_normal((3, 5)).astype(np.float32)
    results = build("exact", vectors * lengths).search(query * np.float32(1e25), 50)
    plain = build("exact", vectors).search(query, 50)
    np.testing.assert_allclose(results.scores, plain.scores, atol=3e-7)
    out = np.array([[1e-31, 0], [3e38, 3e38], [1, 1]], np.float32)
    assert build("exact", out).search(out[2:], 3).rows.tolist() == [[2, -1, -1]]


def test_vectors_without_direction_are_never_results() -> None:
    """An index of nothing but zeros returns no row and does not fail, for every kind."""
    for backend in BACKENDS:
        index = build_index(backend, np.zeros((3, 2), np.float32))
        results = index.search(np.ones((2, 2), np.float32), 2)
        assert results.rows.tolist() == [[-1, -1]] * 2
        assert np.isneginf(results.scores).all()
        assert index.facts["usable"] == 0


def test_an_empty_batch_of_queries_has_no_results() -> None:
    """The results have shape (0, k)."""
    results = build("exact", np.ones((3, 2), np.float32)).search(np.empty((0, 2), np.float32), 4)
    assert results.rows.shape == results.scores.shape == (0, 4)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([[1, 0], [0, 0]], "query 1 has length 0.0"),
        ([[1, 0], [1, 1], [0, np.nan]], "query 2 is nan at position 1"),
        ([[-np.inf, 0]], "query 0 is -inf at position 0"),
        ([[1, 0, 0]], r"shape \(1, 3\): expected floats of shape \(q, 2\)"),
        ([1, 0], r"shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_without_direction_is_refused(backend: str, query: Any, message: str) -> None:
    """The error names the query and its value."""
    with pytest.raises(ValueError, match=message):
        build_index(backend, np.eye(2, dtype=np.float32)).search(np.array(query, np.float32), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"k": 1, "keep": np.ones(2, np.bool_)}, r"keep is of shape \(2,\): expected \(3,\)"),
        ({"k": 1, "keep": np.array([0, 3])}, "keep has row 3: expected 0 to 2"),
        ({"k": 1, "keep": np.array([-1])}, "keep has row -1"),
        ({"k": 1, "keep": np.array([0.0])}, "keep is of float64: expected rows"),
        ({"k": 1, "exclude": np.array([3])}, "exclude has row 3: expected -1 to 2"),
        ({"k": 1, "exclude": np.array([0, 1])}, r"exclude is of shape \(2,\): expected \(1,\)"),
        ({"k": 1, "ids": np.arange(2)}, r"ids are of shape \(2,\): expected \(3,\)"),
        ({"k": 1, "ids": np.arange(3.0)}, "ids are of float64: expected integers"),
        ({"k": 1, "ids": 0}, "ids are 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: Any, message: str) -> None:
    """The error states the value and what was expected."""
    index = build("exact", np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=message):
        index.search(np.ones((1, 3), np.float32), **arguments)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 3)), "float64 of shape"),
        (np.ones(3, np.float32), r"shape \(3,\)"),
        (np.ones((3, 0), np.float32), r"shape \(3, 0\)"),
        (np.ones((0, 3), np.float32), "no vectors"),
    ],
)
def test_vectors_of_another_shape_or_type_are_refused(vectors: Any, message: str) -> None:
    """The error states the shape or the dtype."""
    with pytest.raises(ValueError, match=message):
        build("exact", vectors)


def test_a_mapped_array_is_not_copied(tmp_path: Path) -> None:
    """The array is kept as it is, and a search allocates memory for its blocks alone."""
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


def test_requesting_all_rows_computes_in_blocks() -> None:
    """All rows are compared in float64, one block at a time."""
    rng = np.random.default_rng(4)
    index = build("exact", rng.standard_normal((60_000, 256)).astype(np.float16))
    query = rng.standard_normal((1, 256)).astype(np.float32)
    tracemalloc.start()
    try:
        results = index.search(query, 60_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(results.rows[0].tolist()) == list(range(60_000))
    assert peak < 80e6  # at once they would take 123 MB


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_search_one_index_at_once(backend: str) -> None:
    """Each of four threads gets the results that it gets alone."""
    rng = np.random.default_rng(5)
    index = build_index(backend, rng.standard_normal((3000, 24)).astype(np.float32))
    queries = rng.standard_normal((4, 40, 24)).astype(np.float32)
    alone = [index.search(queries_of_part, 9).rows for queries_of_part in queries]
    wrong: list[int] = []
    start = threading.Barrier(4)

    def search(part: int) -> None:
        start.wait()
        answers = [index.search(queries[part], 9).rows for _ in range(5)]
        wrong.extend(part for rows in answers if not np.array_equal(rows, alone[part]))

    threads = [threading.Thread(target=search, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_missing_device_is_reported() -> None:
    """An unknown device is an error, and so is a device for an approximate index."""
    with pytest.raises(TesseraeError, match="do not fit on cuda:99"):
        build("exact", np.eye(2, dtype=np.float32), device="cuda:99")
    with pytest.raises(ValueError, match="only an exact index"):
        build("hnsw", np.eye(2, dtype=np.float32), device="cpu")


def test_low_precision_products_widen_the_error_bound() -> None:
    """Results stay exact when the process has set torch to a lower matmul precision."""
    rng = np.random.default_rng(6)
    vectors = rng.standard_normal((3000, 64)).astype(np.float32)
    queries = vectors[:50] + 0.1
    plain = build("exact", vectors).search(queries, 10)
    index = build("exact", vectors, device="cpu")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert (index.generator.error_bound or 0) > 2**-8
        results = index.search(queries, 10)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(results.rows, plain.rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_answers_as_the_processor_does() -> None:
    """The results are bit-identical, since the GPU only generates candidates."""
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((200_000, 300)).astype(np.float32)
    vectors[100:200] = vectors[:100]
    vectors[5] = np.nan
    queries = rng.standard_normal((500, 300)).astype(np.float32)
    on_gpu, on_cpu = build("exact", vectors, device="cuda"), build("exact", vectors)
    for arguments in ({}, {"keep": np.arange(0, 200_000, 3)}, {"ids": 100_000}):
        results, plain = (
            on_gpu.search(queries, 10, **arguments),
            on_cpu.search(queries, 10, **arguments),
        )
        np.testing.assert_array_equal(results.rows, plain.rows)
        np.testing.assert_array_equal(results.scores, plain.scores)


def test_importing_the_package_loads_no_heavy_library() -> None:
    """Faiss, torch and zarr are imported only where they are needed."""
    code = "import sys, pipeline.neighbours; print({'faiss', 'torch', 'zarr'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    completed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == "set()"
