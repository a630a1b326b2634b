"""Image files that common libraries do not write: any depth, any tag, and broken metadata."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.images import jpeg

# --- PNG ----------------------------------------------------------------------------------------


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with its length and its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    samples: NDArray[Any],
    colour: int,
    bits: int = 8,
    *,
    before: Sequence[bytes] = (),
    after: Sequence[bytes] = (),
) -> bytes:
    """Return a PNG of (height, width, channels) samples of 8 or 16 bits.

    Args:
        colour: 0 for grey, 2 for RGB, 3 for palette, 4 for grey with alpha, 6 for RGB with alpha.
        before: Chunks before the pixels.
        after: Chunks after the pixels.
    """
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1).astype(">u2" if bits == 16 else "u1")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", head),
            *before,
            png_chunk(b"IDAT", body),
            *after,
            png_chunk(b"IEND", b""),
        ]
    )


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """Return the PNG *data* with chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def long_text(num_bytes: int = 1_200_000) -> bytes:
    """Return a chunk of compressed text that inflates to *num_bytes*."""
    return png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(num_bytes), 9))


# --- TIFF ---------------------------------------------------------------------------------------

_CODES = {1: "B", 3: "H", 4: "I", 11: "f", 12: "d", 13: "I"}


def tiff(
    strips: Sequence[bytes],
    width: int,
    height: int,
    tags: Mapping[int, tuple[int, Any]],
    *,
    order: str = "<",
) -> bytes:
    """Return a TIFF with one directory.

    Args:
        strips: The strips: one for all rows, or one for each plane.
        tags: Further tags: number -> (type, value or values).
        order: The byte order, "<" or ">".
    """
    data, offsets = bytearray(8), []
    for strip in strips:
        offsets.append(len(data))
        data += strip + bytes(len(strip) % 2)
    all_tags: dict[int, tuple[int, Any]] = {
        256: (4, width),
        257: (4, height),
        259: (3, 1),
        273: (4, offsets),
        278: (4, height),
        279: (4, [len(strip) for strip in strips]),
        **tags,
    }
    entries = b""
    for tag, (kind, value) in sorted(all_tags.items()):
        body = _tag_body(kind, value, order)
        count = len(value) if isinstance(value, (bytes, list, tuple)) else 1
        entries += struct.pack(f"{order}HHI", tag, kind, count)
        if len(body) <= 4:
            entries += body.ljust(4, b"\0")
            continue
        entries += struct.pack(f"{order}I", len(data))
        data += body + bytes(len(body) % 2)
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, len(data))
    data[:8] = magic
    return bytes(data) + struct.pack(f"{order}H", len(all_tags)) + entries + bytes(4)


def _tag_body(kind: int, value: Any, order: str) -> bytes:
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, (list, tuple)) else [value]
    code = _CODES.get(kind, "I")
    return struct.pack(f"{order}{len(values)}{code}", *values)


def grey_tiff(
    samples: NDArray[Any],
    *,
    bits: int | None = None,
    white_is_zero: bool = False,
    sample_format: int | None = None,
    order: str = "<",
    tags: Mapping[int, tuple[int, Any]] | None = None,
) -> bytes:
    """Return an uncompressed TIFF of (height, width) samples, in their dtype's depth or packed."""
    height, width = samples.shape
    bits = bits or samples.dtype.itemsize * 8
    body = packed_12(samples) if bits == 12 else samples.astype(samples.dtype.newbyteorder(order))
    body = body if isinstance(body, bytes) else body.tobytes()
    all_tags: dict[int, tuple[int, Any]] = {258: (3, bits), 262: (3, int(not white_is_zero))}
    if sample_format is not None:
        all_tags[339] = (3, sample_format)
    return tiff([body], width, height, {277: (3, 1), **all_tags, **(tags or {})}, order=order)


def packed_12(samples: NDArray[Any]) -> bytes:
    """Return rows of packed 12-bit samples, each row padded to whole bytes."""
    rows = []
    for row in samples.astype(np.uint16):
        bits = "".join(f"{value:012b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows.append(bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)))
    return b"".join(rows)


# --- PBM, PGM, PPM ------------------------------------------------------------------------------


def netpbm(samples: NDArray[Any], maximum: int) -> bytes:
    """Return a PGM of (height, width) samples, or a PPM of (height, width, 3)."""
    magic = b"P5" if samples.ndim == 2 else b"P6"
    kind = ">u2" if maximum > 255 else "u1"
    head = b"%s\n%d %d\n%d\n" % (magic, samples.shape[1], samples.shape[0], maximum)
    return head + samples.astype(kind).tobytes()


# --- JPEG ---------------------------------------------------------------------------------------


def phone_jpeg(seed: int, size: tuple[int, int] = (60, 45), claimed: int = 3) -> bytes:
    """Return a JPEG whose index claims *claimed* further images, though it contains two."""
    with Image.open(io.BytesIO(jpeg(seed, *size))) as image:
        buffer = io.BytesIO()
        image.save(buffer, "MPO", save_all=True, append_images=[image.copy()])
    data = buffer.getvalue()
    at = data.find(b"\x01\xb0", data.find(b"MPF\0"))
    return data[: at + 8] + struct.pack("<I", claimed) + data[at + 12 :]


# --- Images that rules 1 and rules 2 decode differently -----------------------------------------


def odd_images() -> dict[str, bytes]:
    """Return files by name; rules 1 and rules 2 give different rows for most of them."""
    y, x = np.mgrid[:20, :24]
    ramp = (y * 24 + x) / (20 * 24 - 1)
    deep = np.round(ramp * 65535).astype(np.uint16)
    whole = jpeg(3, 40, 30)
    return {
        "n00000000/cut.JPEG": jpeg(1, 40, 30)[:-300],
        "n00000000/deep-grey.png": png(deep[..., None], 0, 16),
        "n00000000/deep-grey.tif": grey_tiff(deep),
        "n00000000/deep-grey-big-endian.tif": grey_tiff(deep, order=">"),
        "n00000000/deep-grey-inverted.tif": grey_tiff(deep, white_is_zero=True),
        "n00000001/twelve-bits.tif": grey_tiff(deep >> 4, bits=12),
        "n00000001/deep.pgm": netpbm(deep, 65535),
        "n00000001/ten-bits.pgm": netpbm(deep >> 6, 1023),
        "n00000001/floating.tif": grey_tiff(ramp.astype(np.float32), sample_format=3),
        "n00000001/signed.tif": grey_tiff((ramp * 2000).astype(np.int32), sample_format=2),
        "n00000002/no-end.JPEG": whole[:-2],
        "n00000002/filled-up.JPEG": whole[:-300] + bytes(2000),
        "n00000002/long-text.png": with_chunks(png(deep[..., None] >> 8, 0), long_text()),
        "n00000002/phone.JPEG": phone_jpeg(5),
        "n00000002/sound.JPEG": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        "n00000002/whole.JPEG": whole,
    }
