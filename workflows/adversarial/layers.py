"""The layers shared by generators and critics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrizations import spectral_norm

from workflows.training.world import BatchNorm

NORMS = ("batch", "layer", "spectral", "none")
"""The normalisations of layers, which `with_norm` describes."""


def with_norm(layer: nn.Module, norm: str, channels: int) -> list[nn.Module]:
    """Return the layers that apply a layer and then the normalisation of its output.

    Args:
        layer: A convolution or a linear layer.
        norm: `batch`, over the batch of all ranks; `layer`, over all axes but the rows (as in the
            critics of Gulrajani et al. 2017); `spectral`, of the layer's weight (Miyato et al.:
            Spectral Normalization for GANs, ICLR 2018, arXiv 1802.05957); or `none`.
        channels: Channels of the output, (n, channels, h, w) or (n, channels).

    Returns:
        One or two modules, to be called in this order: *layer* itself, whose weight `spectral`
        replaces in place by a normalised one; and for `batch` and `layer` a new norm on the CPU.

    Raises:
        ValueError: *norm* is unknown.
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
    """Initialise convolutions and norms, in place, as DCGAN does.

    The layers are `Conv2d`, `ConvTranspose2d`, `BatchNorm2d` and `GroupNorm`; others, such as
    linear ones, keep their weights, and so do convolutions with spectral norm. Weights are drawn
    from N(0, 0.02²), gains of norms from N(1, 0.02²), with torch's global generator; biases, also
    of convolutions with spectral norm, are 0. Radford et al.:
    Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks,
    ICLR 2016, arXiv 1511.06434.

    Args:
        network: A network, or a single layer. Its norms have weights (`affine=True`).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def num_doublings(size: int) -> int:
    """Return how many doublings lead from 4 px to *size* px, such as 4 for 64 px.

    Args:
        size: Side of an image, in pixels: 8, 16, 32, ...

    Returns:
        The number of doublings, at least 1.

    Raises:
        ValueError: *size* is not 4 times a power of 2, or is less than 8.
    """
    count = round(math.log2(size / 4)) if size >= 8 else 0
    if count < 1 or 4 * 2**count != size:
        raise ValueError(f"images of {size} px: expected 8, 16, 32, 64, 128, ...")
    return count


class Residual(nn.Module):
    """A block of the residual networks of Gulrajani et al. 2017, appendix F.

    (n, inputs, h, w) -> (n, outputs, h', w'), at twice the size, half the size, or the same size.
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
        """Create a block with random weights.

        Args:
            inputs: Channels of the input.
            outputs: Channels of the output.
            change: Change of size: `up`, `down`, or empty for none (the default).
            norm: Normalisation of its layers, one of `NORMS`.
            first: True if the input is an image, which is not passed through an activation.
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
        map_norm = norm if norm in ("batch", "layer") else "none"
        self.norm1 = nn.Sequential(*with_norm(nn.Identity(), "none" if first else map_norm, inputs))
        self.norm2 = nn.Sequential(*with_norm(nn.Identity(), map_norm, outputs))
        self._plain = inputs == outputs and not change

    def forward(self, rows: Tensor) -> Tensor:
        """Return the output of the two layers plus the shortcut.

        Args:
            rows: (n, inputs, h, w) float32, on the block's device; h and w are at least 2 for the
                change `down`.

        Returns:
            (n, outputs, h', w'), float32 unless autocast lowers it. For the change `up` h' is 2 h,
            for `down` half of h rounded down, otherwise h, and w' likewise.
        """
        maps = rows if self._first else functional.relu(self.norm1(rows))
        maps = self.conv1(_up(maps) if self._change == "up" else maps)
        maps = self.conv2(functional.relu(self.norm2(maps)))
        if self._change == "down":
            maps = functional.avg_pool2d(maps, 2)
        return maps + self._short(rows)

    def _short(self, rows: Tensor) -> Tensor:
        if self._plain:
            return rows
        if self._change == "up":
            rows = _up(rows)
        if self._change == "down":
            rows = functional.avg_pool2d(
                rows, 2
            )  # pooling commutes with the 1 x 1 convolution, and is cheaper first
        short: Tensor = self.shortcut(rows)
        return short


def _up(rows: Tensor) -> Tensor:
    return functional.interpolate(rows, scale_factor=2.0, mode="nearest")


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keep a network unchanged inside the block, while gradients pass through it to its inputs.

    No parameter receives a gradient. In training mode batch norm, torch's or that of this package,
    still normalises by the batch, but does not update its running statistics, and spectral norm
    (`torch.nn.utils.parametrizations`) does not refine its estimates. At the end of the block, also
    after an error, all of this is as it was before.

    Args:
        network: The network, which is called inside the block as usual.

    Yields:
        None.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
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
