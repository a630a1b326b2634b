"""Squares of any size: the kept box, its position, and equality with Pillow's resize."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images.decode import RULES, Decoded, decode
from pipeline.images.resize import EXACT_PAD_RULES, FILTERS, FITS, fit_box, resize
from pipeline.store import recipe
from pipeline.store.recipe import DECODE_RULES

SIDES = st.integers(1, 400)


def picture(width, height):
    """Return an image with slopes, edges and grain."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 3 + y, (x // 9 + y // 7) % 2 * 255, (x * y) // 5 + (x * 2654435761 >> 7) % 32]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def decoded(width, height, color=None):
    image = picture(width, height) if color is None else Image.new("RGB", (width, height), color)
    return Decoded(image, width, height, "RGB", "PNG", 1)


def square(source, size, *, fit="crop", filter="bicubic", rules=RULES):
    pixels = resize(source, size, fit=fit, filter=filter, rules=rules)
    return np.frombuffer(pixels, np.uint8).reshape(size, size, 3)


class TestBox:
    @given(width=SIDES, height=SIDES)
    def test_crop_keeps_the_largest_centred_square(self, width, height):
        """The box is off the centre by at most half a pixel, to the left and top."""
        left, top, right, bottom = fit_box(width, height, "crop")
        assert right - left == bottom - top == min(width, height)
        assert 0 <= (width - right) - left <= 1
        assert 0 <= (height - bottom) - top <= 1

    @given(width=SIDES, height=SIDES, fit=st.sampled_from(["pad", "squish"]))
    def test_pad_and_squish_keep_the_whole_image(self, width, height, fit):
        """The box is the whole image."""
        assert fit_box(width, height, fit) == (0, 0, width, height)

    def test_an_unknown_fit_is_refused(self):
        """The error names the valid fits."""
        with pytest.raises(ValueError, match="'stretch': expected one of crop, pad, squish"):
            fit_box(3, 4, "stretch")

    def test_recipe_and_resizer_have_the_same_fits_filters_and_rules(self):
        """They are listed twice, because a reader of stores needs no Pillow."""
        assert RULES == DECODE_RULES
        assert {fit: recipe.decode_rules_for(fit) >= EXACT_PAD_RULES for fit in FITS} == {
            "crop": False,
            "pad": True,
            "squish": False,
        }
        assert set(recipe.FITS) == set(FITS)
        assert set(recipe.FILTERS) == set(FILTERS)


