"""Folders of images become pairs, whatever the layout, and what cannot is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import StoreError, TesseraeError
from tests.images import jpeg, prepare_inline
from tests.workflows.training.small import small_store
from workflows.superres import bicubic
from workflows.superres.choices import BICUBIC, STORED
from workflows.superres.data import PairArrays
from workflows.superres.evaluated_images import (
    EvaluatedPair,
    FolderPairs,
    SplitPairs,
    UnsuitableImageError,
    open_folder,
)
from workflows.superres.options import SuperresOptions

SCALE = 2
HIGH, LOW = (25, 20), (12, 10)
"""The width and height of an original, whose last column is cut off, and of its partner."""

LAYOUTS = {
    "tags beside": ["a_SRF_2_HR.png", "b_SRF_2_HR.png", "a_SRF_2_LR.png", "b_SRF_2_LR.png"],
    "factors beside": ["a.png", "b.png", "ax2.png", "bx2.png"],
    "folders": ["HR/a.png", "HR/b.png", "LR/a.png", "LR/b.png", "readme.txt"],
    "factors in folders": ["HR/a_HR.png", "HR/b_HR.png", "LRbicx2/a_LRx2.png", "LRbicx2/b_LRx2.png",
                           "LRbicx4/ax4.png"],
    "DIV2K": ["x_valid_HR/0801.png", "x_valid_HR/0802.png", "x_valid_LR_bicubic/X2/0801x2.png",
              "x_valid_LR_bicubic/X2/0802x2.png", "x_valid_LR_bicubic/X3/0801x3.png"],
    "originals": ["a.png", "b.PNG", ".hidden.png", "notes.txt"],
    "originals in a folder": ["GT/a.png", "GT/b.png", "masks/a.png"],
}  # fmt: skip
"""The files of each layout; the first two are the originals."""


def write(file: Path, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Write an image that its name decides, and return it."""
    width, height = size
    generator = np.random.default_rng(list(str(file.name).encode()))
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return image


def tensor_of(file: Path) -> Tensor:
    """Return the pixels of a file, (1, 3, h, w) float32."""
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float()


def read(images: FolderPairs) -> list[EvaluatedPair]:
    """Return all pairs, each of which must be suitable."""
    pairs = [pair for _, pair in images.pairs()]
    assert all(isinstance(pair, EvaluatedPair) for pair in pairs), pairs
    return pairs  # type: ignore[return-value]


