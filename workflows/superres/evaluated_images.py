"""The images that a network of super-resolution is evaluated on, as pairs with their originals.

They are the rows of a split, or the files of a folder: originals alone, which are reduced, or
originals with published low-resolution images in one of the usual layouts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import DecodeError, StoreDamagedError, StoreError, TesseraeError
from pipeline.images.decode import decode
from pipeline.loader import Loader
from pipeline.sources.keys import looks_like_image
from pipeline.store import layout
from pipeline.store.arrow_files import open_parquet
from pipeline.store.layout import MAX_SIZE
from pipeline.store.open import open_objects
from workflows.evaluation.image_quality import WINDOW
from workflows.superres import bicubic
from workflows.superres.choices import DEFAULT_SCALE, STORED
from workflows.superres.data import PairArrays, pair_loader
from workflows.superres.options import SuperresOptions
from workflows.superres.stage import pair_maker
from workflows.terminal.formatting import counted, printable
from workflows.training.image_rows import finished_arrays
from workflows.training.run_folder import RunFolder

_ORIGINALS = re.compile(r"(.*[_-])?(HR|GT|originals?)", re.IGNORECASE)
"""The names of folders of originals, such as `HR` and `DIV2K_valid_HR`."""
_LOW = re.compile(r"(.*[_-])?LR([_-].*|bic.*|x[2348])?", re.IGNORECASE)
"""The names of folders of low-resolution images, such as `LR`, `LRbicx4` and `LR_bicubic`."""
_SCALE_AT_END = re.compile(r".*x([2348])", re.IGNORECASE)
"""The names that end with a factor, such as `X4` and `LRbicx4`."""
_HIGH_TAG = re.compile(r"HR$")
"""The end of an original's name that is `LR` in its partner's, as in `img_001_SRF_4_HR`."""


@dataclass(frozen=True)
class EvaluatedPair:
    """A low-resolution image and its original, on the CPU."""

    name: str
    """The name of the original: the key of a row, or the name of a file."""
    low: Tensor
    """(1, 3, h, w) float32 RGB in whole levels, 0 to 255."""
    high: Tensor
    """(1, 3, h * scale, w * scale) float32 RGB in whole levels."""


class PairSource(Protocol):
    """A source of evaluated pairs that can be read several times."""

    @property
    def description(self) -> str:
        """A phrase that says where they come from."""

    @property
    def num_available(self) -> int:
        """The number of images without the limit."""

    def __len__(self) -> int:
        """Return the number of images, with those that turn out to be unsuitable."""

    def pairs(
        self, chosen: Collection[int] | None = None
    ) -> Iterator[tuple[int, EvaluatedPair | UnsuitableImageError]]:
        """Yield the index of each image, ascending, and its pair or why it is left out.

        Args:
            chosen: The indices of the images that are read (default: all).
        """


class UnsuitableImageError(TesseraeError):
    """A file cannot be evaluated: it is unreadable, too small, or has no suitable partner."""


def smallest_side(scale: int) -> int:
    """Return the smallest side of an original that can be evaluated, in pixels.

    After `scale` pixels were cut off each edge, a window of SSIM must fit.

    Args:
        scale: The factor of the enlargement.
    """
    return WINDOW + 2 * scale


# --- rows of a store ------------------------------------------------------------------------------


class SplitPairs:
    """The first rows of a split, with low-resolution images of the kind that a run trained on."""

    def __init__(
        self,
        store: str,
        split: str,
        options: SuperresOptions,
        arrays: PairArrays,
        limit: int,
        *,
        is_other: bool = False,
    ) -> None:
        """Open a split.

        Args:
            store: Folder or URL of the store.
            split: Name of a finished split.
            options: The options of the run.
            arrays: The arrays to read, as `arrays_of_run` returns them.
            limit: Largest number of images.
            is_other: True if it is not the store that the run was trained on (default False).

        Raises:
            StoreError: The split lacks the arrays, or has no readable or only too small images.
        """
        self._loader = pair_loader(store, split, options, arrays, training=False)
        self._make_pairs = pair_maker(options, whole=True)
        self._split, self._arrays, self._is_other = split, arrays, is_other
        available = finished_arrays(store, split)
        missing = [size for size in arrays.sizes if size not in available.sizes]
        if missing:
            sizes = " ".join(map(str, missing))
            raise StoreError(
                f"split {split!r} of {store} has {available}: expected images of"
                f" {' and '.join(map(str, arrays.sizes))} px, as the run was trained on. Add them"
                f" with `tesserae prepare ... --sizes {sizes}`, or pass a folder with --images."
            )
        smallest = smallest_side(arrays.scale)
        if self._loader.sizes[-1] < smallest:
            raise StoreError(
                f"the run was trained on images of {self._loader.sizes[-1]} px: expected at least"
                f" {smallest} px for an evaluation. Pass a folder of larger ones with --images."
            )
        self.num_available = self._loader.num_rows
        """The number of readable rows of the split."""
        self._count = min(limit, self.num_available)
        if not self._count:
            large = f" of at least {self._loader.sizes[0]} px" if arrays.encoded else ""
            raise StoreError(
                f"split {split!r} of {store} has no readable image{large}. Pass another --split, or"
                " a folder with --images."
            )

    @property
    def description(self) -> str:
        """A phrase that says where they come from."""
        centres = f", centres of {self._loader.sizes[0]} px" if self._arrays.encoded else ""
        store = f" of {self._loader.store}" if self._is_other else ""
        return f"of split {self._split}{store}, {str(self._arrays).rstrip('.')}{centres}"

    def __len__(self) -> int:
        """Return the number of images."""
        return self._count

    def pairs(
        self, chosen: Collection[int] | None = None
    ) -> Iterator[tuple[int, EvaluatedPair | UnsuitableImageError]]:
        """Yield the index and the pair of each image.

        Args:
            chosen: The indices of the images (default: all).
        """
        # A copy begins with the first row, and is not split between ranks of a launcher.
        rows_of_pairs = islice(_single_rows(self._loader.for_rank(0, 1)), self._count)
        last = self._count - 1 if chosen is None else max(chosen, default=-1)
        for index, (images, row) in enumerate(islice(rows_of_pairs, last + 1)):
            if chosen is None or index in chosen:
                pair = self._make_pairs(images, row, 0)
                yield index, EvaluatedPair(self._key(int(row)), pair.low, pair.high)

    def _key(self, row: int) -> str:
        return str(self._keys[row].as_py())

    @cached_property
    def _keys(self) -> pa.ChunkedArray:
        """The keys of all rows of the split."""
        name = layout.table(self._split)
        try:
            with open_objects(self._loader.store).open(name) as file:
                return open_parquet(file.read()).read(columns=["key"], use_threads=False)["key"]
        except (OSError, pa.ArrowException) as e:
            first = (str(e).splitlines() or [type(e).__name__])[0]
            raise StoreDamagedError(
                f"{name} cannot be read ({first[:120]}). Run `tesserae repair`."
            ) from e


def _single_rows(loader: Loader) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Yield the images and the number of each row, with a batch dimension of 1."""
    for images, _, rows in loader:
        sizes = images if isinstance(images, tuple) else (images,)
        for i in range(len(rows)):
            yield tuple(each[i : i + 1] for each in sizes), rows[i : i + 1]


