"""Bytes to pixels: the two decoders agree, and each reason for quarantine is distinguished."""

import io
import pickle
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, features

from pipeline.errors import DecodeError
from pipeline.images import decode as module
from pipeline.images import libtiff
from pipeline.images.decode import Decoded, decode, reduction_factor
from pipeline.images.rejection import (
    BOMB,
    CORRUPT,
    EMPTY,
    STATUS_WORDS,
    TRUNCATED,
    UNIDENTIFIED,
    UNSUPPORTED,
)

needs_simplejpeg = pytest.mark.skipif(module.simplejpeg is None, reason="needs simplejpeg")
SUBSAMPLINGS = ["4:4:4", "4:2:2", "4:2:0"]


def picture(width=83, height=61, mode="RGB"):
    """Return an image with slopes, edges and grain, so that decoding errors are visible."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 3 + y, (x // 9 + y // 7) % 2 * 255, (x * y) // 5 + (x * 2654435761 >> 7) % 32]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8)).convert(mode)


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(width=83, height=61, mode="RGB", **options):
    return encoded(picture(width, height, mode), **{"subsampling": "4:2:0", **options})


def decode_full(data, *, exif=False):
    """Decode at full size."""
    return decode(data, fit="crop", serves=10**6, exif=exif)


def pixels(decoded):
    rows = np.frombuffer(decoded.pixels.tobytes("raw", "RGB"), np.uint8)
    return rows.reshape(decoded.pixels.height, decoded.pixels.width, 3)


def lab(image):
    """Return the image in CIE Lab."""
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")


PNG = encoded(picture(), "PNG")


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def outcome(data, **options):
    """Return everything that a store would keep of these bytes."""
    try:
        decoded = decode(data, **{"fit": "crop", "serves": 10**6, "exif": False, **options})
    except DecodeError as e:
        return e.status, e.reason
    facts = (decoded.width, decoded.height, decoded.mode, decoded.format, decoded.scale)
    return *facts, pixels(decoded).tobytes()


def both_outcomes(data, **options):
    """Return the outcomes with simplejpeg and with Pillow alone."""
    with pytest.MonkeyPatch.context() as patch:
        ours = outcome(data, **options)
        patch.setattr(module, "simplejpeg", None)
        return ours, outcome(data, **options)


def status_of(data):
    with pytest.raises(DecodeError) as caught:
        decode_full(data)
    return caught.value.status


def segment(kind, body):
    return bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body


def with_segment(data, kind, body):
    """Return the JPEG *data* with a segment before all others."""
    return data[:2] + segment(kind, body) + data[2:]


class TestPlainJpegs:
    @pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
    def test_a_jpeg_equals_pillows(self, subsampling):
        """Both decoders give Pillow's pixels."""
        data = jpeg(subsampling=subsampling)
        decoded = decode_full(data)
        assert np.array_equal(pixels(decoded), by_pillow(data))
        assert (decoded.width, decoded.height, decoded.mode, decoded.format, decoded.scale) == (
            83,
            61,
            "RGB",
            "JPEG",
            1,
        )

    def test_a_grey_jpeg_becomes_rgb_and_is_called_grey(self):
        """The recorded mode is that of the file."""
        data = jpeg(mode="L")
        decoded = decode_full(data)
        assert decoded.mode == "L"
        assert np.array_equal(pixels(decoded), by_pillow(data))

    @needs_simplejpeg
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_a_plain_jpeg_is_decoded_by_simplejpeg(self, mode, monkeypatch):
        """Pillow is not called for a plain JPEG, which saves time."""
        monkeypatch.delattr(module.Image, "open")
        assert decode_full(jpeg(mode=mode)).format == "JPEG"

    @needs_simplejpeg
    @pytest.mark.parametrize(
        "data",
        [
            jpeg(progressive=True),
            jpeg(mode="CMYK"),
            encoded(picture(), "MPO", save_all=True, append_images=[picture()]),
            b"\xff\xd8\xff" + jpeg()[2:],
        ],
        ids=["progressive", "cmyk", "mpo", "filled-marker"],
    )
    def test_unusual_jpegs_are_decoded_by_pillow(self, data, monkeypatch):
        """Pillow decodes where two builds of libjpeg, or Pillow's own parser, could differ."""
        expected = by_pillow(data)
        monkeypatch.delattr(module.simplejpeg, "decode_jpeg")
        assert np.array_equal(pixels(decode_full(data)), expected)

    @pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
    def test_jpegs_with_missing_scans_are_equal_in_both_decoders(self, subsampling):
        """libjpeg-turbo 2 and 3 smooth an unfinished image differently, without a warning."""
        data = jpeg(progressive=True, quality=30, subsampling=subsampling)
        starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
        for start in starts[1:]:
            ours, pillows = both_outcomes(data[:start] + b"\xff\xd9")
            assert ours == pillows

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (0xE0, b"JFIF\0"),
            (0xEE, b"Adobe"),
            (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
            (0xE2, b"ICC_PROFILE\0"),
            (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0" + b"\0\0\0\x02ab"),
            (0xE1, b"Exif\0\0nonsense"),
            (0xE2, b"ICC_PROFILE\0\x05\x01abc"),
            (0xDB, b"\0\1\2"),
        ],
        ids=["jfif", "adobe", "photoshop", "icc", "cut-resource", "exif", "other-icc", "dqt"],
    )
    def test_odd_segments_are_judged_by_pillow(self, kind, body):
        """Pillow's own parser rejects some files that libjpeg would decode."""
        ours, pillows = both_outcomes(with_segment(jpeg(), kind, body))
        assert ours == pillows

    @given(data=st.data(), subsampling=st.sampled_from(SUBSAMPLINGS), mode=st.sampled_from("LR"))
    def test_both_decoders_agree_on_damaged_jpegs(self, data, subsampling, mode):
        """For any damage to a JPEG, simplejpeg changes neither verdict, reason nor pixels."""
        good = jpeg(31, 23, {"L": "L", "R": "RGB"}[mode], subsampling=subsampling, comment=b"c" * 9)
        broken = bytearray(good)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(broken) - 1))
            if data.draw(st.booleans()):
                broken[at] = data.draw(st.sampled_from([0, 1, 0xD9, 0xDA, 0xE0, 0xFF]))
            else:
                del broken[at : at + data.draw(st.integers(1, 9))]
            if not broken:
                break
        ours, pillows = both_outcomes(bytes(broken))
        assert ours == pillows


