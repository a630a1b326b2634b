"""The losses equal the paper's definition, written as plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workflows.devise.losses import Loss, hinge_rank, identical_vector_groups


def drawn(seed: int, rows: int, classes: int, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw outputs, labels, class vectors, and an order of classes for each row."""
    torch.manual_seed(seed)
    targets = torch.nn.functional.normalize(torch.randn(classes, dim, dtype=torch.float64), dim=1)
    return (
        torch.randn(rows, dim, dtype=torch.float64),
        torch.randint(classes, (rows,)),
        targets,
        torch.rand(rows, classes),
    )


def paper(outputs: Tensor, truth: int, targets: Tensor, order: Tensor, margin: float) -> float:
    """Return the loss of section 3.3: visit wrong classes until one violates the margin."""
    true_score = float(targets[truth] @ outputs)
    for column in sorted(range(len(targets)), key=lambda column: float(order[column])):
        if column == truth:
            continue
        term = margin - true_score + float(targets[column] @ outputs)
        if term > 0:
            return term
    return 0.0


@given(
    seed=st.integers(0, 2**31), rows=st.integers(1, 6), classes=st.integers(2, 9),
    margin=st.sampled_from([0.0, 0.1, 1.0, 20.0]),
)  # fmt: skip
def test_hinge_follows_the_paper(seed: int, rows: int, classes: int, margin: float) -> None:
    """The loss is that of the first violating class in random order; 0 without one."""
    outputs, truth, targets, order = drawn(seed, rows, classes, 4)
    losses = Loss("hinge", margin)(outputs, truth, targets, order)
    for row in range(rows):
        expected = paper(outputs[row], int(truth[row]), targets, order[row], margin)
        assert math.isclose(float(losses[row]), expected, abs_tol=1e-12)


def test_hinge_has_gradients_for_one_wrong_class() -> None:
    """The sum is truncated: further violating classes get no gradient."""
    scores = torch.tensor([[0.0, 1.0, 2.0, -5.0]], requires_grad=True)
    order = torch.tensor([[0.0, 0.9, 0.5, 0.1]])
    hinge_rank(scores, torch.tensor([0]), order, 0.1).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[-1.0, 0.0, 1.0, 0.0]]


def test_hinge_selects_violating_classes_equally_often() -> None:
    """Each of three violating classes is the first in a third of the drawn orders."""
    scores = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(30_000, 4)
    order = torch.rand(30_000, 4, generator=torch.Generator().manual_seed(1))
    losses = hinge_rank(scores, torch.zeros(30_000, dtype=torch.int64), order, 0.1)
    for value in (1.1, 2.1, 3.1):
        assert abs(float(torch.isclose(losses, torch.tensor(value)).float().mean()) - 1 / 3) < 0.02


def test_the_other_losses_follow_their_formulas() -> None:
    """The losses of every row equal their formulas."""
    outputs, truth, targets, order = drawn(7, 5, 4, 3)
    cosine, l2, infonce = (
        Loss(kind, temperature=0.5)(outputs, truth, targets, order)
        for kind in ("cosine", "l2", "infonce")
    )
    for row, label in enumerate(truth.tolist()):
        own = outputs[row] / outputs[row].norm()
        torch.testing.assert_close(cosine[row], 1 - own @ targets[label])
        torch.testing.assert_close(l2[row], ((outputs[row] - targets[label]) ** 2).sum())
        shares = torch.exp(targets @ own / 0.5)
        torch.testing.assert_close(infonce[row], -torch.log(shares[label] / shares.sum()))


@pytest.mark.parametrize("kind", ["cosine", "infonce"])
def test_cosine_losses_ignore_the_length_of_outputs(kind: str) -> None:
    """Outputs of twice the length have the same loss."""
    outputs, truth, targets, order = drawn(2, 5, 4, 3)
    loss = Loss(kind)
    torch.testing.assert_close(
        loss(outputs, truth, targets, order), loss(2 * outputs, truth, targets, order)
    )


def test_classes_of_one_vector_are_not_wrong_for_each_other() -> None:
    """Hinge skips a duplicate of the true class; without another vector the loss is 0."""
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    kinds = identical_vector_groups(targets)
    assert kinds[0] == kinds[1] != kinds[2]
    outputs, truth = torch.tensor([[0.5, 0.45]]), torch.tensor([0])
    order = torch.tensor([[0.9, 0.1, 0.5]])  # the duplicate would be first
    assert hinge_rank(outputs @ targets.T, truth, order, 0.1).item() == pytest.approx(0.1)
    losses = hinge_rank(outputs @ targets.T, truth, order, 0.1, kinds)
    assert losses.item() == pytest.approx(0.05)
    assert Loss("hinge")(outputs, truth, targets, order, kinds).item() == pytest.approx(0.05)
    assert hinge_rank(outputs @ targets[:2].T, truth, order[:, :2], 0.1, kinds[:2]).item() == 0
