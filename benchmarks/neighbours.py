"""Nearest neighbours by cosine: the room's three kinds beside what one would write by hand.

    python benchmarks/neighbours.py [--rows 51633] [--vectors FILE.npy] [--lid 20] [--rounds 7]
                                    [--arms plain sklearn exact lsh hnsw] [--keep FOLDER]

Arms, one thread each, over the same vectors and queries, none of which is among the vectors:

    plain      a BLAS product with all vectors, np.argpartition, and a sort of the ten
    sklearn    NearestNeighbors(algorithm="brute", metric="cosine") of scikit-learn
    exact, lsh, hnsw     `pipeline.neighbours`, as it comes

Each arm is built once; then arms take turns, as often as there are rounds: single queries for half
a second or so, then a batch of 100. Printed are seconds (wall and processor) and memory that
building takes, bytes on disk, ms of single queries (median and 95th percentile of all, and
processor), queries/s of batches, recall of the 10 that `plain` finds in float32, and how long
`exact` takes beside `plain` within each round.

Vectors are those of --vectors, (n, d) as np.save writes them, of which --queries are held out.
Where they do not suffice, or there are none, all are made up: with the local intrinsic dimension of
those, or of --lid (20), which decides how hard it is to find neighbours without looking at all.

--keep builds the graph once and opens it the next time: 1,281,167 rows take a while.
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
SECONDS = 0.5
"""Of single queries in a round, at least one."""
LESSON = """\
LSHForest of scikit-learn 0.18, as a lesson of 2017 prints it (another machine, nothing run here):
  51,633 rows, 300 numbers: 15.5 ms a query; 774 rows: 2.85 ms a query"""


# --- vectors --------------------------------------------------------------------------------------

BLOCK = 65536
"""Rows that one generator makes, so that a row does not depend on how many are asked for."""
SAMPLE = 20_000
"""Vectors among which intrinsic dimension is measured; it grows with them."""
PROBES = 500
"""Of them, those at which it is measured."""
NEAREST = 100
"""Neighbours by which it is."""
WITHIN = 1.5
"""Spread of a class, where the centres of classes have 1."""
NOISE = 0.001
"""Of each number, where vectors have length 1 or so."""


def intrinsic_dimension(vectors: Floats, seed: int = 0) -> float:
    """Local intrinsic dimension of vectors of length 1: the mean over a sample of them.

    Levina and Bickel, "Maximum likelihood estimation of intrinsic dimension", 2004; the same as
    Amsaleg et al., "Estimating local intrinsic dimensionality", 2015: at each probe the inverse of
    minus the mean of log(distance / distance of the furthest) over its nearest.
    """
    chosen = np.random.default_rng(seed).permutation(len(vectors))[:SAMPLE]
    sample = np.asarray(vectors[np.sort(chosen)], np.float32)
    probes = sample[:: max(1, len(sample) // PROBES)][:PROBES]
    squares = np.maximum(2 - 2 * (probes @ sample.T), 0)
    squares = np.sort(np.partition(squares, NEAREST, 1)[:, : NEAREST + 1], 1)[:, 1:]
    logs = 0.5 * np.log(np.maximum(squares, 1e-12))
    return float(np.mean(1 / np.maximum(logs[:, -1] - logs[:, :-1].mean(1), 1e-9)))


class Made:
    """Made-up vectors: Gaussians around classes, in a spectrum that decays as place ** -decay.

    The steeper it decays, the lower is the intrinsic dimension.
    """

    def __init__(self, decay: float, dim: int = 300, classes: int = 1000, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 0])
        scale = np.arange(1, dim + 1, dtype=np.float64) ** -decay
        self._scale = (scale / np.linalg.norm(scale)).astype(np.float32)
        self._turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
        self._centres = self._scale * rng.standard_normal((classes, dim), np.float32)
        self._seed = seed

    def rows(self, count: int, part: int = 1, start: int = 0) -> Floats:
        """(count, dim) float32 of length 1, from row *start*, a multiple of BLOCK, of a *part*."""
        found = [self._block(start // BLOCK + b, part) for b in range(-(-count // BLOCK))]
        return np.concatenate(found)[:count] if len(found) > 1 else found[0][:count]

    def write(self, file: Path, count: int) -> None:
        """So many rows as np.save writes them."""
        shape = (count, len(self._scale))
        to = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, count, BLOCK):
            to[start : start + BLOCK] = self.rows(min(BLOCK, count - start), start=start)
        to.flush()

    def _block(self, block: int, part: int) -> Floats:
        rng = np.random.default_rng([self._seed, part, block])
        centres = self._centres[rng.integers(len(self._centres), size=BLOCK)]
        spread = rng.standard_normal((BLOCK, len(self._scale)), np.float32)
        made = (centres + WITHIN * self._scale * spread) @ self._turn
        made += NOISE * rng.standard_normal(made.shape, np.float32)
        return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def fit_decay(target: float, dim: int, steps: int = 10) -> tuple[float, float]:
    """The decay at which made-up vectors have the intrinsic dimension *target*; what they have."""
    low, high = 0.3, 3.0
    for _ in range(steps):
        middle = (low + high) / 2
        found = intrinsic_dimension(Made(middle, dim).rows(SAMPLE))
        if abs(found - target) < 0.01 * target:
            break
        low, high = (middle, high) if found > target else (low, middle)
    return middle, found


def real_vectors(file: Path) -> Floats:
    """Those of a file, of length 1; without those that have no direction."""
    vectors = np.asarray(np.load(file), np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
    return np.asarray(vectors[usable] / lengths[usable], np.float32)


def vectors_and_queries(args: argparse.Namespace, folder: Path) -> tuple[Floats, Floats]:
    """(n, d) and (q, d), of length 1; says what they are."""
    real = real_vectors(args.vectors) if args.vectors else None
    lid, dim = args.lid, 300
    if real is not None:
        there, dim = intrinsic_dimension(real), real.shape[1]
        print(f"{args.vectors.name}: {len(real):,} x {dim}, local intrinsic dimension {there:.1f}")
        lid = lid or there
        if args.rows <= len(real) - args.queries:
            mixed = np.random.default_rng(0).permutation(len(real))
            print(f"{args.rows:,} of them are the vectors, {args.queries} others the queries")
            return real[mixed[: args.rows]], real[mixed[len(real) - args.queries :]]
    decay, found = fit_decay(lid or 20.0, dim)
    file = folder / f"made-{args.rows}-{dim}-{decay:.6f}.npy"
    if not file.exists():
        Made(decay, dim).write(file, args.rows)
    print(
        f"{args.rows:,} x {dim} made up: decay {decay:.4f}, local intrinsic dimension {found:.1f}"
        f" for {lid or 20.0:.1f}"
    )
    return np.load(file, mmap_mode="r"), Made(decay, dim).rows(args.queries, part=2)


# --- arms -----------------------------------------------------------------------------------------


@dataclass
class Arm:
    """One way, and what was measured of it."""

    name: str
    search: Callable[[Floats], Any]
    """(q, d) -> rows (q, 10), or `SearchResults`."""
    built: str
    """What building it took, in words."""
    singles: list[float] = field(default_factory=list)
    """ms of each."""
    single: list[float] = field(default_factory=list)
    """Median ms of a round."""
    batch: list[float] = field(default_factory=list)
    """ms a query of a round's batch."""
    cpu: list[float] = field(default_factory=list)
    """Processor ms a single query of a round."""
    asked: int = 0