class TestReduction:
    @given(
        width=st.integers(1, 5000),
        height=st.integers(1, 5000),
        serves=st.integers(1, 600),
        fit=st.sampled_from(["crop", "pad", "squish"]),
    )
    def test_the_reduction_leaves_at_least_twice_the_target_size(self, width, height, serves, fit):
        """The reduction is the largest one that leaves twice `serves` on the relevant side."""
        side = max(width, height) if fit == "pad" else min(width, height)
        scale = reduction_factor(width, height, fit=fit, serves=serves)
        assert scale in (1, 2, 4, 8)
        assert scale == 1 or side / scale >= 2 * serves
        assert scale == 8 or min(width, height) < 8 or side / (2 * scale) < 2 * serves

    @given(
        width=st.integers(1, 90),
        height=st.integers(1, 90),
        serves=st.integers(1, 12),
        fit=st.sampled_from(["crop", "pad", "squish"]),
        subsampling=st.sampled_from(SUBSAMPLINGS),
    )
    def test_both_decoders_reduce_images_equally(self, width, height, serves, fit, subsampling):
        """Factor, rounded-up size and pixels agree; the recorded size is the full one."""
        data = jpeg(width, height, subsampling=subsampling)
        ours, pillows = both_outcomes(data, fit=fit, serves=serves)
        assert ours == pillows
        decoded = decode(data, fit=fit, serves=serves, exif=False)
        assert (decoded.width, decoded.height) == (width, height)
        assert decoded.scale == reduction_factor(width, height, fit=fit, serves=serves)
        assert decoded.pixels.size == (-(-width // decoded.scale), -(-height // decoded.scale))

    def test_a_file_of_several_jpegs_is_called_mpo_by_both_decoders(self):
        """The table names Pillow's format whichever decoder is used."""
        data = encoded(picture(), "MPO", save_all=True, append_images=[picture()])
        ours, pillows = both_outcomes(data)
        assert ours == pillows
        assert ours[3] == "MPO"

    def test_only_jpegs_are_decoded_at_reduced_scale(self):
        """Decoders of other formats have no reduced scales."""
        assert decode(encoded(picture(), "PNG"), fit="crop", serves=1, exif=False).scale == 1


class TestEverythingElse:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
    def test_a_png_equals_pillows_rgb(self, mode):
        """Alpha is dropped, and palettes are looked up."""
        data = encoded(picture(mode=mode), "PNG")
        decoded = decode_full(data)
        assert (decoded.mode, decoded.format) == (mode, "PNG")
        assert np.array_equal(pixels(decoded), by_pillow(data))

    def test_a_palette_with_transparency_is_decoded_without_a_warning(self):
        """Pillow warns that such an image should be converted to RGBA."""
        data = encoded(picture(mode="P"), "PNG", transparency=bytes(range(200)))
        expected = np.asarray(picture(mode="P").convert("RGB"))
        assert np.array_equal(pixels(decode_full(data)), expected)

    @pytest.mark.parametrize("format", ["BMP", "GIF", "PPM", "TIFF"])
    def test_other_formats_equal_pillows(self, format):
        """The other formats of cameras, the web and scanners are decoded to Pillow's pixels."""
        data = encoded(picture(), format)
        decoded = decode_full(data)
        assert decoded.format == format
        assert np.array_equal(pixels(decoded), by_pillow(data))

    @pytest.mark.skipif(not features.check("webp"), reason="this Pillow was built without WebP")
    def test_a_webp_equals_pillows(self):
        """A WebP is decoded if Pillow was built with it."""
        data = encoded(picture(), "WEBP")
        assert np.array_equal(pixels(decode_full(data)), by_pillow(data))

    def test_a_webp_is_unsupported_if_pillow_was_built_without_it(self, monkeypatch):
        """The reason blames this Pillow, not the file."""
        monkeypatch.setattr(module.WebPImagePlugin, "SUPPORTED", False)
        monkeypatch.setattr(features, "check", lambda name: False)
        data = b"RIFF\x10\0\0\0WEBPVP8 \0\0\0\0"
        with pytest.raises(DecodeError, match="built without WebP") as caught:
            decode_full(data)
        assert caught.value.status == UNSUPPORTED

    @pytest.mark.parametrize("mode", ["CMYK", "LAB", "LA", "RGBA"])
    def test_rare_modes_follow_pillow(self, mode):
        """Pillow determines the meaning of inks and other colours."""
        image = picture(mode="RGB").convert(mode) if mode != "LAB" else lab(picture())
        data = encoded(image, "TIFF")
        decoded = decode_full(data)
        assert decoded.mode == mode
        assert np.array_equal(pixels(decoded), by_pillow(data))

    @pytest.mark.parametrize("mode", ["I", "F"])
    def test_rules_1_clip_samples_without_a_range_as_pillow_does(self, mode):
        """Rules 2 refuse samples without a range."""
        data = encoded(picture(mode=mode), "TIFF")
        decoded = decode(data, fit="crop", serves=10**6, exif=False, rules=1)
        assert decoded.mode == mode
        assert np.array_equal(pixels(decoded), by_pillow(data))
        assert status_of(data) == UNSUPPORTED

    def test_an_adobe_cmyk_jpeg_equals_pillows(self):
        """ImageNet contains 22 such files."""
        data = jpeg(mode="CMYK")
        decoded = decode_full(data)
        assert decoded.mode == "CMYK"
        assert np.array_equal(pixels(decoded), by_pillow(data))

    @pytest.mark.parametrize(("format", "order"), [("PNG", "<"), ("TIFF", "<"), ("TIFF", ">")])
    def test_16_bit_grey_keeps_its_high_byte(self, format, order):
        """Pillow would clip everything above 255 to white."""
        values = np.arange(60 * 50, dtype=np.uint16).reshape(50, 60) * 21
        little = encoded(Image.fromarray(values), format)
        data = little if order == "<" else big_endian_tiff(values)
        decoded = decode_full(data)
        assert decoded.mode.startswith("I;16")
        assert np.array_equal(pixels(decoded), np.stack([values >> 8] * 3, -1))

    def test_the_first_frame_of_an_animation_counts(self):
        """Later frames are ignored."""
        first, second = picture(mode="P"), picture(mode="P").rotate(90)
        data = encoded(first, "GIF", save_all=True, append_images=[second])
        assert np.array_equal(pixels(decode_full(data)), by_pillow(encoded(first, "GIF")))

    def test_concurrent_decodes_share_no_state(self):
        """Eight threads decode other images at once and get the same pixels as one thread."""
        files = [jpeg(70 + n, 50) for n in range(8)]
        files += [encoded(picture(70 + n, 50), "PNG") for n in range(8)]
        expected = [outcome(data) for data in files]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(outcome, files * 4)) == expected * 4


def big_endian_tiff(values, samples=1):
    """Return a TIFF with one uncompressed strip of 16-bit grey."""
    height, width = values.shape
    entries = [
        (256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, samples),
        (278, height), (279, values.size * 2),
    ]  # fmt: skip
    body = values.astype(">u2").tobytes()
    table = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"MM\0*" + struct.pack(">I", 8 + len(body)) + body
    return head + struct.pack(">H", len(entries)) + table + bytes(4)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_exif_orientation_is_applied_as_by_pillow(self, orientation, format):
        """The recorded size is that of the rotated image; without the option nothing is rotated."""
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(), format, exif=exif)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        decoded = decode_full(data, exif=True)
        assert np.array_equal(pixels(decoded), expected)
        assert (decoded.height, decoded.width) == expected.shape[:2]
        assert np.array_equal(pixels(decode_full(data)), by_pillow(data))

    @needs_simplejpeg
    def test_both_decoders_rotate_equally_and_do_not_reduce_rotated_images(self):
        """The rounded-up edge of a reduced image would change sides."""
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            ours, pillows = both_outcomes(jpeg(exif=exif), serves=4, exif=True)
            assert ours == pillows
            assert (ours[4] == 1) == (orientation != 1)

    @pytest.mark.parametrize("body", [b"", b"MM\0*\0\0", b"II*\0\xff\xff\xff\xff", b"nonsense" * 9])
    def test_broken_exif_is_ignored(self, body):
        """Broken EXIF must neither rotate nor quarantine the image."""
        data = with_segment(jpeg(), 0xE1, b"Exif\0\0" + body)
        assert np.array_equal(pixels(decode_full(data, exif=True)), by_pillow(data))


