"""The pictures of the sample: which photograph each is cut from, and how it is painted.

The photographs are those inside scikit-image's wheel. The wheel has one photograph of most
things, and none may be in both train and val, so classes are as broad as it takes to have two.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

VERSION = 1
"""Of what this module makes out of one set of options."""

VAL_SHARE = 0.2
AREAS = (0.55, 1.0)
"""Of a crop, as a share of the largest of its shape that fits."""
GAINS = (0.82, 1.18)
TONES = (-0.05, 0.05)
"""How much warmer a picture gets: more red, less blue."""
QUALITIES = (91, 98)
"""Of the JPEGs, as Pillow counts it."""

SIZES = (
    (500, 375, 40), (375, 500, 13), (500, 333, 15), (333, 500, 5), (500, 500, 3), (400, 300, 4),
    (640, 480, 5), (800, 600, 2), (1024, 768, 2), (1600, 1200, 1), (240, 180, 3), (180, 240, 2),
    (160, 120, 2), (110, 146, 1), (500, 150, 1), (900, 200, 1),
)  # fmt: skip
"""Width, height in pixels, and how many of a hundred images have them."""


@dataclass(frozen=True)
class Photograph:
    """A photograph of the wheel, and what of it a crop must show."""

    file: str
    focus: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.5)
    """Left, top, right, bottom, as shares of the sides: inside every crop where it fits."""
    mirrors: bool = True


@dataclass(frozen=True)
class Class:
    """A class: its WordNet noun, and the photographs that each split is cut from."""

    wnid: str
    words: str
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
        train=(  # the two pictures of a stereo pair
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
"""What the classes are kinds of, as WordNet has it: (parent, child), with some between left out."""

ODD = (("grey", 8), ("png", 16), ("cmyk", 24), ("truncated", 32), ("empty", 40))
"""What some of the train files are instead, and from how many images on there is one."""
GREY_EVERY = 50
"""One more grey image for each so many."""


@dataclass(frozen=True)
class Picture:
    """One file to make."""

    split: str
    wnid: str
    name: str
    photograph: Photograph
    kind: str
    draws: str
    """Seed of its crop and colours."""

    @property
    def path(self) -> str:
        """Relative to the sample's folder."""
        return f"{self.split}/{self.wnid}/{self.name}"


def plan_pictures(images: int, seed: int, num_classes: int) -> Iterator[Picture]:
    """Every file of the sample, in the order it is made."""
    num_val = max(num_classes, round(images * VAL_SHARE))
    num_train = images - num_val
    kinds = odd_kinds(images, num_train, seed)
    for split, count in (("train", num_train), ("val", num_val)):
        for place in range(count):
            each = CLASSES[place % num_classes]
            turn = place // num_classes
            photographs = each.train if split == "train" else each.val
            yield Picture(
                split=split,
                wnid=each.wnid,
                name=f"{each.wnid}_{turn}.JPEG"
                if split == "train"
                else f"val_{place + 1:08d}.JPEG",
                photograph=photographs[turn % len(photographs)],
                kind=kinds.get(place, "plain") if split == "train" else "plain",
                draws=f"{VERSION}/{seed}/{split}/{each.wnid}/{turn}",
            )


def odd_kinds(images: int, num_train: int, seed: int) -> dict[int, str]:
    """Which of the train files are odd, and how."""
    kinds = [kind for kind, least in ODD if images >= least]
    kinds += ["grey"] * (images // GREY_EVERY if kinds else 0)
    places = sorted(range(num_train), key=lambda place: _draws(f"odd/{seed}/{place}").random())
    return dict(zip(places, kinds, strict=False))


def _draws(seed: str) -> random.Random:
    # Of all its methods only random() is promised to give the same numbers on every version.
    return random.Random(seed)


def paint(picture: Picture, photograph: Image.Image) -> bytes:
    """The bytes of one file, cut from its *photograph* (mode RGB)."""
    if picture.kind == "empty":
        return b""
    draws = _draws(picture.draws)
    width, height = draw_size(draws)
    box = draw_box(draws, picture.photograph.focus, photograph.size, width / height)
    image = photograph.resize((width, height), Image.Resampling.LANCZOS, box=box)
    if picture.photograph.mirrors and draws.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = _between(draws, *GAINS)
    tone = _between(draws, *TONES)
    gains = [gain * (1 + tone), gain, gain * (1 - tone)]
    image = image.point([min(255, round(level * gain)) for gain in gains for level in range(256)])
    return encode(image, picture.kind, round(_between(draws, *QUALITIES)))


def draw_size(draws: random.Random) -> tuple[int, int]:
    """Width and height of a picture, in pixels, as often as `SIZES` says."""
    left = draws.random() * sum(weight for _, _, weight in SIZES)
    for width, height, weight in SIZES:
        left -= weight
        if left < 0:
            return width, height
    raise AssertionError("random() is below 1")


def draw_box(
    draws: random.Random,
    focus: tuple[float, float, float, float],
    size: tuple[int, int],
    aspect: float,
) -> tuple[float, float, float, float]:
    """What is cut out of a photograph of *size*: left, top, right, bottom in its pixels."""
    width = min(size[0], size[1] * aspect) * math.sqrt(_between(draws, *AREAS))
    left = _draw_start(draws, width / size[0], focus[0], focus[2]) * size[0]
    height = width / aspect
    top = _draw_start(draws, height / size[1], focus[1], focus[3]) * size[1]
    return left, top, min(left + width, size[0]), min(top + height, size[1])


def _draw_start(draws: random.Random, length: float, start: float, stop: float) -> float:
    """Where a window of *length* begins so that it shows start..stop, or its middle; in 0..1."""
    low, high = max(0.0, stop - length), min(1.0 - length, start)
    if low > high:  # too short for all of it
        low = high = min(max(0.0, (start + stop - length) / 2), 1.0 - length)
    return _between(draws, low, high)


def _between(draws: random.Random, low: float, high: float) -> float:
    return low + (high - low) * draws.random()


def encode(image: Image.Image, kind: str, quality: int) -> bytes:
    """*image* (mode RGB) as a file of the *kind*."""
    out = io.BytesIO()
    if kind == "png":
        image.save(out, "PNG")
        return out.getvalue()
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    image.convert(mode).save(out, "JPEG", quality=quality)
    data = out.getvalue()
    return data[: len(data) * 6 // 10] if kind == "truncated" else data
