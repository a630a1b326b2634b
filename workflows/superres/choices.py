"""The names that the options of super-resolution choose from, which load no torch."""

from __future__ import annotations

from types import MappingProxyType

STORED, BICUBIC, BLUR_JPEG = "stored", "bicubic", "blur+jpeg"
DEGRADATIONS = (STORED, BICUBIC, BLUR_JPEG)
"""The origins of low-resolution images: stored beside their originals, or made of them."""
NETWORKS = MappingProxyType(
    {
        "srcnn": "SRCNN, three convolutions of the enlarged image",
        "fsrcnn": "FSRCNN, the fastest",
        "lesson": "the lesson's residual network",
        "successor": "its successor of 2018, with weight norm",
        "edsr": "EDSR's baseline, the largest",
        "span": "SPAN, small and accurate",
    }
)
"""The networks by name, each with a phrase for the help text."""
PIXEL_LOSSES = ("l1", "l2", "charbonnier")
"""The differences of pixels."""
FEATURE_LOSSES = ("squared", "absolute", "rms")
"""The differences of features: squared as in Johnson et al. 2016, absolute as in the lesson's
successor, and the root of the mean square of each image as in the lesson's notebook."""
SCALES = (2, 3, 4)
"""The factors of the enlargement."""
DEFAULT_SCALE = 4
"""The factor that is trained if neither the options nor the store decide."""
