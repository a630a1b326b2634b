"""Pictures as a network takes them: their size, how they are normalised, the order of channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from pipeline.backbone.files import TRANSFORM, read_json
from pipeline.errors import TesseraeError


@dataclass(frozen=True, kw_only=True)
class Transform:
    """What is done to pictures first."""

    size: int
    """Side of what the network takes, in pixels."""
    mean: tuple[float, ...]
    """Of each channel, subtracted, as a share of 255."""
    std: tuple[float, ...]
    """What each is divided by then."""
    channels: str = "RGB"
    """The order in which the network takes them, which is for it to see to: RGB or BGR."""

    def apply(self, images: Tensor) -> Tensor:
        """Normalised pictures.

        Args:
            images: (n, 3, h, w) uint8 RGB, of any size: squeezed or enlarged.

        Returns:
            (n, 3, size, size) float32 RGB.
        """
        pixels = images.float()
        if pixels.shape[2:] != (self.size, self.size):
            pixels = functional.interpolate(
                pixels, (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 255)
        mean, std = (pixels.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (pixels / 255 - mean) / std


def read_transform(where: str, config: Any, *, local: bool) -> Transform:
    """What the model at *where* says of its pictures.

    Args:
        where: Folder or name.
        config: The model's.
        local: Whether it is a folder.

    Raises:
        TesseraeError: It says nothing of it, or takes no squares.
    """
    from transformers.utils.hub import cached_file

    file = cached_file(
        where,
        TRANSFORM,
        local_files_only=local,
        _raise_exceptions_for_missing_entries=False,
    )
    if file is None:
        raise TesseraeError(
            f"{where} has no preprocessor_config.json: nothing says how pictures are to be"
            " normalised for it."
        )
    said = read_json(Path(file))
    known = _defaults(where, local=local)
    return transform_of(said, known, where, getattr(config, "image_size", None))


def _defaults(where: str, *, local: bool) -> dict[str, Any]:
    """What the kind of image processor does unless it is told otherwise; nothing of an unknown."""
    from transformers import AutoImageProcessor

    kinds: Any = AutoImageProcessor
    try:
        made = kinds.from_pretrained(where, local_files_only=local, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError):
        return {}
    return dict(made.to_dict())


def transform_of(
    said: dict[str, Any], known: dict[str, Any], name: str, image_size: Any
) -> Transform:
    """From the fields of an image processor of `transformers`.

    Its pixels are `(value * factor - offset - mean) / std`; ours `(value / 255 - mean) / std`.

    Args:
        said: What its file says.
        known: What is so unless it says otherwise.
        name: What errors call the model.
        image_size: Side in pixels by the model's own settings, where the file says nothing.

    Raises:
        TesseraeError: Nothing says how pictures are normalised, or it takes no squares.
    """
    both = {**known, **said}
    if "image_mean" not in both:
        raise TesseraeError(
            f"{name} has no image_mean in its preprocessor_config.json: nothing says how pictures"
            " are to be normalised for it."
        )
    normalised = both.get("do_normalize", not known)
    mean = _three(both["image_mean"], "image_mean", name) if normalised else [0.0] * 3
    std = _three(both.get("image_std", 0.5), "image_std", name) if normalised else [1.0] * 3
    if not all(std):
        raise _wrong(name, "image_std", std, "three numbers that are not 0")
    factor = both.get("rescale_factor") or 1 / 255
    if not _is_number(factor):
        raise _wrong(name, "rescale_factor", factor, "a number, such as 1/255")
    scale = 255 * (factor if both.get("do_rescale", True) else 1)
    offset = 1 if both.get("rescale_offset") else 0
    crop = said.get("crop_size") if said.get("do_center_crop", True) else None
    return Transform(
        size=_side(crop or said.get("size") or image_size or both.get("size"), name),
        mean=tuple(_rounded((value + offset) / scale) for value in mean),
        std=tuple(_rounded(value / scale) for value in std),
        channels="BGR" if both.get("do_flip_channel_order") else "RGB",
    )


def _three(value: Any, field: str, name: str) -> list[float]:
    """Return a number for each channel: one counts for all of them."""
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or not all(map(_is_number, values)):
        raise _wrong(name, field, value, "three numbers, of red, green and blue, or one for all")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong(name: str, field: str, value: Any, expected: str) -> TesseraeError:
    return TesseraeError(
        f"{name}/{TRANSFORM} has {field} {str(value)[:80]}: expected {expected}. Download the file"
        " again, or correct it."
    )


def _rounded(value: float) -> float:
    """As much of it as a float32 holds: a text that is the same everywhere."""
    return float(f"{value:.7g}")


def _side(size: Any, name: str) -> int:
    if isinstance(size, dict):
        size = [size[key] for key in ("height", "width", "shortest_edge") if size.get(key)]
    listed = size if isinstance(size, list | tuple) else [size or 0]
    if not all(map(_is_number, listed)):
        raise _wrong(name, "size", size, "a side in pixels")
    sides = {int(side) for side in listed}
    if len(sides) != 1 or min(sides) < 1:
        shown = " x ".join(map(str, sorted(sides))) or "no"
        raise TesseraeError(f"{name} takes pictures of {shown} px: expected squares.")
    return sides.pop()
