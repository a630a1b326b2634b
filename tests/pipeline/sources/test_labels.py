"""No source is read with a wrong label: every label is the true one, or the source is refused."""

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
from pipeline.ingest.planning import Listed
from pipeline.sources import Source, open_source
from pipeline.sources.reader import Reader
from pipeline.sources.spool import spool_block, spool_listing
from tests.pipeline.sources.made_sources import MadeSource, made_sources

_numbers = itertools.count()


def listed(source: Source, spool: Path) -> tuple[Listed, str]:
    """What a source lists, and the root that its bytes are read from."""
    if source.access == "random":
        return planning.read_listing(source.list(lambda _: None)), source.root
    spool.mkdir()
    for block in source.blocks():
        spool_block(pickle.loads(pickle.dumps(block)), str(spool))
    return planning.read_listing(spool_listing(str(spool), source.blocks())), str(spool)


def labels_of(made: MadeSource, root: Path, splits: list[str]) -> dict[bytes, int]:
    """Bytes of every image -> its label, over all splits, as `tesserae prepare` gives them."""
    sources, read = {}, {}
    for split in splits:
        source = open_source(root, split, made.source_kind, made.options)
        listing, where = listed(source, root.parent / f"spool-{split}")
        sources[split] = source, listing
        read[split] = Reader(where)
    classes = planning.classes_of(sources, 2)
    found: dict[bytes, int] = {}
    for split, (_, listing) in sources.items():
        recipe: Any = SimpleNamespace(wnids=list(classes.names))
        labels = planning._labels(listing, recipe).tolist()
        for row, label in zip(listing.table.to_pylist(), labels, strict=True):
            path = row.get("path", row["key"])
            data = read[split].read(path, row.get("offset"), row["num_bytes"])
            assert data not in found, "one image twice"
            found[data] = label
        read[split].close()
    return found


@pytest.mark.timeout(3600)
@settings(max_examples=2000 if settings().max_examples >= 1000 else settings().max_examples)
@given(made=made_sources(), order=st.randoms(use_true_random=False))
def test_every_label_is_the_true_one_or_the_source_is_refused(
    tmp_path_factory: pytest.TempPathFactory, made: MadeSource, order: Any
) -> None:
    """Whatever its layout, its numbering and its table; in whatever order its splits are named."""
    folder = tmp_path_factory.getbasetemp() / f"made-{next(_numbers)}"
    root = made.write(folder / "source")
    event(f"{made.kind}: {made.damage or 'whole'}")
    splits = list(made.splits)
    order.shuffle(splits)
    found: dict[bytes, int] = {}
    refused = None
    try:
        found = labels_of(made, root, splits)
    except SourceError as e:
        refused = str(e)
    finally:
        shutil.rmtree(folder)
    if made.damage:
        assert refused is not None, f"it was read, though it has {made.damage}"
    else:
        assert refused is None
        assert found == made.labels
