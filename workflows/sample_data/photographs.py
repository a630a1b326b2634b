"""The images of the sample: which photograph each is cropped from, and how it is rendered.

The photographs come from scikit-image's wheel. It has a single photograph of most subjects, and
none may be in both train and val, so the classes are broad enough to have two photographs each.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

VERSION = 1
"""The version of the algorithm; the same version and options give the same bytes."""

VAL_SHARE = 0.2
AREAS = (0.55, 1.0)
"""The range of a crop's area, as a fraction of the largest crop of its shape."""
GAINS = (0.82, 1.18)
"""The range of the factor of the brightness."""
TONES = (-0.05, 0.05)
"""The range of the colour shift: a positive tone raises red and lowers blue."""
QUALITIES = (91, 98)
"""The range of the JPEG quality, on Pillow's scale."""

SIZES_AND_PERCENTS = (
    (500, 375, 40), (375, 500, 13), (500, 333, 15), (333, 500, 5), (500, 500, 3), (400, 300, 4),
    (640, 480, 5), (800, 600, 2), (1024, 768, 2), (1600, 1200, 1), (240, 180, 3), (180, 240, 2),
    (160, 120, 2), (110, 146, 1), (500, 150, 1), (900, 200, 1),
)  # fmt: skip
"""The (width, height) of images in pixels, with their frequency in percent."""


@dataclass(frozen=True)
class Photograph:
    """A photograph of the wheel, and the part of it that a crop must show."""

    file: str
    """The name of the file in scikit-image's folder of data."""
    focus: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.5)
    """The left, top, right and bottom of this part, as fractions of the sides."""
    mirrors: bool = True
    """True if crops may be mirrored; text must not be."""


@dataclass(frozen=True)
class Class:
    """A class: its WordNet synset, and the photographs that each split is cropped from."""

    wnid: str
    words: str
    """The names of the class, separated by commas."""
    train: tuple[Photograph, ...]
    val: tuple[Photograph, ...]


CLASSES = (
    Class(
        "n00007846",
        "person, individual, someone, somebody, mortal, soul",
        train=(Photograph("astronaut.png", (0.36, 0.05, 0.58, 0.4)),),
        val=(Photograph("camera.png", (0.24, 0.12, 0.54, 0.4)),),
    ),
    Class(
        "n04524313",
        "vehicle",
        train=(  # the two images of a stereo pair
            Photograph("motorcycle_left.png", (0.3, 0.35, 0.75, 0.8)),
            Photograph("motorcycle_right.png", (0.27, 0.35, 0.72, 0.8)),
        ),
        val=(Photograph("rocket.jpg", (0.47, 0.4, 0.53, 0.95)),),
    ),
    Class(
        "n05311054",
        "eye, oculus, optic",
        train=(Photograph("chelsea.png", (0.28, 0.25, 0.76, 0.6)),),  # a cat's, looking at you
        val=(Photograph("retina.jpg"),),  # the back of a human one
    ),
    Class(
        "n02997391",
        "ceramic",
        train=(Photograph("coffee.png", (0.3, 0.1, 0.75, 0.75)),),  # a cup
        val=(Photograph("brick.png"),),
    ),
    Class(
        "n09239740",
        "celestial body, heavenly body",
        train=(Photograph("hubble_deep_field.jpg"),),
        val=(Photograph("moon.png"),),
    ),
    Class(
        "n09334396",
        "land, dry land, earth, ground, solid ground, terra firma",
        train=(Photograph("gravel.png"),),
        val=(Photograph("grass.png"),),
    ),
    Class(
        "n06387980",
        "text, textual matter",
        train=(Photograph("page.png", mirrors=False),),
        val=(Photograph("text.png", mirrors=False),),
    ),
)

