"""The options of super-resolution: what is refused, and what a run goes on with."""

from __future__ import annotations

from typing import Any

import pytest

from workflows.superres.choices import largest_pair
from workflows.superres.options import SuperresOptions

PERCEPTUAL: dict[str, Any] = {"perceptual": "some/model", "perceptual_blocks": ("a", "b")}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"blur": (1.0,)}, "--blur is 1: expected the smallest and the largest value"),
        ({"blur": (1.5, 0.5)}, "--blur is 1.5 0.5: expected the smallest and the largest value"),
        ({"blur": (0.0, 0.5)}, "--blur is 0.0"),
        ({"jpeg_quality": (90, 40)}, "--jpeg-quality is 90 40: expected the smallest"),
        ({"jpeg_quality": (40, 101)}, "--jpeg-quality is 101"),
        ({"scale": 5}, "--scale is 5"),
        ({"patch_size": 3}, "--patch-size is 3"),
        ({"perceptual_blocks": ("a",)}, "--perceptual-blocks needs a network: pass --perceptual"),
        ({"style_weight": 1.0}, "--style-weight needs a network: pass --perceptual MODEL, or omit"),
        ({"perceptual": "some/model"}, "--perceptual is some/model: pass the blocks to compare"),
        (
            {**PERCEPTUAL, "perceptual_block_weights": (1.0,)},
            "--perceptual-block-weights has 1 values for 2 blocks: expected one for each",
        ),
        ({"pixel_weight": 0.0}, "--pixel-weight is 0 and there is no perceptual or style loss"),
        (
            {**PERCEPTUAL, "pixel_weight": 0.0, "perceptual_weight": 0.0},
            "--pixel-weight is 0 and there is no perceptual or style loss",
        ),
        (
            {"adversarial_weight": 0.1, "batch_size": 1},
            "--batch-size is 1: the adversarial loss needs at least 2 patches",
        ),
        (
            {"adversarial_weight": 0.1, "micro_batch_size": 4},
            "--micro-batch-size is 4: --objective relativistic compares each score with the mean of"
            " the whole batch",
        ),
        (
            {"degradation": "stored", "encoded": "original"},
            "--degradation is stored and --encoded is original: encoded rows have one size",
        ),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(choices: dict[str, Any], message: str) -> None:
    """The message has the option, its value and what is expected."""
    with pytest.raises(ValueError, match=r"\A" + message.replace("(", r"\(")):
        SuperresOptions(**choices)


def test_micro_batches_go_with_objectives_that_compare_no_scores() -> None:
    """And with no critic at all."""
    SuperresOptions(micro_batch_size=4)
    SuperresOptions(micro_batch_size=4, adversarial_weight=0.1, objective="wgan-gp")


def test_blocks_have_equal_weights_that_sum_to_1() -> None:
    """Weights that are named are taken as they are."""
    assert SuperresOptions().block_weights == ()
    assert SuperresOptions(**PERCEPTUAL).block_weights == (0.5, 0.5)
    named = SuperresOptions(**PERCEPTUAL, perceptual_block_weights=(0.1, 3.0))
    assert named.block_weights == (0.1, 3.0)


def test_a_run_goes_on_with_what_it_has_chosen() -> None:
    """An option that is named keeps its value, and is compared with that of the run."""
    recorded = {"scale": 2, "degradation": "bicubic", "encoded": None, "warmup_steps": 30}
    chosen = SuperresOptions().with_recorded_choices(recorded)
    assert (chosen.scale, chosen.degradation, chosen.warmup_steps) == (2, "bicubic", 30)
    named = SuperresOptions(scale=3, warmup_steps=0).with_recorded_choices(recorded)
    assert (named.scale, named.degradation, named.warmup_steps) == (3, "bicubic", 0)
    encoded = SuperresOptions().with_recorded_choices({**recorded, "encoded": "jpeg:72@90"})
    assert encoded.encoded == "jpeg:72@90"
    assert SuperresOptions().with_recorded_choices({}) == SuperresOptions()
    with pytest.raises(
        ValueError, match=r"--encoded is original: the run trains on stored pairs\."
    ):
        SuperresOptions(encoded="original").with_recorded_choices({"degradation": "stored"})


def test_the_critic_starts_after_the_warm_up() -> None:
    """By default after half of the steps; without a critic there is none to wait for."""
    options = SuperresOptions(steps=100, adversarial_weight=0.1)
    assert options.critic_starts == 50
    assert options.warmup_text(49) == "without the adversarial loss until step 50"
    assert options.warmup_text(50) == ""
    assert SuperresOptions(steps=100).warmup_text(0) == ""
    named = SuperresOptions(steps=100, adversarial_weight=0.1, warmup_steps=7)
    assert named.critic_starts == 7


def test_a_diverged_run_names_the_rates_to_lower() -> None:
    """The critic's only if there is one."""
    assert SuperresOptions().options_to_lower() == "--learning-rate (now 0.0005)"
    assert SuperresOptions(adversarial_weight=1.0).options_to_lower() == (
        "--learning-rate (now 0.0005) or --critic-learning-rate (now 0.0001)"
    )


@pytest.mark.parametrize(
    ("choices", "stored", "expected"),
    [
        ({}, (), (72, 288)),
        ({"scale": 2}, (), (144, 288)),
        ({"scale": 3, "degradation": "stored"}, (), (96, 288)),
        ({"patch_size": 100}, (), (100, 400)),
        ({}, (24, 96), (72, 288)),  # no room for a patch
        ({}, (36, 72, 100, 144), (36, 144)),
        ({"scale": 4}, (36, 72, 144), (36, 144)),
        ({"degradation": "bicubic"}, (), (288,)),
        ({"degradation": "blur+jpeg", "patch_size": 100}, (300,), (400,)),
        ({"degradation": "bicubic"}, (64, 128, 144), (144,)),
    ],
)
def test_the_squares_that_are_read_are_prepared(
    choices: dict[str, Any], stored: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    """Those that the store has are enough if a patch fits into them."""
    assert SuperresOptions(**choices).prepared_sizes(stored) == expected


def test_the_largest_pair_has_a_whole_ratio() -> None:
    """Of equal originals the largest factor is taken, as the store was prepared for it."""
    assert largest_pair((72, 288)) == (72, 288)
    assert largest_pair((72, 144, 288)) == (72, 288)
    assert largest_pair((72, 144, 288), 2) == (144, 288)
    assert largest_pair((72, 144, 288), None, 100) == (144, 288)
    assert largest_pair((72, 224)) is None
    assert largest_pair((60, 300)) is None
    assert largest_pair(()) is None


def test_a_slow_run_is_told_what_makes_it_faster() -> None:
    """The fastest network is not suggested to itself."""
    assert SuperresOptions().speedup_options().endswith("--batch-size, --network fsrcnn")
    assert SuperresOptions(network="fsrcnn").speedup_options().endswith("--batch-size")
