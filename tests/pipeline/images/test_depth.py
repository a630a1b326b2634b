"""Samples of more than 8 bits are scaled by the range that their file states, or unsupported.

The oracle is arithmetic: level = 255 * sample / maximum, and no file is read to compute it.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.images.decode import decode
from pipeline.images.depth import nearest_levels
from pipeline.images.rejection import TRUNCATED, UNSUPPORTED
from tests.odd_files import grey_tiff, netpbm, png, png_chunk, tiff

HEIGHT, WIDTH = 7, 9


def levels(data: bytes, **options: Any) -> NDArray[np.uint8]:
    """Return the levels of a file, (height, width, 3) uint8."""
    decoded = decode(data, fit="crop", serves=10**6, exif=False, **options)
    flat = np.frombuffer(decoded.pixels.tobytes("raw", "RGB"), np.uint8)
    return flat.reshape(decoded.height, decoded.width, 3)


def grey_levels(data: bytes, **options: Any) -> NDArray[np.uint8]:
    """Return the levels of a grey file, (height, width) uint8."""
    rgb = levels(data, **options)
    assert np.array_equal(rgb[..., 0], rgb[..., 1])
    assert np.array_equal(rgb[..., 0], rgb[..., 2])
    return rgb[..., 0]


def samples(seed: int, maximum: int, channels: int = 0, kind: type = np.uint16) -> NDArray[Any]:
    """Return random samples of 0 to *maximum* that include both."""
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    values = np.random.default_rng(seed).integers(0, maximum + 1, shape).astype(kind)
    values.flat[0], values.flat[-1] = 0, maximum
    return values


def check_nearest(actual: NDArray[np.uint8], expected: NDArray[np.floating[Any]]) -> None:
    """Check that each level is a nearest one."""
    assert np.abs(actual - expected).max() <= 0.5 + 1e-9


def check_high_byte(actual: NDArray[np.uint8], expected: NDArray[np.floating[Any]]) -> None:
    """Check that each level is the high byte, which is less than one level off."""
    assert np.abs(actual - expected).max() < 1
    assert {actual.min(), actual.max()} == {0, 255}


class TestNetpbm:
    @given(maximum=st.integers(1, 65535), seed=st.integers(0, 99), colour=st.booleans())
    def test_any_maximum_scales_to_white(self, maximum: int, seed: int, colour: bool) -> None:
        """The maximum in the header, such as 1, 255 or 65535, becomes white."""
        values = samples(seed, maximum, 3 if colour else 0)
        actual = levels(netpbm(values, maximum))
        expected = values * (255 / maximum)
        check_nearest(actual, expected if colour else expected[..., None])

    @given(maximum=st.sampled_from([3, 15, 255, 300, 1023, 4095, 65535]), colour=st.booleans())
    def test_netpbm_text_equals_netpbm_bytes(self, maximum: int, colour: bool) -> None:
        """P2 and P3 are P5 and P6 in decimal text."""
        values = samples(maximum, maximum, 3 if colour else 0)
        words = " ".join(map(str, values.ravel().tolist()))
        head = f"P{3 if colour else 2}\n# a remark\n{WIDTH} {HEIGHT}\n{maximum}\n"
        actual = levels(f"{head}{words}\n".encode()).astype(float)
        expected = values * (255 / maximum)
        # Pillow scales such to 65535 first: a half may fall to the other side.
        assert np.abs(actual - (expected if colour else expected[..., None])).max() <= 0.502

    def test_a_sample_beyond_the_maximum_is_white(self) -> None:
        """A sample above the maximum is clipped to white."""
        values = np.full((HEIGHT, WIDTH), 1000, np.uint16)
        assert (levels(netpbm(values, 300)) == 255).all()

    @pytest.mark.parametrize("maximum", [100, 255, 1023, 65535])
    def test_a_truncated_netpbm_file_is_quarantined(self, maximum: int) -> None:
        """Both readers of samples, Pillow and our own, detect the missing byte."""
        with pytest.raises(DecodeError) as caught:
            levels(netpbm(samples(1, maximum), maximum)[:-1])
        assert caught.value.status == TRUNCATED

    def test_a_large_netpbm_image_is_decoded(self) -> None:
        """Pillow alone needs a second for a million samples whose maximum is not 255."""
        values = np.zeros((2000, 2000), np.uint16)
        decoded = decode(netpbm(values, 4095), fit="crop", serves=8, exif=False)
        assert decoded.pixels.size == (2000, 2000)

    def test_a_floating_point_netpbm_image_is_unsupported(self) -> None:
        """The header of such a file states a scale but no range."""
        values = np.ones((HEIGHT, WIDTH), "<f4")
        data = b"Pf\n%d %d\n-1.0\n" % (WIDTH, HEIGHT) + values.tobytes()
        with pytest.raises(DecodeError, match="floating-point") as caught:
            levels(data)
        assert caught.value.status == UNSUPPORTED


class TestPng:
    @pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_16_bit_pngs_are_scaled_by_65535_in_grey_and_in_colour(
        self, colour: int, channels: int
    ) -> None:
        """Grey and RGB are scaled alike; alpha is dropped."""
        values = samples(colour, 65535, channels)
        values[0, :2, 0] = 0, 65535
        actual = levels(png(values, colour, 16))
        visible = values[..., :3] if channels > 2 else values[..., :1]
        check_high_byte(actual, visible * (255 / 65535))

    def test_grey_and_colour_pngs_of_one_depth_agree(self) -> None:
        """A grey image in three channels gives the same levels."""
        values = samples(1, 65535, 1)
        colour = np.repeat(values, 3, axis=2)
        assert np.array_equal(levels(png(values, 0, 16)), levels(png(colour, 2, 16)))

    def test_png_sbit_does_not_change_the_scaling(self) -> None:
        """By the standard, the writer of sBIT has scaled the samples to the whole range."""
        values = samples(2, 65535, 1)
        noted = png(values, 0, 16, before=[png_chunk(b"sBIT", b"\x0c")])
        assert np.array_equal(levels(noted), levels(png(values, 0, 16)))

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_png_samples_of_1_2_and_4_bits_span_0_to_255(self, bits: int) -> None:
        """Samples of few bits are expanded by their range."""
        values = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8) % (1 << bits)
        buffer = io.BytesIO()
        palette = Image.fromarray(values)
        palette.putpalette([v * 255 // ((1 << bits) - 1) for v in range(1 << bits) for _ in "RGB"])
        palette.save(buffer, "PNG", bits=bits)
        check_nearest(levels(buffer.getvalue())[..., 0], values * (255 / ((1 << bits) - 1)))

    def test_the_alpha_of_a_palette_is_ignored(self) -> None:
        """A palette with alpha is decoded as if it were opaque."""
        values = samples(3, 3, 1, np.uint8)
        colours = np.arange(12, dtype=np.uint8) * 20
        chunks = [png_chunk(b"PLTE", colours.tobytes()), png_chunk(b"tRNS", b"\0\x80\xff")]
        actual = levels(png(values, 3, before=chunks))
        assert np.array_equal(actual, colours.reshape(4, 3)[values[..., 0]])


class TestTiff:
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_16_bit_tiffs_are_read_in_both_byte_orders(self, order: str) -> None:
        """Pillow has a mode for each byte order, I;16 and I;16B."""
        values = samples(1, 65535)
        check_high_byte(grey_levels(grey_tiff(values, order=order)), values * (255 / 65535))

    def test_a_white_is_zero_tiff_is_inverted(self) -> None:
        """Sample 0 becomes 255 if the file declares that white is zero."""
        values = samples(1, 65535)
        actual = grey_levels(grey_tiff(values, white_is_zero=True))
        assert np.array_equal(actual, 255 - grey_levels(grey_tiff(values)))
        assert (actual.flat[0], actual.flat[-1]) == (255, 0)

    def test_12_bit_tiff_samples_span_0_to_255(self) -> None:
        """The high bytes of 12-bit samples would give a nearly black image."""
        values = samples(12, 4095)
        check_nearest(grey_levels(grey_tiff(values, bits=12)), values * (255 / 4095))

    def test_max_sample_value_does_not_change_the_scaling(self) -> None:
        """By the standard, MaxSampleValue must not change the appearance of an image."""
        values = samples(4, 4095)
        noted = grey_tiff(values, tags={280: (3, 0), 281: (3, 4095)})
        assert np.array_equal(levels(noted), levels(grey_tiff(values)))

    @pytest.mark.parametrize(
        ("kind", "sample_format", "words"),
        [
            (np.float32, 3, "floating-point"),
            (np.int32, 2, "32-bit signed"),
            (np.uint32, 1, "32-bit unsigned"),
            (np.int16, 2, "16-bit signed"),
            (np.int8, 2, "8-bit signed"),
        ],
    )
    def test_samples_without_a_range_are_unsupported(
        self, kind: type, sample_format: int, words: str
    ) -> None:
        """Pillow clips them at 0 and 255, or reads them as unsigned."""
        data = grey_tiff(samples(5, 100, kind=kind), sample_format=sample_format)
        with pytest.raises(DecodeError, match=words) as caught:
            levels(data)
        assert caught.value.status == UNSUPPORTED
        assert "convert it" in caught.value.reason

    @given(low=st.floats(-1e3, 1e3), span=st.floats(1e-3, 1e6), seed=st.integers(0, 99))
    def test_floating_point_samples_are_scaled_by_the_stated_range(
        self, low: float, span: float, seed: int
    ) -> None:
        """Samples outside of SMinSampleValue and SMaxSampleValue are black or white."""
        low, high = float(np.float32(low)), float(np.float32(low + span))
        values = np.random.default_rng(seed).uniform(-0.2, 1.2, (HEIGHT, WIDTH))
        values = (low + values * (high - low)).astype(np.float32)
        values.flat[3] = np.nan
        tags = {340: (11, low), 341: (11, high)}
        actual = grey_levels(grey_tiff(values, sample_format=3, tags=tags))
        expected = np.clip((values.astype(float) - low) * (255 / (high - low)), 0, 255)
        assert np.abs(actual - np.nan_to_num(expected)).max() <= 0.5001

    @pytest.mark.parametrize(
        "tags",
        [
            {341: (11, 1.0)},
            {340: (11, 1.0), 341: (11, 1.0)},
            {340: (11, 0.0), 341: (11, float("inf"))},
        ],
    )
    def test_an_incomplete_sample_range_is_unsupported(
        self, tags: dict[int, tuple[int, float]]
    ) -> None:
        """An empty or infinite range is refused as well."""
        data = grey_tiff(np.ones((HEIGHT, WIDTH), np.float32), sample_format=3, tags=tags)
        with pytest.raises(DecodeError, match="states no range"):
            levels(data)

    @pytest.mark.parametrize("planar", [1, 2])
    def test_16_bit_colour_tiffs_keep_their_high_bytes(self, planar: int) -> None:
        """Only interleaved samples are read; separate planes of 16 bits are unsupported."""
        values = samples(6, 65535, 3)
        planes = [values[..., n] for n in range(3)] if planar == 2 else [values]
        data = tiff(
            [plane.astype("<u2").tobytes() for plane in planes],
            WIDTH,
            HEIGHT,
            {258: (3, [16] * 3), 262: (3, 2), 277: (3, 3), 284: (3, planar)},
        )
        if planar == 2:
            with pytest.raises(DecodeError, match="separate planes") as caught:
                levels(data)
            assert caught.value.status == UNSUPPORTED
        else:
            check_high_byte(levels(data), values * (255 / 65535))

    def test_separate_planes_of_8_bits_are_read(self) -> None:
        """Pillow reads a TIFF with one plane for each channel if they have 8 bits."""
        values = samples(7, 255, 3, np.uint8)
        data = tiff(
            [values[..., n].tobytes() for n in range(3)],
            WIDTH,
            HEIGHT,
            {258: (3, [8] * 3), 262: (3, 2), 277: (3, 3), 284: (3, 2)},
        )
        assert np.array_equal(levels(data), values)

    def test_cmyk_tiffs_are_converted_by_subtraction_from_white(self) -> None:
        """CMYK in a TIFF is not inverted, unlike in a JPEG."""
        values = samples(8, 255, 4, np.uint8)
        data = tiff(
            [values.tobytes()], WIDTH, HEIGHT, {258: (3, [8] * 4), 262: (3, 5), 277: (3, 4)}
        )
        ink = values.astype(float) / 255
        expected = 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
        assert np.abs(levels(data) - expected).max() <= 1.5

    def test_64_bit_tiff_samples_are_unsupported(self) -> None:
        """Pillow cannot open such a file, and the error of its plugin gives the reason."""
        data = grey_tiff(np.ones((HEIGHT, WIDTH)), sample_format=3)
        with pytest.raises(DecodeError, match="unknown pixel mode") as caught:
            levels(data)
        assert caught.value.status == UNSUPPORTED


class TestBmp:
    @pytest.mark.parametrize("green_bits", [5, 6])
    def test_16_bit_bmp_channels_span_0_to_255(self, green_bits: int) -> None:
        """Channels of five or six bits are scaled by their own ranges."""
        masks = {5: (0x7C00, 0x3E0, 0x1F), 6: (0xF800, 0x7E0, 0x1F)}[green_bits]
        values = samples(green_bits, (1 << (10 + green_bits)) - 1)
        rows = [row.astype("<u2").tobytes() + bytes(-WIDTH * 2 % 4) for row in values[::-1]]
        body = b"".join(rows)
        head = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, 3, len(body), 0, 0, 0, 0)
        palette = struct.pack("<III", *masks)
        start = 14 + len(head) + len(palette)
        data = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + palette + body
        actual = levels(data)
        for channel, mask in enumerate(masks):
            shift = (mask & -mask).bit_length() - 1
            bits = (values & mask) >> shift
            assert np.abs(actual[..., channel] - bits * (255 / (mask >> shift))).max() < 1


class TestJpeg:
    @pytest.mark.parametrize("adobe", [True, False])
    def test_cmyk_jpegs_are_inverted_as_adobe_does(self, adobe: bool) -> None:
        """CMYK JPEGs are inverted with and without Adobe's marker."""
        inks = np.zeros((16, 16, 4), np.uint8)
        inks[..., 0] = 255
        buffer = io.BytesIO()
        Image.fromarray(inks, "CMYK").save(buffer, "JPEG", quality=95)
        data = buffer.getvalue()
        assert data[2:4] == b"\xff\xee"
        if not adobe:
            data = data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]
        red, green, blue = levels(data)[8, 8].tolist()
        assert red < 8
        assert min(green, blue) > 247

    def test_a_12_bit_jpeg_is_unsupported(self) -> None:
        """The common build of libjpeg reads 8 bits only."""
        data = b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x10\0\x10\1\1\x11\0" + bytes(60) + b"\xff\xd9"
        with pytest.raises(DecodeError, match="a JPEG of 12 bits a sample") as caught:
            levels(data)
        assert caught.value.status == UNSUPPORTED

    def test_a_lossless_jpeg_is_unsupported(self) -> None:
        """The reason names the kind of JPEG."""
        data = b"\xff\xd8\xff\xc3\0\x0b\x08\0\x10\0\x10\1\1\x11\0\xff\xda\0\x08\1\1\0\1\0\0"
        with pytest.raises(DecodeError, match="a lossless JPEG") as caught:
            levels(data + bytes(60) + b"\xff\xd9")
        assert caught.value.status == UNSUPPORTED


