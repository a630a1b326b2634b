"""What a network made of two probe pictures on one machine, to compare it with another's.

Kept with each commit. Sums of other machines differ a little; features of which a part was made by
a torch or a device that gives more than a little are no longer of one network. Needs no torch.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "probe"
"""In the provenance of a commit. Commits made before there were probes have none."""
MAX_NUMBERS = 64
"""How many numbers of each picture's features a probe keeps, taken all over them."""
TOLERANCES = {"float32": 1e-2, "bfloat16": 1e-1}
"""By precision, the largest relative distance of the probes of two machines."""


def encode_probe(features: NDArray[np.float32]) -> str:
    """Keep some numbers of a probe's features, (n, d), as text."""
    step = max(1, -(-features.shape[1] // MAX_NUMBERS))
    kept = np.ascontiguousarray(features[:, ::step], "<f4")
    return base64.b64encode(kept.tobytes()).decode("ascii")


def probe_distance(first: Any, second: Any) -> float | None:
    """Return the relative distance of two probes; None where they cannot be compared."""
    one, other = _decoded(first), _decoded(second)
    if one is None or other is None or one.shape != other.shape:
        return None
    size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
    return float(np.linalg.norm(one - other)) / size if size else 0.0


def is_another(first: Any, second: Any, precision: str) -> bool:
    """Return True if two probes are of networks that make other features.

    Where one of them is not there, or is none, nothing can be said against it.
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
