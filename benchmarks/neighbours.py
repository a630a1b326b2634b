"""Measure the indexes of nearest neighbours by cosine, and compare them with other searches.

    python benchmarks/neighbours.py [--rows 51633] [--vectors FILE.npy] [--lid 20] [--rounds 7]
                                    [--methods numpy sklearn exact lsh hnsw] [--keep FOLDER]

Each method runs in one thread, over the same vectors and queries. No query is among the vectors:

    numpy              a matrix product with all vectors, np.argpartition, and a sort of ten scores
    sklearn            NearestNeighbors(algorithm="brute", metric="cosine") of scikit-learn
    exact, lsh, hnsw   the indexes of `pipeline.neighbours` with their default options

Each index is built once. A round then measures every method: single queries for about half a
second, and a batch of 100. The table shows the time and the memory of the build, the bytes on disk,
the time of single queries (median, 95th percentile, and CPU), the queries/s of batches, and the
recall of the ten neighbours that `numpy` finds.

Vectors are those of --vectors, (n, d) as np.save writes them, of which --queries are held out.
Without a file, or with fewer vectors than --rows, all vectors are synthetic. Their local intrinsic
dimension, which determines how difficult an approximate search is, is that of the file, or --lid.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before they are read

import faiss
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.errors import TesseraeError
from pipeline.neighbours import Index, SearchResults, build, load, recall

Floats = NDArray[np.float32]

K = 10
BATCH = 100
SINGLE_QUERY_SECONDS = 0.5
"""The time in which a round measures single queries; at least one query is measured."""
LSH_FOREST = """\
For comparison, LSHForest of scikit-learn 0.18 in a course of 2017, on another machine:
  51,633 rows of 300 numbers: 15.5 ms per query; 774 rows: 2.85 ms per query"""


# --- vectors --------------------------------------------------------------------------------------

BLOCK_ROWS = 65536
"""The rows of one random generator, so that a row does not depend on the number of rows."""
SAMPLE_ROWS = 20_000
"""The size of the sample in which the intrinsic dimension is estimated, which grows with it."""
PROBE_ROWS = 500
"""The number of vectors of the sample at which the dimension is estimated."""
NEIGHBOURS = 100
"""The number of nearest neighbours of a probe that are used."""
CLASS_SPREAD = 1.5
"""The standard deviation of a class, relative to that of the centres of the classes."""
NOISE = 0.001
"""The standard deviation of the noise of each number; vectors have a length of about 1."""


def intrinsic_dimension(vectors: Floats, seed: int = 0) -> float:
    """Return the mean local intrinsic dimension of vectors of length 1, (n, d), in a sample.

    Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", 2004; the same as
    Amsaleg et al., "Estimating local intrinsic dimensionality", 2015: at each probe the inverse of
    minus the mean of log(distance / distance of the furthest) over its nearest.
    """
    chosen = np.random.default_rng(seed).permutation(len(vectors))[:SAMPLE_ROWS]
    sample = np.asarray(vectors[np.sort(chosen)], np.float32)
    probes = sample[:: max(1, len(sample) // PROBE_ROWS)][:PROBE_ROWS]
    squares = np.maximum(2 - 2 * (probes @ sample.T), 0)
    squares = np.sort(np.partition(squares, NEIGHBOURS, 1)[:, : NEIGHBOURS + 1], 1)[:, 1:]
    logs = 0.5 * np.log(np.maximum(squares, 1e-12))
    return float(np.mean(1 / np.maximum(logs[:, -1] - logs[:, :-1].mean(1), 1e-9)))


class SyntheticVectors:
    """Gaussian clusters, rotated, whose standard deviation along axis k is k ** -decay.

    The larger *decay* is, the lower is the intrinsic dimension.
    """

    def __init__(self, decay: float, dim: int = 300, classes: int = 1000, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 0])
        scale = np.arange(1, dim + 1, dtype=np.float64) ** -decay
        self._scale = (scale / np.linalg.norm(scale)).astype(np.float32)
        self._rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
        self._centres = self._scale * rng.standard_normal((classes, dim), np.float32)
        self._seed = seed

    def rows(self, count: int, part: int = 1, start: int = 0) -> Floats:
        """Return some vectors of length 1.

        Args:
            count: The number of vectors.
            part: The number of an independent set of vectors (default 1).
            start: The first row, a multiple of `BLOCK_ROWS` (default 0).

        Returns:
            (count, dim) float32.
        """
        first = start // BLOCK_ROWS
        blocks = [self._block(first + i, part) for i in range(-(-count // BLOCK_ROWS))]
        return np.concatenate(blocks)[:count] if len(blocks) > 1 else blocks[0][:count]

    def write(self, file: Path, count: int) -> None:
        """Write *count* vectors to an .npy file."""
        shape = (count, len(self._scale))
        rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, count, BLOCK_ROWS):
            block = self.rows(min(BLOCK_ROWS, count - start), start=start)
            rows[start : start + BLOCK_ROWS] = block
        rows.flush()

    def _block(self, block: int, part: int) -> Floats:
        rng = np.random.default_rng([self._seed, part, block])
        centres = self._centres[rng.integers(len(self._centres), size=BLOCK_ROWS)]
        spread = rng.standard_normal((BLOCK_ROWS, len(self._scale)), np.float32)
        vectors = (centres + CLASS_SPREAD * self._scale * spread) @ self._rotation
        vectors += NOISE * rng.standard_normal(vectors.shape, np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def fit_decay(target: float, dim: int, steps: int = 10) -> tuple[float, float]:
    """Search the decay for an intrinsic dimension by bisection.

    Returns:
        The decay, and the intrinsic dimension of synthetic vectors with it.
    """
    low, high = 0.3, 3.0
    for _ in range(steps):
        middle = (low + high) / 2
        measured = intrinsic_dimension(SyntheticVectors(middle, dim).rows(SAMPLE_ROWS))
        if abs(measured - target) < 0.01 * target:
            break
        low, high = (middle, high) if measured > target else (low, middle)
    return middle, measured


def real_vectors(file: Path) -> Floats:
    """Return the vectors of a file, scaled to length 1, without zeros and non-finite ones."""
    vectors = np.asarray(np.load(file), np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
    return np.asarray(vectors[usable] / lengths[usable], np.float32)


def vectors_and_queries(args: argparse.Namespace, folder: Path) -> tuple[Floats, Floats]:
    """Return the vectors, (n, d), and the queries, (q, d), of length 1; print their origin."""
    real = real_vectors(args.vectors) if args.vectors else None
    lid, dim = args.lid, 300
    if real is not None:
        measured, dim = intrinsic_dimension(real), real.shape[1]
        shape = f"{len(real):,} x {dim}"
        print(f"{args.vectors.name}: {shape}, local intrinsic dimension {measured:.1f}")
        lid = lid or measured
        if args.rows <= len(real) - args.queries:
            order = np.random.default_rng(0).permutation(len(real))
            print(f"{args.rows:,} vectors and {args.queries} queries are drawn from them")
            return real[order[: args.rows]], real[order[len(real) - args.queries :]]
    decay, measured = fit_decay(lid or 20.0, dim)
    file = folder / f"synthetic-{args.rows}-{dim}-{decay:.6f}.npy"
    if not file.exists():
        SyntheticVectors(decay, dim).write(file, args.rows)
    print(
        f"synthetic vectors: {args.rows:,} x {dim}, decay {decay:.4f}, local intrinsic dimension "
        f"{measured:.1f} (requested {lid or 20.0:.1f})"
    )
    return np.load(file, mmap_mode="r"), SyntheticVectors(decay, dim).rows(args.queries, part=2)


# --- methods --------------------------------------------------------------------------------------


@dataclass
class SearchMethod:
    """A method and its measurements."""

    name: str
    search: Callable[[Floats], Any]
    """Maps queries, (q, d), to rows, (q, 10), or to `SearchResults`."""
    build: str
    """The costs of the build, as text."""
    query_ms: list[float] = field(default_factory=list)
    """The time of each single query in ms."""
    single: list[float] = field(default_factory=list)
    """The median time of a single query in each round, in ms."""
    batch: list[float] = field(default_factory=list)
    """The time per query of the batch of each round, in ms."""
    cpu: list[float] = field(default_factory=list)
    """The CPU time of a single query in each round, in ms."""
    num_queries: int = 0
    """The number of single queries so far."""


def numpy_search(vectors: Floats) -> Callable[[Floats], Any]:
    """Return a search that compares each query with all vectors."""

    def search(queries: Floats) -> Any:
        scores = queries @ vectors.T
        best = np.argpartition(scores, -K, 1)[:, -K:]
        order = np.argsort(-np.take_along_axis(scores, best, 1), 1)
        return np.take_along_axis(best, order, 1)

    return search


def sklearn_search(vectors: Floats) -> Callable[[Floats], Any]:
    """Return the search of scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(vectors)
    return lambda queries: fitted.kneighbors(queries, return_distance=False)