class TestErrors:
    def test_an_empty_file_has_status_empty(self):
        """An empty file is distinguished from a broken one."""
        assert status_of(b"") == EMPTY

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"\0", UNIDENTIFIED),
            (b"hello, world" * 9, UNIDENTIFIED),
            (b"<svg></svg>", UNSUPPORTED),
            (b"%!PS-Adobe-3.0", UNSUPPORTED),
        ],
    )
    def test_rules_2_distinguish_unsupported_from_unidentified_files(self, data, status):
        """By rules 1 an SVG or PostScript file is unidentified, like any file that is no image."""
        assert status_of(data) == status
        with pytest.raises(DecodeError) as caught:
            decode(data, fit="crop", serves=8, exif=False, rules=1)
        assert caught.value.status == UNIDENTIFIED

    @pytest.mark.parametrize(
        "data",
        [jpeg()[:-400], jpeg(progressive=True)[:700], encoded(picture(), "PNG")[:-300]],
        ids=["jpeg", "progressive", "png"],
    )
    def test_a_file_that_ends_early_is_truncated(self, data):
        """Half an image is not a readable image."""
        assert status_of(data) == TRUNCATED

    def test_the_reason_for_a_broken_header_names_the_format(self):
        """The format is the one that the first bytes announce."""
        with pytest.raises(DecodeError, match="begins as a PNG file") as caught:
            decode_full(encoded(picture(), "PNG").replace(b"IHDR", b"IHDX"))
        assert caught.value.status == CORRUPT

    @pytest.mark.parametrize("kind", ["jpeg", "png"])
    def test_a_bomb_is_refused_before_it_is_decoded(self, kind):
        """The header claims 65,000 x 65,000 pixels, which are never allocated."""
        if kind == "jpeg":
            data = bytearray(jpeg())
            at = data.index(b"\xff\xc0")
            data[at + 5 : at + 9] = b"\xfd\xe8\xfd\xe8"
        else:
            header = struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
            chunk = b"IHDR" + header
            data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
            data += struct.pack(">I", zlib.crc32(chunk)) + encoded(picture(), "PNG")[33:]
        assert status_of(bytes(data)) == BOMB

    @pytest.mark.parametrize("format", ["JPEG", "PNG"])
    def test_the_bomb_limit_is_twice_pillows_and_does_not_warn(self, format, monkeypatch):
        """Both decoders apply this limit; below it Pillow itself would only warn."""
        data = encoded(picture(), format)
        monkeypatch.setattr(module.Image, "MAX_IMAGE_PIXELS", 83 * 61 // 2 + 1)
        assert decode_full(data).width == 83
        monkeypatch.setattr(module.Image, "MAX_IMAGE_PIXELS", 83 * 61 // 2)
        assert status_of(data) == BOMB

    def test_a_12_bit_jpeg_is_refused(self, monkeypatch):
        """Simplejpeg is not tried, because a later version might read it and change the outcome."""
        data = bytearray(jpeg())
        data[data.index(b"\xff\xc0") + 4] = 12
        if module.simplejpeg is not None:
            monkeypatch.delattr(module.simplejpeg, "decode_jpeg")
        assert status_of(bytes(data)) == UNSUPPORTED

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (OSError("image file is truncated"), TRUNCATED),
            (EOFError(), TRUNCATED),
            (OSError("Unsupported BMP bitfields layout"), UNSUPPORTED),
            (NotImplementedError("hm"), UNSUPPORTED),
            (KeyError(7), CORRUPT),
            (struct.error("unpack requires"), CORRUPT),
            (IndexError("list index out of range"), CORRUPT),
            (UnicodeDecodeError("ascii", b"\xff", 0, 1, "no"), CORRUPT),
            (OverflowError("too big"), CORRUPT),
            (TypeError(), CORRUPT),
            (zlib.error("Error -3"), CORRUPT),
        ],
    )
    def test_any_exception_of_a_plugin_is_a_decode_error(self, error, status, monkeypatch):
        """One unusual image must not stop a run."""

        def fail(*args, **options):
            raise error

        monkeypatch.setattr(module.Image, "open", fail)
        assert status_of(PNG) == status

    @pytest.mark.parametrize(
        "error", [MemoryError(), OSError("out of memory error when reading image file")]
    )
    def test_out_of_memory_does_not_quarantine_an_image(self, error, monkeypatch):
        """With more memory the image would be readable."""

        def fail(*args, **options):
            raise error

        monkeypatch.setattr(module.Image, "open", fail)
        with pytest.raises(MemoryError):
            decode_full(PNG)

    def test_reasons_are_one_short_printable_line(self, monkeypatch):
        """Reasons appear in terminals and reports, and must not contain memory addresses."""

        def fail(*args, **options):
            raise OSError("bad\x1b[31m\n<_io.BytesIO object at 0x7f00>" + "x" * 999)

        monkeypatch.setattr(module.Image, "open", fail)
        with pytest.raises(DecodeError) as caught:
            decode_full(PNG)
        assert caught.value.reason.startswith("bad [31m <_io.BytesIO object>xxx")
        assert len(caught.value.reason) == 200

    def test_a_decode_error_can_be_pickled(self):
        """Status and reason survive pickling, since errors are sent from workers."""
        with pytest.raises(DecodeError) as caught:
            decode_full(b"")
        back = pickle.loads(pickle.dumps(caught.value))
        assert (back.status, back.reason, str(back)) == (EMPTY, "no bytes", "no bytes")

    @pytest.mark.skipif(not features.check("libtiff"), reason="needs a Pillow with libtiff")
    def test_libtiff_errors_quarantine_an_image_and_are_not_printed(self, capfd):
        """Some versions of libtiff go on with uninitialised memory after an error."""
        data = encoded(picture(400, 300), "TIFF", compression="tiff_lzw")
        middle = len(data) // 2
        data = data[:middle] + b"\xff" * 64 + data[middle + 64 :]
        with pytest.raises(DecodeError):
            decode_full(data)
        assert capfd.readouterr() == ("", "")

    def test_a_libtiff_error_quarantines_the_image(self, monkeypatch):
        """Any pixels are discarded, and the error does not affect the next image."""
        read = module._decode_opened

        def read_with_an_error(*args):
            libtiff._note_error(b"TIFFFillStrip", b"Read error", 0)
            return read(*args)

        data = encoded(picture(), "TIFF")
        with monkeypatch.context() as patch:
            patch.setattr(module, "_decode_opened", read_with_an_error)
            with pytest.raises(DecodeError, match="libtiff met an error") as caught:
                decode_full(data)
        assert caught.value.status == CORRUPT
        assert np.array_equal(pixels(decode_full(data)), np.asarray(picture()))

    def test_pillows_log_messages_are_suppressed(self, caplog):
        """Python would print these messages if the user has configured no logging."""
        values = np.zeros((5, 6), np.uint16)
        decode_full(big_endian_tiff(values))
        with pytest.raises(DecodeError):
            decode_full(big_endian_tiff(values, samples=65535))
        assert caplog.records == []

    def test_every_status_has_its_own_word(self):
        """The words of statuses appear in terminals and reports."""
        assert len(set(STATUS_WORDS.values())) == len(STATUS_WORDS) == 10

    def test_a_decoded_image_is_immutable(self):
        """The resizes of all sizes share the decoded image."""
        with pytest.raises(AttributeError):
            decode_full(jpeg()).width = 1
        assert isinstance(decode_full(jpeg()), Decoded)
