"""The preprocessing of a network's images: their size, normalisation and order of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from pipeline.backbone.check_files import PREPROCESSOR_CONFIG, read_json
from pipeline.errors import TesseraeError

UNCROPPED_SIZE = 384
"""The side in pixels from which on a processor with the field `crop_pct` does not crop."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """The preprocessing of images."""

    size: int
    """The side in pixels of the images that the network takes."""
    mean: tuple[float, ...]
    """The means of red, green and blue, which are subtracted, as shares of 255."""
    std: tuple[float, ...]
    """The divisors of red, green and blue after the subtraction, as shares of 255."""
    channels: str = "RGB"
    """The order of channels that the network takes, RGB or BGR; `Backbone` converts RGB to it."""
    crop_share: float = 1.0
    """The side of the centre crop that the network's preprocessing cuts out, as a fraction of the
    short side of a picture. It matters for pictures of kept aspect alone: `apply` crops nothing."""

    def apply(self, images: Tensor) -> Tensor:
        """Return resized and normalised images.

        `Transform(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)`, for example, gives -1 to 1.

        Args:
            images: (n, 3, h, w) uint8 RGB, 0 to 255, on any device, of any size; other sizes are
                stretched to squares, bicubically, without keeping the aspect ratio.

        Returns:
            (n, 3, size, size) float32, (value / 255 - mean) / std of each channel, a new tensor on
            the device of *images*. The channels are RGB, also if `channels` is BGR.
        """
        pixels = images.float()
        if pixels.shape[2:] != (self.size, self.size):
            pixels = functional.interpolate(
                pixels, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (pixels / 255 - mean) / std


def read_transform(name_or_path: str, config: Any, *, local: bool) -> Transform:
    """Read the preprocessing that the model at *name_or_path* specifies.

    Args:
        name_or_path: The folder or name of the model.
        config: The configuration of the model, an object of transformers; its `image_size` counts
            if the preprocessing has no size.
        local: True if *name_or_path* is a folder, so that nothing is downloaded.

    Returns:
        The transform, with the `size` in pixels of the square images that the model takes, the
        `mean` and `std` of red, green and blue as fractions of 255, the order of `channels` that it
        takes, `RGB` or `BGR`, and the `crop_share` of its centre crop.

    Raises:
        TesseraeError: The model does not specify it, or takes no squares; there is no such folder,
            or the file cannot be downloaded or read.
    """
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(
            name_or_path,
            PREPROCESSOR_CONFIG,
            local_files_only=local,
            _raise_exceptions_for_missing_entries=False,
        )
        fields = None if file is None else read_json(Path(file))
    except OSError as e:
        first = (str(e).strip().splitlines() or [""])[0]
        raise TesseraeError(
            f"{name_or_path}/{PREPROCESSOR_CONFIG} cannot be read ({first})."
        ) from e
    if fields is None:
        raise TesseraeError(
            f"{name_or_path} has no preprocessor_config.json: expected the file that says how to"
            " normalise images for it."
        )
    defaults = _defaults(name_or_path, local=local)
    return make_transform(fields, defaults, name_or_path, getattr(config, "image_size", None))


def _defaults(name_or_path: str, *, local: bool) -> dict[str, Any]:
    """Return the default fields of the kind of image processor; empty for an unknown kind."""
    from transformers import AutoImageProcessor

    loader: Any = AutoImageProcessor
    try:
        processor = loader.from_pretrained(
            name_or_path, local_files_only=local, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError):
        return {}
    return dict(processor.to_dict())


def make_transform(
    fields: dict[str, Any], defaults: dict[str, Any], name: str, image_size: Any
) -> Transform:
    """Convert the fields of an image processor of `transformers` to a transform.

    Its pixels are `(value * factor - offset - mean) / std`; ours `(value / 255 - mean) / std`.

    Args:
        fields: The fields in the file of the processor, such as `image_mean`, `image_std`, `size`,
            `crop_size` and `rescale_factor`, as JSON values.
        defaults: The fields of its kind that the file may leave out; empty for an unknown kind.
            Mean and std count only if `do_normalize` is true in either, or *defaults* is empty.
        name: The name of the model in errors.
        image_size: The side in pixels by the model's configuration, used if the file has no size;
            None if the configuration has none either.

    Returns:
        The transform, with the `size` in pixels of the square images, the `mean` and `std` of red,
        green and blue as fractions of 255, the order of `channels`, `RGB` or `BGR`, and the
        `crop_share`: 224/256, for example, of a `size` with a `shortest_edge` of 256 and a
        `crop_size` of 224, or the field `crop_pct`; 1 without a crop.

    Raises:
        TesseraeError: The normalisation is not specified, a field is invalid, or the images are no
            squares.
    """
    merged = {**defaults, **fields}
    if "image_mean" not in merged:
        raise TesseraeError(
            f"{name} has no image_mean in its preprocessor_config.json: expected the mean of each"
            " channel."
        )
    normalised = merged.get("do_normalize", not defaults)
    mean = _per_channel(merged["image_mean"], "image_mean", name) if normalised else [0.0] * 3
    std = _per_channel(merged.get("image_std", 0.5), "image_std", name) if normalised else [1.0] * 3
    if not all(std):
        raise _field_error(name, "image_std", std, "three numbers that are not 0")
    factor = merged.get("rescale_factor") or 1 / 255
    if not _is_number(factor):
        raise _field_error(name, "rescale_factor", factor, "a number, such as 1/255")
    scale = 255 * (factor if merged.get("do_rescale", True) else 1)
    offset = 1 if merged.get("rescale_offset") else 0
    crop = fields.get("crop_size") if fields.get("do_center_crop", True) else None
    size = _side(crop or fields.get("size") or image_size or merged.get("size"), name)
    return Transform(
        size=size,
        mean=tuple(_rounded((value + offset) / scale) for value in mean),
        std=tuple(_rounded(value / scale) for value in std),
        channels="BGR" if merged.get("do_flip_channel_order") else "RGB",
        crop_share=_crop_share(fields, size),
    )


def _crop_share(fields: dict[str, Any], size: int) -> float:
    """Return which fraction of the short side the centre crop keeps; 1 without a valid one.

    Processors either resize the short side to `size` and cut out `crop_size`, or, as that of
    ConvNeXt, resize it to `size / crop_pct` and cut out `size`, below 384 px.
    """
    share = 1.0
    if fields.get("crop_size") and fields.get("do_center_crop", True):
        resized = fields.get("size")
        edge: Any = resized.get("shortest_edge") if isinstance(resized, dict) else resized
        share = size / edge if _is_number(edge) and edge > 0 else 1.0
    elif size < UNCROPPED_SIZE and _is_number(fields.get("crop_pct")):
        share = fields["crop_pct"]
    is_valid = 0.01 <= share < 1 and fields.get("do_resize", True)
    return _rounded(share) if is_valid else 1.0


def _per_channel(value: Any, field: str, name: str) -> list[float]:
    """Return a number for each channel: one counts for all of them."""
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or not all(map(_is_number, values)):
        raise _field_error(
            name, field, value, "three numbers, of red, green and blue, or one for all"
        )
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _field_error(name: str, field: str, value: Any, expected: str) -> TesseraeError:
    return TesseraeError(
        f"{name}/{PREPROCESSOR_CONFIG} has {field} {str(value)[:80]}: expected {expected}."
        " Download the file again, or correct it."
    )


def _rounded(value: float) -> float:
    """Round to the digits of a float32, so that its text is the same on every machine."""
    return float(f"{value:.7g}")


def _side(size: Any, name: str) -> int:
    if isinstance(size, dict):
        size = [size[key] for key in ("height", "width", "shortest_edge") if size.get(key)]
    listed = size if isinstance(size, list | tuple) else [size or 0]
    if not all(map(_is_number, listed)):
        raise _field_error(name, "size", size, "a side in pixels")
    sides = {int(side) for side in listed}
    if len(sides) != 1 or min(sides) < 1:
        sizes_text = " x ".join(map(str, sorted(sides))) or "no"
        raise TesseraeError(f"{name} takes images of {sizes_text} px: expected squares.")
    return sides.pop()
