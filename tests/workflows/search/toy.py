"""A toy model that knows colours, and a small store to search with it."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.loader.pixel_reader import open_reader
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from tests.images import prepare_inline

SIZES = (8, 16)
SIZE = 16
"""The stored size, in pixels, that the model takes."""

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 40),
    "blue": (30, 50, 220),
    "yellow": (230, 220, 40),
    "dark blue": (10, 15, 90),
    "man-eater": (120, 10, 90),
    "white": (245, 245, 245),
    "black": (8, 8, 8),
}
CLASSES = (
    ("n00000000", "red, crimson thing"),
    ("n00000001", "green"),
    ("n00000002", "blue, blue thing"),
    ("n00000003", "yellow"),
    ("n00000004", "crane"),
    ("n00000005", "crane"),
    ("n00000006", "nameless"),
)
PAINT = {0: "red", 1: "green", 2: "blue", 3: "yellow", 4: "white", 5: "black", 6: "dark blue"}
"""The colour of the images of each label."""


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return unit vectors, (n, 16), of the colour of each quarter and the brightness."""
    count, size = images.shape[:2]
    half = images.reshape(count, 2, size // 2, 2, size // 2, 3).astype(np.float64)
    colours = half.mean((2, 4)) / 127.5 - 1  # (n, 2, 2, 3)
    vectors = np.concatenate([colours, np.full((count, 2, 2, 1), 0.3)], 3).reshape(count, 16)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def colour(name: str) -> NDArray[np.float32]:
    """Return the unit vector, (16,), of an image of one colour."""
    return features(np.full((1, SIZE, SIZE, 3), COLOURS[name], np.uint8))[0]


class Toy:
    """A model whose words are colours; two classes share a vector, and one class has none."""

    dim = 16
    size = SIZE
    stored_size = SIZE
    vectors_folder = "search"
    encoded: str | None = None
    crop_share = 1.0

    def __init__(self, store: str, classes: tuple[tuple[str, str], ...] = CLASSES) -> None:
        self.store = store
        self.classes = classes
        named = ["red", "green", "blue", "yellow", "white", "white"]
        self.class_vectors = np.zeros((len(classes), self.dim), np.float32)
        self.class_vectors[: len(named)] = [colour(name) for name in named]
        self.words = {name: colour(name) for name in COLOURS} | {"crane": colour("white")}
        self.mirrored = False
        self.embedded = 0
        """The number of rows that were embedded."""

    @property
    def digest(self) -> str:
        identity = f"{self.classes} {sorted(self.words)} {self.mirrored}"
        return hashlib.sha256(identity.encode()).hexdigest()

    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert images.shape[1:] == (SIZE, SIZE, 3)
        return features(images)

    def embed_split(self, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        rows, images = pixels(self.store, split, self.encoded)
        for start in range(0, len(rows), 5):
            part = slice(start, start + 5)
            self.embedded += len(rows[part])
            yield rows[part], self.embed_images(images[part])
            if self.mirrored:
                yield rows[part], self.embed_images(images[part, :, ::-1])

    def phrase_vector(self, text: str) -> NDArray[np.float32] | None:
        return self.words.get(text.casefold())

    def name_vector(self, text: str) -> NDArray[np.float32] | None:
        return self.phrase_vector(text)

    def knows(self, text: str) -> bool:
        return self.phrase_vector(text) is not None

    @property
    def image_digest(self) -> str:
        return self.digest

    def embed_stored_features(self, *_: object) -> None:
        return None

    def suggest(self, text: str) -> list[str]:
        return difflib.get_close_matches(text, self.words, 3)

    def vocabulary(self) -> tuple[list[str], NDArray[np.float32]]:
        names = sorted(COLOURS)
        vectors = np.array([3 * colour(name) for name in names])
        return [name.replace(" ", "_") for name in names], vectors


def pixels(
    store: str, split: str, encoded: str | None = None
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return all readable rows, (n,), and their images, (n, 16, 16, 3) uint8 RGB."""
    from concurrent.futures import ThreadPoolExecutor

    if encoded is not None:
        from pipeline.loader import Loader

        loader = Loader(store, split, encoded=encoded, size=SIZE, batch_size=1_000,
                        order="sequential", drop_last=False, rank=0, world=1)  # fmt: skip
        (batch,) = loader
        return batch.rows.numpy(), batch.images.permute(0, 2, 3, 1).numpy()  # type: ignore[union-attr]
    opened = open_split(open_objects(store), split, [SIZE])
    rows = opened.readable_rows
    out = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
    with ThreadPoolExecutor(1) as disk:
        open_reader(opened, SIZE, cache_bytes=2**20).gather(rows, out, disk)
    return rows, out


def paint(label: int, seed: int, side: int = 40) -> Image.Image:
    """Return an image of a class: its colour, with random light and noise."""
    rng = np.random.default_rng([label, seed])
    base = np.array(COLOURS[PAINT[label]], np.float64)
    light = rng.normal(0, 25, (2, 2, 1)).repeat(side // 2, 0).repeat(side // 2, 1)
    noise = rng.normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(base + light + noise, 0, 255).astype(np.uint8))


def make_source(root: Path, images: int, *, bad: int = 0, first: int = 0) -> Path:
    """Write class folders of painted images, the last *bad* of which are broken."""
    for index in range(images):
        label = index % len(PAINT)
        wnid = CLASSES[label][0]
        file = root / wnid / f"{wnid}_{first + index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        paint(label, first + index).save(file)
        if index >= images - bad:
            file.write_bytes(file.read_bytes()[:60])
    return root


def make_store(root: Path, *, train: int = 42, val: int = 14, bad: int = 3) -> str:
    """Prepare a store with two splits; return its path."""
    store = str(root / "store")
    options = {"sizes": SIZES, "shard_rows": 16, "chunk_rows": 4}
    prepare_inline(make_source(root / "train", train, bad=bad), store, **options)
    source = make_source(root / "val", val, first=1000)
    prepare_inline(source, store, split="val", run="val-inline", **options)
    return store


def photograph(seed: int, side: int = 96) -> Image.Image:
    """Return an image of random shapes, with the spectrum of a photograph."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((side, side, 3))
    for step in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.integers(0, 256, (step, step, 3), np.uint8))
        levels += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)) / step
    levels -= levels.min()
    return Image.fromarray((255 * levels / levels.max()).astype(np.uint8))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return an image as it is after JPEG of a quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def make_copied_store(root: Path) -> str:
    """Prepare 12 pictures in train and 3 in val, of which 3 have copies in other files.

    The files `5`, `a` and `b` of train are one picture, `7` and `c`, and `2` of train and of val.
    """
    source = root / "source"
    for split, seeds in (("train", range(12)), ("val", (2, 100, 101))):
        for seed in seeds:
            file = source / split / "n00000000" / f"{seed}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            photograph(seed).save(file)
    for name, seed, quality in (("a", 5, 60), ("b", 5, 40), ("c", 7, 50)):
        compressed(photograph(seed), quality).save(source / "train" / "n00000000" / f"{name}.png")
    store = str(root / "store")
    for split in ("train", "val"):
        run = f"{split}-inline"
        prepare_inline(source / split, store, sizes=(SIZE,), split=split, run=run)
    return store
