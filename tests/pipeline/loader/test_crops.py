"""Crops lie in their pictures, follow torchvision's distribution, and depend on nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.loader import Crop, crops
from pipeline.loader.crops import as_crop
from pipeline.order import key

SHAPES = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20)


def boxes_of(crop: Crop, shapes: Any, **words: int) -> NDArray[np.int32]:
    sizes = np.array(shapes, np.int32)
    arguments = {"seed": 0, "epoch": 0, **words}
    return crop.boxes(sizes, np.arange(len(sizes)), **arguments)


# --- laws -----------------------------------------------------------------------------------------


@given(
    shapes=SHAPES,
    kind=st.sampled_from(crops.CROPS),
    share=st.floats(0.01, 1),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(sorted),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**64 - 1),
)
def test_every_box_lies_in_its_picture_and_is_not_empty(
    shapes: list[tuple[int, int]],
    kind: str,
    share: float,
    area: list[float],
    ratio: list[float],
    seed: int,
    epoch: int,
) -> None:
    """The decoder refuses any other box."""
    fields: dict[str, Any] = {}
    if kind == "resized":
        fields = {"area": area, "ratio": ratio}
    elif kind in ("random", "centre"):
        fields = {"share": share}
    left, top, right, bottom = boxes_of(Crop(kind, **fields), shapes, seed=seed, epoch=epoch).T
    height, width = np.array(shapes).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left < right).all()
    assert (top < bottom).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    if kind in ("random", "centre"):
        assert (right - left == bottom - top).all()
        assert (np.abs(right - left - np.minimum(width, height) * share) < 1).all()
    if kind == "whole":
        assert (right - left == width).all()
        assert (bottom - top == height).all()
    if kind == "centre":
        assert (np.abs(left - (width - right)) <= 1).all()
        assert (np.abs(top - (height - bottom)) <= 1).all()


@given(
    shapes=SHAPES,
    area=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)).map(sorted),
    seed=st.integers(0, 2**64 - 1),
)
def test_area_and_ratio_are_in_range_or_the_box_is_the_largest(
    shapes: list[tuple[int, int]], area: list[float], ratio: list[float], seed: int
) -> None:
    """Sides are rounded to whole pixels, so a box may differ by half a pixel."""
    crop = Crop("resized", area=(area[0], area[1]), ratio=(ratio[0], ratio[1]))
    for (height, width), box in zip(shapes, boxes_of(crop, shapes, seed=seed), strict=True):
        across, down = int(box[2] - box[0]), int(box[3] - box[1])
        smallest, largest = (across - 0.5) * (down - 0.5), (across + 0.5) * (down + 0.5)
        narrow, wide = (across - 0.5) / (down + 0.5), (across + 0.5) / (down - 0.5)
        in_area = smallest <= area[1] * width * height and largest >= area[0] * width * height
        in_ratio = narrow <= ratio[1] * (1 + 1e-9) and wide >= ratio[0] * (1 - 1e-9)
        is_largest = across == width or down == height
        assert (in_area and in_ratio) or is_largest


@given(
    kind=st.sampled_from(["resized", "random"]),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**64 - 1),
    data=st.data(),
)
def test_a_row_gets_the_same_box_in_any_batch(
    kind: str, seed: int, epoch: int, data: st.DataObject
) -> None:
    """Ranks, threads and batches only choose which rows are asked for together."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 600, (40, 2)).astype(np.int32)
    crop = Crop(kind)
    whole = crop.boxes(shapes, np.arange(40), seed=seed, epoch=epoch)
    rows = np.array(data.draw(st.lists(st.integers(0, 39), max_size=12)), np.int64)
    part = crop.boxes(shapes[rows], rows, seed=seed, epoch=epoch)
    assert np.array_equal(part, whole[rows])


@pytest.mark.parametrize("kind", ["resized", "random"])
def test_seed_epoch_and_row_each_change_the_box(kind: str) -> None:
    """Two of a thousand boxes may agree by chance."""
    shapes = np.array([[500, 900]] * 1000, np.int32)
    rows = np.arange(1000)
    crop = Crop(kind)
    plain = crop.boxes(shapes, rows, seed=0, epoch=0)
    for other in (
        crop.boxes(shapes, rows, seed=1, epoch=0),
        crop.boxes(shapes, rows, seed=0, epoch=1),
        crop.boxes(shapes, rows + 1000, seed=0, epoch=0),
    ):
        assert (plain == other).all(1).mean() < 0.1


def test_draws_share_no_purpose_with_augmentations() -> None:
    """A crop that mirrors would otherwise know the box."""
    from pipeline import augment

    assert max(augment.MIRROR, augment._TOP) + 1000 < crops._FIRST_PURPOSE


# --- values ---------------------------------------------------------------------------------------