TAXONOMY = (
    ("n00001740", "n00001930"),  # entity -> physical entity
    ("n00001740", "n00002137"),  # entity -> abstraction
    ("n00001930", "n00002684"),  # physical entity -> object
    ("n00001930", "n00002452"),  # physical entity -> thing
    ("n00002684", "n00003553"),  # object -> whole
    ("n00002684", "n09334396"),  # object -> land
    ("n00003553", "n00004258"),  # whole -> living thing
    ("n00003553", "n00021939"),  # whole -> artifact
    ("n00003553", "n00019128"),  # whole -> natural object
    ("n00004258", "n00007846"),  # living thing -> ... -> person
    ("n00021939", "n03575240"),  # artifact -> instrumentality
    ("n03575240", "n04524313"),  # instrumentality -> ... -> vehicle
    ("n03575240", "n02997391"),  # instrumentality -> ceramic
    ("n00019128", "n09239740"),  # natural object -> celestial body
    ("n00002452", "n05311054"),  # thing -> ... -> eye
    ("n00002137", "n06387980"),  # abstraction -> ... -> text
)
"""The (parent, child) edges above the classes in WordNet, with some levels left out."""

ODD = (("grey", 8), ("png", 16), ("cmyk", 24), ("truncated", 32), ("empty", 40))
"""The kinds of unusual train files, each with the smallest sample that contains one."""
GREY_EVERY = 50
"""The number of images per additional greyscale image."""


@dataclass(frozen=True)
class SampleImage:
    """The specification of one image file of the sample."""

    split: str
    """The name of the split: `train` or `val`."""
    wnid: str
    """The wnid of its class."""
    name: str
    """The name of the file, such as `val_00000001.JPEG`."""
    photograph: Photograph
    kind: str
    """The kind of file: `plain` for an RGB JPEG, or one of those in `ODD`."""
    random_seed: str
    """The seed of the random draws of its crop and colours."""

    @property
    def path(self) -> str:
        """The path of the file relative to the sample's folder."""
        return f"{self.split}/{self.wnid}/{self.name}"


def plan_images(images: int, seed: int, num_classes: int) -> Iterator[SampleImage]:
    """Yield the specification of every file of the sample, those of train first.

    Args:
        images: Number of images, train and val together, at least two for each class.
        seed: The seed of all random draws; the same arguments give the same files.
        num_classes: Number of classes, the first ones of `CLASSES`, from 1 to 7.

    Yields:
        The specifications, each with `split` (`train` or `val`), `wnid`, `name` (of the file, such
        as `val_00000001.JPEG`), `photograph` (from which it is made), `kind` (such as `plain` or
        `png`) and `random_seed` (of its crop and colours).
    """
    num_val = max(num_classes, round(images * VAL_SHARE))
    num_train = images - num_val
    kinds = odd_kinds(images, num_train, seed)
    for split, count in (("train", num_train), ("val", num_val)):
        for index in range(count):
            entry = CLASSES[index % num_classes]
            turn = index // num_classes
            photographs = entry.train if split == "train" else entry.val
            yield SampleImage(
                split=split,
                wnid=entry.wnid,
                name=f"{entry.wnid}_{turn}.JPEG"
                if split == "train"
                else f"val_{index + 1:08d}.JPEG",
                photograph=photographs[turn % len(photographs)],
                kind=kinds.get(index, "plain") if split == "train" else "plain",
                random_seed=f"{VERSION}/{seed}/{split}/{entry.wnid}/{turn}",
            )


