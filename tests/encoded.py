"""Small stores with encoded rows, which cross the borders of many small chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest import planning
from pipeline.ingest.shard_task import prepare_shard
from pipeline.store import encoded_plan
from tests.images import plan_inline, prepare_inline


def prepare_encoded(source: Path, store: str, encoded: Sequence[str], **choices: Any) -> None:
    """Prepare a split with encoded rows in chunks of 512 bytes, of which most rows need several.

    Args:
        source: The folder of the images.
        store: The folder or URL of the store.
        encoded: The encodings of the rows, such as `jpeg:24@80`.
        choices: Other fields of `StoreOptions`.
    """
    with _small_chunks():
        prepare_inline(source, store, encoded=tuple(encoded), **choices)


def prepare_some_shards(
    source: Path, store: str, encoded: Sequence[str], shards: Sequence[int], **choices: Any
) -> None:
    """Commit some shards of a split with encoded rows in chunks of 512 bytes, and do not finish it.

    Args:
        source: The folder of the images.
        store: The folder or URL of the store.
        encoded: The encodings of the rows, such as `jpeg:24@80`.
        shards: The numbers of the shards.
        choices: Other fields of `StoreOptions`.
    """
    with _small_chunks():
        objects, _, config = plan_inline(source, store, encoded=tuple(encoded), **choices)
        for shard in shards:
            prepare_shard(config, shard)
        objects.end()


@contextmanager
def _small_chunks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "CHUNK_BYTES", 512)
        patch.setattr(encoded_plan, "CHUNK_BYTES", 512)
        yield
