"""Writes the golden store of the current format: `python tests/golden/regenerate.py`.

With the argument `encoded`, it writes the golden store of encoded rows, `encoded-1`.

Run this once for each new format, and never for a released one: the folder shows what existing
stores contain, and every later version must read it. The values that
`tests/pipeline/store/test_golden.py` expects are printed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipeline.store import arrays, layout
from pipeline.store.open import open_objects
from tests.images import jpeg, prepare_inline

CHOICES: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 4, "chunk_rows": 2, "seed": 7}
ENCODED_CHOICES = {**CHOICES, "sizes": (), "encoded": ("jpeg:16@90", "original")}
HERE = Path(__file__).parent
WORDS = "n00000000\ttench, Tinca tinca\nn00000001\tLöwenzahn, 蒲公英\n"


def make_source(root: Path) -> Path:
    """Write two splits: 11 images, one of them truncated and one grey, and 5 images."""
    for split, images in (("train", 11), ("val", 5)):
        for place in range(images):
            wnid = f"n0000000{place % 3}"
            file = root / split / wnid / f"{wnid}_{place}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            mode = "L" if place == 3 else "RGB"
            data = jpeg(100 * len(split) + place, 30 + place, 25, mode=mode)
            file.write_bytes(data[: len(data) // 2] if (split, place) == ("train", 9) else data)
    (root / "words.txt").write_text(WORDS)
    return root


def main() -> None:
    """Write the store `format-<n>`, or `encoded-1`, beside this file."""
    if sys.argv[1:] == ["encoded"]:
        write_store(HERE / "encoded-1", ("train",), ENCODED_CHOICES)
        return
    store = HERE / f"format-{layout.FORMAT}"
    write_store(store, ("train", "val"), CHOICES)
    sys.stdout.write(json.dumps(expected(store), indent=4))


def write_store(store: Path, splits: tuple[str, ...], choices: dict[str, Any]) -> None:
    """Write a store of some splits of the source, if it does not exist."""
    if store.exists():
        sys.exit(f"{store} is there. It is never made again: see above.")
    socket.gethostname = lambda: "golden"  # the only thing in a store that names a machine
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder) / "images")
        made = Path(folder) / "store"
        for split in splits:
            prepare_inline(source / split, str(made), split=split, **choices)
        for unshared in (layout.TEMPORARY, layout.CACHE):
            shutil.rmtree(made / unshared)
        shutil.copytree(made, store)


def expected(store: Path) -> dict[str, object]:
    """Return the values that the test expects of each array."""
    objects = open_objects(str(store))
    found: dict[str, object] = {}
    for split, num_rows in (("train", 11), ("val", 5)):
        for size in CHOICES["sizes"]:
            pixels = arrays.read_pixel_rows(objects, split, size, 0, num_rows)
            found[f"{split}/{size}"] = hashlib.sha256(pixels.tobytes()).hexdigest()
        for name in ("label", "status"):
            found[f"{split}/{name}"] = arrays.read_small(objects, split, name).tolist()
    return found


if __name__ == "__main__":
    main()
