"""Whether figures and states are finite: neither NaN nor infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class NotFiniteError(ValueError):
    """Rows to be judged hold a value that is NaN or infinite."""


def finite_or_none(value: Any) -> Any:
    """A plain value with None for every number that JSON cannot hold, inside of it too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite_or_none(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(one) for one in value]
    return value


def first_not_finite(state: Any) -> str | None:
    """The name of the first tensor of a state that holds a value that is not finite.

    Asks each device once for an answer: a device that computes ahead is waited for a single time.

    Args:
        state: Mappings and sequences of tensors and plain values, as deep as they are.

    Returns:
        The keys that lead to the tensor, joined by dots; None if all of them are finite.
    """
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in _tensors(state, ()):
        if tensor.is_floating_point() and tensor.numel():
            by_device.setdefault(tensor.device, []).append((name, tensor))
    for named in by_device.values():
        flags = torch.stack([tensor.isfinite().all() for _, tensor in named]).tolist()
        if not all(flags):
            return named[flags.index(False)][0]
    return None


def num_bytes(state: Any) -> int:
    """Bytes of all tensors of a state."""
    return sum(tensor.nbytes for _, tensor in _tensors(state, ()))


def refuse_not_finite(*sets: Tensor) -> None:
    """Refuse sets that no distance can be told of.

    Args:
        sets: (n, ...) each, of any dtype.

    Raises:
        NotFiniteError: A value is NaN or infinite.
    """
    for rows in sets:
        bad = int((~rows.flatten(1).isfinite().all(1)).sum()) if len(rows) else 0
        if bad:
            raise NotFiniteError(
                f"{bad:,} of {len(rows):,} rows hold values that are not finite: figures of them"
                " would say nothing."
            )


def _tensors(state: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield ".".join(keys), state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(value, (*keys, str(key)))
    elif isinstance(state, list | tuple):
        for place, value in enumerate(state):
            yield from _tensors(value, (*keys, str(place)))
