"""The law of labels: every label is the true one, or the source is refused."""

from __future__ import annotations

import itertools
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.ingest import planning
from pipeline.ingest.planning import Listing
from pipeline.sources import open_source
from pipeline.sources.reader import SourceReader
from pipeline.sources.source import Source
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.generated_sources import GeneratedSource, generated_sources

_numbers = itertools.count()


def listed(source: Source, spool: Path) -> tuple[Listing, str]:
    """Return the listing of a source, and the root that its bytes are read from."""
    if source.access == "random":
        return planning.read_listing(source.list(lambda _: None)), source.root
    spool.mkdir()
    for block in source.blocks():
        spool_block(pickle.loads(pickle.dumps(block)), str(spool))
    return planning.read_listing(spool_listing(str(spool), source.blocks())), str(spool)


def labels_of(generated: GeneratedSource, root: Path, splits: list[str]) -> dict[bytes, int]:
    """Return the label of every image, by its bytes, over all splits, as `prepare` assigns them."""
    sources, read = {}, {}
    for split in splits:
        source = open_source(root, split, generated.source_kind, generated.options)
        listing, where = listed(source, root.parent / f"spool-{split}")
        sources[split] = source, listing
        read[split] = SourceReader(where)
    classes = planning.classes_of(sources, 2)
    label_of: dict[bytes, int] = {}
    for split, (_, listing) in sources.items():
        recipe: Any = SimpleNamespace(wnids=list(classes.names))
        labels = planning._labels_of_listing(listing, recipe).tolist()
        for row, label in zip(listing.table.to_pylist(), labels, strict=True):
            path = row.get("path", row["key"])
            data = read[split].read(path, row.get("offset"), row["num_bytes"])
            assert data not in label_of, "one image twice"
            label_of[data] = label
        read[split].close()
    return label_of


@pytest.mark.timeout(3600)
@settings(max_examples=2000 if settings().max_examples >= 1000 else settings().max_examples)
@given(generated=generated_sources(), order=st.randoms(use_true_random=False))
def test_every_label_is_the_true_one_or_the_source_is_refused(
    tmp_path_factory: pytest.TempPathFactory, generated: GeneratedSource, order: Any
) -> None:
    """The law holds for every layout, numbering and table, and for any order of the splits."""
    folder = tmp_path_factory.getbasetemp() / f"made-{next(_numbers)}"
    root = generated.write(folder / "source")
    event(f"{generated.kind}: {generated.damage or 'whole'}")
    splits = list(generated.splits)
    order.shuffle(splits)
    labels: dict[bytes, int] = {}
    refused = None
    try:
        labels = labels_of(generated, root, splits)
    except SourceError as e:
        refused = str(e)
    finally:
        shutil.rmtree(folder)
    if generated.damage:
        assert refused is not None, f"it was read, though it has {generated.damage}"
    else:
        assert refused is None
        assert labels == generated.labels
