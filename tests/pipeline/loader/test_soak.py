"""Memory, threads, mappings and files stay constant over epochs, a third of them interrupted."""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from pipeline.loader import Loader, Reading
from tests.images import make_folder, prepare_inline

SECONDS = float(os.environ.get("TESSERAE_SOAK_SECONDS", "60"))
"""How long all three runs take together: a minute, unless TESSERAE_SOAK_SECONDS is set."""
WARM_SHARE = 0.25
"""The share of the time during which buffers and threads' stacks may still grow."""


class Resources(NamedTuple):
    """The resources that this process holds."""

    memory: float
    """The resident memory in MiB, without pages of the store."""
    threads: int
    files: int
    mappings: int


def look(store: Path) -> Resources:
    """Measure the resources of this process."""
    gc.collect()
    process = psutil.Process()
    maps = process.memory_maps(grouped=False)
    own = sum(part.rss for part in maps if str(store) not in part.path)
    return Resources(own / 2**20, threading.active_count(), process.num_fds(), len(maps))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("kind", ["mapped", "compressed", "staged"])
def test_resources_do_not_grow(tmp_path: Path, kind: str) -> None:
    """The resources at the end are those after the first quarter of the time."""
    codec = "zstd:1" if kind == "compressed" else "none"
    choices: dict[str, Any] = {"sizes": (72,), "shard_rows": 64, "chunk_rows": 8, "codec": codec}
    prepare_inline(make_folder(tmp_path / "train", 600), str(tmp_path / "store"), **choices)
    words: dict[str, Any] = {"staging": tmp_path / "stage"} if kind == "staged" else {}
    loader = Loader(tmp_path / "store", size=72, batch_size=32, reading=Reading(threads=2), **words)
    rng = random.Random(0)
    seen: list[Resources] = []
    epochs = 0
    started = time.monotonic()
    while (passed := time.monotonic() - started) < SECONDS / 3:
        stop = rng.randrange(len(loader)) if epochs % 3 == 0 else len(loader)
        for index, _ in enumerate(loader):
            if index == stop:
                break
        epochs += 1
        if passed > WARM_SHARE * SECONDS / 3 and epochs % 20 == 0:
            seen.append(look(tmp_path))
    assert len(seen) > 5
    third = max(2, len(seen) // 3)
    first, last = seen[:third], seen[-third:]
    assert max(s.threads for s in last) == min(s.threads for s in first)
    assert max(s.files for s in last) <= max(s.files for s in first)
    assert max(s.mappings for s in last) <= max(s.mappings for s in first) + 8
    assert min(s.memory for s in last) <= max(s.memory for s in first) + 8
    sys.stdout.write(f"{kind}: {epochs} epochs, {passed:.0f} s: {seen[0]} to {seen[-1]}\n")
