"""Image files as the network sees them: pixels of 8 bits, transparency, and what is kept of a file.

Colours are the numbers of the file, whose profile is kept: a network enlarges those of any RGB
space alike. What cannot be enlarged faithfully is refused: samples of more than 8 bits, and colours
that are neither RGB nor grey, such as CMYK.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from pipeline.errors import DecodeError, TesseraeError
from pipeline.images import libtiff, tiff
from pipeline.images.decode import PILLOW_FORMATS, RULES
from pipeline.images.rejection import BOMB, UNSUPPORTED, rejection_of, require_decodable_format

_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")
_KEPT_TAGS = (
    ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model,
    ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit,
    ExifTags.Base.Software, ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright,
)  # fmt: skip
"""The tags of EXIF that are kept: those that describe the photograph, not its file."""
_POSITIONED_TAGS = (ExifTags.Base.MakerNote, 0xA005)
"""The tags of EXIF whose value holds positions in the file, which do not hold in another."""
_PROFILE_HEADER_BYTES = 128


class ImageFileError(TesseraeError):
    """An image file that cannot be enlarged, which does not concern other files."""


@dataclass(frozen=True)
class SourceImage:
    """A decoded image file, turned as its EXIF orientation says."""

    colours: NDArray[np.uint8]
    """(h, w, c) levels: RGB, or grey with c = 1."""
    alpha: NDArray[np.uint8] | None
    """(h, w) opacity, 0 to 255; None without transparency."""
    profile: bytes | None
    """The ICC profile of the colours."""
    exif: bytes | None
    """The EXIF data that are kept, as a TIFF without the prefix of JPEG files."""
    frames: int
    """The number of frames of an animation or of pages of a TIFF, of which this is the first."""

    @property
    def size(self) -> tuple[int, int]:
        """The width and the height in pixels."""
        height, width = self.colours.shape[:2]
        return width, height

    @property
    def channels(self) -> int:
        """The number of channels of the file that it becomes, 1 to 4."""
        return int(self.colours.shape[2]) + (self.alpha is not None)

    @property
    def visible_colours(self) -> NDArray[np.uint8]:
        """The colours, (h, w, c), in which transparent pixels have that of the nearest visible one.

        Files have any colour there, often black, which the network would mix into the edges.
        """
        if self.alpha is None:
            return self.colours
        hidden = self.alpha == 0
        if not hidden.any() or hidden.all():
            return self.colours
        from scipy.ndimage import distance_transform_edt

        rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
        nearest: NDArray[np.uint8] = self.colours[rows, columns]
        return nearest


def pixel_count(file: Path) -> int:
    """Return the number of pixels that the header of an image file states; 0 if it is unreadable.

    Args:
        file: The file.
    """
    try:
        with warnings.catch_warnings(action="ignore"), _opened(file) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001 - as in `read_image`, which then says what is wrong
        return 0


def read_image(file: Path) -> SourceImage:
    """Read an image file.

    Args:
        file: A JPEG, PNG, GIF, WebP, BMP, TIFF, PBM, PGM or PPM file.

    Raises:
        ImageFileError: It cannot be read, or cannot be enlarged faithfully; a sentence that names
            the file.
    """
    try:
        data = file.read_bytes()
    except OSError as e:
        raise ImageFileError(f"{file} cannot be read: {e.strerror or e}.") from e
    if not data:
        raise ImageFileError(f"{file} is empty: expected an image.")
    try:
        require_decodable_format(data)
        with warnings.catch_warnings(action="ignore"):
            return _decoded(data)
    except DecodeError as e:
        raise _unreadable(file, e.status, e.reason) from e
    except MemoryError as e:
        raise ImageFileError(f"{file} cannot be read: there is too little memory.") from e
    # Invalid bytes make Pillow's plugins raise almost any type.
    except Exception as e:
        try:
            status, reason = rejection_of(data, e, RULES)
        except DecodeError as identified:
            status, reason = identified.status, identified.reason
        raise _unreadable(file, status, reason) from e


def _unreadable(file: Path, status: int, reason: str) -> ImageFileError:
    if status == BOMB:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return ImageFileError(
            f"{file} has more than {limit:,} pixels, the largest size that is decoded: cut it."
        )
    return ImageFileError(f"{file} cannot be enlarged: {reason}.")


def _opened(file: Path | io.BytesIO) -> ImageFile.ImageFile:
    return Image.open(file, formats=PILLOW_FORMATS)


def _decoded(data: bytes) -> SourceImage:
    if data[:2] in (b"II", b"MM"):
        libtiff.watch_errors()
    with _opened(io.BytesIO(data)) as image:
        _require_faithful(image, data)
        frames = _frames(image)
        profile = image.info.get("icc_profile")
        image.load()
        if image.format == "TIFF" and libtiff.has_met_error():
            raise OSError("libtiff met an error")
        turned, exif = _turned(image)
        is_grey = image.mode in _GREY_MODES
        mode = "L" if is_grey else "RGB"
        if turned.has_transparency_data:
            mode = "LA" if is_grey else "RGBA"
        pixels = np.array(turned.convert(mode))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    has_alpha = mode.endswith("A")
    return SourceImage(
        colours=pixels[:, :, :-1] if has_alpha else pixels,
        alpha=pixels[:, :, -1] if has_alpha else None,
        profile=profile if _describes(profile, is_grey=is_grey) else None,
        exif=exif,
        frames=frames,
    )


def _require_faithful(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse images that lose what they are when they are converted to RGB or grey of 8 bits."""
    if bits := _deep_samples(image, data):
        raise DecodeError(
            UNSUPPORTED, f"it has {bits} a sample, and 8 bits are enlarged; convert it to 8 bits"
        )
    if image.mode not in (*_GREY_MODES, *_COLOUR_MODES):
        raise DecodeError(
            UNSUPPORTED,
            f"its colours are {image.mode}; convert it to RGB, by its profile if it has one",
        )