def reasons(images: FolderPairs) -> list[str]:
    """Return why images are left out."""
    return [str(pair) for _, pair in images.pairs() if isinstance(pair, UnsuitableImageError)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_those_of_the_layout(tmp_path: Path, layout: str) -> None:
    """Published low-resolution images are read; others are made of the originals."""
    names = LAYOUTS[layout]
    for name in names:
        if name.lower().endswith(".png"):
            write(tmp_path / name, HIGH if name in names[:2] else LOW)
        else:
            (tmp_path / name).write_text("no image")
    pairs = read(open_folder(tmp_path, None, SCALE, limit=9))
    assert [pair.name for pair in pairs] == [Path(name).name for name in names[:2]]
    for position, pair in enumerate(pairs):
        high = tensor_of(tmp_path / names[position])[:, :, :, :24]
        assert torch.equal(pair.high, high)
        made = bicubic.reduce(high, SCALE)
        is_made = layout.startswith("originals")
        low = made if is_made else tensor_of(tmp_path / names[position + 2])
        assert torch.equal(pair.low, low)
        assert is_made or not torch.equal(low, made)


def test_folders_and_a_limit_may_be_named(tmp_path: Path) -> None:
    """The folder of low-resolution images may be one of several factors; the first images count."""
    for name in "abc":
        write(tmp_path / "set" / f"{name}.png", HIGH)
        write(tmp_path / "small" / "x2" / f"{name}.png", LOW)
    images = open_folder(tmp_path / "set", tmp_path / "small", SCALE, limit=2)
    assert len(images) == 2
    assert (
        images.description == f"of {tmp_path}/set, with low-resolution images of {tmp_path}/small"
    )
    assert [pair.name for pair in read(images)] == ["a.png", "b.png"]
    assert [index for index, _ in images.pairs({1})] == [1]


def test_grey_images_have_three_equal_channels(tmp_path: Path) -> None:
    """They are evaluated as colour images are."""
    write(tmp_path / "grey.png", HIGH, "L")
    (pair,) = read(open_folder(tmp_path, None, SCALE, limit=9))
    assert torch.equal(pair.high[:, 0], pair.high[:, 1])
    assert torch.equal(pair.low[:, 0], pair.low[:, 2])


def test_unsuitable_images_are_left_out_by_name(tmp_path: Path) -> None:
    """They are unreadable, too small, without a partner, or with one of another size."""
    high, low = tmp_path / "HR", tmp_path / "LR"
    for name in ("fine", "alone", "other"):
        write(high / f"{name}.png", HIGH)
    for name, size in (("fine", LOW), ("other", (13, 10)), ("small", (7, 7)), ("cut", LOW)):
        write(low / f"{name}.png", size)
    write(high / "small.png", (14, 15))
    write(high / "cut.png", HIGH)
    (high / "cut.png").write_bytes((high / "cut.png").read_bytes()[:200])
    images = open_folder(tmp_path, None, SCALE, limit=9)
    assert len(images) == 5
    alone, cut, other, small = reasons(images)
    assert alone == f"{high}/alone.png has no low-resolution image."
    assert cut.startswith(f"{high}/cut.png is not a readable image: ")
    assert other == (
        f"{low}/other.png has 13x10 pixels: expected 12x10, those of other.png divided by 2."
    )
    assert small == (
        f"{high}/small.png has 14x15 pixels: expected at least 15 on each side for an enlargement"
        " by 2."
    )


def test_images_that_belong_to_no_pair_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such folders also hold the results of other methods."""
    for name, size in (("a_HR", HIGH), ("a_LR", LOW), ("a_bicubic", HIGH)):
        write(tmp_path / f"{name}.png", size)
    assert len(open_folder(tmp_path, None, SCALE, limit=9)) == 1
    assert "1 image of" in (notice := capsys.readouterr().out)
    assert "such as a_bicubic.png, and are left out." in notice


@pytest.mark.parametrize(
    ("files", "low", "message"),
    [
        ([], None, r"nowhere is not a readable folder \(No such file or directory\): expected"),
        (["notes.txt"], None, r"has no images: expected a folder of JPEG or PNG files, or"),
        (
            ["old_HR/a.png", "new_HR/a.png"],
            None,
            r"several folders of originals: .*/new_HR, .*Name",
        ),
        (
            ["HR/a.png", "LR_bicubic/a.png", "LR_unknown/a.png"],
            None,
            r"several folders of low-resolution images: .* with --low-images\.",
        ),
        (["a.png", "low/b.png"], "low", r"low has 1 image, and none belongs to .* as a or ax2\."),
    ],
)
def test_folders_without_clear_pairs_are_refused(
    tmp_path: Path, files: list[str], low: str | None, message: str
) -> None:
    """The error says what was expected."""
    for name in files:
        write(tmp_path / "nowhere" / name, LOW) if name.endswith("png") else None
    if files == ["notes.txt"]:
        (tmp_path / "nowhere").mkdir()
    folder = tmp_path / "nowhere"
    with pytest.raises(TesseraeError, match=message):
        open_folder(folder, None if low is None else folder / low, SCALE, limit=9)


# --- rows of a store ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store with 18 images of 12 and 24 px in split val."""
    folder = tmp_path_factory.mktemp("evaluated")
    return str(small_store(folder, sizes=(12, 24), encoded=("jpeg:24@90",)))


def pairs_of(store: str, arrays: PairArrays, limit: int = 99) -> SplitPairs:
    """Return the pairs of split val."""
    options = SuperresOptions(
        scale=arrays.scale, degradation=arrays.degradation, encoded=arrays.encoded
    )
    return SplitPairs(store, "val", options, arrays, limit)


def test_rows_of_a_split_are_read_again_in_their_order(store: str) -> None:
    """Their names are their keys, and pairs are those that the run trained on."""
    stored = pairs_of(store, PairArrays(2, STORED, (12, 24)))
    assert stored.description == "of split val, pairs of stored images, 12 px and 24 px"
    first = dict(stored.pairs())
    assert len(first) == len(stored) == 18
    again = dict(stored.pairs({3, 11}))
    assert list(again) == [3, 11]
    for index, pair in again.items():
        before = first[index]
        assert isinstance(pair, EvaluatedPair)
        assert isinstance(before, EvaluatedPair)
        assert pair.name == before.name
        assert torch.equal(pair.high, before.high)
        assert (pair.low.shape[2], pair.high.shape[2]) == (12, 24)
    names = {pair.name for pair in first.values() if isinstance(pair, EvaluatedPair)}
    assert len(names) == 18
    assert all(re.fullmatch(r"n0000000\d/val\d+\.JPEG", name) for name in names)
    reduced = pairs_of(store, PairArrays(2, BICUBIC, (24,)), limit=4)
    ((_, pair),) = reduced.pairs({2})
    assert isinstance(pair, EvaluatedPair)
    assert len(reduced) == 4
    assert torch.equal(pair.low, bicubic.reduce(pair.high, 2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (PairArrays(2, STORED, (24, 48)), r"expected images of 24 and 48 px, as the .*--sizes 48`"),
        (PairArrays(2, BICUBIC, (12,)), r"trained on images of 12 px: expected at least 15 px"),
        (PairArrays(2, BICUBIC, encoded="original"), r"has no finished original: it has"),
    ],
)
def test_splits_without_suitable_images_are_refused(
    store: str, arrays: PairArrays, message: str
) -> None:
    """A size is missing, or images are too small."""
    with pytest.raises(StoreError, match=message):
        pairs_of(store, arrays)


def test_centres_of_encoded_pictures_are_reduced(tmp_path: Path) -> None:
    """Smaller pictures are left out."""
    for number, side in enumerate((250, 244, 200)):
        file = tmp_path / "source" / "n00000000" / f"{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number, side, side))
    store = str(tmp_path / "store")
    prepare_inline(tmp_path / "source", store, split="val", sizes=(), encoded=("jpeg:256@90",))
    images = pairs_of(store, PairArrays(4, BICUBIC, encoded="jpeg:256@90"))
    assert images.description.endswith("and the same reduced by 4, centres of 240 px")
    pairs = [pair for _, pair in images.pairs() if isinstance(pair, EvaluatedPair)]
    assert sorted(pair.name for pair in pairs) == ["n00000000/0.JPEG", "n00000000/1.JPEG"]
    assert all(pair.low.shape == (1, 3, 60, 60) for pair in pairs)
