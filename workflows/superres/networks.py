"""The networks that enlarge images, behind one face: `Upscaler`.

Each maps RGB images of any size to images that are larger by a whole factor.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from workflows.superres import bicubic
from workflows.training.world import BatchNorm

RGB = 3
"""The number of channels of an image."""


class Upscaler(nn.Module, ABC):
    """A network that enlarges RGB images by a whole factor, with the enlarged input as its base.

    A subclass computes `details`. With a base, these are added to the image as bicubic
    interpolation enlarges it, so that the network learns only what interpolation lacks (Kim et al.:
    Accurate Image Super-Resolution Using Very Deep Convolutional Networks, CVPR 2016). The details
    are 0 at first, so that training begins at the quality of interpolation.
    """

    def __init__(self, scale: int, *, base: bool) -> None:
        """Record what all networks share.

        Args:
            scale: Factor of the enlargement, at least 2.
            base: True to add the network's output to the enlarged input.
        """
        super().__init__()
        self.scale = scale
        self.base = base

    @property
    def reach(self) -> int:
        """The number of input pixels, on each side of its own, that an output pixel depends on."""
        reach = math.ceil(self._reach())
        return max(reach, 2) if self.base else reach

    @abstractmethod
    def _reach(self) -> float:
        """Return the reach of `details`, in pixels of the input, which need not be whole."""

    @abstractmethod
    def last_weights(self) -> list[nn.Parameter]:
        """Return the parameters of the last layer, whose output is 0 if all of them are."""

    @abstractmethod
    def details(self, images: Tensor) -> Tensor:
        """Return the output without the base.

        Args:
            images: (n, 3, h, w) in [-0.5, 0.5], on the network's device.

        Returns:
            (n, 3, h * scale, w * scale), in units of 255 levels, float32 unless autocast lowers it.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Return enlarged images.

        Args:
            images: (n, 3, h, w) float32 RGB in levels, 0 to 255, on the network's device; h and w
                are at least 1.

        Returns:
            (n, 3, h * scale, w * scale) float32 in levels, neither rounded nor limited to 0 to 255.
        """
        details = 255 * self.details(images / 255 - 0.5).float()
        if not self.base:
            return details + 127.5
        with torch.autocast(images.device.type, enabled=False):  # a base of 8 bits would be coarse
            return details + bicubic.enlarge(images, self.scale, levels=False)


class Srcnn(Upscaler):
    """SRCNN: convolutions of 9, 1 and 5 pixels of the enlarged image, for three channels.

    Dong et al.: Image Super-Resolution Using Deep Convolutional Networks, TPAMI 2016.
    """

    def __init__(self, scale: int, *, base: bool) -> None:
        super().__init__(scale, base=base)
        self.body = nn.Sequential(
            nn.Conv2d(RGB, 64, 9, padding=4),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 32, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, RGB, 5, padding=2),
        )

    def _reach(self) -> float:
        return 2 + (4 + 2) / self.scale

    def last_weights(self) -> list[nn.Parameter]:
        """Return the parameters of the last layer."""
        return list(self.body[-1].parameters())

    def details(self, images: Tensor) -> Tensor:
        """Return the output without the base; the arguments are those of `Upscaler.details`."""
        details: Tensor = self.body(bicubic.enlarge(images, self.scale, levels=False))
        return details


class Fsrcnn(Upscaler):
    """FSRCNN(56, 12, 4): small convolutions of the input, then a transposed one of 9 pixels.

    Dong et al.: Accelerating the Super-Resolution Convolutional Neural Network, ECCV 2016.
    """

    def __init__(self, scale: int, *, base: bool) -> None:
        super().__init__(scale, base=base)
        width, narrow, layers = 56, 12, 4

        def block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            nn.init.kaiming_normal_(conv.weight)
            return [conv, nn.PReLU(outputs)]

        self.body = nn.Sequential(
            *block(RGB, width, 5),
            *block(width, narrow, 1),
            *(module for _ in range(layers) for module in block(narrow, narrow, 3)),
            *block(narrow, width, 1),
        )
        padding = (9 - scale + 1) // 2
        self.last = nn.ConvTranspose2d(
            width, RGB, 9, scale, padding, output_padding=scale - 9 + 2 * padding
        )
        nn.init.normal_(self.last.weight, 0.0, 0.001)

    def _reach(self) -> float:
        return 2 + 4 + 9 / (2 * self.scale)

    def last_weights(self) -> list[nn.Parameter]:
        """Return the parameters of the last layer."""
        return list(self.last.parameters())

    def details(self, images: Tensor) -> Tensor:
        """Return the output without the base; the arguments are those of `Upscaler.details`."""
        details: Tensor = self.last(self.body(images))
        return details


class LessonNetwork(Upscaler):
    """The residual network of the lesson's notebook, with batch norm and nearest neighbours.

    A hyperbolic tangent limits its output. Unlike the notebook's, its batch norm uses running
    statistics when it is not trained, so that a prediction does not depend on other images.
    """

    def __init__(self, scale: int, *, base: bool) -> None:
        super().__init__(scale, base=base)
        width = 64

        def block(inputs: int, kernel: int) -> list[nn.Module]:
            conv = nn.Conv2d(inputs, width, kernel, padding=kernel // 2)
            return [conv, BatchNorm(width), nn.ReLU(inplace=True)]

        layers = block(RGB, 9)
        for _ in range(4):
            layers.append(Shortcut(*block(width, 3), *block(width, 3)[:-1]))
        for factor in factors(scale):
            layers += [nn.Upsample(scale_factor=factor), *block(width, 3)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, RGB, 9, padding=4), nn.Tanh())

    def _reach(self) -> float:
        return 4 + 8 + _reach_of_steps(self.scale) + 4 / self.scale

    def last_weights(self) -> list[nn.Parameter]:
        """Return the parameters of the last layer."""
        return list(self.body[-2].parameters())

    def details(self, images: Tensor) -> Tensor:
        """Return the output without the base; the arguments are those of `Upscaler.details`."""
        details: Tensor = self.body(images)
        return 0.5 * details


class Edsr(Upscaler):
    """EDSR's baseline: 16 residual blocks of 64 channels without norms, then pixel shuffling.

    Lim et al.: Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017.
    """

    def __init__(self, scale: int, *, base: bool, blocks: int = 16, share: float = 1.0) -> None:
        """Create a network with random weights.

        Args:
            scale: Factor of the enlargement.
            base: True to add the network's output to the enlarged input.
            blocks: Number of residual blocks (default 16).
            share: Factor on the output of a block before it is added to its input (default 1).
        """
        super().__init__(scale, base=base)
        width = 64
        self.blocks = blocks
        self.first = nn.Conv2d(RGB, width, 3, padding=1)
        body = [
            Shortcut(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, padding=1),
                share=share,
            )
            for _ in range(blocks)
        ]
        self.body = Shortcut(*body, nn.Conv2d(width, width, 3, padding=1))
        steps: list[nn.Module] = []
        for factor in factors(scale):
            steps += [nn.Conv2d(width, width * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.up = nn.Sequential(*steps)
        self.last = nn.Conv2d(width, RGB, 3, padding=1)

    def _reach(self) -> float:
        return 1 + 2 * self.blocks + 1 + _reach_of_steps(self.scale) + 1 / self.scale

    def last_weights(self) -> list[nn.Parameter]:
        """Return the parameters of the last layer."""
        return list(self.last.parameters())

    def details(self, images: Tensor) -> Tensor:
        """Return the output without the base; the arguments are those of `Upscaler.details`."""
        details: Tensor = self.last(self.up(self.body(self.first(images))))
        return details


class Successor(Edsr):
    """The network of the lesson's successor of 2018: residual blocks with weight norm.

    A tenth of the output of each of 8 blocks is added to its input (Salimans and Kingma: Weight
    Normalization, NIPS 2016), and pixel shuffling begins as nearest-neighbour enlargement (Aitken
    et al.: Checkerboard artifact free sub-pixel convolution, 2017).
    """

    def __init__(self, scale: int, *, base: bool) -> None:
        super().__init__(scale, base=base, blocks=8, share=0.1)
        for conv, factor in zip(list(self.up)[::2], factors(scale), strict=True):
            assert isinstance(conv, nn.Conv2d)
            initialise_as_nearest(conv, factor)
        for module in list(self.modules()):
            if isinstance(module, nn.Conv2d):
                weight_norm(module)

    def last_weights(self) -> list[nn.Parameter]:
        """Return the parameters of the last layer: the norms of its weights, and its bias."""
        # The directions of the weights must not be 0: they are divided by their norms.
        return [p for name, p in self.last.named_parameters() if not name.endswith("original1")]


class Span(Upscaler):
    """SPAN: six blocks of three convolutions whose last output is also their attention.

    Wan et al.: Swift Parameter-free Attention Network for Efficient Super-Resolution, CVPRW 2024,
    with 48 channels and in the form in which it is used, where each convolution is a single one.

    It is made of convolutions of 3 x 3 pixels at the small size, which processors and GPUs compute
    at their highest rate, and was the fastest of its accuracy in the challenge of that year.
    """

    def __init__(self, scale: int, *, base: bool) -> None:
        super().__init__(scale, base=base)
        width, blocks = 48, 6
        self.first = nn.Conv2d(RGB, width, 3, padding=1)
        self.blocks = nn.ModuleList(_SpanBlock(width) for _ in range(blocks))
        self.last_block = nn.Conv2d(width, width, 3, padding=1)
        self.join = nn.Conv2d(4 * width, width, 1)
        self.up = nn.Conv2d(width, RGB * scale**2, 3, padding=1)

    def _reach(self) -> float:
        return 1 + 3 * len(self.blocks) + 1 + 1

    def last_weights(self) -> list[nn.Parameter]:
        """Return the parameters of the last layer."""
        return list(self.up.parameters())

    def details(self, images: Tensor) -> Tensor:
        """Return the output without the base; the arguments are those of `Upscaler.details`."""
        first = self.first(images)
        maps, inner = first, []
        for block in self.blocks:
            maps, features = block(maps)
            inner.append((maps, features))
        joined = [first, self.last_block(maps), inner[0][0], inner[-1][1]]
        return functional.pixel_shuffle(self.up(self.join(torch.cat(joined, 1))), self.scale)


class _SpanBlock(nn.Module):
    """A block of SPAN, which returns its output and the output of its first convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        features = self.convs[0](maps)
        last = self.convs[2](functional.silu(self.convs[1](functional.silu(features))))
        return (last + maps) * (torch.sigmoid(last) - 0.5), features


