"""What generators and critics are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrizations import spectral_norm

from workflows.training.world import BatchNorm

NORMS = ("batch", "layer", "spectral", "none")


def normed(layer: nn.Module, norm: str, channels: int) -> list[nn.Module]:
    """A layer and what normalises its (n, channels, h, w) output.

    Args:
        layer: A convolution or a linear layer.
        norm: `batch`; `layer`, over all but the rows (as the critics of Gulrajani et al. 2017);
            `spectral`, of the layer's weight (Miyato et al.: Spectral Normalization for GANs,
            ICLR 2018, arXiv 1802.05957); `none`.
        channels: Of the output.
    """
    if norm == "batch":
        return [layer, BatchNorm(channels)]
    if norm == "layer":
        return [layer, nn.GroupNorm(1, channels)]
    if norm == "spectral":
        return [spectral_norm(layer)]
    if norm == "none":
        return [layer]
    raise ValueError(f"norm is {norm!r}: expected one of {', '.join(NORMS)}.")


def initialise(network: nn.Module) -> None:
    """Draw the weights as Radford et al. 2016 do: N(0, 0.02), gains N(1, 0.02), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def levels(size: int) -> int:
    """How often 4 is to be doubled to make *size*.

    Raises:
        ValueError: It cannot be.
    """
    count = round(math.log2(size / 4)) if size >= 8 else 0
    if count < 1 or 4 * 2**count != size:
        raise ValueError(f"pictures of {size} px: expected 8, 16, 32, 64, 128, ...")
    return count


class Residual(nn.Module):
    """A block of the residual networks of Gulrajani et al. 2017, appendix F.

    (n, inputs, h, w) -> (n, outputs, h', w'), twice as large, half as large, or as it was.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        change: str = "",
        norm: str = "none",
        first: bool = False,
    ) -> None:
        """Make it.

        Args:
            inputs: Channels.
            outputs: Channels.
            change: `up`, `down`, or as it was.
            norm: Of its layers.
            first: Whether it sees pictures: no activation before its first layer.
        """
        super().__init__()
        self._change = change
        self._first = first
        conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        shortcut = nn.Conv2d(inputs, outputs, 1)
        for conv, gain in ((conv1, math.sqrt(2)), (conv2, math.sqrt(2)), (shortcut, 1.0)):
            nn.init.xavier_uniform_(conv.weight, gain)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        spectral = norm == "spectral"
        self.conv1, self.conv2, self.shortcut = (
            spectral_norm(conv) if spectral else conv for conv in (conv1, conv2, shortcut)
        )
        over = norm if norm in ("batch", "layer") else "none"
        self.norm1 = nn.Sequential(*normed(nn.Identity(), "none" if first else over, inputs))
        self.norm2 = nn.Sequential(*normed(nn.Identity(), over, outputs))
        self._plain = inputs == outputs and not change

    def forward(self, rows: Tensor) -> Tensor:
        """Add what the two layers make of it."""
        made = rows if self._first else functional.relu(self.norm1(rows))
        made = self.conv1(_up(made) if self._change == "up" else made)
        made = self.conv2(functional.relu(self.norm2(made)))
        if self._change == "down":
            made = functional.avg_pool2d(made, 2)
        return made + self._short(rows)

    def _short(self, rows: Tensor) -> Tensor:
        if self._plain:
            return rows
        if self._change == "up":
            rows = _up(rows)
        if self._change == "down":
            rows = functional.avg_pool2d(rows, 2)  # a 1 x 1 convolution and a mean change places
        short: Tensor = self.shortcut(rows)
        return short


def _up(rows: Tensor) -> Tensor:
    return functional.interpolate(rows, scale_factor=2.0, mode="nearest")


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Nothing of *network* changes inside, while gradients pass through it.

    No parameter gets a gradient, batch norm normalises by the batch and notes nothing of it, and
    spectral norm looks no closer at its weights.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    norms = [m for m in network.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
    spectral = [
        m for m in network.modules() if isinstance(m, parametrizations._SpectralNorm) and m.training
    ]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        for norm in norms:
            norm.track_running_stats = False
        for module in spectral:
            module.eval()
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.track_running_stats = True
        for module in spectral:
            module.train()
