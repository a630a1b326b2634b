"""The plan of the sample's images, and how they are rendered."""

import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from workflows.sample_data import photographs
from workflows.sample_data.photographs import (
    CLASSES,
    SIZES_AND_PERCENTS,
    draw_box,
    draw_size,
    encode,
    plan_images,
    render_photograph,
)


@given(
    focus=st.tuples(*[st.floats(0, 1)] * 4).map(
        lambda f: (*(min(f[i], f[i + 2]) for i in (0, 1)), *(max(f[i], f[i + 2]) for i in (0, 1)))
    ),
    size=st.tuples(st.integers(50, 2000), st.integers(50, 2000)),
    aspect=st.floats(0.2, 5),
    seed=st.integers(),
)
def test_a_crop_has_the_requested_shape_inside_its_photograph(focus, size, aspect, seed):
    """Photograph, shape and subject are arbitrary."""
    left, top, right, bottom = draw_box(random.Random(seed), focus, size, aspect)

    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert (right - left) / (bottom - top) == pytest.approx(aspect, rel=1e-3)


@given(st.integers())
def test_a_crop_contains_its_subject_if_it_fits(seed):
    """The head of a person is not cut off, for example."""
    left, top, right, bottom = draw_box(random.Random(seed), (0.4, 0.1, 0.6, 0.3), (500, 500), 1.0)

    assert left <= 200.01
    assert top <= 50.01
    assert right >= 299.99
    assert bottom >= 149.99


def test_sizes_are_distributed_like_imagenets():
    """Most are 500 x 375; some are larger, some smaller than 288 px, a few very wide."""
    drawn = [draw_size(random.Random(f"{i}")) for i in range(4000)]
    shorter = sorted(min(size) for size in drawn)

    assert {(w, h) for w, h, _ in SIZES_AND_PERCENTS} == set(drawn)
    assert shorter[len(shorter) // 2] == 375
    assert 0.3 < drawn.count((500, 375)) / len(drawn) < 0.5
    assert 0.05 < sum(side < 288 for side in shorter) / len(drawn) < 0.2
    assert any(w > 3 * h for w, h in drawn)


def test_no_photograph_is_in_two_splits_or_classes():
    """Images in val come from photographs that train does not use."""
    files = [p.file for noun in CLASSES for p in (*noun.train, *noun.val)]

    assert len(files) == len(set(files))
    assert all(noun.train and noun.val for noun in CLASSES)


@pytest.mark.parametrize("images", [14, 15, 40, 200, 1001])
def test_every_class_is_in_both_splits(images):
    """The number of images is as requested, and each has a name of its own."""
    pictures = list(plan_images(images, 0, 7))

    assert images == len(pictures) == len({p.path for p in pictures})
    for split in ("train", "val"):
        assert {noun.wnid for noun in CLASSES} == {p.wnid for p in pictures if p.split == split}


@pytest.mark.parametrize(
    ("images", "kinds"),
    [
        (7, {"plain"}),
        (20, {"plain", "grey", "png"}),
        (40, {"plain", "grey", "png", "cmyk", "truncated", "empty"}),
    ],
)
def test_a_small_sample_has_fewer_odd_files(images, kinds):
    """From 40 images on all kinds occur, and none of them in val."""
    pictures = list(plan_images(images, 3, 3))

    assert kinds == {p.kind for p in pictures}
    assert {"plain"} == {p.kind for p in pictures if p.split == "val"}


def test_a_large_sample_has_a_few_grey_images_and_one_of_each_other_kind():
    """The shares of unusual files resemble ImageNet's."""
    kinds = [p.kind for p in plan_images(400, 0, 7)]

    assert kinds.count("grey") == 9
    assert [kinds.count(kind) for kind in ("png", "cmyk", "truncated", "empty")] == [1] * 4


def test_another_seed_changes_odd_files_and_crops():
    """The seed determines everything that is random."""
    first, second = (list(plan_images(200, seed, 7)) for seed in (0, 1))

    assert [p.kind for p in first] != [p.kind for p in second]
    assert not {p.random_seed for p in first} & {p.random_seed for p in second}


@pytest.mark.parametrize(
    ("kind", "form", "mode"),
    [
        ("plain", "JPEG", "RGB"),
        ("grey", "JPEG", "L"),
        ("cmyk", "JPEG", "CMYK"),
        ("png", "PNG", "RGB"),
    ],
)
def test_a_file_has_the_format_and_mode_of_its_kind(kind, form, mode):
    """The suffix of its name does not matter."""
    with Image.open(io.BytesIO(encode(Image.new("RGB", (40, 30), "red"), kind, 90))) as image:
        assert (form, mode, (40, 30)) == (image.format, image.mode, image.size)
        image.load()


def test_a_truncated_file_begins_like_a_jpeg_and_cannot_be_decoded():
    """The header states the size, and the data end early."""
    noise = Image.effect_noise((200, 150), 80).convert("RGB")
    with Image.open(io.BytesIO(encode(noise, "truncated", 90))) as image:
        assert image.format == "JPEG"
        with pytest.raises(OSError, match="truncated"):
            image.load()


def test_crops_are_reproducible_and_distinct():
    """Two images of the same photograph differ, and each is reproducible."""
    photograph = Image.effect_noise((300, 200), 60).convert("RGB")
    first, *_, last = (p for p in plan_images(60, 0, 2) if p.kind == "plain")

    assert render_photograph(first, photograph) == render_photograph(first, photograph)
    assert render_photograph(first, photograph) != render_photograph(last, photograph)


def test_an_empty_file_has_no_bytes():
    """Such a file is one of the odd kinds."""
    picture = next(p for p in plan_images(40, 0, 7) if p.kind == "empty")

    assert render_photograph(picture, Image.new("RGB", (10, 10))) == b""


def test_text_photographs_are_not_flipped():
    """A photograph of a page has no mirrored text."""
    texts = [p for noun in CLASSES if "text" in noun.words for p in (*noun.train, *noun.val)]

    assert [p.mirrors for p in texts] == [False, False]
    assert photographs.Photograph("x").mirrors


def test_all_photographs_of_a_class_are_used():
    """A class may have several photographs."""
    vehicles = {p.photograph.file for p in plan_images(60, 0, 2) if p.wnid == "n04524313"}

    assert vehicles == {"motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"}


def test_crops_vary_in_mirroring_brightness_and_tone():
    """A grey gradient from left to right shows mirroring, brightness and tone."""
    photograph = Image.linear_gradient("L").rotate(90).convert("RGB")
    seen = []
    for picture in plan_images(120, 0, 2):
        if picture.kind == "plain":
            with Image.open(io.BytesIO(render_photograph(picture, photograph))) as image:
                seen.append(image.resize((2, 1), Image.Resampling.BOX).tobytes())
    rising = [pixels[4] > pixels[1] for pixels in seen]
    warmth = [pixels[3] - pixels[5] for pixels in seen]

    assert 0.3 < sum(rising) / len(rising) < 0.7
    assert min(warmth) < -4
    assert max(warmth) > 4