class Shortcut(nn.Sequential):
    """Layers whose output, times a factor, is added to their input."""

    def __init__(self, *layers: nn.Module, share: float = 1.0) -> None:
        """Combine layers.

        Args:
            layers: The layers, whose output has the shape of their input.
            share: Factor on their output (default 1).
        """
        super().__init__(*layers)
        self.share = share

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps plus the share of the layers' output, in a new tensor."""
        changed = maps
        for layer in self:
            changed = layer(changed)
        return maps + self.share * changed


def factors(scale: int) -> list[int]:
    """Return the steps in which a network enlarges: by 2 as often as possible, then the rest.

    Args:
        scale: Factor of the whole enlargement, at least 2.
    """
    steps = []
    while scale % 2 == 0:
        steps.append(2)
        scale //= 2
    return [*steps, scale] if scale > 1 else steps


def _reach_of_steps(scale: int) -> float:
    """Return the reach of a convolution of 3 x 3 pixels at the start or end of each step."""
    reach, size = 0.0, 1
    for factor in factors(scale):
        reach += 1 / size
        size *= factor
    return reach + 1


def initialise_as_nearest(conv: nn.Conv2d, factor: int) -> None:
    """Give the channels that one pixel is shuffled from equal weights, in place.

    Pixel shuffling then begins as nearest-neighbour enlargement, without a pattern of squares
    (Aitken et al. 2017).

    Args:
        conv: The convolution before the pixel shuffling, with a bias.
        factor: The factor of the pixel shuffling.
    """
    with torch.no_grad():
        groups = conv.out_channels // factor**2
        one_of_each = torch.empty(groups, *conv.weight.shape[1:])
        nn.init.kaiming_normal_(one_of_each)
        conv.weight.copy_(one_of_each.repeat_interleave(factor**2, 0))
        assert conv.bias is not None
        conv.bias.zero_()


_CLASSES: dict[str, type[Upscaler]] = {
    "srcnn": Srcnn,
    "fsrcnn": Fsrcnn,
    "lesson": LessonNetwork,
    "successor": Successor,
    "edsr": Edsr,
    "span": Span,
}
_WITHOUT_BASE = ("lesson",)
"""The networks whose output is the image itself by default, as their range ends at its limits."""


def make_network(name: str, scale: int, *, base: bool | None = None) -> Upscaler:
    """Return a new network with random weights, which torch's global generator draws.

    Args:
        name: Its name, one of `workflows.superres.choices.NETWORKS`.
        scale: Factor of the enlargement, at least 2.
        base: True to add its output to the enlarged input, False not to; None = as the network
            does by default.
    """
    base = name not in _WITHOUT_BASE if base is None else base
    network = _CLASSES[name](scale, base=base)
    if base:
        for weights in network.last_weights():
            nn.init.zeros_(weights)
    return network