class TestResize:
    @given(
        width=SIDES,
        height=SIDES,
        size=st.integers(1, 100),
        fit=st.sampled_from(FITS),
        filter=st.sampled_from(sorted(FILTERS)),
    )
    def test_any_image_shape_gives_a_square_of_the_requested_size(
        self, width, height, size, fit, filter
    ):
        """Every byte is written: an image of one colour gives that colour (or black padding)."""
        source = decoded(width, height, (10, 200, 31))
        out = square(source, size, fit=fit, filter=filter, rules=2)
        colors = {tuple(color) for color in out.reshape(-1, 3).tolist()}
        assert (10, 200, 31) in colors
        assert colors <= {(10, 200, 31), (0, 0, 0)} if fit == "pad" else len(colors) == 1
        if fit != "pad":
            assert np.array_equal(square(source, size, fit=fit, filter=filter), out)

    @pytest.mark.parametrize("filter", sorted(FILTERS))
    @pytest.mark.parametrize("size", [(61, 83), (83, 61), (300, 70), (5, 5)])
    def test_a_crop_is_pillows_resize_of_the_centred_square(self, size, filter):
        """At the border the filter uses the pixels outside of the box."""
        resample = getattr(Image.Resampling, filter.upper())
        side = min(size)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        box = (left, top, left + side, top + side)
        expected = picture(*size).resize((72, 72), resample, box=box)
        assert np.array_equal(square(decoded(*size), 72, filter=filter), np.asarray(expected))

    def test_a_squish_is_pillows_resize_of_the_whole_image(self):
        """A squish changes the aspect ratio."""
        expected = picture(83, 61).resize((40, 40), Image.Resampling.BICUBIC)
        assert np.array_equal(square(decoded(83, 61), 40, fit="squish"), np.asarray(expected))

    @pytest.mark.parametrize(
        ("size", "inner"),
        [((80, 40), (40, 20)), ((40, 80), (20, 40)), ((80, 41), (40, 21)), ((999, 1), (40, 1))],
    )
    def test_by_rules_2_a_pad_is_rounded_to_whole_pixels(self, size, inner):
        """The shorter side rounds half up, and has at least one pixel."""
        left, top = (40 - inner[0]) // 2, (40 - inner[1]) // 2
        expected = np.zeros((40, 40, 3), np.uint8)
        resized = picture(*size).resize(inner, Image.Resampling.BICUBIC)
        expected[top : top + inner[1], left : left + inner[0]] = np.asarray(resized)
        for rules in (1, 2):
            assert np.array_equal(square(decoded(*size), 40, fit="pad", rules=rules), expected)

    @given(
        width=SIDES,
        height=SIDES,
        size=st.integers(1, 100),
        filter=st.sampled_from(sorted(FILTERS)),
    )
    def test_a_pad_lies_in_the_centre_and_covers_its_exact_share(self, width, height, size, filter):
        """White fills whole lines, and the one at each edge by the share that the image covers."""
        out = square(decoded(width, height, (255,) * 3), size, fit="pad", filter=filter)
        lines = out if width >= height else out.transpose(1, 0, 2)
        assert (lines == lines[:, :1, :1]).all()
        levels = lines[:, 0, 0]
        first = (size - size * min(width, height) / max(width, height)) / 2
        edges = np.arange(size)
        shares = np.clip(np.minimum(edges + 1, size - first) - np.maximum(edges, first), 0, 1)
        assert abs(levels - 255 * shares).max() < 0.51

    @pytest.mark.parametrize(
        ("sides", "black"),
        [((80, 40), (0, 10)), ((20, 80), (15, 0)), ((40, 40), (0, 0))],
    )
    def test_a_pad_between_whole_lines_is_pillows_resize(self, sides, black):
        """Without a line that the image covers in part, nothing is blended."""
        inner = tuple(40 - 2 * lines for lines in black)
        expected = Image.new("RGB", (40, 40))
        expected.paste(picture(*sides).resize(inner, Image.Resampling.BICUBIC), black)
        assert np.array_equal(square(decoded(*sides), 40, fit="pad"), np.asarray(expected))

    def test_the_edge_of_a_pad_has_the_colours_of_its_part_of_the_image(self):
        """An image of 27 by 10 pixels lies 8.5 lines from the border of a square of 27 lines."""
        source = decoded(27, 10)
        out = square(source, 27, fit="pad", filter="bilinear")
        rows = np.asarray(source.pixels).astype(float)
        # The edges have half of a row of pixels, the other lines are halfway between two rows.
        expected = np.concatenate([rows[:1] / 2, (rows[:-1] + rows[1:]) / 2, rows[-1:] / 2])
        assert abs(out[8:19] - expected).max() <= 1
        assert not out[:8].any()
        assert not out[19:].any()

    @pytest.mark.parametrize(
        ("size", "levels"), [(72, {35: 2, 36: 2}), (73, {36: 5}), (288, {143: 9, 144: 9})]
    )
    def test_a_strip_thinner_than_a_line_is_dimmed(self, size, levels):
        """White of 4000 by 1 covers 0.018 lines of 72; at no size it is drawn any thicker."""
        for sides in ((4000, 1), (1, 4000)):
            out = square(decoded(*sides, (255,) * 3), size, fit="pad")
            lines = (out if sides[0] > 1 else out.transpose(1, 0, 2))[:, 0, 0]
            assert {i: lines[i] for i in np.flatnonzero(lines)} == levels

    @pytest.mark.parametrize("fit", FITS)
    def test_rgbx_pixels_are_resized_like_rgb(self, fit):
        """Simplejpeg returns RGBX, whose fourth byte is ignored."""
        plain = decoded(83, 61)
        rows = np.dstack([np.asarray(plain.pixels), np.full((61, 83), 201, np.uint8)])
        fourth = Image.frombuffer("RGBX", (83, 61), rows.tobytes(), "raw", "RGBX", 0, 1)
        padded = Decoded(fourth, 83, 61, "RGB", "JPEG", 1)
        assert np.array_equal(square(padded, 50, fit=fit), square(plain, 50, fit=fit))

    @pytest.mark.parametrize("fit", FITS)
    @pytest.mark.parametrize("scale", [2, 4, 8])
    def test_a_reduced_decode_keeps_the_crop_box(self, fit, scale):
        """The box of a reduced image is in fractions of a pixel, so the content does not shift."""
        y, x = np.mgrid[:427, :643]
        image = Image.fromarray(np.stack([x * 255 / 642, y * 255 / 426, x * 0], -1).astype("u1"))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=98)
        full = decode(buffer.getvalue(), fit=fit, serves=10**6, exif=False)
        side = 643 if fit == "pad" else 427
        reduced = decode(buffer.getvalue(), fit=fit, serves=side // (2 * scale), exif=False)
        assert (full.scale, reduced.scale) == (1, scale)
        off = square(full, 24, fit=fit).astype(int) - square(reduced, 24, fit=fit)
        assert abs(off).mean() < 0.5


def check_photograph(path, fit, serves):
    data = path.read_bytes()
    source = decode(data, fit=fit, serves=serves, exif=False)
    with Image.open(io.BytesIO(data)) as image:
        assert (source.width, source.height, source.mode) == (*image.size, image.mode)
        if source.scale > 1:
            image.draft(None, (image.width // source.scale, image.height // source.scale))
        rgb = image.convert("RGB")
    box = tuple(edge / source.scale for edge in fit_box(source.width, source.height, fit))
    for size in (size for size in (72, 224, 288) if size <= serves):
        expected = rgb.resize((size, size), Image.Resampling.BICUBIC, box=box)
        assert np.array_equal(square(source, size, fit=fit), np.asarray(expected)), (path, size)


class TestPhotographs:
    def test_some_real_photographs_equal_plain_pillow(self, real_data):
        """Opening, converting and resizing with Pillow gives the same pixels."""
        for path in sorted((real_data / "imagenet" / "train").rglob("*.JPEG"))[::20]:
            check_photograph(path, "crop", 288)

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize(
        ("fit", "serves"), [("crop", 288), ("squish", 288), ("crop", 72), ("squish", 72)]
    )
    def test_all_real_photographs_equal_plain_pillow(self, real_data, fit, serves):
        """Photographs are equal at full size and reduced as far as 72 px allow."""
        paths = sorted((real_data / "imagenet" / "train").rglob("*.JPEG"))
        assert len(paths) == 400
        for path in paths:
            check_photograph(path, fit, serves)