@given(maximum=st.integers(1, 65535), data=st.data())
def test_nearest_levels_are_monotonic_and_span_0_to_255(maximum: int, data: st.DataObject) -> None:
    """Black stays black, white stays white, and the order of levels is that of samples."""
    values = np.array(sorted(data.draw(st.lists(st.integers(0, maximum), max_size=50))), np.uint16)
    actual = nearest_levels(np.concatenate([[0], values, [maximum]]).astype(np.uint16), maximum)
    assert (actual[0], actual[-1]) == (0, 255)
    assert (np.diff(actual.astype(int)) >= 0).all()


class TestRules1:
    """Stores of rules 1 keep Pillow's conversion of deep samples."""

    def test_rules_1_clip_deep_samples(self) -> None:
        """The goldens of existing stores depend on Pillow's clipping."""
        values = samples(1, 65535)
        assert (grey_levels(netpbm(values, 65535), rules=1) == np.minimum(values, 255)).all()
        twelve = samples(2, 4095)
        assert (grey_levels(grey_tiff(twelve, bits=12), rules=1) == twelve >> 8).all()
        floating = samples(3, 1, kind=np.float32)
        assert grey_levels(grey_tiff(floating, sample_format=3), rules=1).max() == 1
        inverted = grey_tiff(values, white_is_zero=True)
        assert (grey_levels(inverted, rules=1) == values >> 8).all()