def test_boxes_have_fixed_values() -> None:
    """Saved states continue with the same crops on any machine and in any version."""
    shapes = [(256, 341), (400, 256), (256, 2000), (3000, 20), (1, 1)]
    resized = boxes_of(Crop("resized"), shapes, seed=7, epoch=3)
    assert resized.tolist() == GOLDEN_RESIZED
    random = boxes_of(Crop("random", share=0.5), shapes, seed=7, epoch=3)
    assert random.tolist() == GOLDEN_RANDOM
    assert boxes_of(Crop("centre", share=0.875), shapes).tolist() == [
        [58, 16, 282, 240],
        [16, 88, 240, 312],
        [888, 16, 1112, 240],
        [1, 1491, 19, 1509],
        [0, 0, 1, 1],
    ]
    assert boxes_of(Crop("whole"), shapes[:2]).tolist() == [[0, 0, 341, 256], [0, 0, 256, 400]]


GOLDEN_RESIZED = [
    [57, 7, 341, 256],
    [17, 22, 227, 238],
    [829, 0, 1170, 256],
    [0, 1486, 20, 1513],
    [0, 0, 1, 1],
]
GOLDEN_RANDOM = [
    [210, 122, 338, 250],
    [47, 32, 175, 160],
    [443, 96, 571, 224],
    [3, 1067, 13, 1077],
    [0, 0, 1, 1],
]


def test_keys_of_arrays_are_those_of_numbers() -> None:
    """The hash of a draw is that of every other key."""
    draws = crops._Draws(7, 3, np.array([0, 5, 2**40]))
    expected = [key(7, 3, 0x43524F50 + 2, row) for row in (0, 5, 2**40)]
    assert draws._hashes(np.array(2)).tolist() == expected


def test_exponentials_are_those_of_the_library() -> None:
    """They are within ten digits, over all ratios that a crop may have."""
    values = np.linspace(-math.log(1000), math.log(1000), 1001)
    assert np.allclose(crops._exp(values), np.exp(values), rtol=1e-10, atol=0)


# --- the distribution -----------------------------------------------------------------------------


def torchvision_box(
    rng: np.random.Generator,
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Draw one box as torchvision documents RandomResizedCrop, with numpy's generator."""
    for _ in range(10):
        target = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        across, down = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < across <= width and 0 < down <= height:
            left = int(rng.integers(0, width - across + 1))
            top = int(rng.integers(0, height - down + 1))
            return left, top, left + across, top + down
    across, down = width, height
    if width / height < ratio[0]:
        down = round(width / ratio[0])
    elif width / height > ratio[1]:
        across = round(height * ratio[1])
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


@pytest.mark.parametrize(
    ("width", "height", "fields"),
    [
        (341, 256, {}),
        (60, 400, {}),
        (256, 256, {"area": (0.5, 1.0), "ratio": (0.9, 2.0)}),
        (9, 7, {}),
    ],
)
def test_boxes_have_the_distribution_of_torchvision(
    width: int, height: int, fields: dict[str, Any]
) -> None:
    """Left, top, width, height and area agree by the Kolmogorov-Smirnov statistic."""
    count = 4000
    crop = Crop("resized", **fields)
    ours = boxes_of(crop, [(height, width)] * count, seed=11).astype(np.int64)
    rng = np.random.default_rng(5)
    theirs = np.array(
        [torchvision_box(rng, width, height, crop.area, crop.ratio) for _ in range(count)]
    )
    for ours_of, theirs_of in zip(features(ours), features(theirs), strict=True):
        points = np.union1d(ours_of, theirs_of)
        distance = np.abs(
            np.searchsorted(np.sort(ours_of), points, side="right")
            - np.searchsorted(np.sort(theirs_of), points, side="right")
        ).max()
        # 1.95 sqrt(2 / n) is exceeded by one of a thousand pairs of samples.
        assert distance / count < 1.95 * math.sqrt(2 / count)


def features(boxes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    left, top, right, bottom = boxes.T
    across, down = right - left, bottom - top
    # The position is compared through the edges on both sides: they share one distribution.
    return [left, top, right, bottom, across, down, across * down]


def test_positions_of_a_random_square_are_uniform() -> None:
    """Each of the ten positions is as likely as the others, by the chi-square statistic."""
    boxes = boxes_of(Crop("random"), [(10, 19)] * 10_000, seed=3)
    counts = np.bincount(boxes[:, 0], minlength=10)
    assert len(counts) == 10
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # one of a thousand samples has more


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "squash"}, "crop is 'squash': expected one of resized, random, centre, whole"),
        ({"kind": "resized", "area": (0, 1)}, "area is 0 to 1: expected more than 0"),
        ({"kind": "resized", "area": (0.5, 1.1)}, r"area is 0.5 to 1.1: .* at most 1\."),
        ({"kind": "resized", "area": (0.5, 0.4)}, "area is 0.5 to 0.4"),
        ({"kind": "resized", "area": 0.5}, "area is 0.5: expected two numbers"),
        ({"kind": "resized", "ratio": (-1, 1)}, "ratio is -1 to 1"),
        ({"kind": "resized", "ratio": (1, float("nan"))}, "ratio is 1 to nan"),
        ({"kind": "centre", "share": 0}, "share is 0: expected more than 0, and at most 1"),
        ({"kind": "random", "share": 1.5}, "share is 1.5: expected more than 0, and at most 1"),
        ({"kind": "whole", "share": 0.5}, "share is 0.5, and the crop is 'whole', which has no"),
        ({"kind": "centre", "area": (0.5, 1)}, r"area is \(0.5, 1.0\), and the crop is 'centre'"),
    ],
)
def test_invalid_crops_are_refused(fields: dict[str, Any], message: str) -> None:
    """The error has the value and what is expected."""
    with pytest.raises(ValueError, match=message):
        Crop(**fields)


