"""The rows of two probe images on one machine, to compare its network with another machine's.

A probe is stored with each commit. Sums differ slightly between machines. If they differ by more,
because of another torch or device, the rows of the two machines cannot be mixed. This module
imports no torch.
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
"""The maximum number of values that a probe keeps of each image, evenly spaced."""


def encode_probe(rows: NDArray[np.float32]) -> str:
    """Encode up to 64 evenly spaced values of the rows of each probe image as base64 text.

    Args:
        rows: The rows of the probe images, such as features, (n, d) float32, d at least 1.

    Returns:
        The base64 text of the selected numbers, float32 little-endian, image after image.
    """
    step = max(1, -(-rows.shape[1] // MAX_NUMBERS))
    sampled = np.ascontiguousarray(rows[:, ::step], "<f4")
    return base64.b64encode(sampled.tobytes()).decode("ascii")


def probe_distance(first: Any, second: Any) -> float | None:
    """Return the relative distance of two encoded probes; None if they cannot be compared.

    Args:
        first: A probe as `encode_probe` returns it, or anything else that a commit holds in its
            place, such as None or the empty string.
        second: The other probe.

    Returns:
        The Euclidean norm of their difference, divided by the larger of their norms, from 0 (equal)
        to 2; None if one is missing, empty or invalid, or if their lengths differ.
    """
    a, b = _decode(first), _decode(second)
    if a is None or b is None or a.shape != b.shape:
        return None
    norm = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    return float(np.linalg.norm(a - b)) / norm if norm else 0.0


def probes_differ(first: Any, second: Any, tolerance: float) -> bool:
    """Return True if two machines compute different rows, by their probes.

    Args:
        first: An encoded probe, or anything else that a commit holds in its place, such as None.
        second: The same of the other machine.
        tolerance: The largest relative distance of equal machines, the `probe_tolerance` of the
            recipe of the rows.

    Returns:
        True if the probes differ by more than the tolerance; False also if they cannot be compared,
        as `probe_distance` explains.
    """
    distance = probe_distance(first, second)
    return distance is not None and distance > tolerance


def _decode(text: Any) -> NDArray[np.float64] | None:
    try:
        data = base64.b64decode(text, validate=True)
        values = np.frombuffer(data, "<f4").astype(np.float64)
    except (binascii.Error, TypeError, ValueError):
        return None
    return values if len(values) and np.isfinite(values).all() else None
