"""The number format in which networks compute; weights stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS = ("auto", "float32", "bfloat16")
"""The values of the option `--precision`, of which `training_precision` selects a dtype."""


def training_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that the option `--precision` selects on a device.

    Args:
        precision: One of `PRECISIONS`; `auto` is bfloat16 where the hardware multiplies matrices of
            it, so on a GPU that supports it or a CPU with AMX, and float32 elsewhere.
        device: The device that computes.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which a network computes in a number format.

    Args:
        dtype: The format; float32 changes nothing.
        device: The device that computes.
    """
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)
