"""Images of a source to try settings on, in a random order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.ingest.source_index import Sample, SourceIndex
from pipeline.sources.listing import SkippedFiles
from pipeline.sources.source import Source
from workflows.terminal.progress import Progress

MAX_SAMPLES = 20_000
"""The largest number of samples: each process gets a copy of all."""
STREAMED_SAMPLES = 2_000
STREAMED_BYTES = 512 * 2**20
"""The numbers of samples and of bytes of a source that can only be streamed, which are copied."""
STREAMED_FILE = "samples"
"""The name of the file that they are copied to."""


@dataclass(frozen=True)
class TrialSamples:
    """Images of a source, and where they are read."""

    root: str
    """The folder or URL that the paths of the samples are relative to."""
    samples: list[Sample]
    """The samples in a random order, at least one."""
    remark: str = ""
    """What is special about them, as a sentence; empty if nothing is."""


@contextmanager
def samples_of_source(
    split: str,
    source: Source,
    seed: int = 0,
    check: Callable[[pa.Table], None] = lambda listing: None,
) -> Iterator[TrialSamples]:
    """Yield images of a source that no store has planned yet.

    A source that is read at random is listed. Of a source that can only be streamed, the first
    images are copied to a temporary folder, which is removed with the block.

    Args:
        split: The name of the split, for the progress display.
        source: The source.
        seed: Seed of the order of the samples (default 0).
        check: A function that is called with the listing of a source that is read at random, and
            whose errors are raised (default: none).

    Raises:
        ReadError: The source cannot be read now.
        SourceError: There are no images, or they cannot be read as this kind of source.
    """
    if source.access == "random":
        with Progress(f"{split}: listing {source.kind}", unit="images") as progress:
            table = source.list(lambda new: progress.update(rows=new))
        check(table)
        samples = _samples_of_listing(table, seed)
        del table  # of millions of images, it would take memory from the workers of the trials
        yield TrialSamples(source.root, samples)
        return
    with TemporaryDirectory(prefix="tesserae-tune-") as folder:
        samples = _stream(source, Path(folder) / STREAMED_FILE)
        remark = (
            f"the source can only be streamed: its first {len(samples):,} images were copied, and"
            " are read from the copy, as prepare reads them from its spool"
        )
        yield TrialSamples(folder, samples, remark)


def samples_of_shards(index: SourceIndex, shards: Iterable[int]) -> TrialSamples:
    """Return images of a planned split, whose rows are in a random order already.

    Args:
        index: The source index of the split.
        shards: The numbers of the shards that are still to be made, at least one.
    """
    samples: list[Sample] = []
    for shard in shards:
        samples += index.shard(shard)
        if len(samples) >= MAX_SAMPLES:
            break
    return TrialSamples(index.origin.root, samples[:MAX_SAMPLES])


def _samples_of_listing(table: pa.Table, seed: int) -> list[Sample]:
    rows = np.random.default_rng(seed).permutation(table.num_rows)[:MAX_SAMPLES]
    chosen = table.take(pa.array(rows)).to_pydict()
    keys, sizes = chosen["key"], chosen["num_bytes"]
    paths = chosen.get("path", keys)
    offsets = chosen.get("offset", [None] * len(keys))
    return [
        Sample(row, key, -1, size, path or key, offset, None)
        for row, key, size, path, offset in zip(rows, keys, sizes, paths, offsets, strict=True)
    ]


def _stream(source: Source, file: Path) -> list[Sample]:
    samples: list[Sample] = []
    with file.open("wb") as out:

        def write(pieces: Iterable[bytes]) -> int:
            offset = out.tell()
            for piece in pieces:
                out.write(piece)
            return offset

        for block in source.blocks():
            for row in block.samples(write):
                if isinstance(row, SkippedFiles) or row.same_as:
                    continue
                samples.append(
                    Sample(len(samples), row.key, -1, row.num_bytes, file.name, row.offset, None)
                )
                if len(samples) == STREAMED_SAMPLES or out.tell() > STREAMED_BYTES:
                    return samples
    if not samples:
        raise SourceError(f"{source.location.display_name} has no images.")
    return samples
