"""What a command says of its ranks and their steps."""

from __future__ import annotations

import pytest

from cluster.ranks import Wanted
from workflows.colourise.options import Options as Colours
from workflows.training.launching import _beginning, cost_line, losses_line
from workflows.wgan.options import Options


def begun(**event: object) -> list[str]:
    """What is said when ranks have begun."""
    return list(_beginning({"world": 1, "step": 0, **event}, Options(batch_size=64)))


def test_what_each_rank_takes_is_said() -> None:
    """And where it goes on; of a single rank there is nothing to share."""
    assert begun() == ["1 rank, from the beginning"]
    assert begun(world=4, step=1_200) == [
        "4 ranks, from step 1,200; each takes 16 of the 64 rows of a batch"
    ]


def test_more_ranks_than_cores_are_said_to_be_slow() -> None:
    """With the number that is not; GPUs have none to share."""
    (_, said) = begun(world=8, beside=8, cores=2)
    assert said.startswith("notice: 8 ranks share 2 cores of a machine")
    assert said.endswith("pass --ranks 2")
    assert len(begun(world=2, beside=2, cores=2)) == 1
    assert len(begun(world=8, beside=8, cores=None)) == 1


@pytest.mark.parametrize(
    ("batch", "ranks", "there", "said"),
    [
        (
            7,
            2,
            2,
            "a batch of 7 rows cannot be dealt out evenly to 2 ranks: 1 trains. A batch of 6 or 8",
        ),
        (64, 6, 6, "to 6 ranks: 4 train. A batch of 60 or 66 rows would use all 6."),
        (3, 8, 8, "to 8 ranks: 3 train. A batch of 8 rows would use all 8."),
        (64, 6, 4, None),
        (0, 5, 5, None),
    ],
)
def test_ranks_that_a_batch_leaves_out_are_named(
    batch: int, ranks: int, there: int, said: str | None
) -> None:
    """With the batches that would use them."""
    found = Wanted(ranks, batch=batch).left_out(there)
    assert found is None if said is None else said in str(found)


def test_what_a_step_costs_is_said_with_what_makes_it_quicker() -> None:
    """In the warm-up too, in which a step has many more updates."""
    assert cost_line(Options(steps=1_000), 0, 0.5) == (
        "a step takes about 3.0 s here, 6 updates of 500 ms; for now 50 s, 101 updates. The 1,000"
        " steps that are left take 1 h 10 min. Quicker: a smaller --image-size (with a store of"
        " that size), --generator-width or --critic-width, fewer --critic-steps,"
        " --warm-critic-steps 0."
    )
    assert cost_line(Colours(steps=100), 40, 0.1).startswith(
        "a step takes about 100 ms here. The 60 steps that are left take 6.0 s. Quicker:"
    )


def test_figures_of_a_step_in_a_few_words() -> None:
    """Those that are not finite are told when the run ends."""
    line = {"step": 3, "critic_loss": -0.123456, "estimate": None}
    assert losses_line(line) == "critic loss -0.1235"
