"""The features of two probe images on one machine, to compare its network with another machine's.

A probe is stored with each commit. Sums differ slightly between machines; features that were made
in part by a torch or a device whose sums differ by more are not of one network. Needs no torch.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "probe"
"""The key of the probe in the provenance of a commit; commits of early versions lack it."""
MAX_NUMBERS = 64
"""The maximum number of features that a probe keeps of each image, evenly spaced."""
TOLERANCES = {"float32": 1e-2, "bfloat16": 1e-1}
"""The largest relative distance of the probes of two machines, by precision."""


def encode_probe(features: NDArray[np.float32]) -> str:
    """Encode every few numbers of a probe's (n, d) features as base64 text."""
    step = max(1, -(-features.shape[1] // MAX_NUMBERS))
    sampled = np.ascontiguousarray(features[:, ::step], "<f4")
    return base64.b64encode(sampled.tobytes()).decode("ascii")


def probe_distance(first: Any, second: Any) -> float | None:
    """Return the relative distance of two probes; None if they cannot be compared."""
    a, b = _decoded(first), _decoded(second)
    if a is None or b is None or a.shape != b.shape:
        return None
    size = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / size if size else 0.0


def probes_differ(first: Any, second: Any, precision: str) -> bool:
    """Return True if two probes are of networks that make other features.

    It is False if one of them is missing or invalid.
    """
    distance = probe_distance(first, second)
    return distance is not None and distance > TOLERANCES[precision]


def _decoded(text: Any) -> NDArray[np.float64] | None:
    try:
        data = base64.b64decode(text, validate=True)
        values = np.frombuffer(data, "<f4").astype(np.float64)
    except (binascii.Error, TypeError, ValueError):
        return None
    return values if len(values) and np.isfinite(values).all() else None
