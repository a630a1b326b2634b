"""Checks that numbers and tensors are finite: neither NaN nor infinite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """A value in the rows to evaluate is NaN or infinite."""


def finite_or_none(value: Any) -> Any:
    """Return a copy of a JSON value in which None replaces NaN and infinity, at any depth.

    Args:
        value: A Python number, a string, a boolean, None, or a mapping, a list or a tuple of such
            values.

    Returns:
        The value without NaN and infinity: mappings become dictionaries, lists and tuples become
        lists. Any other value, such as an integer or a string, is returned as it is.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite_or_none(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(item) for item in value]
    return value


def first_non_finite(state: Any) -> str | None:
    """Return the name of the first tensor in *state* that holds NaN or infinity.

    Each device is synchronised at most once, however many tensors it holds. The tensors of one
    device are checked before those of the next.

    Args:
        state: Nested mappings, lists and tuples of tensors and plain values. Only
            floating-point tensors are checked: a plain float may be NaN. Those of float8 are not
            supported.

    Returns:
        The keys and positions that lead to the tensor, joined by dots, such as
        `generator.body.0.weight`; empty if *state* itself is that tensor; None if all tensors are
        finite.
    """
    by_device: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in _tensors(state, ()):
        if tensor.is_floating_point() and tensor.numel():
            by_device.setdefault(tensor.device, []).append((name, tensor))
    for named_tensors in by_device.values():
        flags = torch.stack([tensor.isfinite().all() for _, tensor in named_tensors]).tolist()
        if not all(flags):
            return named_tensors[flags.index(False)][0]
    return None


def num_bytes(state: Any) -> int:
    """Return the total size in bytes of all tensors in nested mappings and sequences.

    Args:
        state: Nested mappings, lists and tuples of tensors on any device and plain values, which
            count as 0. A tensor that occurs twice counts twice.
    """
    return sum(tensor.nbytes for _, tensor in _tensors(state, ()))


def check_finite(*sets: Tensor) -> None:
    """Check that sets of rows are finite, since NaN and infinity have no meaningful distance.

    Args:
        sets: Tensors of two or more dimensions, (n, ...), of any dtype that `torch.isfinite`
            accepts, on any device; n may be 0.

    Raises:
        NonFiniteError: A value is NaN or infinite; the message has the number of such rows of the
            first set with one.
    """
    for rows in sets:
        bad_rows = int((~rows.flatten(1).isfinite().all(1)).sum()) if len(rows) else 0
        if bad_rows:
            raise NonFiniteError(
                f"{bad_rows:,} of {len(rows):,} rows contain NaN or infinity: their metrics would"
                " be meaningless."
            )


def _tensors(state: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield ".".join(keys), state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(value, (*keys, str(key)))
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from _tensors(value, (*keys, str(index)))
