"""What comes out of a block of a network, and how it becomes one row a picture."""

from __future__ import annotations

import difflib
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import TesseraeError

SHOWN = 30
"""Blocks that are named when there is none of the name."""


class _Reached(Exception):
    """The cut has its output: the rest of the model need not be computed."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def output_of(model: nn.Module, cut: str, pixels: Tensor) -> Tensor:
    """What comes out of block *cut*, where pictures come to it first; no more is computed.

    Threads may do so at once with one model.

    Raises:
        TesseraeError: They never come to it, or what comes out is no tensor.
    """

    def stop(module: nn.Module, inputs: Any, output: Any) -> NoReturn:
        raise _Reached(output)

    handle = model.get_submodule(cut).register_forward_hook(stop)
    try:
        model(pixels)
    except _Reached as reached:
        return _tensor(reached.output, cut)
    finally:
        handle.remove()
    raise TesseraeError(f"block {cut!r} takes no part in what the network makes of pictures.")


def _tensor(output: Any, cut: str) -> Tensor:
    """Of some blocks a tuple, with attention weights; of some, named parts."""
    found = getattr(output, "last_hidden_state", output)
    found = found[0] if isinstance(found, tuple | list) else found
    if not isinstance(found, Tensor):
        raise TesseraeError(f"what comes out of block {cut!r} is {type(output).__name__}, no map.")
    return found


def check_block(model: nn.Module, name: str, cut: str) -> None:
    """Refuse a block that *model*, called *name*, has not, or of which nothing comes out.

    Raises:
        TesseraeError: With the names of some that it has.
    """
    blocks = {
        known: block
        for known, block in model.named_modules()
        if known and not isinstance(block, nn.ModuleList | nn.ModuleDict)
    }
    if cut in blocks:
        return
    under = [known for known in blocks if known.startswith(f"{cut}.")]
    shown = [known for known in under if known.count(".") == cut.count(".") + 1]
    if not shown:
        alike = difflib.get_close_matches(cut, blocks, n=3)
        by_depth = sorted(blocks, key=lambda known: known.count("."))  # else in the model's order
        shown = list(dict.fromkeys([*alike, *by_depth]))
    more = f", ... ({len(blocks):,} blocks in all)" if len(shown) > SHOWN else ""
    raise TesseraeError(
        f"{name} has no block {cut!r}: expected one of {', '.join(shown[:SHOWN])}{more}."
    )


def pool(hidden: Tensor, pooling: str, name: str) -> Tensor:
    """One row a picture.

    Args:
        hidden: (n, d, h, w) of convolutions, (n, places, d) of transformers, or (n, d).
        pooling: One of `POOLINGS`; `end` is the mean here.
        name: Of the network.

    Returns:
        (n, d), of `grid` (n, 4 d): d channels, each of four quarters.

    Raises:
        TesseraeError: There is nothing to pool in that way.
    """
    dims = hidden.dim()
    if dims == 2:
        return hidden
    if dims not in (3, 4):
        raise TesseraeError(
            f"{name} gives {tuple(hidden.shape)} there: expected 2 to 4 dimensions."
        )
    if pooling == "grid":
        if dims != 4:
            raise TesseraeError(f"{name} has no map to pool by quarters there: use mean.")
        return functional.adaptive_avg_pool2d(hidden, 2).flatten(1)
    if pooling == "token":
        if dims != 3:
            raise TesseraeError(f"{name} has no tokens there: use mean.")
        return hidden[:, 0]
    places = (2, 3) if dims == 4 else (1,)
    return hidden.amax(places) if pooling == "max" else hidden.mean(places)
