"""The source of the store `numbered-1`: 24 images with labels 0 to 11, in format 1.

It was made by the last version that listed by rules 1, under which numbers are in the order of
their digits: 10 and 11 come behind 1. It is never made again:

    prepare_inline(make_source(root) / "train.tar", store, **CHOICES)
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

from tests.images import jpeg

CHOICES: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4, "seed": 3}
STORE = Path(__file__).parent / "numbered-1"


def make_source(root: Path, *more: tuple[str, str]) -> Path:
    """Write shards of two splits, train of 24 images and val of 12.

    Args:
        root: The folder of the shards.
        more: Names and labels of further images of val.
    """
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 24), ("val", 12)):
        labelled = [(f"{split}{place:02d}", str(place % 12)) for place in range(count)]
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for place, (name, label) in enumerate([*labelled, *(more if split == "val" else ())]):
                for suffix, data in (("jpg", jpeg(place, 20, 16)), ("cls", label.encode())):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return root
