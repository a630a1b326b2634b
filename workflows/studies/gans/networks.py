"""The networks of a recipe: those of DCGAN, and what the tips change in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workflows.adversarial.critics import ConvCritic
from workflows.adversarial.layers import initialise, num_doublings, with_norm
from workflows.studies.gans.recipes import GanRecipe
from workflows.wgan.generators import ConvGenerator, VectorGenerator


class PoolingCritic(nn.Module):
    """A critic with sparse gradients: ReLU and max pooling in place of leaky ReLU and strides.

    (n, 3, size, size) -> (n,) scores. It has as many layers, and as many channels in each, as
    `workflows.adversarial.critics.ConvCritic`.
    """

    def __init__(self, size: int, *, width: int, norm: str) -> None:
        """Create a critic with random weights.

        Args:
            size: Side of the images, in pixels: 4 times a power of 2.
            width: Channels after the first layer.
            norm: Normalisation of all layers but the first, one of
                `workflows.adversarial.layers.NORMS`.
        """
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for index in range(num_doublings(size)):
            outputs = width * 2**index
            conv = nn.Conv2d(channels, outputs, 3, 1, 1, bias=norm == "none")
            layers += [
                *with_norm(conv, norm if index else "none", outputs),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
            channels = outputs
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, bias=norm == "none"))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of images, (n,), high for those that are taken for real.

        Args:
            images: (n, 3, size, size) float32.
        """
        scores: Tensor = self.body(images)
        return scores.flatten()


class NoisyInputCritic(nn.Module):
    """A critic whose images get Gaussian noise, whose standard deviation the caller lowers."""

    def __init__(self, critic: nn.Module, seed: int) -> None:
        """Wrap a critic.

        Args:
            critic: The critic, which the wrapper calls.
            seed: The seed of the noise.
        """
        super().__init__()
        self.critic = critic
        self.deviation = 0.0
        """The standard deviation of the noise."""
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, images: Tensor, *condition: Tensor) -> Tensor:
        """Return the scores of images with noise, (n,).

        Args:
            images: (n, 3, size, size) float32.
            condition: The further inputs of the critic.
        """
        if self.deviation:
            noise = torch.randn(images.shape, generator=self._generator).to(images.device)
            images = images + self.deviation * noise
        scores: Tensor = self.critic(images, *condition)
        return scores


class _Dropout(nn.Module):
    """Dropout that evaluation does not switch off; it draws from torch's global generator."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.dropout(maps, self._share, training=True)


class _AdditiveNoise(nn.Module):
    """Gaussian noise of one deviation, in training and evaluation, by torch's global generator."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self._deviation = deviation

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self._deviation * torch.randn_like(maps)


def make_networks(
    recipe: GanRecipe, *, size: int, width: int, latent_dim: int, classes: int, seed: int
) -> tuple[nn.Module, nn.Module]:
    """Return the generator and the critic of a recipe, with random weights, on the CPU.

    Torch's global generator, which is seeded first, draws the weights: recipes with equal networks
    have equal weights.

    Args:
        recipe: The recipe.
        size: Side of the images, in pixels: 4 times a power of 2.
        width: Channels of the outermost layers.
        latent_dim: Length of the generator's input.
        classes: Number of classes, which count only if the recipe is conditional.
        seed: The seed.

    Returns:
        The generator, whose images are in [0, 1] with `sigmoid` and in [-1, 1] otherwise, and the
        critic.
    """
    torch.manual_seed(seed)
    classes = classes if recipe.conditional else 0
    generator: nn.Module
    if recipe.generator == "perceptron":
        generator = VectorGenerator((3, size, size), latent_dim, classes=classes)
    else:
        generator = ConvGenerator(size, latent_dim, width=width, norm=recipe.norm, classes=classes)
    norm = "batch" if recipe.norm else "none"
    critic: nn.Module
    if recipe.critic == "pooling":
        critic = PoolingCritic(size, width=width, norm=norm)
    else:
        critic = ConvCritic(size, width=width, norm=norm, classes=classes)
    if recipe.input_noise:
        critic = NoisyInputCritic(critic, seed)
    generator.body = _with_changes(generator.body, recipe)
    return generator, critic


def _with_changes(body: nn.Sequential, recipe: GanRecipe) -> nn.Sequential:
    """Return the layers of a generator with the recipe's output, dropout and noise."""
    layers: list[nn.Module] = []
    for layer in body:
        layers.append(nn.Sigmoid() if recipe.sigmoid and isinstance(layer, nn.Tanh) else layer)
        if isinstance(layer, nn.ReLU):
            layers += [_Dropout(recipe.dropout)] if recipe.dropout else []
            layers += [_AdditiveNoise(recipe.layer_noise)] if recipe.layer_noise else []
    return nn.Sequential(*layers)