def odd_kinds(images: int, num_train: int, seed: int) -> dict[int, str]:
    """Draw which train files are unusual.

    Args:
        images: Number of images of the sample, which decides how many are unusual.
        num_train: Number of train files, from which they are drawn.
        seed: The seed of the draws.

    Returns:
        The kind of each unusual file by its index among the train files, from 0; all others are
        plain. There is one `grey`, `png`, `cmyk`, `truncated` and `empty` file from 8, 16, 24, 32
        and 40 images on, and one more `grey` file for every 50 images; of these, as many as there
        are train files.
    """
    kinds = [kind for kind, min_images in ODD if images >= min_images]
    kinds += ["grey"] * (images // GREY_EVERY if kinds else 0)
    order = sorted(
        range(num_train), key=lambda index: _random_generator(f"odd/{seed}/{index}").random()
    )
    return dict(zip(order, kinds, strict=False))


def _random_generator(seed: str) -> random.Random:
    # Only random() is guaranteed to give the same numbers in every version of Python.
    return random.Random(seed)


def render_photograph(sample_image: SampleImage, photograph: Image.Image) -> bytes:
    """Return the bytes of one file of the sample, an image that is cropped and recoloured.

    Args:
        sample_image: The specification of the file, which also holds the seed of its random crop.
        photograph: The photograph that the specification names, in mode RGB.

    Returns:
        A JPEG or PNG file, by `sample_image.kind`; b"" for the kind `empty`.
    """
    if sample_image.kind == "empty":
        return b""
    rng = _random_generator(sample_image.random_seed)
    width, height = draw_size(rng)
    box = draw_box(rng, sample_image.photograph.focus, photograph.size, width / height)
    image = photograph.resize((width, height), Image.Resampling.LANCZOS, box=box)
    if sample_image.photograph.mirrors and rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = _draw_between(rng, *GAINS)
    tone = _draw_between(rng, *TONES)
    gains = [gain * (1 + tone), gain, gain * (1 - tone)]
    image = image.point([min(255, round(level * gain)) for gain in gains for level in range(256)])
    return encode(image, sample_image.kind, round(_draw_between(rng, *QUALITIES)))


def draw_size(rng: random.Random) -> tuple[int, int]:
    """Return the (width, height) of an image in pixels, drawn from a table of usual sizes.

    Args:
        rng: The random generator, which advances by one draw.
    """
    remaining = rng.random() * sum(weight for _, _, weight in SIZES_AND_PERCENTS)
    for width, height, weight in SIZES_AND_PERCENTS:
        remaining -= weight
        if remaining < 0:
            return width, height
    raise AssertionError("random() is below 1")


def draw_box(
    rng: random.Random,
    focus: tuple[float, float, float, float],
    size: tuple[int, int],
    aspect: float,
) -> tuple[float, float, float, float]:
    """Return a random crop box (left, top, right, bottom), in pixels of the photograph.

    Args:
        rng: The random generator, which advances by three draws.
        focus: The (left, top, right, bottom) of the part that the crop shall show, as fractions of
            the sides, 0 to 1.
        size: The width and height of the photograph in pixels.
        aspect: The ratio of the crop's width to its height.

    Returns:
        The box within the photograph, of 55 to 100 % of the area of the largest crop of its shape.
        In a direction in which it is shorter than the focus, it is centred on it, as far as the
        photograph allows.
    """
    width = min(size[0], size[1] * aspect) * math.sqrt(_draw_between(rng, *AREAS))
    left = _draw_start(rng, width / size[0], focus[0], focus[2]) * size[0]
    height = width / aspect
    top = _draw_start(rng, height / size[1], focus[1], focus[3]) * size[1]
    return left, top, min(left + width, size[0]), min(top + height, size[1])


def _draw_start(rng: random.Random, length: float, start: float, stop: float) -> float:
    """Return the start of a window of *length* within 0..1 that contains start..stop.

    A window that is shorter than start..stop is centred on it.
    """
    low, high = max(0.0, stop - length), min(1.0 - length, start)
    if low > high:  # shorter than start..stop
        low = high = min(max(0.0, (start + stop - length) / 2), 1.0 - length)
    return _draw_between(rng, low, high)


def _draw_between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def encode(image: Image.Image, kind: str, quality: int) -> bytes:
    """Return an image encoded as a file.

    Args:
        image: The image, in mode RGB, which is not changed.
        kind: `plain` (RGB JPEG), `grey`, `cmyk`, `png`, or `truncated` (the first 60 % of a JPEG);
            any other text gives a plain one. An `empty` file has no contents to encode.
        quality: The quality of a JPEG on Pillow's scale, such as 95; without effect on a PNG.

    Returns:
        The contents of the file.
    """
    out = io.BytesIO()
    if kind == "png":
        image.save(out, "PNG")
        return out.getvalue()
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    image.convert(mode).save(out, "JPEG", quality=quality)
    data = out.getvalue()
    return data[: len(data) * 6 // 10] if kind == "truncated" else data
