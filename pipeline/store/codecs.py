"""The compression of chunks: the codecs that a recipe may name."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

Compress = Callable[[NDArray[np.uint8]], bytes]
"""A function from the bytes of a chunk, (n,) uint8, to the compressed bytes."""


Decompress = Callable[[memoryview, NDArray[np.uint8]], None]
"""A function of compressed bytes that fills an array, (n,) uint8, with the chunk's n bytes."""


def parse_codec(codec: str) -> tuple[str, int]:
    """Split a recipe's codec into its name and level.

    Args:
        codec: `none`, `zstd:<1-22>`, `blosc-lz4` or `blosc-zstd:<1-9>`.

    Returns:
        The text before the colon, and the level, such as ("zstd", 3); the level is 0 for codecs
        without levels.

    Raises:
        ValueError: *codec* is not a valid codec of a store.
    """
    name, _, text = codec.partition(":")
    level = int(text) if text.isdecimal() else 0
    highest = {"none": 0, "blosc-lz4": 0, "zstd": 22, "blosc-zstd": 9}.get(name)
    if highest is None or bool(text) != bool(highest) or (highest and not 1 <= level <= highest):
        raise ValueError(
            f"codec is {codec!r}: expected none, zstd:LEVEL (1-22), blosc-lz4 or"
            " blosc-zstd:LEVEL (1-9)."
        )
    return name, level


def decompressor(codec: str) -> Decompress | None:
    """Return the function that decompresses a chunk, or None for the codec `none`.

    Except for `none`, this also turns off the threads of numcodecs' Blosc in the whole process.

    Args:
        codec: A codec of a recipe: `none`, `zstd:<1-22>`, `blosc-lz4` or `blosc-zstd:<1-9>`.

    Returns:
        A function (data, out) without a result that takes the compressed bytes of a chunk, without
        its checksum, as a memoryview, and an array, (n,) uint8, that it overwrites with the n bytes
        of the chunk. It raises ValueError if the data state another length than n, and IndexError
        or RuntimeError for other damage that it notices; compare the checksum before.

    Raises:
        ValueError: *codec* is not a valid codec of a store.
    """
    name, _ = parse_codec(codec)
    if name == "none":
        return None
    import numcodecs

    numcodecs.blosc.use_threads = False  # a loader has threads of its own
    decoder = numcodecs.Zstd() if name == "zstd" else numcodecs.Blosc()
    content_bytes = _zstd_content_bytes if name == "zstd" else _blosc_content_bytes

    def decompress(data: memoryview, out: NDArray[np.uint8]) -> None:
        # numcodecs accepts less data than fits the array without an error.
        if content_bytes(data) != len(out):
            raise ValueError(f"it unpacks to {content_bytes(data)} bytes: expected {len(out)}.")
        decoder.decode(data, out)

    return decompress


def _zstd_content_bytes(frame: memoryview) -> int:
    """Return the decompressed size that a zstd frame states (RFC 8878, 3.1.1.1); -1 if none."""
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    more = 256 if width == 2 else 0
    return int.from_bytes(frame[start : start + width], "little") + more if width else -1


def _blosc_content_bytes(data: memoryview) -> int:
    """Return the decompressed size that a Blosc buffer states; -1 if the buffer is incomplete."""
    # The decoder trusts the stated length, and would read past the end of a shorter buffer.
    states_own_length = int.from_bytes(data[12:16], "little") == len(data)
    return int.from_bytes(data[4:8], "little") if states_own_length else -1


def compressor(codec: str) -> Compress | None:
    """Return the function that compresses a chunk exactly as zarr does, or None for `none`.

    For Blosc, this also turns off the threads of numcodecs' Blosc in the whole process.

    Args:
        codec: A codec of a recipe: `none`, `zstd:<1-22>`, `blosc-lz4` or `blosc-zstd:<1-9>`.

    Returns:
        A function that takes the bytes of a chunk, an array (n,) uint8, and returns the compressed
        ones as bytes, without a checksum.

    Raises:
        ValueError: *codec* is not a valid codec of a store.
    """
    name, level = parse_codec(codec)
    if name == "none":
        return None
    import numcodecs  # takes 0.2 s, which an uncompressed store need not spend

    if name == "zstd":
        return cast(Compress, numcodecs.Zstd(level=level, checksum=False).encode)
    # As in zarr: with threads the size of a block may depend on their number.
    numcodecs.blosc.use_threads = False
    if name == "blosc-lz4":
        encoder = numcodecs.Blosc("lz4", clevel=5, shuffle=numcodecs.Blosc.NOSHUFFLE, typesize=1)
    else:
        encoder = numcodecs.Blosc(
            "zstd", clevel=level, shuffle=numcodecs.Blosc.BITSHUFFLE, typesize=1
        )
    return cast(Compress, encoder.encode)