def test_a_crop_is_chosen_by_name_or_as_a_value() -> None:
    """Without any, it is the one for evaluation."""
    assert as_crop(None) == Crop() == Crop("centre")
    assert as_crop("resized") == Crop("resized")
    assert as_crop(Crop("random", share=0.5)) == Crop("random", share=0.5)
    with pytest.raises(ValueError, match="crop is 224: expected one of resized"):
        as_crop(224)  # type: ignore[arg-type]
    assert Crop("resized", area=[0.1, 1]).area == (0.1, 1.0)  # type: ignore[arg-type]
    assert len({Crop(kind).text for kind in crops.CROPS}) == 4


# --- squares of a number of pixels ----------------------------------------------------------------


@given(
    shapes=SHAPES,
    kind=st.sampled_from(["random", "centre"]),
    pixels=st.integers(1, 600),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_square_has_its_pixels_where_the_picture_has_as_many(
    shapes: list[tuple[int, int]], kind: str, pixels: int, seed: int
) -> None:
    """It lies in the picture; a smaller picture gives its largest square."""
    left, top, right, bottom = boxes_of(Crop(kind, pixels=pixels), shapes, seed=seed).T
    height, width = np.array(shapes).T
    side = np.minimum(pixels, np.minimum(width, height))
    assert np.array_equal(right - left, side)
    assert np.array_equal(bottom - top, side)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    if kind == "centre":
        assert (np.abs(left - (width - right)) <= 1).all()
        assert (np.abs(top - (height - bottom)) <= 1).all()


def test_positions_of_a_square_of_pixels_are_uniform_to_the_borders() -> None:
    """Each of the positions is as likely as the others, down and across, by the chi-square."""
    boxes = boxes_of(Crop("random", pixels=7), [(16, 11)] * 10_000, seed=3)
    for starts, count, limit in ((boxes[:, 1], 10, 27.9), (boxes[:, 0], 5, 18.5)):
        counts = np.bincount(starts, minlength=count)
        assert len(counts) == count
        expected = 10_000 / count
        assert ((counts - expected) ** 2 / expected).sum() < limit  # one of a thousand has more


def test_squares_of_pixels_have_fixed_values_and_a_text_of_their_own() -> None:
    """The text of a share stays that of earlier versions, whose states are restored."""
    shapes = [(256, 341), (400, 256), (64, 64)]
    boxes = boxes_of(Crop("random", pixels=64), shapes, seed=7, epoch=3)
    assert boxes.tolist() == GOLDEN_PIXELS
    assert Crop("random").text == "random 1.0 1"
    assert Crop("centre", share=0.5).text == "centre 0.5 1"
    assert Crop("random", pixels=64).text == "random 1.0 64 1"
    assert Crop("whole").text == "whole 1"


GOLDEN_PIXELS = [[273, 183, 337, 247], [70, 40, 134, 104], [0, 0, 64, 64]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "random", "pixels": 0}, "pixels is 0: expected"),
        ({"kind": "random", "pixels": 1.5}, "pixels is 1.5: expected"),
        ({"kind": "centre", "pixels": 9, "share": 0.5}, "share is 0.5 and pixels is 9: both are"),
        ({"kind": "resized", "pixels": 9}, "pixels is 9, and the crop is 'resized', which has no"),
        ({"kind": "whole", "pixels": 9}, "pixels is 9, and the crop is 'whole', which has no"),
    ],
)
def test_invalid_squares_of_pixels_are_refused(fields: dict[str, Any], message: str) -> None:
    """The error has the value and what is expected."""
    with pytest.raises((ValueError, TypeError), match=message):
        Crop(**fields)
