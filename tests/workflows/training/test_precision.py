"""Tests of the number format of a computation."""

from __future__ import annotations

import pytest
import torch

from workflows.training.precision import PRECISIONS, autocast, training_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_a_named_format_is_used_on_any_device() -> None:
    """A named format is used whether the hardware multiplies it or not."""
    assert PRECISIONS == ("auto", "float32", "bfloat16")
    for device in (CPU, GPU):
        assert training_precision("float32", device) == torch.float32
        assert training_precision("bfloat16", device) == torch.bfloat16


@pytest.mark.parametrize(("capable", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch, capable: bool, expected: torch.dtype
) -> None:
    """A CPU with AMX or a GPU with the format has bfloat16, and one that emulates it float32."""
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: capable)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: capable
        or including_emulation,
    )  # fmt: skip
    assert training_precision("auto", CPU) == expected
    assert training_precision("auto", GPU) == expected


def test_a_context_lowers_the_format_of_products() -> None:
    """float32 changes nothing, and weights stay what they are."""
    layer = torch.nn.Linear(4, 4)
    for precision in (torch.float32, torch.bfloat16):
        with autocast(precision, CPU):
            assert layer(torch.ones(1, 4)).dtype == precision
    assert layer.weight.dtype == torch.float32