def plain(vectors: Floats) -> Callable[[Floats], Any]:
    """As one would write it."""

    def search(queries: Floats) -> Any:
        scores = queries @ vectors.T
        best = np.argpartition(scores, -K, 1)[:, -K:]
        order = np.argsort(-np.take_along_axis(scores, best, 1), 1)
        return np.take_along_axis(best, order, 1)

    return search


def sklearn(vectors: Floats) -> Callable[[Floats], Any]:
    """scikit-learn's."""
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="cosine").fit(vectors)
    return lambda queries: fitted.kneighbors(queries, return_distance=False)


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def ours(kind: str, vectors: Floats, args: argparse.Namespace, folder: Path) -> Arm:
    """An index of the room, saved, and opened as one that searches opens it."""
    place, identity = folder / f"{kind}-{len(vectors)}", {"first": vectors[0].tolist()}
    before, cpu, started = anonymous_bytes(), time.process_time(), time.perf_counter()
    try:
        index = load(place, identity)
        said = f"built earlier in {index.facts['seconds']:.1f} s"
    except TesseraeError:
        index = build(kind, vectors, threads=args.build_threads)
        said = (
            f"built in {index.facts['seconds']:.2f} s, with its recall in"
            f" {time.perf_counter() - started:.1f} s ({time.process_time() - cpu:.1f} s of"
            f" processor), {(anonymous_bytes() - before) / 1e6:.0f} MB"
        )
        index.save(place, identity)
    started = time.perf_counter()
    index = load(place, identity)
    said += f"; opened in {time.perf_counter() - started:.2f} s; on disk {sizes(place)}"
    said += f"\n        {facts(index)}"
    return Arm(kind, lambda queries: index.search(queries, K), said)


