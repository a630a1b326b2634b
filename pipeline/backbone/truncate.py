"""The output of a block of a network, and its pooling into one row for each image."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import TesseraeError

MAX_NAMED_BLOCKS = 30
"""The maximum number of blocks that the error about an unknown block lists."""


class _BlocksReached(Exception):
    """Raised when all blocks have their outputs, so that the remaining ones are not computed."""


def block_output(model: nn.Module, cut: str, pixels: Tensor) -> Tensor:
    """Return the output of the first call of block *cut*, and compute nothing beyond it.

    Several threads may use one model at once.

    Args:
        model: The network.
        cut: The name of the block, as `named_modules` of the model has it; it must exist.
        pixels: (n, 3, h, w) float32, the normalised images, with the channels in the order that the
            model takes, on its device.

    Returns:
        (n, d, h', w') for convolutions, (n, positions, d) for transformers, or (n, d), on the same
        device, with gradients if the weights or the pixels have them. Of an output of several parts
        it is `last_hidden_state`, or else the first part.

    Raises:
        TesseraeError: The block is never called, or its output is no tensor.
        AttributeError: There is no such block.
    """
    return block_outputs(model, [cut], pixels)[0]


def block_outputs(model: nn.Module, cuts: Sequence[str], pixels: Tensor) -> list[Tensor]:
    """Return the outputs of the first calls of some blocks, and compute nothing beyond the last.

    Several threads may use one model at once.

    Args:
        model: The network.
        cuts: The names of the blocks, as `named_modules` of the model has them; they must exist.
        pixels: (n, 3, h, w) float32, the normalised images, with the channels in the order that the
            model takes, on its device.

    Returns:
        The output of each block as `block_output` returns it, in the order of *cuts*.

    Raises:
        TesseraeError: A block is never called, or its output is no tensor.
        AttributeError: There is no such block.
    """
    outputs: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def hook_of(cut: str) -> Callable[[nn.Module, Any, Any], None]:
        """Return a hook that keeps the output of a block, and ends the pass with the last one."""

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() != thread or cut in outputs:
                return  # it is of another thread, or of a later use of the block
            outputs[cut] = _tensor(output, cut)
            if len(outputs) == len(blocks):
                raise _BlocksReached
            outputs[cut] = outputs[cut].clone()  # later layers may change it in place

        return keep

    blocks = {cut: model.get_submodule(cut) for cut in cuts}
    handles = [block.register_forward_hook(hook_of(cut)) for cut, block in blocks.items()]
    try:
        model(pixels)
    except _BlocksReached:
        return [outputs[cut] for cut in cuts]
    finally:
        for handle in handles:
            handle.remove()
    unused = next(cut for cut in cuts if cut not in outputs)
    raise TesseraeError(f"block {unused!r} is not used when the network computes features.")


@contextmanager
def replace_block_output(
    model: nn.Module, cut: str, replace: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Let a network go on with another output of block *cut* inside the `with` block.

    Args:
        model: The network. Other threads that use it meanwhile get the replaced output too.
        cut: The name of the block, as `named_modules` of the model has it; it must exist.
        replace: A function of the output of the block, such as (n, d, h, w), that returns the one
            that the remaining blocks get, on the same device. It is called in each call of the
            block.

    Raises:
        AttributeError: There is no such block.
        TesseraeError: Inside the `with` block: the output is not a single tensor.
    """

    def substitute(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise TesseraeError(
                f"the output of block {cut!r} is {type(output).__name__}: expected a tensor, which"
                " can be replaced."
            )
        return replace(output)

    handle = model.get_submodule(cut).register_forward_hook(substitute)
    try:
        yield
    finally:
        handle.remove()


def block_names(model: nn.Module) -> list[str]:
    """Return the names of the blocks of a network, in the order in which it computes them.

    The first is the stem, what comes before the list of layers. Each layer of the list is another
    one or, where the list has stages, each of their `layers` or `blocks`. A layer whose only
    weights are depthwise convolutions is the first half of a separable block (Howard et al.:
    MobileNets, 2017) and is left out: its block is named by the other half.

    Args:
        model: A network whose layers are in a `ModuleList`, as those of `transformers`.

    Returns:
        Names as `named_modules` has them, such as `encoder.stages.0.layers.1`, which `block_output`
        takes; empty if the network has no list of layers.
    """
    lists = ((name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList))
    path, listed = next(lists, ("", None))
    if listed is None:
        return []
    names = []
    for name, child in model.named_children():
        if name == path.partition(".")[0]:
            break
        if any(True for _ in child.parameters()):
            names = [name]  # of several, the last one: its output is what the first layer gets
    for index, layer in enumerate(listed):
        inner = next(
            (n for n in ("layers", "blocks")
             if isinstance(getattr(layer, n, None), nn.ModuleList | nn.Sequential)),
            None,
        )  # fmt: skip
        if inner is None:
            names.append(f"{path}.{index}")
        else:
            names += [f"{path}.{index}.{inner}.{i}" for i in range(len(getattr(layer, inner)))]
    return [name for name in names if not _is_depthwise(model.get_submodule(name))]


def _is_depthwise(block: nn.Module) -> bool:
    weighted = [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return bool(weighted) and all(
        isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in weighted
    )


def _tensor(output: Any, cut: str) -> Tensor:
    """Return the tensor in a block's output, which may be a tuple or have named parts."""
    hidden = getattr(output, "last_hidden_state", output)
    hidden = hidden[0] if isinstance(hidden, tuple | list) else hidden
    if not isinstance(hidden, Tensor):
        raise TesseraeError(
            f"the output of block {cut!r} is {type(output).__name__}: expected a tensor."
        )
    return hidden


def check_block(model: nn.Module, name: str, cut: str) -> None:
    """Check that a network has a block that can have an output; nothing is computed.

    Args:
        model: The network.
        name: The name of the network in errors.
        cut: The name of the block, as `named_modules` of the model has it, such as
            `encoder.layer.3`; a ModuleList or ModuleDict has no output.

    Raises:
        TesseraeError: There is no such block; the error names existing ones.
    """
    blocks = {
        path: block
        for path, block in model.named_modules()
        if path and not isinstance(block, nn.ModuleList | nn.ModuleDict)
    }
    if cut in blocks:
        return
    under = [path for path in blocks if path.startswith(f"{cut}.")]
    suggested = [path for path in under if path.count(".") == cut.count(".") + 1]
    if not suggested:
        similar = difflib.get_close_matches(cut, blocks, n=3)
        by_depth = sorted(
            blocks, key=lambda path: path.count(".")
        )  # a stable sort keeps the model's order
        suggested = list(dict.fromkeys([*similar, *by_depth]))
    more = f", ... ({len(blocks):,} blocks in all)" if len(suggested) > MAX_NAMED_BLOCKS else ""
    raise TesseraeError(
        f"{name} has no block {cut!r}: expected one of"
        f" {', '.join(suggested[:MAX_NAMED_BLOCKS])}{more}."
    )


def pool(hidden: Tensor, pooling: str, name: str) -> Tensor:
    """Pool the output of a block into one row for each image.

    Args:
        hidden: (n, d, h, w) of convolutions, (n, positions, d) of transformers, or (n, d), which is
            returned as it is, whatever the pooling.
        pooling: `mean` or `max` over positions; `end`, which means the mean here; `grid`, the mean
            over each quarter of the image; or `token`, the first position.
        name: The name of the network in errors.

    Returns:
        (n, d); for `grid` (n, 4 d): for each of the d channels in turn, its upper left, upper
        right, lower left and lower right quarter.

    Raises:
        TesseraeError: The output has other than two to four dimensions, or cannot be pooled in
            that way: `grid` needs four, `token` three.
    """
    dims = hidden.dim()
    if dims == 2:
        return hidden
    if dims not in (3, 4):
        raise TesseraeError(
            f"the features of {name} have shape {tuple(hidden.shape)}: expected 2 to 4 dimensions."
        )
    if pooling == "grid":
        if dims != 4:
            raise TesseraeError(
                f"the features of {name} have no spatial dimensions to pool by quarters: pass"
                " --pooling mean."
            )
        return functional.adaptive_avg_pool2d(hidden, 2).flatten(1)
    if pooling == "token":
        if dims != 3:
            raise TesseraeError(f"the features of {name} have no tokens: pass --pooling mean.")
        return hidden[:, 0]
    axes = (2, 3) if dims == 4 else (1,)
    return hidden.amax(axes) if pooling == "max" else hidden.mean(axes)
