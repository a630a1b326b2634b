"""Real photographs and hostile files through the whole command, read back by other libraries."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import tensorstore
import zarr
from PIL import Image

from pipeline.images.rejection import STATUS_WORDS
from pipeline.store import layout
from tests.commands import run, start

SIZES = (72, 224, 288)

STOCK_LEVELS = 20
"""The largest allowed difference of a value, of 256 levels; stock Pillow rounds differently."""

STOCK_MEAN = 1.0
"""The largest allowed mean difference of an image, of 256 levels."""

STOCK_RESIZE = """
import sys
from pathlib import Path
from PIL import Image

root, out = map(Path, sys.argv[1:])
for file in sorted(root.glob("*/*")):
    image = Image.open(file).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    for size in (72, 224, 288):
        made = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        (out / f"{file.name}.{size}").write_bytes(made.tobytes())
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photographs(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return 400 photographs of ImageNet, and a store that the command prepared from them."""
    source = real_data / "imagenet" / "train"
    folder = tmp_path_factory.mktemp("photographs")
    store = folder / "store"
    done = run("prepare", source, store, "--shard-rows", 64, scratch=folder, seconds=300)
    assert done.status == 0, done.err
    return source, store


def oracle(file: Path, size: int) -> np.ndarray:
    """Return the square that plain Pillow gives for a photograph."""
    with Image.open(file) as image:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # A JPEG is decoded at 1/2, 1/4, 1/8 where twice the largest size is left.
        scale = next((s for s in (8, 4, 2) if side >= 2 * max(SIZES) * s), 1)
        if scale > 1:
            image.draft("RGB", (-(-image.width // scale), -(-image.height // scale)))
        rgb = image.convert("RGB")
    box = (left / scale, top / scale, (left + side) / scale, (top + side) / scale)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC, box=box))


def test_all_400_photographs_are_stored_and_verified(photographs: tuple[Path, Path]) -> None:
    """Decoding all of them again gives the same pixels."""
    _, store = photographs
    done = run("verify", store, "--source", 400, scratch=store.parent, seconds=300)
    assert done.status == 0, done.out + done.err
    assert "400 of 400 rows committed, 400 readable" in done.out


def test_other_readers_return_the_pixels_of_plain_pillow(photographs: tuple[Path, Path]) -> None:
    """Zarr and tensorstore agree with an oracle of six lines on every pixel and label."""
    source, store = photographs
    table = pq.read_table(store / layout.table("train"))
    keys = table["key"].to_pylist()
    group = zarr.open_group(store / layout.IMAGES / "train", mode="r")
    classes = sorted({key.split("/")[0] for key in keys})
    labels = [classes.index(key.split("/")[0]) for key in keys]
    assert group["label"][:].tolist() == labels == read_by_tensorstore(store, "label").tolist()
    assert not group["status"][:].any()
    for size in SIZES:
        pixels = group[str(size)][:]
        assert np.array_equal(pixels, read_by_tensorstore(store, str(size)))
        for row, key in enumerate(keys):
            assert np.array_equal(pixels[row], oracle(source / key, size)), key


def read_by_tensorstore(store: Path, name: str) -> np.ndarray:
    path = str(store / layout.array("train", name))
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    return np.asarray(tensorstore.open(spec).result().read().result())


def test_stock_pillow_gives_nearly_the_same_pixels(
    photographs: tuple[Path, Path], stock_python: Path, tmp_path: Path
) -> None:
    """Stock Pillow runs in an environment of its own; the tolerance is stated."""
    source, store = photographs
    (tmp_path / "resize.py").write_text(STOCK_RESIZE)
    resized = tmp_path / "made"
    resized.mkdir()
    subprocess.run([stock_python, tmp_path / "resize.py", source, resized], check=True)
    keys = pq.read_table(store / layout.table("train"))["key"].to_pylist()
    worst = mean = 0.0
    for size in SIZES:
        pixels = zarr.open_array(store / layout.array("train", str(size)), mode="r")[:]
        for row, key in enumerate(keys):
            raw = np.frombuffer((resized / f"{key.split('/')[1]}.{size}").read_bytes(), np.uint8)
            difference = np.abs(pixels[row].astype(int) - raw.reshape(size, size, 3))
            worst, mean = max(worst, difference.max()), max(mean, difference.mean())
    message = (
        f"stock Pillow differs by {worst:.0f} levels at most, by {mean:.2f} on average at most"
    )
    assert worst <= STOCK_LEVELS, message
    assert mean <= STOCK_MEAN, message


def test_hostile_files_never_stop_a_run(
    real_data: Path, stock_python: Path, tmp_path: Path
) -> None:
    """Files are quarantined where stock Pillow fails; table, info and report have the reasons."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "hostile").symlink_to(real_data / "hostile")
    store = tmp_path / "store"
    peak = 0.0
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.1):
            for process in command.processes():
                try:
                    peak = max(peak, process.memory_info().rss / 2**20)
                except psutil.Error:
                    continue

    with start("prepare", source, store, "--max-bad", 1, scratch=tmp_path) as command:
        thread = threading.Thread(target=watch)
        thread.start()
        status = command.wait(300)
        stop.set()
        thread.join()
        assert status == 0, command.err
    assert peak < 1200, f"{peak:.0f} MiB"

    table = pq.read_table(store / layout.table("train")).to_pylist()
    bad = {line["key"].split("/")[1]: line for line in table if line["status"]}
    assert set(bad) == broken_for_stock(stock_python, real_data / "hostile") - MENDED
    info = run("info", store, "--json", scratch=tmp_path)
    named = {line["key"]: line for line in json.loads(info.out)["splits"]["train"]["quarantine"]}
    report = (store / layout.REPORT).read_text()
    for name, line in bad.items():
        assert line["reason"]
        assert line["reason"].isprintable()
        assert named[f"hostile/{name}"]["reason"] == line["reason"]
        assert STATUS_WORDS[line["status"]] in report
    assert run("verify", store, scratch=tmp_path).status == 0


MENDED = {"twelvemonkeys-jpeg__jpeg__jfif-bogus-empty-jfif-segment.jpg"}
"""Intact images that stock Pillow rejects for their metadata, here an empty JFIF segment."""


def broken_for_stock(python: Path, folder: Path) -> set[str]:
    """Return the names of the files that stock Pillow cannot read."""
    code = """
import sys, warnings
from pathlib import Path
from PIL import Image

warnings.simplefilter("ignore")
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        Image.open(file).convert("RGB")
    except Exception:
        print(file.name)
"""
    done = subprocess.run(
        [python, "-c", code, folder], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return set(done.stdout.decode().splitlines())
