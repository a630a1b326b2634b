"""The program that measures: every method makes the same pixels of every image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.commands import wait_until
from tests.images import make_folder
from workflows.studies.parallel.measured import (
    OPENERS,
    Task,
    cached_share,
    remove_from_cache,
    render,
)

PROGRAM = Path("workflows/studies/parallel/measured.py").absolute()
SIZE = 16
IMAGES = 20


def file_list(folder: Path) -> Path:
    """Return the list of some images."""
    paths = sorted(make_folder(folder / "source", IMAGES).glob("*/*"))
    file = folder / "images.txt"
    file.write_text("".join(f"{path}\n" for path in paths))
    return file


def measured(folder: Path, **choices: Any) -> dict[str, Any]:
    """Run the program, and return its result."""
    task = Task(files=str(folder / "images.txt"), size=SIZE, **choices)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), json.dumps(asdict(task))],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parent)},
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("method", ["threads", "processes"])
def test_all_pixels_are_those_of_pillow(tmp_path: Path, method: str) -> None:
    """The centre of each image, resized with a bilinear filter, in the order of the list."""
    files = file_list(tmp_path)
    result = measured(tmp_path, method=method, workers=2, pixels=str(tmp_path / "pixels.npy"))
    pixels = np.load(tmp_path / "pixels.npy")
    for path, square in zip(files.read_text().splitlines(), pixels, strict=True):
        with Image.open(path) as image:
            left, top = (image.width - image.height) // 2, 0
            box = (left, top, left + image.height, image.height)
            expected = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
        assert np.array_equal(square, np.asarray(expected))
    assert result["images"] == IMAGES
    assert min(result["seconds"], result["cpu_seconds"], result["memory_bytes"]) > 0


def test_the_memory_of_the_process_that_starts_the_program_is_not_counted(tmp_path: Path) -> None:
    """The kernel passes the peak of getrusage on to a program."""
    file_list(tmp_path)
    held = np.ones(400_000_000, np.uint8)
    assert measured(tmp_path)["memory_bytes"] < held.nbytes


def test_files_in_memory_are_counted(tmp_path: Path) -> None:
    """Files that have not left it would give a figure of a disk that was not read."""
    paths = file_list(tmp_path).read_text().splitlines()
    for path in paths:
        Path(path).read_bytes()
    if cached_share(paths) is None:
        pytest.skip("the file system does not tell what is in memory")
    assert cached_share(paths) == 1
    for path in paths:
        with Path(path).open("rb") as file:
            os.fsync(file.fileno())

    def is_removed() -> bool:
        remove_from_cache(paths)
        return cached_share(paths) == 0

    if not wait_until(is_removed, 10):  # new files stay until the file system's journal is written
        pytest.skip("the file system does not remove pages on demand")
    assert measured(tmp_path)["cached_share"] == 1
    assert 0 <= measured(tmp_path, cold=True)["cached_share"] <= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", OPENERS)
@pytest.mark.parametrize("decoder", ["pillow", "simplejpeg"])
def test_every_way_does_the_same_work(tmp_path: Path, method: str, decoder: str) -> None:
    """The checksums are equal, cold or warm, with or without buffers."""
    file_list(tmp_path)
    serial = measured(tmp_path, decoder=decoder)
    result = measured(tmp_path, method=method, workers=3, decoder=decoder, cold=True, buffers=True)
    assert result["checksum"] == serial["checksum"]
    assert result["images"] == IMAGES


def test_a_buffer_grows_and_is_kept(tmp_path: Path) -> None:
    """Pixels do not depend on what was decoded into the buffer before."""
    paths = []
    for index, side in enumerate((40, 90, 30)):
        path = tmp_path / f"{index}.jpg"
        noise = np.random.default_rng(index).integers(0, 256, (side, side + 7, 3), np.uint8)
        Image.fromarray(noise).save(path)
        paths.append(str(path))
    plain, buffered = (
        Task(files="", decoder="simplejpeg", size=SIZE, buffers=buffers)
        for buffers in (False, True)
    )
    for path in (*paths, *reversed(paths)):
        assert render(path, plain)[1].checksum == render(path, buffered)[1].checksum
