"""The devices that tests run on: the CPU, and a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

DEVICES = (
    "cpu",
    pytest.param(
        "cuda",
        marks=(
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ),
    ),
)
"""The values of a parameter `device`: the body of a test for GPUs runs on the CPU as well."""