def arrays_of_run(folder: RunFolder, options: SuperresOptions) -> PairArrays:
    """Return the arrays that a run was trained on.

    Args:
        folder: The run folder.
        options: Its options.

    Raises:
        TesseraeError: The run has recorded no data.
    """
    scale, degradation = options.scale or DEFAULT_SCALE, options.degradation or STORED
    if options.encoded is not None:
        return PairArrays(scale, degradation, encoded=options.encoded)
    smallest = int(folder.data()["size"])
    sizes = (smallest, scale * smallest) if degradation == STORED else (smallest,)
    return PairArrays(scale, degradation, sizes)


# --- files of a folder ----------------------------------------------------------------------------


class FolderPairs:
    """Originals in files, with low-resolution images in files or reduced from them."""

    def __init__(
        self,
        files: Sequence[Path],
        partners: Mapping[Path, Path] | None,
        scale: int,
        description: str,
        limit: int,
    ) -> None:
        """Name the files, which are not read yet.

        Args:
            files: The files of the originals.
            partners: The low-resolution file of each original that has one; None = originals are
                reduced by bicubic interpolation.
            scale: The factor between the two.
            description: A phrase that says where they come from.
            limit: Largest number of originals, the first ones.
        """
        self._files, self._partners, self._scale = files[:limit], partners, scale
        self.description = description
        self.num_available = len(files)

    def __len__(self) -> int:
        """Return the number of originals."""
        return len(self._files)

    def pairs(
        self, chosen: Collection[int] | None = None
    ) -> Iterator[tuple[int, EvaluatedPair | UnsuitableImageError]]:
        """Yield the index of each original, and its pair or why it is left out.

        Args:
            chosen: The indices of the images that are read (default: all).
        """
        for index, file in enumerate(self._files):
            if chosen is None or index in chosen:
                try:
                    pair: EvaluatedPair | UnsuitableImageError = self._read(file)
                except UnsuitableImageError as e:
                    pair = e
                yield index, pair

    def _read(self, file: Path) -> EvaluatedPair:
        high, scale = _read_image(file), self._scale
        height, width = (side // scale * scale for side in high.shape[2:])
        smallest = smallest_side(scale)
        if min(height, width) < smallest:
            raise UnsuitableImageError(
                f"{file} has {high.shape[3]}x{high.shape[2]} pixels: expected at least"
                f" {smallest} on each side for an enlargement by {scale}."
            )
        high = high[:, :, :height, :width]
        if self._partners is None:
            return EvaluatedPair(file.name, bicubic.reduce(high, scale), high)
        if file not in self._partners:
            raise UnsuitableImageError(f"{file} has no low-resolution image.")
        low = _read_image(self._partners[file])
        if tuple(low.shape[2:]) != (height // scale, width // scale):
            raise UnsuitableImageError(
                f"{self._partners[file]} has {low.shape[3]}x{low.shape[2]} pixels: expected"
                f" {width // scale}x{height // scale}, those of {file.name} divided by {scale}."
            )
        return EvaluatedPair(file.name, low, high)


def _read_image(file: Path) -> Tensor:
    """Return an image file as (1, 3, h, w) float32 RGB in levels."""
    try:
        decoded = decode(file.read_bytes(), fit="crop", serves=MAX_SIZE, exif=True)
    except OSError as e:
        raise UnsuitableImageError(f"{file} cannot be read: {e.strerror or e}.") from e
    except DecodeError as e:
        raise UnsuitableImageError(f"{file} is not a readable image: {e}.") from e
    pixels = np.array(decoded.pixels.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def open_folder(images: Path, low_images: Path | None, scale: int, limit: int) -> FolderPairs:
    """Return the originals of a folder, with their low-resolution images if there are any.

    Without *low_images*, three layouts of pairs are recognised: an original and its partner beside
    each other, as `img_001_SRF_4_HR.png` and `img_001_SRF_4_LR.png`, or `0801.png` and
    `0801x4.png`; folders such as `HR` and `LR`; and, as DIV2K has them, such as `DIV2K_valid_HR`
    and `DIV2K_valid_LR_bicubic/X4`. Otherwise the images are originals.

    Args:
        images: The folder.
        low_images: The folder of low-resolution images, which are named as their originals, with or
            without `x4` at the end (default: detected).
        scale: The factor between the two.
        limit: Largest number of images.

    Raises:
        TesseraeError: There is no such folder, it has no images, or pairs are ambiguous.
    """
    files = _images_of(images)
    if low_images is None and not files:
        images, low_images = _detect_folders(images, scale)
        files = _images_of(images)
    if not files:
        raise TesseraeError(
            f"{images} has no images: expected a folder of JPEG or PNG files, or folders of"
            " originals and of low-resolution images in it, such as HR and LR."
        )
    if low_images is None:
        partners = _partners(files, files, scale)
        if not partners:
            return FolderPairs(files, None, scale, f"of {images}, reduced bicubically", limit)
        return _pairs_beside_each_other(images, files, partners, scale, limit)
    low_files = _images_of(_folder_of_scale(low_images, scale) or low_images)
    partners = _partners(files, low_files, scale)
    if not partners:
        raise TesseraeError(
            f"{low_images} has {counted(len(low_files), 'image')}, and none belongs to one of"
            f" {images}: expected names such as {files[0].stem} or {files[0].stem}x{scale}."
        )
    description = f"of {images}, with low-resolution images of {low_images}"
    return FolderPairs(files, partners, scale, description, limit)


def _pairs_beside_each_other(
    folder: Path, files: list[Path], partners: dict[Path, Path], scale: int, limit: int
) -> FolderPairs:
    used = {*partners, *partners.values()}
    others = [file for file in files if file not in used]
    if others:
        print(
            f"notice: {counted(len(others), 'image')} of {folder} belong to no pair for an"
            f" enlargement by {scale}, such as {printable(others[0].name)}, and are left out.",
            flush=True,
        )
    description = f"of {folder}, with the low-resolution images beside them"
    originals = [file for file in files if file in partners]
    return FolderPairs(originals, partners, scale, description, limit)


def _images_of(folder: Path) -> list[Path]:
    """Return the image files in a folder, by name."""
    try:
        return sorted(
            path for path in folder.iterdir() if looks_like_image(path.name) and path.is_file()
        )
    except OSError as e:
        raise TesseraeError(
            f"{folder} is not a readable folder ({e.strerror or e}): expected a folder of images."
        ) from e


def _partners(files: list[Path], low_files: list[Path], scale: int) -> dict[Path, Path]:
    """Return the low-resolution file of each original that has one."""
    by_stem = {file.stem: file for file in low_files}
    partners = {}
    for file in files:
        low_stem = _HIGH_TAG.sub("LR", file.stem)
        for stem in (f"{file.stem}x{scale}", f"{low_stem}x{scale}", low_stem):
            if stem in by_stem and by_stem[stem] != file:
                partners[file] = by_stem[stem]
                break
    return partners


def _detect_folders(folder: Path, scale: int) -> tuple[Path, Path | None]:
    """Return the folders of originals and of low-resolution images in a folder of both."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    originals = [path for path in inner if _ORIGINALS.fullmatch(path.name)]
    if not originals:
        return folder, None
    candidates = (_folder_of_scale(path, scale) for path in inner if _LOW.fullmatch(path.name))
    low = [path for path in candidates if path is not None]
    for kind, option, paths in (("originals", "--images", originals),
                                ("low-resolution images", "--low-images", low)):  # fmt: skip
        if len(paths) > 1:
            raise TesseraeError(
                f"{folder} has several folders of {kind}: {', '.join(str(path) for path in paths)}."
                f" Name both folders, that of {kind} with {option}."
            )
    return originals[0], low[0] if low else None


def _folder_of_scale(folder: Path, scale: int) -> Path | None:
    """Return a folder, or that in it which is named by the factor; None if it is of another one."""
    inner = {path.name.lower(): path for path in folder.glob("[xX][2348]") if path.is_dir()}
    if inner:
        return inner.get(f"x{scale}")
    factor = _SCALE_AT_END.fullmatch(folder.name)
    return folder if factor is None or int(factor[1]) == scale else None
