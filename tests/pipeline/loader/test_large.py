"""A split of ImageNet's size in sparse files: opened as a whole, and read in random order."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import psutil
import pytest

from pipeline.loader import Loader, Reading
from pipeline.store import arrays, layout, records
from pipeline.store.geometry import Geometry
from pipeline.store.open import open_objects
from tests.images import make_folder, prepare_inline

NUM_ROWS = 1_281_167
SIZE = 224
NUM_CLASSES = 3
"""The number of classes of the images in the store."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Create 1,252 shards of zeros as sparse files, of which only the indexes use disk space."""
    folder = tmp_path / "store"
    choices: dict[str, Any] = {"sizes": (SIZE,), "shard_rows": 1024, "chunk_rows": 16}
    prepare_inline(make_folder(tmp_path / "train", 3), str(folder), **choices)
    objects = open_objects(str(folder))
    plan = replace(records.load_plan(objects, "train"), num_rows=NUM_ROWS)
    done = records.load_finish_record(objects, "train")
    assert done is not None
    (folder / layout.plan("train")).write_bytes(plan.encode())
    (folder / layout.done("train")).write_bytes(
        replace(done, plan=plan.digest, num_rows=NUM_ROWS, counts={"readable": NUM_ROWS}).encode()
    )
    labels = np.arange(NUM_ROWS, dtype=np.int32) % NUM_CLASSES
    for name, data in (
        *arrays.label_array("train", labels),
        *arrays.status_array("train", np.zeros(NUM_ROWS, np.uint8)),
    ):
        (folder / name).write_bytes(data)
    geometry = Geometry(SIZE * SIZE * 3, 1024, 16, NUM_ROWS)
    framed = geometry.framed_bytes
    for shard in range(geometry.num_shards):
        index = np.full((64, 2), 2**64 - 1, "<u8")
        chunks = geometry.num_chunks(shard)
        index[:chunks, 0] = np.arange(chunks) * framed
        index[:chunks, 1] = framed
        data = index.tobytes()
        with (folder / layout.shard("train", SIZE, shard)).open("wb") as file:
            file.seek(chunks * framed)
            file.write(data + google_crc32c.value(data).to_bytes(4, "little"))
    return folder


@pytest.mark.slow
def test_a_split_of_imagenets_size_is_read(store: Path) -> None:
    """All 1,252 shards stay open and mapped, where the system allows it."""
    started = time.perf_counter()
    loader = Loader(store, size=SIZE, reading=Reading(checksum="never"))  # holes in files have none
    batches = iter(loader)
    first = next(batches)
    took = time.perf_counter() - started
    assert len(loader) == NUM_ROWS // 256
    assert (first.labels == first.rows % NUM_CLASSES).all()
    assert not first.images.any()
    seen = {int(row) // 1024 for row in first.rows}
    for _ in range(40):
        batch = next(batches)
        assert (batch.labels == batch.rows % NUM_CLASSES).all()
        seen |= {int(row) // 1024 for row in batch.rows}
    files = [file for file in psutil.Process().open_files() if str(store) in file.path]
    assert len(seen) > 1_000
    assert len({file.path for file in files}) >= len(seen)
    batches.close()  # type: ignore[attr-defined]
    sys.stdout.write(f"first batch of {NUM_ROWS:,} rows after {took:.3f} s\n")