def _deep_samples(image: ImageFile.ImageFile, data: bytes) -> str:
    """Return the depth of the samples, such as `16 bits`, if they have more than 8; else ''."""
    if image.mode == "F":
        return "floating-point numbers"
    # Pillow drops the low byte of colours without a word; its decoder's arguments name the depth.
    layout = str([entry[3] for entry in image.tile])
    if image.mode.startswith("I;16") or ";16" in layout:
        return "16 bits"
    if image.format == "PPM" and isinstance(arguments := image.tile[0][3], tuple):
        return "16 bits" if int(arguments[-1]) > 255 else ""
    if image.mode == "I":
        return "32 bits"
    if image.format == "TIFF" and (tags := tiff.read_directory(data)) is not None:
        bits = int(max(tags.numbers(data, tiff.BITS_PER_SAMPLE), default=1))
        return f"{bits} bits" if bits > 8 else ""
    return ""


def _frames(image: ImageFile.ImageFile) -> int:
    if image.format == "MPO":  # a camera's photograph, followed by previews and depth maps
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - a damaged later frame does not concern the first
        return 1


def _turned(image: Image.Image) -> tuple[Image.Image, bytes | None]:
    """Return an image as its EXIF orientation says, and the EXIF data that are kept."""
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - broken EXIF of any kind must not hide the image
        return image, None
    try:
        return turned, _kept_exif(turned)
    except Exception:  # noqa: BLE001 - as above
        return turned, None


def _kept_exif(image: Image.Image) -> bytes | None:
    exif = image.getexif()
    kept = Image.Exif()
    for tag in _KEPT_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if values := dict(exif.get_ifd(directory)):
            _remove_facts_of_file(values)
            kept[directory] = values
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else None


def _remove_facts_of_file(values: dict[int, Any]) -> None:
    for tag in (
        *_POSITIONED_TAGS,
        ExifTags.Base.ExifImageWidth,
        ExifTags.Base.ExifImageHeight,
    ):
        values.pop(tag, None)


def _describes(profile: bytes | None, *, is_grey: bool) -> bool:
    """Return True if an ICC profile is one of such colours; others would be refused by readers."""
    if not isinstance(profile, bytes) or len(profile) <= _PROFILE_HEADER_BYTES:
        return False
    return profile[16:20] == (b"GRAY" if is_grey else b"RGB ")
