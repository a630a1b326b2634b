"""Copies of an image among answers: the same picture as another file, size or quality.

Two images count as copies if their vectors are near, and if small pictures of them, which are the
means of 16 x 16 fields, differ little. Both are needed: vectors of different pictures of one class
may be near, and small pictures of dark or plain images are alike.

Of 1,400 photographs, any two differ by at least 21 levels (root mean square). Copies that were
compressed at a quality of 30 or made smaller to a third of the side are all recognised; of 400 that
were cropped by 2 % or made lighter by 5 %, about ten are not. A test prints these figures:
`TESSERAE_DATA=... pytest -s -m slow tests/workflows/search/test_duplicates.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

SIDE = 16
"""The number of fields of a small picture in each direction."""
MIN_COSINE = 0.9
"""The smallest cosine of the vectors of two copies."""
MAX_DIFFERENCE = 10.0
"""The largest root mean square difference of two copies, in levels of 0 to 255."""
MAX_SHARE_OF_CONTRAST = 0.25
"""The largest difference as a share of the standard deviation of the small picture: plain images
differ from each other by few levels."""
MIN_DIFFERENCE = 1.0
"""The difference in levels up to which images without contrast are copies."""


SmallPicture = NDArray[np.uint8]
"""The means of the fields of an image, (16, 16, 3) uint8 RGB."""


def originals(
    vectors: NDArray[np.float32],
    small_pictures: Callable[[Sequence[int]], Mapping[int, SmallPicture]],
) -> list[int]:
    """Return for each image the position of the first image of which it is a copy, or its own.

    Each image is compared with those before it that are no copies themselves.

    Args:
        vectors: The unit vectors of the n images, (n, dim) float32.
        small_pictures: A function that returns the small pictures of images by their positions;
            one that is absent cannot be read, so its image is no copy. It is called at most once,
            with the positions of the images whose vectors are near to another.

    Returns:
        n positions, of which none is larger than that of its own image.
    """
    near = np.triu(vectors @ vectors.T >= MIN_COSINE, 1)
    compared = np.flatnonzero(near.any(0) | near.any(1))
    pictures = small_pictures(compared.tolist()) if len(compared) else {}
    readable = [index for index in compared.tolist() if index in pictures]
    same = np.zeros(near.shape, bool)
    if readable:
        levels = np.stack([pictures[index] for index in readable]).astype(np.float64)
        same[np.ix_(readable, readable)] = _same_pictures(levels)
    same &= near
    first = list(range(len(vectors)))
    for index in compared.tolist():
        copied = (i for i in np.flatnonzero(same[:index, index]).tolist() if first[i] == i)
        first[index] = next(copied, index)
    return first


def _same_pictures(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return True for each pair of small pictures that are of one image, (n, n) bool."""
    flat = levels.reshape(len(levels), -1)
    squares = (flat**2).sum(1)
    sums = squares[:, None] + squares - 2 * flat @ flat.T
    differences = np.sqrt(np.maximum(sums, 0) / flat.shape[1])
    contrasts = levels.std((1, 2)).max(1)
    allowed = np.maximum(MIN_DIFFERENCE, MAX_SHARE_OF_CONTRAST * contrasts)
    return np.asarray(
        differences <= np.minimum(MAX_DIFFERENCE, np.minimum(allowed[:, None], allowed))
    )
