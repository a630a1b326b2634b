"""Networks have the published numbers of parameters, the reach that they state, and any size."""

from __future__ import annotations

import pytest
import torch

from workflows.superres import bicubic, networks
from workflows.superres.choices import NETWORKS, SCALES
from workflows.superres.networks import initialise_as_nearest, make_network

PARAMETERS = {
    "srcnn": (20_099, 20_099, 20_099),
    "fsrcnn": (24_683, 24_683, 24_683),
    "lesson": (364_803, 364_803, 401_859),
    "successor": (780_422, 965_382, 928_390),
    "edsr": (1_369_859, 1_554_499, 1_517_571),
    "span": (410_700, 417_195, 426_288),
}
"""The number of parameters for the scales 2, 3 and 4. Those of EDSR's baseline, of SPAN and of the
lesson's network at scale 4 are published; the others follow from the layers."""


def test_every_network_has_a_class() -> None:
    """The command line and the classes have the same names."""
    assert tuple(networks._CLASSES) == tuple(NETWORKS) == tuple(PARAMETERS)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        pytest.param(n, s, marks=[pytest.mark.slow] if n == "edsr" and s < max(SCALES) else [])
        for n in NETWORKS
        for s in SCALES
    ],
)
def test_a_network_has_the_parameters_and_the_reach_that_it_states(name: str, scale: int) -> None:
    """An output pixel depends on input pixels within the reach, and on none beyond."""
    torch.manual_seed(0)
    network = make_network(name, scale).eval()
    for weights in network.last_weights():
        torch.nn.init.normal_(weights)
    expected = PARAMETERS[name][SCALES.index(scale)]
    assert sum(p.numel() for p in network.parameters()) == expected
    centre = network.reach + 3
    images = 255 * torch.rand(1, 3, 2 * centre + 1, 2 * centre + 1)
    images.requires_grad_()
    output = network(images)
    assert output.shape == (1, 3, scale * images.shape[2], scale * images.shape[3])
    inside = output[
        :, :, scale * centre : scale * (centre + 1), scale * centre : scale * (centre + 1)
    ]
    (gradient,) = torch.autograd.grad((inside * torch.randn_like(inside)).sum(), images)
    distances = (gradient[0].abs().sum(0).nonzero() - centre).abs().amax()
    assert network.reach - 2 <= distances <= network.reach


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_images_of_any_size(name: str) -> None:
    """A single pixel, and sides that are not equal."""
    network = make_network(name, 3).eval()
    for height, width in ((1, 1), (2, 9)):
        with torch.no_grad():
            enlarged = network(torch.full((2, 3, height, width), 100.0))
        assert enlarged.shape == (2, 3, 3 * height, 3 * width)
        assert enlarged.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_with_a_base_an_untrained_network_interpolates(name: str) -> None:
    """Its output is the bicubic enlargement, also in bfloat16, and its last layer learns."""
    network = make_network(name, 2, base=True).eval()
    images = torch.randint(0, 256, (1, 3, 5, 7)).float()
    with torch.autocast("cpu", torch.bfloat16):
        enlarged = network(images)
    torch.testing.assert_close(enlarged, bicubic.enlarge(images, 2, levels=False))
    enlarged.square().sum().backward()
    gradients = [weights.grad for weights in network.last_weights()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    without = make_network(name, 2, base=False).eval()
    without.load_state_dict(network.state_dict())
    assert torch.equal(without(images), torch.full((1, 3, 10, 14), 127.5))


def test_pixel_shuffling_begins_as_nearest_neighbour_enlargement() -> None:
    """All pixels that one becomes are equal."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 4 * 9, 3, padding=1)
    initialise_as_nearest(conv, 3)
    maps = torch.nn.functional.pixel_shuffle(conv(torch.randn(1, 4, 3, 3)), 3)
    first = maps[:, :, ::3, ::3]
    assert first.std() > 0
    repeated = first.repeat_interleave(3, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(maps, repeated)


def test_the_prediction_of_the_lessons_network_depends_on_no_other_image() -> None:
    """Its batch norm uses running statistics when it is not trained."""
    network = make_network("lesson", 2).eval()
    images = 255 * torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        alone = network(images[:1])
        torch.testing.assert_close(network(images)[:1], alone, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_compiled_network_computes_what_it_computes_itself(name: str) -> None:
    """Its graph is traced as a whole, without a warning, also while gradients are computed."""
    torch.manual_seed(0)
    network = make_network(name, 2)
    images = 255 * torch.rand(2, 3, 8, 8)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    weights = [p for p in network.parameters() if p.requires_grad]
    outputs, gradients = [], []
    for module in (network, compiled):
        outputs.append(module(images))
        gradients.append(torch.autograd.grad(outputs[-1].square().mean(), weights))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-2)
    for actual, expected in zip(gradients[1], gradients[0], strict=True):
        size = float(expected.abs().max())
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * size + 1e-2)
