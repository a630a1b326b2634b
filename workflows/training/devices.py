"""The torch device that an option `--device` names."""

from __future__ import annotations

import torch


def parse_device(name: str | None) -> torch.device:
    """Return the torch device of a name, after checking that it can be used.

    Args:
        name: Name of the device, such as `cpu`, `cuda` or `cuda:1`; None: a GPU if there is one,
            else the CPU.

    Raises:
        ValueError: There is no such device, or it cannot hold numbers; the message names
            `--device`.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # the device `meta` has shapes and no numbers
    except (RuntimeError, AssertionError) as e:  # torch raises either for a missing device
        first = str(e).splitlines()[0]
        raise ValueError(
            f"--device is {name!r}: expected cpu, or a GPU as cuda:0 ({first})."
        ) from e
    return device
