"""A few words with vectors, and strategies of tokens."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters=" \n\r\0\ufeff")
TOKENS = st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=12, unique=True)

COLOURS = ("red", "green", "blue", "Red", "a_b")


def colours(dim: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(COLOURS), dim)).astype(np.float32)
