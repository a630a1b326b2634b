"""Tests of critics and generators against the descriptions in papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from workflows.adversarial.critics import ConvCritic, ResidualCritic, VectorCritic
from workflows.adversarial.layers import Residual, frozen
from workflows.wgan.generators import ConvGenerator, ResidualGenerator, VectorGenerator


def size_of(network: torch.nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(p.numel() for p in network.parameters())


def test_networks_have_the_papers_numbers_of_parameters() -> None:
    """The numbers of parameters equal those of DCGAN for 64 px, also with an extra layer."""
    critic = 3 * 64 * 16 + sum(64 * 2**i * 128 * 2**i * 16 + 2 * 128 * 2**i for i in range(3))
    assert size_of(ConvCritic(64)) == critic + 512 * 16
    generator = 100 * 512 * 16 + 2 * 512 + 64 * 3 * 16
    generator += sum(128 * 2**i * 64 * 2**i * 16 + 2 * 64 * 2**i for i in range(3))
    assert size_of(ConvGenerator(64)) == generator
    assert size_of(ConvCritic(64, extra=1)) == size_of(ConvCritic(64)) + 64 * 64 * 9 + 128
    assert size_of(ConvGenerator(64, extra=1)) == 3_613_696


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("classes", [0, 3])
def test_networks_have_the_right_output_shapes(size: int, classes: int) -> None:
    """Networks of every size are tested, with and without classes."""
    labels = torch.tensor([0, 2]) if classes else None
    noise = torch.randn(2, 5)
    for condition in ("projection", "concatenation"):
        conditioning = {"classes": classes, "condition": condition}
        for generator in (
            ConvGenerator(size, 5, width=4, classes=classes),
            ResidualGenerator(size, 5, width=4, classes=classes),
            VectorGenerator((3, size, size), 5, width=4, classes=classes),
        ):
            images = generator(noise, labels)
            assert images.shape == (2, 3, size, size)
            assert float(images.detach().abs().max()) <= 1
        for critic in (
            ConvCritic(size, width=4, **conditioning),
            ResidualCritic(size, width=4, **conditioning),
            VectorCritic(3 * size * size, width=4, **conditioning),
        ):
            assert critic(images, labels).shape == (2,)


def test_a_projection_is_added_to_the_score() -> None:
    """The score includes features times the label's vector (Miyato and Koyama 2018)."""
    torch.manual_seed(0)
    critic = ConvCritic(16, width=4, norm="none", classes=3)
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 1])
    features = critic.body(images)
    plain = functional.conv2d(features, critic.last.weight).flatten()
    vectors = critic.labelled.vectors.weight[labels]
    expected = plain + (features.flatten(1) * vectors).sum(1)
    torch.testing.assert_close(critic(images, labels), expected)


def test_labels_are_one_hot_channels() -> None:
    """Each class has a channel of ones or zeros (Mirza and Osindero 2014)."""
    critic = ConvCritic(16, width=4, classes=3, condition="concatenation")
    joined = critic.labelled.append_labels(torch.zeros(2, 3, 16, 16), torch.tensor([2, 0]))
    assert joined.shape == (2, 6, 16, 16)
    assert joined[:, 3:].mean((2, 3)).tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("change", ["", "up", "down"])
@pytest.mark.parametrize("first", [False, True])
def test_a_residual_block_adds_its_layers_to_its_input(change: str, first: bool) -> None:
    """A block equals its formula, and is the identity if its layers are zero."""
    torch.manual_seed(0)
    block = Residual(3, 5, change=change, first=first)
    rows = torch.randn(2, 3, 8, 8)

    def larger(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if change == "up" else x

    def smaller(x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(x, 2) if change == "down" else x

    maps = rows if first else rows.relu()
    maps = smaller(block.conv2(block.conv1(larger(maps)).relu()))
    expected = maps + smaller(block.shortcut(larger(rows)))
    torch.testing.assert_close(block(rows), expected, rtol=1e-4, atol=1e-5)
    same = Residual(3, 3)
    for conv in (same.conv1, same.conv2):
        torch.nn.init.zeros_(conv.weight)
    torch.testing.assert_close(same(rows), rows)


def test_invalid_sizes_and_norms_are_refused() -> None:
    """The errors name the size, the norm or the condition."""
    for size in (4, 12, 48):
        with pytest.raises(ValueError, match=f"images of {size} px"):
            ConvCritic(size)
    with pytest.raises(ValueError, match="perceptron"):
        VectorCritic(4, norm="batch")
    with pytest.raises(ValueError, match="condition is 'x'"):
        ConvCritic(8, classes=2, condition="x")


@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        (ConvCritic, "batch"),
        (ResidualCritic, "spectral"),
        pytest.param(ConvCritic, "none", marks=pytest.mark.slow),
        pytest.param(ConvCritic, "layer", marks=pytest.mark.slow),
        pytest.param(ConvCritic, "spectral", marks=pytest.mark.slow),
        pytest.param(ResidualCritic, "batch", marks=pytest.mark.slow),
        pytest.param(ResidualCritic, "layer", marks=pytest.mark.slow),
        pytest.param(ResidualCritic, "none", marks=pytest.mark.slow),
    ],
)
def test_a_critic_can_reject_grey_images(kind: Any, norm: str) -> None:
    """A critic learns to reject a generator of grey images.

    Without a bias the score of grey, which is all zeros, would always be 0.
    """
    torch.manual_seed(0)
    critic = kind(16, width=4, norm=norm)
    optimiser = torch.optim.Adam(critic.parameters(), 1e-2)
    real, grey = torch.randn(16, 3, 16, 16).tanh(), torch.zeros(16, 3, 16, 16)
    for _ in range(80):
        optimiser.zero_grad()
        loss = torch.relu(1 - critic(real)).mean() + torch.relu(1 + critic(grey)).mean()
        loss.backward()
        optimiser.step()
    assert torch.relu(1 + critic(grey)).mean().item() < 0.6


def test_frozen_networks_keep_the_statistics_of_torchs_batch_norm() -> None:
    """Batch norm of torch updates no running statistics inside the block, but does after it."""
    norm = torch.nn.BatchNorm2d(3)
    images = torch.full((2, 3, 4, 4), 5.0)
    with frozen(norm):
        assert norm(images).abs().max() < 0.01  # normalised by the batch
    assert norm.running_mean is not None
    assert not norm.running_mean.any()
    norm(images)
    assert norm.running_mean.all()
