"""The page from GAN to WGAN quotes the code as it is, and its figure shows the table."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import pytest
import torch

from workflows.adversarial.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "from-gan-to-wgan.md").read_text()


def quotations() -> list[tuple[str, str, str]]:
    """Return the (file, name, line) of each line of code on the page, by the file named above."""
    quoted, file, name = [], "", ""
    pattern = re.compile(
        r"^`(workflows/[\w/]+\.py)`, `(\w+)`:$|^```python\n(.+?)^```$", re.M | re.S
    )
    for match in pattern.finditer(PAGE):
        if match[1]:
            file, name = match[1], match[2]
        else:
            quoted += [(file, name, line) for line in match[3].splitlines()]
    return quoted


def test_each_formula_stands_beside_its_line_of_code() -> None:
    """A line that has changed in the code is changed on the page too."""
    lines = quotations()
    assert len(lines) == PAGE.count("```python") == 10
    for file, name, line in lines:
        text = (ROOT / file).read_text()
        start = re.search(rf"^( *)(?:def {name}\(|{name} = )", text, re.MULTILINE)
        assert start is not None, (file, name)
        # The function ends where the next one of its level begins.
        body = re.split(rf"^{start[1]}(?:def|class|@)\b", text[start.end() :], flags=re.MULTILINE)[
            0
        ]
        assert line in [code.strip() for code in body.splitlines()], (file, name, line)


def test_the_figure_shows_the_table() -> None:
    """`python docs/gaussians_figure.py` draws it again after a change of the table."""
    module = runpy.run_path(str(ROOT / "docs" / "gaussians_figure.py"))
    drawing = module["drawing"]()
    assert drawing == module["PICTURE"].read_text()
    assert drawing.count('class="mark"') == 3 + 5 * 3


def test_the_best_discriminator_is_the_ratio_of_densities() -> None:
    """On three points with known probabilities, minimising the loss gives the page's formulas."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])
    scores = torch.zeros(3, requires_grad=True)
    real, fake = (torch.repeat_interleave(torch.arange(3), (10 * w).round().int()) for w in (p, q))
    optimiser = torch.optim.LBFGS([scores], max_iter=100)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = OBJECTIVES["dcgan"].critic(scores[real], scores[fake])
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(scores.detach(), (p / q).log(), atol=1e-3, rtol=0)
    middle = (p + q) / 2
    divergence = 0.5 * ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum())
    value = -float(loss().detach())
    assert value == pytest.approx(2 * float(divergence) - 2 * math.log(2), abs=1e-5)


def test_cross_entropy_of_small_scores_is_half_the_mean_score() -> None:
    """Its gradient differs from half of that of the mean score by less than the scores."""
    real = 0.01 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    gradients = []
    for name in ("dcgan", "wgan"):
        scores = real.clone().requires_grad_()
        OBJECTIVES[name].critic(scores, scores.detach() - 0.02).backward()
        gradients.append(scores.grad)
    torch.testing.assert_close(gradients[0], 0.5 * gradients[1], rtol=0.03, atol=0)  # type: ignore[operator]
