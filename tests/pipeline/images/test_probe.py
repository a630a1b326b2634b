"""The probe digests are equal where pixels are equal, and differ where pixels differ."""

import base64
import re

import pytest
import xxhash
from PIL import Image

from pipeline.images import decode, probe
from pipeline.images.probe_images import PROBE_IMAGES
from pipeline.images.resize import FILTERS

needs_simplejpeg = pytest.mark.skipif(decode.simplejpeg is None, reason="needs simplejpeg")


def test_probe_digests_are_reproducible():
    """Digests are compared across machines and years."""
    first = probe.probe("bicubic")
    assert first == probe.probe("bicubic")
    assert re.fullmatch("[0-9a-f]{32}", first.decoder)
    assert re.fullmatch("[0-9a-f]{32}", first.resizer)


def test_each_filter_has_its_own_resizer_digest_and_all_share_a_decoder_digest():
    """A refusal can thus say which of the two differs."""
    probes = [probe.probe(filter) for filter in FILTERS]
    assert len({digests.decoder for digests in probes}) == 1
    assert len({digests.resizer for digests in probes}) == len(FILTERS)


def test_the_decoder_digest_is_the_same_without_simplejpeg(monkeypatch):
    """A machine without simplejpeg makes the same store."""
    expected = probe.probe("bicubic")
    monkeypatch.setattr(decode, "simplejpeg", None)
    assert probe.probe("bicubic") == expected


def test_one_pixel_off_by_one_changes_the_resizer_digest(monkeypatch):
    """A small difference would not be noticed by eye."""
    expected = probe.probe("bicubic")
    resize = Image.Image.resize

    def almost(self, size, *args):
        resized = resize(self, size, *args)
        red, *channels = resized.getpixel((5, 0))
        resized.putpixel((5, 0), (red ^ 1, *channels))
        return resized

    monkeypatch.setattr(Image.Image, "resize", almost)
    digests = probe.probe("bicubic")
    assert digests.resizer != expected.resizer
    assert digests.decoder == expected.decoder


def test_one_decoded_pixel_changes_the_decoder_digest(monkeypatch):
    """A difference in any probe image counts."""
    expected = probe.probe("bicubic")
    convert = Image.Image.convert

    def almost(self, mode):
        converted = convert(self, mode)
        converted.putpixel((0, 0), (1, 2, 3))
        return converted

    monkeypatch.setattr(Image.Image, "convert", almost)
    digests = probe.probe("bicubic")
    assert digests.decoder != expected.decoder
    assert digests.resizer == expected.resizer


def test_a_missing_format_changes_the_decoder_digest(monkeypatch):
    """A Pillow without a format would quarantine its images."""
    expected = probe.probe("bicubic")
    formats = tuple(name for name in decode.PILLOW_FORMATS if name != "PNG")
    monkeypatch.setattr(decode, "PILLOW_FORMATS", formats)
    assert probe.probe("bicubic").decoder != expected.decoder


@needs_simplejpeg
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_one_pixel_of_a_reduced_decode_changes_the_decoder_digest(scale, monkeypatch):
    """Large photographs are decoded at 1/2, 1/4 or 1/8."""
    expected = probe.probe("bicubic")
    decode_jpeg = decode.simplejpeg.decode_jpeg

    def almost(data, mode, **options):
        pixels = decode_jpeg(data, mode, **options)
        if options.get("min_height") == -(-53 // scale):
            pixels[0, 0, 0] ^= 1
        return pixels

    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", almost)
    assert probe.probe("bicubic").decoder != expected.decoder


def test_the_probe_images_never_change():
    """Other probe images would have other digests, and every existing store would be refused."""
    files = b"".join(base64.b64decode(text) for text in PROBE_IMAGES.values())
    synthetic = (probe._synthetic_image(331, 250, 1), probe._synthetic_image(603, 453, 2))
    pixels = b"".join(image.pixels.tobytes() for image in synthetic)
    assert xxhash.xxh3_128_hexdigest(files) == "dd28302c0e552bd51f31c5cabe3a9d43"
    assert xxhash.xxh3_128_hexdigest(pixels) == "016a69294f02f21bcf28d22eacc7f0af"


def test_the_software_description_is_readable():
    """A refusal shows the software behind the digests to the user."""
    software = probe.description()
    assert set(software) == {"decoder", "resizer"}
    assert "Pillow" in software["decoder"]
    assert "libjpeg-turbo" in software["decoder"]
    assert software["resizer"].startswith("Pillow")


@pytest.mark.parametrize(
    ("code", "simd"),
    [
        (b"\xc5\xfd\xf5\xc1" * 20 + b"\x66\x0f\xf5\xc1" * 20, "AVX2"),
        (b"\x66\x0f\xf5\xc1\x66\x44\x0f\xf5" * 20, "SSE4"),
        (b"\xc5\xfd\xf5\xc1\x66\x0f\xf5" * 3 + bytes(range(256)) * 99, "none"),
        (b"", "none"),
    ],
)
def test_vector_instructions_are_read_from_the_code(code, simd, tmp_path, monkeypatch):
    """A cached build may have other code under the same version and flags."""
    (tmp_path / "_imaging.so").write_bytes(code)
    spec = type("Spec", (), {"origin": str(tmp_path / "_imaging.so")})
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: spec)
    assert probe.simd_of_pillow() == simd


def test_the_installed_pillow_is_simd_exactly_if_its_version_says_so():
    """Pillow-SIMD calls itself 12.1.1.post0 where Pillow is 12.1.1."""
    assert (probe.simd_of_pillow() != "none") == (".post" in probe.__version__)
