"""Probe images that show if this machine computes the same pixels as the planner of a store.

Version numbers are not enough: Pillow and Pillow-SIMD of one version resize differently, and two
builds of one Pillow may contain two versions of libjpeg-turbo. So a few small images are decoded
and resized by the code that processes data sets, and digests of the resulting pixels are
compared.
"""

import base64
import contextlib
import functools
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image, __version__, features

from pipeline.errors import DecodeError
from pipeline.images.decode import RULES, Decoded, decode
from pipeline.images.encode import encode_pixels
from pipeline.images.probe_images import PROBE_IMAGES
from pipeline.images.rejection import STATUS_WORDS
from pipeline.images.resize import EXACT_PAD_RULES, resize

SIZES = (72, 224, 288)


@dataclass(frozen=True)
class Probe:
    """The digests of the probe images on this machine."""

    decoder: str
    """The digest (xxh3, 128 bits, hexadecimal) of the decoded probe images."""
    resizer: str
    """The digest of synthetic pixels that were resized with one filter."""


def probe(filter: str, *, rules: int = RULES) -> Probe:
    """Decode and resize the probe images, in about 30 ms, and return digests of the pixels.

    The decoder gets small files that are part of this package, the resizer synthetic pixels.

    Args:
        filter: The resampling filter: `nearest`, `box`, `bilinear`, `hamming`, `bicubic` or
            `lanczos`.
        rules: The version of the decoding rules, 1 to 3, from the store's recipe (default: 3).

    Returns:
        Two texts of 32 hexadecimal digits: `decoder` for the decoding, and `resizer` for the
        resizing with *filter*. Machines with equal ones compute equal pixels.

    Raises:
        KeyError: *filter* is none of these.
    """
    return Probe(decoder=_decoder_digest(rules), resizer=_resizer_digest(filter, rules))


def probe_encoder(quality: int) -> str:
    """Encode synthetic pixels as JPEG, and return a digest of the bytes: 32 hexadecimal digits.

    Machines with equal digests encode equal pixels to equal bytes.

    Args:
        quality: The quality on Pillow's scale, 1 to 100.
    """
    digest = xxhash.xxh3_128()
    for width, height in ((331, 250), (64, 17)):
        digest.update(encode_pixels(_synthetic_image(width, height, 1).pixels, quality))
    return digest.hexdigest()


def description() -> dict[str, str]:
    """Return the names and versions of the libraries whose pixels `probe` digests.

    Returns:
        Texts for messages: `decoder`, such as "simplejpeg 1.8.2 and Pillow 11.0.0 (...)", and
        `resizer`, such as "Pillow 11.0.0".
    """
    decoders = [f"Pillow {__version__} ({', '.join(_library_versions())})"]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        decoders.insert(0, f"simplejpeg {importlib.metadata.version('simplejpeg')}")
    simd = simd_of_pillow()
    resizer = f"Pillow {__version__}" if simd == "none" else f"Pillow-SIMD {__version__}, {simd}"
    return {"decoder": " and ".join(decoders), "resizer": resizer}


def encoder_description() -> str:
    """Return the name and versions of the library whose bytes `probe_encoder` digests."""
    return f"Pillow {__version__} ({_library_versions()[0]})"


def simd_of_pillow() -> str:
    """Return the vector instructions of the installed Pillow: "AVX2", "SSE4" or "none".

    They are found in the compiled code, because versions and compiler flags may be misleading. The
    resampling of Pillow-SIMD multiplies with `pmaddwd`, which compilers do not generate for stock
    Pillow. A library built with AVX2 contains its 256-bit form 63 times, and one built without
    contains the old form 204 times. Stock Pillow contains neither, except for two or three chance
    matches.
    """
    spec = importlib.util.find_spec("PIL._imaging")
    return "none" if spec is None or not spec.origin else _vector_instructions(spec.origin)


@functools.cache
def _vector_instructions(library: str) -> str:
    code = Path(library).read_bytes()
    if len(_VPMADDWD_YMM.findall(code)) > 16:
        return "AVX2"
    return "SSE4" if len(_PMADDWD_XMM.findall(code)) > 16 else "none"


_VPMADDWD_YMM = re.compile(
    # VEX prefix of two bytes, 256 bits wide (L=1), operand prefix 66 (pp=01): ?????101
    b"\xc5[" + b"".join(re.escape(bytes([byte])) for byte in range(0x05, 0x100, 8)) + b"]\xf5"
)
_PMADDWD_XMM = re.compile(rb"\x66[\x40-\x4f]?\x0f\xf5")


def _library_versions() -> list[str]:
    names = {"libjpeg_turbo": "libjpeg-turbo", "webp": "WebP", "libtiff": "libtiff"}
    versions = {name: features.version(feature) for feature, name in names.items()}
    return [f"{name} {version}" if version else f"no {name}" for name, version in versions.items()]


# --- the digests --------------------------------------------------------------------------------


def _decoder_digest(rules: int) -> str:
    digest = xxhash.xxh3_128()
    for name, text in PROBE_IMAGES.items():
        # 53 pixels high, the first image is also decoded at 1/2, 1/4 and 1/8.
        for serves in (100, 12, 6, 3) if name == "colour" else (100,):
            digest.update(_decoded_probe(name, base64.b64decode(text), serves, rules))
    return digest.hexdigest()


def _decoded_probe(name: str, data: bytes, serves: int, rules: int) -> bytes:
    try:
        decoded = decode(data, fit="crop", serves=serves, exif=False, rules=rules)
    except DecodeError as e:  # a Pillow without this format: its digest must differ, too
        return f"{name}: {STATUS_WORDS[e.status]}\n".encode()
    size = f"{decoded.pixels.width}x{decoded.pixels.height}"
    return f"{name}: {size} {decoded.mode}\n".encode() + decoded.pixels.tobytes("raw", "RGB")


def _resizer_digest(filter: str, rules: int) -> str:
    digest = xxhash.xxh3_128()
    # By earlier rules, all fits were one call of Pillow, which a crop shows.
    for fit in ("crop", "pad") if rules >= EXACT_PAD_RULES else ("crop",):
        for decoded in (_synthetic_image(331, 250, 1), _synthetic_image(603, 453, 2)):
            for size in SIZES:
                digest.update(resize(decoded, size, fit=fit, filter=filter, rules=rules))
    return digest.hexdigest()


@functools.cache
def _synthetic_image(width: int, height: int, scale: int) -> Decoded:
    """Return an image of slopes, edges and grain from integers, the same on every machine."""
    size = (-(-width // scale), -(-height // scale))
    y, x = np.mgrid[: size[1], : size[0]]
    grain = (x * 2654435761 + y * 40503) >> 7
    planes = [x * 3 + y, (x // 9 + y // 7) % 2 * 255, (x * y) // 11 + grain % 32, grain]
    pixels = np.stack([plane % 256 for plane in planes], axis=-1).astype(np.uint8)
    image = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", 0, 1)
    return Decoded(image, width, height, "RGB", "JPEG", scale)