def facts(index: Index) -> str:
    """Options, and what it says of itself."""
    options = ", ".join(f"{name} {value}" for name, value in index.options.items())
    return f"{index}; {options}" if options else str(index)


def sizes(place: Path) -> str:
    """Bytes of the vectors, and of all else."""
    files = [file for file in place.iterdir() if file.is_file()]
    of_vectors = sum(file.stat().st_size for file in files if file.name.startswith("vectors"))
    rest = sum(file.stat().st_size for file in files) - of_vectors
    return f"{of_vectors / 1e6:.0f} MB of vectors and {rest / 1e6:.0f} MB"


def make_arms(args: argparse.Namespace, vectors: Floats, folder: Path) -> list[Arm]:
    """Those that were asked for."""
    arms = []
    for name in args.arms:
        if name in ("plain", "sklearn"):
            before, started = anonymous_bytes(), time.perf_counter()
            search = {"plain": plain, "sklearn": sklearn}[name](vectors)
            took = time.perf_counter() - started
            grown = (anonymous_bytes() - before) / 1e6
            arms.append(Arm(name, search, f"built in {took:.2f} s, {grown:.0f} MB"))
        else:
            arms.append(ours(name, vectors, args, folder))
        print(f"{name:<8}{arms[-1].built}", flush=True)
    return arms


# --- rounds ---------------------------------------------------------------------------------------


def take_turn(arm: Arm, queries: Floats) -> None:
    """Single queries, then a batch."""
    times: list[float] = []
    cpu, ends = time.process_time(), time.perf_counter() + SECONDS
    while not times or time.perf_counter() < ends:
        query = queries[arm.asked % len(queries)][None]
        started = time.perf_counter()
        arm.search(query)
        times.append((time.perf_counter() - started) * 1e3)
        arm.asked += 1
    arm.cpu.append((time.process_time() - cpu) * 1e3 / len(times))
    arm.singles += times
    arm.single.append(statistics.median(times))
    started = time.perf_counter()
    arm.search(queries[:BATCH])
    arm.batch.append((time.perf_counter() - started) * 1e3 / len(queries[:BATCH]))


def answers(arm: Arm, vectors: Floats, queries: Floats) -> SearchResults:
    """What an arm finds, with cosines, so that equal ones count."""
    parts = [arm.search(queries[start : start + BATCH]) for start in range(0, len(queries), BATCH)]
    rows = np.concatenate(
        [part.rows if isinstance(part, SearchResults) else part for part in parts]
    )
    scores = [vectors[some] @ query for some, query in zip(rows, queries, strict=True)]
    return SearchResults(np.array(scores, np.float32), rows)


def report(arms: list[Arm], shares: dict[str, float]) -> None:
    """Print what was measured."""
    heads = ("ms a query", "p95", "cpu", "batched", "queries/s")
    print(f"\n{'':8}" + "".join(f"{head:>11}" for head in heads) + "  recall@10")
    for arm in arms:
        batched = statistics.median(arm.batch)
        print(
            f"{arm.name:<8}{statistics.median(arm.singles):>11.3f}"
            f"{np.percentile(arm.singles, 95):>11.3f}{statistics.median(arm.cpu):>11.3f}"
            f"{batched:>11.3f}{1e3 / batched:>11,.0f}  {shares[arm.name]:.4f}"
        )
    named = {arm.name: arm for arm in arms}
    if {"plain", "exact"} <= named.keys():
        for what in ("single", "batch"):
            pairs = zip(getattr(named["exact"], what), getattr(named["plain"], what), strict=True)
            ratios = sorted(a / b for a, b in pairs)
            print(
                f"exact / plain, {what}: of the rounds min {ratios[0]:.2f}, median"
                f" {statistics.median(ratios):.2f}, max {ratios[-1]:.2f}"
            )
    print(LESSON)


def main() -> int:
    """Build, take turns, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ["plain", "sklearn", "exact", "lsh", "hnsw"]
    parser.add_argument("--rows", type=int, default=51_633)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--lid", type=float)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arms", nargs="+", choices=every, default=every)
    parser.add_argument("--build-threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        vectors, queries = vectors_and_queries(args, folder)
        print(f"numpy {np.__version__}, faiss {faiss.__version__}; load {os.getloadavg()[0]:.1f}")
        arms = make_arms(args, vectors, folder)
        for _ in range(args.rounds):
            for arm in arms:
                take_turn(arm, queries)
        some = queries[: 10 * BATCH]
        truth = answers(Arm("plain", plain(vectors), ""), vectors, some)
        shares = {arm.name: recall(answers(arm, vectors, some), truth) for arm in arms}
        report(arms, shares)
        print(f"load {os.getloadavg()[0]:.1f} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
