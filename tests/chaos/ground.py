"""The fixtures of chaos: photographs, a disk, and the files of a store prepared without faults."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.hosts import why_not as why_no_hosts
from tests.commands import run
from tests.images import linked_folder, reproducible_files

SHAPE = (
    *("--sizes", 72, 224, "--encoded", "jpeg:96@90", "--shard-rows", 64, "--chunk-rows", 16),
    *("--max-bad", 1),
)
ROW_BYTES = (72 * 72 + 224 * 224) * 3 + 6_000
ORIGINALS = 200


def why_not() -> str | None:
    """Return the reason why this machine cannot run chaos, or None if it can."""
    if (why := why_no_hosts()) is not None:
        return why
    if shutil.which("mkfs.ext4") is None:
        return "needs e2fsprogs, for a disk that can be filled"
    try:
        with tempfile.TemporaryDirectory() as name, disk(Path(name), 16 * 2**20):
            return None
    except subprocess.CalledProcessError as e:
        return f"a disk of its own cannot be mounted here ({e.stderr.decode().strip()})"


@contextmanager
def disk(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Mount a file system of *num_bytes* on a loop device; yield its folder."""
    image, place = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(num_bytes)
    place.mkdir()
    for words in (("mkfs.ext4", "-q", "-m", "0", image), ("mount", "-o", "loop", image, place)):
        subprocess.run(words, check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True, capture_output=True)
        image.unlink()


def make_source(folder: Path, images: int) -> Path:
    """Write class folders of *images* links to a few photographs."""
    done = run("sample", folder / "few", "--images", ORIGINALS, scratch=folder)
    if done.status:
        raise RuntimeError(done.err)
    originals = sorted((folder / "few" / "train").rglob("*.JPEG"))
    return linked_folder(folder / "train", originals, images)


def make_undisturbed(folder: Path, source: Path) -> dict[str, str]:
    """Return the hashes of a store that is prepared on this machine without faults."""
    done = run("prepare", source, folder / "alone", *SHAPE, scratch=folder, seconds=900)
    if done.status:
        raise RuntimeError(done.err)
    expected = hashes(folder / "alone")
    shutil.rmtree(folder / "alone")
    return expected


def hashes(store: Path) -> dict[str, str]:
    """Return the SHA-256 of each reproducible file of a store, by name."""
    found = {}
    for name, file in reproducible_files(store):
        with file.open("rb") as data:
            found[name] = hashlib.file_digest(data, "sha256").hexdigest()
    return found