def anonymous_bytes() -> int:
    """Return the memory of this process in bytes, without pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def index_method(
    kind: str, vectors: Floats, args: argparse.Namespace, folder: Path
) -> SearchMethod:
    """Build an index of `pipeline.neighbours`, save it, and open it again as a search does."""
    path, identity = folder / f"{kind}-{len(vectors)}", {"first": vectors[0].tolist()}
    before, cpu, started = anonymous_bytes(), time.process_time(), time.perf_counter()
    try:
        index = load(path, identity)
        costs = f"built earlier in {index.facts['seconds']:.1f} s"
    except TesseraeError:
        index = build(kind, vectors, threads=args.build_threads)
        costs = (
            f"built in {index.facts['seconds']:.2f} s; with the measurement of its recall "
            f"{time.perf_counter() - started:.1f} s ({time.process_time() - cpu:.1f} s CPU), "
            f"{(anonymous_bytes() - before) / 1e6:.0f} MB"
        )
        index.save(path, identity)
    started = time.perf_counter()
    index = load(path, identity)
    costs += f"; opened in {time.perf_counter() - started:.2f} s; on disk {sizes(path)}"
    costs += f"\n        {describe(index)}"
    return SearchMethod(kind, lambda queries: index.search(queries, K), costs)


def describe(index: Index) -> str:
    """Return a description of an index, with its options."""
    options = ", ".join(f"{name} {value}" for name, value in index.options.items())
    return f"{index}; {options}" if options else str(index)


def sizes(folder: Path) -> str:
    """Return the bytes of the vectors and of the other files of a saved index, as text."""
    files = [file for file in folder.iterdir() if file.is_file()]
    of_vectors = sum(file.stat().st_size for file in files if file.name.startswith("vectors"))
    rest = sum(file.stat().st_size for file in files) - of_vectors
    return f"{of_vectors / 1e6:.0f} MB of vectors and {rest / 1e6:.0f} MB of other files"


def build_methods(args: argparse.Namespace, vectors: Floats, folder: Path) -> list[SearchMethod]:
    """Build the methods of --methods, and print the costs of each."""
    methods = []
    for name in args.methods:
        if name in ("numpy", "sklearn"):
            before, started = anonymous_bytes(), time.perf_counter()
            search = {"numpy": numpy_search, "sklearn": sklearn_search}[name](vectors)
            seconds = time.perf_counter() - started
            growth = (anonymous_bytes() - before) / 1e6
            costs = f"built in {seconds:.2f} s, {growth:.0f} MB"
            methods.append(SearchMethod(name, search, costs))
        else:
            methods.append(index_method(name, vectors, args, folder))
        print(f"{name:<8}{methods[-1].build}", flush=True)
    return methods


# --- rounds ---------------------------------------------------------------------------------------


def measure(method: SearchMethod, queries: Floats) -> None:
    """Measure single queries, then a batch."""
    times: list[float] = []
    cpu, ends = time.process_time(), time.perf_counter() + SINGLE_QUERY_SECONDS
    while not times or time.perf_counter() < ends:
        query = queries[method.num_queries % len(queries)][None]
        started = time.perf_counter()
        method.search(query)
        times.append((time.perf_counter() - started) * 1e3)
        method.num_queries += 1
    method.cpu.append((time.process_time() - cpu) * 1e3 / len(times))
    method.query_ms += times
    method.single.append(statistics.median(times))
    started = time.perf_counter()
    method.search(queries[:BATCH])
    method.batch.append((time.perf_counter() - started) * 1e3 / len(queries[:BATCH]))


def results_of(method: SearchMethod, vectors: Floats, queries: Floats) -> SearchResults:
    """Return the results of a method with exact cosines, so that ties count for the recall."""
    starts = range(0, len(queries), BATCH)
    parts = [method.search(queries[start : start + BATCH]) for start in starts]
    rows = np.concatenate(
        [part.rows if isinstance(part, SearchResults) else part for part in parts]
    )
    scores = [vectors[best] @ query for best, query in zip(rows, queries, strict=True)]
    return SearchResults(np.array(scores, np.float32), rows)


def report(methods: list[SearchMethod], recalls: dict[str, float]) -> None:
    """Print the measurements of each method, and ratios of the times of `exact` and `numpy`."""
    headings = ("ms/query", "p95", "CPU ms", "batch", "queries/s")
    print(f"\n{'':8}" + "".join(f"{heading:>11}" for heading in headings) + "  recall@10")
    for method in methods:
        batch = statistics.median(method.batch)
        print(
            f"{method.name:<8}{statistics.median(method.query_ms):>11.3f}"
            f"{np.percentile(method.query_ms, 95):>11.3f}{statistics.median(method.cpu):>11.3f}"
            f"{batch:>11.3f}{1e3 / batch:>11,.0f}  {recalls[method.name]:.4f}"
        )
    named = {method.name: method for method in methods}
    if {"numpy", "exact"} <= named.keys():
        for kind in ("single", "batch"):
            pairs = zip(getattr(named["exact"], kind), getattr(named["numpy"], kind), strict=True)
            ratios = sorted(a / b for a, b in pairs)
            print(
                f"exact / numpy, {kind}, within a round: min {ratios[0]:.2f}, median"
                f" {statistics.median(ratios):.2f}, max {ratios[-1]:.2f}"
            )
    print(LSH_FOREST)


def main() -> int:
    """Build the indexes, run the rounds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["numpy", "sklearn", "exact", "lsh", "hnsw"]
    add = parser.add_argument
    add("--rows", type=int, default=51_633, metavar="N", help="number of vectors (default 51633)")
    add("--vectors", type=Path, metavar="FILE", help="vectors, (n, d), in an .npy file")
    add(
        "--lid",
        type=float,
        metavar="DIMENSION",
        help="local intrinsic dimension of synthetic vectors (default: that of --vectors, or 20)",
    )
    add("--queries", type=int, default=1000, metavar="N", help="number of queries (default 1000)")
    add("--rounds", type=int, default=7, metavar="N", help="number of rounds (default 7)")
    add(
        "--methods",
        "--arms",
        nargs="+",
        choices=names,
        default=names,
        metavar="METHOD",
        help="methods to run (default: all)",
    )
    add(
        "--build-threads",
        type=int,
        default=1,
        metavar="N",
        help="threads that build an index (default 1)",
    )
    add("--keep", type=Path, metavar="FOLDER",
        help="keep vectors and indexes in this folder, and use them again")  # fmt: skip
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        vectors, queries = vectors_and_queries(args, folder)
        print(f"numpy {np.__version__}, faiss {faiss.__version__}; load {os.getloadavg()[0]:.1f}")
        methods = build_methods(args, vectors, folder)
        for _ in range(args.rounds):
            for method in methods:
                measure(method, queries)
        sample = queries[: 10 * BATCH]
        truth = results_of(SearchMethod("numpy", numpy_search(vectors), ""), vectors, sample)
        recalls = {m.name: recall(results_of(m, vectors, sample), truth) for m in methods}
        report(methods, recalls)
        print(f"load {os.getloadavg()[0]:.1f} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
