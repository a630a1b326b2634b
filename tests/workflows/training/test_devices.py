"""The option `--device`: a device that can hold numbers, or an error in a sentence."""

from __future__ import annotations

import pytest
import torch

from workflows.training.devices import parse_device


def test_a_device_is_found_by_its_name() -> None:
    """Without a name, a GPU is chosen only where there is one."""
    assert parse_device("cpu") == torch.device("cpu")
    assert parse_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "meta", ""])
def test_a_device_without_numbers_is_an_error(name: str) -> None:
    """The device `meta` of torch has shapes only."""
    with pytest.raises(ValueError, match=f"--device is '{name}': expected cpu, or a GPU as cuda:0"):
        parse_device(name)
