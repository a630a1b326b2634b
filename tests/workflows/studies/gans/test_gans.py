"""The studies of GANs: their images, recipes, metrics and runs, at a small size."""

from __future__ import annotations

import io
import json
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from PIL import Image

from pipeline.errors import StoreError, StoreMismatchError, TesseraeError
from tests.images import make_folder, prepare_inline
from tests.workflows.training.small import small_store
from workflows.preparation.options import PrepareOptions
from workflows.studies.contrasts import difference
from workflows.studies.gans import (
    CONSTRAINTS,
    LOSSES,
    OPTIMISERS,
    TIPS,
    command,
    experiment,
    hacks,
    two_changes,
)
from workflows.studies.gans import training as training_module
from workflows.studies.gans.images import StudyImages, as_floats, open_images
from workflows.studies.gans.metrics import (
    CONTROLS,
    DISTANCE,
    DIVERSITY,
    FEATURES,
    GAUSSIAN,
    NOISE,
    NOVELTY,
    TRAINING_ROWS,
    HeldOutComparison,
    compare_with,
    control_samples,
)
from workflows.studies.gans.options import HacksOptions, TwoChangesOptions
from workflows.studies.gans.recipes import DCGAN_OPTIMISER, WGAN_OPTIMISER, GanRecipe
from workflows.studies.gans.training import (
    CORRELATION,
    DIVERGED,
    Curves,
    GanTraining,
    RunSize,
    run_recipe,
)
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun

CPU = torch.device("cpu")
SIZE = RunSize(image_size=8, width=4, latent_dim=6, batch_size=8, steps=6, evaluations=6)
TINY = {"image_size": 8, "width": 4, "latent_dim": 6, "batch_size": 8, "steps": 10, "seeds": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a store with 160 training images of 16 px, of three classes."""
    return str(small_store(tmp_path_factory.mktemp("images"), 160))


def small_images(rows: int = 96, num_classes: int = 3) -> StudyImages:
    """Return smooth random images of some classes, whose pixels depend on each other."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(rows + 32, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=8, mode="bilinear")
    pixels = (smooth * 255).byte()
    return StudyImages(
        store="none",
        train=pixels[:rows],
        labels=torch.arange(rows) % num_classes,
        held_out=pixels[rows:],
        num_classes=num_classes,
        identity="small",
        description="small",
    )


def test_controls_have_the_metrics_that_their_names_say() -> None:
    """Training rows are near and copies, a Gaussian is near but new, noise is far and varied."""
    images = small_images(400)
    comparison = compare_with(images, CPU, max_rows=32)
    samples = control_samples(images, 32, 0)
    metrics = {name: comparison.measure(rows) for name, rows in samples.items()}
    assert tuple(metrics) == CONTROLS
    near, fitted, noise = (metrics[name] for name in (TRAINING_ROWS, GAUSSIAN, NOISE))
    for name in (FEATURES, DISTANCE):
        assert max(near[name], fitted[name]) < 0.7 * noise[name]
    assert near[NOVELTY] < 1e-3
    assert fitted[NOVELTY] > 0.5
    assert near[DIVERSITY] == pytest.approx(1, abs=0.3)
    assert noise[DIVERSITY] > 1.5
    repeated = comparison.measure(samples[NOISE][:1].expand(32, -1, -1, -1))
    assert repeated[DIVERSITY] == pytest.approx(0, abs=1e-3)


def test_a_fitted_gaussian_has_the_moments_of_the_training_rows() -> None:
    """Its samples are sums of centred rows, so that no covariance matrix is stored."""
    images = small_images(60)
    images = replace(images, train=(images.train // 4 + 96))  # far from the ends of the range
    rows = as_floats(images.train).flatten(1)
    gaussian = torch.cat([control_samples(images, 60, seed)[GAUSSIAN] for seed in range(200)])
    torch.testing.assert_close(gaussian.flatten(1).mean(0), rows.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close(
        torch.cov(gaussian.flatten(1).T), torch.cov(rows.T), atol=1.5e-3, rtol=0
    )


def test_a_run_depends_on_its_seed_alone() -> None:
    """What ran before in the process changes nothing; another seed gives another run."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=32)
    for recipe in (GanRecipe(dropout=0.5), GanRecipe(flipped_labels=0.3, replay=0.5)):
        first = run_recipe(recipe, images, comparison, SIZE, seed=3).metrics
        torch.manual_seed(99)
        run_recipe(GanRecipe(), images, comparison, SIZE, seed=4)
        assert run_recipe(recipe, images, comparison, SIZE, seed=3).metrics == first
        assert run_recipe(recipe, images, comparison, SIZE, seed=4).metrics != first


def test_samples_are_compared_with_held_out_rows_alone() -> None:
    """The rows that networks are trained on only serve to recognise copies."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=16)
    assert torch.equal(comparison.held_out, as_floats(images.held_out[:16]))
    assert torch.equal(comparison.train, images.train)


def test_equal_seeds_have_equal_batches_noise_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """So differences of arms are paired; labels are those of the images beside them."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=16)
    label_of = {
        rows.numpy().tobytes(): int(label)
        for rows, label in zip(as_floats(images.train), images.labels, strict=True)
    }

    def inputs_of(recipe: GanRecipe, seed: int) -> list[torch.Tensor]:
        training = GanTraining(recipe, images, comparison, SIZE, seed=seed)
        inputs = [parameter.detach().clone() for parameter in training.trainer.critic.parameters()]

        def critic_update(
            real: torch.Tensor, noise: tuple[torch.Tensor, ...], condition: object, **_: object
        ) -> None:
            if recipe.conditional:
                assert noise[1].tolist() == [label_of[row.numpy().tobytes()] for row in real]
                assert torch.equal(condition[0], noise[1])  # type: ignore[index]
            inputs.extend([real, noise[0]])

        def generator_update(noise: tuple[torch.Tensor, ...], condition: object) -> None:
            inputs.append(noise[0])

        monkeypatch.setattr(training.trainer, "critic_update", critic_update)
        monkeypatch.setattr(training.trainer, "generator_update", generator_update)
        for step in (1, 2):
            training.step(step)
        return inputs

    base = inputs_of(GanRecipe(), 5)
    for changed in (
        GanRecipe(loss="mean-score"),
        GanRecipe(soft_labels=True, replay=0.5, flipped_labels=0.1),
        GanRecipe(saturating=True, joint_batches=True),
    ):
        assert all(map(torch.equal, base, inputs_of(changed, 5)))
    conditional = inputs_of(GanRecipe(conditional=True), 5)
    assert all(map(torch.equal, base[-6:], conditional[-6:]))
    other = inputs_of(GanRecipe(), 6)
    assert not any(map(torch.equal, base, other))
    real, noise, _, next_real, next_noise, _ = base[-6:]
    assert not torch.equal(real, next_real)
    assert not torch.equal(noise, next_noise)


@pytest.mark.parametrize(
    ("recipe", "low", "high"), [(GanRecipe(), -1, 1), (GanRecipe(sigmoid=True), 0, 1)]
)
def test_real_images_have_the_range_of_generated_ones(
    recipe: GanRecipe, low: float, high: float
) -> None:
    """A critic would tell them apart by their range alone."""
    images = small_images()
    training = GanTraining(recipe, images, compare_with(images, CPU, max_rows=16), SIZE, seed=0)
    real = training._real(torch.tensor([0, 255], dtype=torch.uint8))
    assert real.tolist() == [low, high]
    fake = training.trainer.generator(torch.randn(8, SIZE.latent_dim)).detach()
    assert low <= float(fake.min()) <= float(fake.max()) <= high


@pytest.mark.parametrize(
    ("loss", "expected"), [("mean-score", 3.0), ("cross-entropy", -2.0), ("mean-square-error", -2)]
)
def test_the_estimate_is_that_of_the_loss(
    loss: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the mean score of real rows minus that of others, or the critic's negative loss."""
    images = small_images()
    training = GanTraining(
        GanRecipe(loss=loss), images, compare_with(images, CPU, max_rows=20), SIZE, seed=0
    )
    batches: list[int] = []

    def evaluate(real: torch.Tensor, noise: object) -> dict[str, torch.Tensor]:
        batches.append(len(real))
        return {"estimate": torch.tensor(3.0), "critic_loss": torch.tensor(2.0)}

    monkeypatch.setattr(training.trainer, "evaluate", evaluate)
    assert training.estimate() == expected
    assert batches == [8, 8]  # in whole batches, as batch norm depends on their size


def test_metrics_are_means_over_the_last_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the six evaluations counts for the curve alone."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=16)
    measured: list[dict[str, float]] = []
    real_measure = HeldOutComparison.measure

    def measure(self: HeldOutComparison, samples: torch.Tensor) -> dict[str, float]:
        measured.append(real_measure(self, samples))
        return measured[-1]

    monkeypatch.setattr(HeldOutComparison, "measure", measure)
    result = run_recipe(GanRecipe(), images, comparison, SIZE, seed=0)
    assert len(measured) == 5
    assert result.curves.steps == [1, 2, 3, 4, 5, 6]
    for name in (FEATURES, DISTANCE, DIVERSITY, NOVELTY):
        assert result.metrics[name] == pytest.approx(sum(m[name] for m in measured) / 5)
    assert result.curves.distances[FEATURES][1:] == [m[FEATURES] for m in measured]


def test_optimisers_have_the_rates_of_the_papers() -> None:
    """Radford et al. 2016 and Arjovsky et al. 2017."""
    network = torch.nn.Linear(2, 1)
    adam = DCGAN_OPTIMISER.make(network)
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (2e-4, (0.5, 0.999))
    rmsprop = WGAN_OPTIMISER.make(network)
    assert isinstance(rmsprop, torch.optim.RMSprop)
    assert (rmsprop.defaults["lr"], rmsprop.defaults["alpha"]) == (5e-5, 0.99)


@pytest.mark.slow
@pytest.mark.parametrize("tip", hacks.TIPS, ids=lambda tip: tip.arm)
def test_each_tip_changes_the_run(tip: hacks.Tip) -> None:
    """Every arm trains, stays finite, and gives other samples than the base of the same seed."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=16)
    size = replace(SIZE, steps=3, evaluations=1)
    base = run_recipe(GanRecipe(balance_below=None), images, comparison, size, seed=0)
    recipe = tip.recipe(GanRecipe())
    if tip.change.get("balance_below"):  # so early in training the critic's loss is far above it
        recipe = replace(recipe, balance_below=10.0)
    result = run_recipe(recipe, images, comparison, size, seed=0)
    assert result.samples is not None
    assert base.samples is not None
    assert not torch.equal(result.samples, base.samples)
    assert float(result.samples.min()) >= -1
    assert float(result.samples.max()) <= 1
    assert result.metrics[DIVERGED] == 0


@pytest.mark.parametrize(
    ("change", "varies"), [({}, False), ({"dropout": 0.5}, True), ({"layer_noise": 0.1}, True)]
)
def test_dropout_and_layer_noise_stay_on_in_evaluation(
    change: dict[str, float], varies: bool
) -> None:
    """Equal inputs then give different images, as the tip says; otherwise equal ones."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=16)
    training = GanTraining(GanRecipe(**change), images, comparison, SIZE, seed=0)
    assert torch.equal(training.samples(4), training.samples(4)) != varies


def test_the_input_noise_falls_to_0() -> None:
    """It has its full deviation at the first step, and nearly none at the last one."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=16)
    training = GanTraining(GanRecipe(input_noise=0.6), images, comparison, SIZE, seed=0)
    deviations = []
    for step in range(1, SIZE.steps + 1):
        training.step(step)
        deviations.append(training.trainer.critic.deviation)
    assert deviations == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_replay_buffer_shows_earlier_rows() -> None:
    """A share of the rows comes from earlier updates, and their number is limited."""
    buffer = training_module._ReplayBuffer(0.25, seed=0)
    assert torch.equal(buffer(torch.zeros(8, 1)), torch.zeros(8, 1))
    mixed = buffer(torch.ones(8, 1))
    assert mixed.sum() == 6
    for value in range(2, 300):
        buffer(torch.full((8, 1), float(value)))
    assert buffer._rows is not None
    assert len(buffer._rows) == buffer.ROWS
    assert float(buffer._rows.min()) < 200 < float(buffer._rows.max())


def test_soft_and_flipped_labels_are_those_of_the_list() -> None:
    """Without noise the loss is DCGAN's; swapping all labels swaps the roles of both kinds."""
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    plain = GanRecipe().objective(0).critic(real, fake)
    swapped = GanRecipe(flipped_labels=1.0).objective(0).critic(real, fake)
    torch.testing.assert_close(swapped, GanRecipe().objective(0).critic(fake, real))
    assert not torch.isclose(swapped, plain)
    soft = GanRecipe(soft_labels=True).objective(0)
    zeros = torch.zeros(10_000)
    assert float(soft.critic(zeros, zeros)) == pytest.approx(2 * math.log(2))
    # The slope of the loss at a score of 0 is 1/2 minus the label, here its mean over many rows.
    for kind, label in ((0, 0.95), (1, 0.15)):
        scores = [torch.zeros(100_000), torch.zeros(100_000)]
        scores[kind].requires_grad_()
        soft.critic(*scores).backward()
        assert float(scores[kind].grad.sum()) == pytest.approx(0.5 - label, abs=5e-3)  # type: ignore[union-attr]


def test_the_saturating_loss_has_a_gradient_that_vanishes() -> None:
    """For rows that the critic rejects, its slope is near 0, that of the other loss near 1."""
    slopes = []
    for saturating in (True, False):
        scores = torch.full((4,), -10.0, requires_grad=True)
        GanRecipe(saturating=saturating).objective(0).generator(scores).backward()
        slopes.append(float(scores.grad.sum()))  # type: ignore[union-attr]
    assert slopes == pytest.approx([-math.exp(-10), -1], rel=1e-3)


@pytest.mark.slow
def test_training_that_diverges_is_a_result() -> None:
    """It has no metrics but the fact."""
    images = small_images()
    comparison = compare_with(images, CPU, max_rows=16)
    recipe = GanRecipe(loss="mean-score")
    training = GanTraining(recipe, images, comparison, SIZE, seed=0)
    with torch.no_grad():
        next(training.trainer.generator.parameters()).fill_(torch.nan)
    assert bool(training.samples(4).isnan().any())
    with pytest.MonkeyPatch.context() as patch:
        nan = torch.full((16, 3, 8, 8), torch.nan)
        patch.setattr(GanTraining, "samples", lambda self, count: nan)
        result = run_recipe(recipe, images, comparison, SIZE, seed=0)
    assert (result.metrics, result.samples) == ({DIVERGED: 1.0}, None)
    assert result.curves.steps == []


def test_undefined_correlations_are_nan() -> None:
    """So are those of few evaluations, of a constant, and of an estimate that is infinite."""
    steps = list(range(10))
    rising = [float(step) for step in steps]
    curves = Curves(steps, rising, {DISTANCE: rising, FEATURES: rising[::-1]})
    assert (curves.correlation(DISTANCE), curves.correlation(FEATURES)) == pytest.approx((1, -1))
    for critic, distance in (
        ([0.0] * 10, rising),
        (rising, [0.0] * 10),
        ([*rising[:9], math.inf], rising),
    ):
        assert math.isnan(Curves(steps, critic, {DISTANCE: distance}).correlation(DISTANCE))
    assert math.isnan(Curves(steps[:5], rising[:5], {DISTANCE: rising[:5]}).correlation(DISTANCE))


def test_the_arms_differ_by_one_factor_each() -> None:
    """There are twelve, and those of the two papers have the hyperparameters of the papers."""
    recipes = two_changes.recipes(1)
    assert len(recipes) == len(LOSSES) * len(CONSTRAINTS) * len(OPTIMISERS) == 12
    assert recipes[two_changes.DCGAN_ARM] == GanRecipe()
    wgan = recipes[two_changes.WGAN_ARM]
    assert (wgan.loss, wgan.clip, wgan.critic_optimiser.rate) == ("mean-score", 0.01, 5e-5)
    known = set(recipes)
    for contrast in two_changes.contrasts():
        assert set(contrast.weights) <= known
        assert sum(contrast.weights.values()) == pytest.approx(0)
        assert 0 < len(contrast.name) <= 35
    for tip in hacks.TIPS:
        # An arm that equals the base would test nothing, whatever --critic-steps is.
        assert all(
            tip.recipe(GanRecipe(critic_steps=n)) != GanRecipe(critic_steps=n) for n in (1, 3)
        )
    assert tuple(tip.arm for tip in hacks.TIPS) == TIPS


def test_contrasts_are_the_terms_of_an_additive_model() -> None:
    """Each has the sign and the levels that its name says; an interaction has its own term."""
    terms = {
        **dict(zip(LOSSES, (0.0, 5.0, 1.0), strict=True)),
        **dict(zip(CONSTRAINTS, (0.0, 20.0), strict=True)),
        **dict(zip(OPTIMISERS, (0.0, 300.0), strict=True)),
    }

    def value(arm: str) -> float:
        levels = arm.split(", ")
        # The clip adds 4,000 with mean square error, and 60,000 with the mean score.
        with_clip = {LOSSES[1]: 4_000.0, LOSSES[2]: 60_000.0}.get(levels[0], 0.0)
        return sum(map(terms.__getitem__, levels)) + with_clip * (levels[1] == CONSTRAINTS[1])

    runs = [
        StudyRun(arm=arm, seed=0, metrics={FEATURES: value(arm)}, seconds=1.0)
        for arm in two_changes.recipes(1)
    ]
    values = {c.name: c.values(runs, FEATURES)[0] for c in two_changes.contrasts()}
    assert values == pytest.approx(
        {
            "WGAN minus DCGAN": 60_321.0,
            "both changes, with adam": 60_021.0,
            "both changes, with rmsprop": 60_021.0,
            "loss mean-square-error": 2_005.0,
            "loss mean-score": 30_001.0,
            "clip": 20.0 + 64_000 / 3,
            "optimiser rmsprop": 300.0,
            "clip by loss mean-square-error": 4_000.0,
            "clip by loss mean-score": 60_000.0,
            "losses with the clip": 60_001.0,
        }
    )


def test_the_comparison_with_a_gaussian_needs_intervals() -> None:
    """With one seed nothing is claimed; with several an arm is nearer only if its interval is."""

    def runs_of(seeds: int, near: float) -> list[StudyRun]:
        return [
            StudyRun(arm=arm, seed=seed, metrics={FEATURES: value + 0.01 * seed}, seconds=1.0)
            for seed in range(seeds)
            for arm, value in ((GAUSSIAN, 0.4), ("a", near + 0.02 * seed), ("b", 0.4 - 0.1 * seed))
        ]

    (alone,) = two_changes._against_gaussian(runs_of(1, 0.1), ["a", "b"])
    assert "pass more --seeds" in alone
    (text,) = two_changes._against_gaussian(runs_of(3, 0.1), ["a", "b"])
    assert "1 of 2 arms are nearer to held-out images than a fitted Gaussian" in text
    assert text.endswith("No difference to it was seen for b.")
    diverged = [
        StudyRun(arm="c", seed=seed, metrics={FEATURES: 0.1} if seed == 0 else {}, seconds=1.0)
        for seed in range(3)
    ]
    (text,) = two_changes._against_gaussian([*runs_of(3, 0.1), *diverged], ["a", "b", "c"])
    assert "1 of 3 arms are nearer" in text
    assert text.endswith("The difference has no interval for c.")


def test_answers_group_tips_by_what_was_seen() -> None:
    """A smaller distance is better, and only large effects remain after adjustment."""
    values = {
        "base": [0.50, 0.52, 0.54],
        "soft-labels": [0.30, 0.3201, 0.3402],  # certainly better
        "dropout": [0.60, 0.63, 0.66],  # worse, but less certainly
        "labels": [0.40, 0.70, 0.50],
        "balanced": [0.40],
    }
    runs = [
        StudyRun(arm=arm, seed=seed, metrics={FEATURES: value}, seconds=1.0)
        for arm, numbers in values.items()
        for seed, value in enumerate(numbers)
    ]
    tips = [tip for tip in hacks.TIPS if tip.arm in values]
    effects = [difference(tip.arm, "base") for tip in tips]
    better, worse, none, undefined, certain = hacks._answers(tips, effects, runs)
    assert better.startswith("Arms with samples nearer to held-out images than those of the base: ")
    assert better.endswith(": soft-labels -0.200 (-0.200 to -0.200).")
    assert worse.endswith(": dropout +0.110 (+0.085 to +0.135).")
    assert none.startswith("No difference seen: labels +0.013 (")
    assert undefined == "Without an interval: balanced."
    assert certain.endswith(": soft-labels; dropout.")
    # The p-values of dropout alone, and as one of three.
    alone = hacks._adjusted([difference("dropout", "base")], runs)
    adjusted = hacks._adjusted(effects, runs)[[tip.arm for tip in tips].index("dropout")]
    assert adjusted == pytest.approx(2 * alone[0])


@pytest.mark.parametrize(("limit", "is_updated"), [(0.0, True), (100.0, False)])
def test_a_balanced_critic_waits_while_its_loss_is_low(limit: float, is_updated: bool) -> None:
    """Its update is skipped, and that of the generator is not."""
    images = small_images()
    recipe = GanRecipe(balance_below=limit)
    training = GanTraining(recipe, images, compare_with(images, CPU, max_rows=16), SIZE, seed=0)
    trainer = training.trainer
    before = [
        p.detach().clone() for n in (trainer.critic, trainer.generator) for p in n.parameters()
    ]
    training.step(1)
    after = [p.detach() for n in (trainer.critic, trainer.generator) for p in n.parameters()]
    assert torch.equal(before[-1], after[-1]) is False
    assert torch.equal(before[0], after[0]) is not is_updated


def test_images_are_reduced_and_held_out(store: str) -> None:
    """Without a split for it, a tenth is held out, which is not trained on."""
    images = open_images(store, "train", None, image_size=8, max_images=1_000)
    assert images.train.shape[1:] == images.held_out.shape[1:] == (3, 8, 8)
    num_rows = len(images.train) + len(images.held_out)
    assert len(images.held_out) == round(0.1 * num_rows)
    train = {rows.numpy().tobytes() for rows in images.train}
    assert not train & {rows.numpy().tobytes() for rows in images.held_out}
    with pytest.raises(
        StoreError, match=r"expected at least 64 and 16\. Pass a larger --max-images"
    ):
        open_images(store, "train", None, image_size=8, max_images=65)


def test_splits_of_the_same_images_are_refused(tmp_path: Path) -> None:
    """Otherwise images that are trained on would count as held-out ones."""
    source, store = tmp_path / "photos", str(tmp_path / "store")
    make_folder(source, 100)
    for split in ("train", "val"):
        prepare_inline(source, store, split=split, sizes=(16,))
    with pytest.raises(StoreError, match=r"'train' and 'val' of .* have the same images"):
        open_images(store, "train", "val", image_size=8, max_images=1_000)
    options = HacksOptions(source=str(source), held_out="val", out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"--held-out is val: .*photos has no named splits"):
        command.hacks(options)
    assert not (tmp_path / "out" / "store").exists()


def test_a_source_is_not_prepared_into_the_folder_of_others(store: str, tmp_path: Path) -> None:
    """Neither files of somebody else nor another study get a store, and no hours are lost."""
    source = str(Path(store).with_name("source"))
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TesseraeError, match=r"no folder of this study: it contains 'thesis.tex'"):
        command.hacks(HacksOptions(source=source, out=tmp_path))
    (tmp_path / "thesis.tex").rename(tmp_path / "settings.json")
    (tmp_path / "settings.json").write_text('{"study": "two-changes", "quick": false}')
    with pytest.raises(TesseraeError, match="results of the study two-changes, and this is the"):
        command.hacks(HacksOptions(source=source, out=tmp_path))
    other = {"study": "hacks", "quick": False, "torch": "1.0"}
    (tmp_path / "settings.json").write_text(json.dumps(other))
    with pytest.raises(TesseraeError, match=r"torch is '1.0' in the folder and '\d"):
        command.hacks(HacksOptions(source=source, out=tmp_path))
    assert not (tmp_path / "store").exists()


def test_a_folder_with_images_of_another_source_is_refused_by_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No store was passed, so that a sentence on one would say nothing."""

    def prepare(options: PrepareOptions) -> NoReturn:
        raise StoreMismatchError("the store was prepared from another source: a; b. Choose one.")

    monkeypatch.setattr(experiment, "prepare", prepare)
    options = HacksOptions(source="photos", out=tmp_path)
    with pytest.raises(TesseraeError) as raised:
        experiment.prepare_source(options)
    assert str(raised.value) == (
        f"--out {tmp_path} has images of another --source than photos, or prepared in another way:"
        " the store was prepared from another source: a; b. Pass the same --source, or another"
        " --out."
    )


@pytest.mark.parametrize(("held_out", "splits"), [(None, ["train"]), ("val", ["train", "val"])])
def test_only_the_splits_that_are_read_are_prepared(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: str | None, splits: list
) -> None:
    """A large test set that nobody asked for would cost hours."""
    prepared: list[PrepareOptions] = []
    monkeypatch.setattr(experiment, "prepare", prepared.append)
    source = str(Path(store).with_name("source"))
    options = HacksOptions(source=source, held_out=held_out, out=tmp_path, image_size=8)
    assert experiment.prepare_source(options) == str(tmp_path / "store")
    assert [list(p.split) for p in prepared] == [splits]
    assert [p.sizes for p in prepared] == [(8,)]


def test_options_that_cannot_end_well_are_refused(tmp_path: Path) -> None:
    """Each with the flag, the value and the way out."""
    with pytest.raises(ValueError, match=r"neither is set\. Pass --store"):
        TwoChangesOptions()
    with pytest.raises(ValueError, match="both are set"):
        TwoChangesOptions(store="a", source="b")
    with pytest.raises(ValueError, match="--held-out is train, the split that is trained on"):
        TwoChangesOptions(store="a", held_out="train")
    images = small_images()
    with pytest.raises(ValueError, match="--tips is 'no-such': expected one of sigmoid-output"):
        HacksOptions(store="a", tips=("no-such",))
    unlabelled = replace(images, labels=torch.full_like(images.labels, -1))
    assert "labels" not in {tip.arm for tip in hacks.selected_tips((), unlabelled)}
    assert "labels" in {tip.arm for tip in hacks.selected_tips((), images)}
    with pytest.raises(ValueError, match="--tips has 'labels', but the training images have no"):
        hacks.selected_tips(("labels",), unlabelled)
    with pytest.raises(ValueError, match="--device is 'nowhere': expected cpu"):
        command.hacks(HacksOptions(store="a", device="nowhere", out=tmp_path / "out"))
    with pytest.raises(StoreError, match="no store at"):
        command.hacks(HacksOptions(store=str(tmp_path / "none"), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupted_study_goes_on_with_equal_figures(
    store: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second command runs what is missing; other settings are refused."""
    options = HacksOptions(store=store, tips=("soft-labels",), out=tmp_path / "a", **TINY)
    whole = replace(options, out=tmp_path / "b")
    command.hacks(whole)
    real_step, steps = GanTraining.step, []

    def interrupted(self: GanTraining, step: int) -> None:
        steps.append(step)
        if len(steps) == 35:  # in the second seed's run of the tip
            raise KeyboardInterrupt
        real_step(self, step)

    monkeypatch.setattr(GanTraining, "step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="to continue"):
        command.hacks(options)
    assert not (tmp_path / "a" / "report.html").exists()
    monkeypatch.setattr(GanTraining, "step", real_step)
    command.hacks(options)
    records = []
    for folder in ("a", "b"):
        lines = (tmp_path / folder / "runs.jsonl").read_text().splitlines()
        records.append([{**json.loads(line), "seconds": 0} for line in lines])
        assert (tmp_path / folder / "report.html").stat().st_size > 10_000
        assert (tmp_path / folder / "samples" / "soft-labels.png").exists()
    assert records[0] == records[1]
    assert len(records[0]) == 2 * (3 + 2)
    printed = capsys.readouterr().out
    assert "adjusted p" in printed
    assert "Not tested: tip 10" in printed
    with pytest.raises(TesseraeError, match="results of other settings: steps is 10"):
        command.hacks(replace(options, steps=11))


def test_the_page_shows_the_images_of_each_arm_that_has_some(tmp_path: Path) -> None:
    """Those of an arm whose first seed has not ended are missing."""
    results = ResultsFolder(tmp_path)
    images = torch.zeros(4, 3, 8, 8)
    experiment.write_grid(results, "no critic, weight 1", images - 1)
    experiment.write_grid(results, "base", images + 1)
    shown = experiment.grids(results, ["base", "unfinished", "no critic, weight 1"])
    assert [name for name, _ in shown] == ["base", "no critic, weight 1"]
    colours = [Image.open(io.BytesIO(file)).getpixel((2, 2)) for _, file in shown]
    assert colours == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_small_version_runs_end_to_end_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study prepares the folder itself, and says that its figures support no conclusion."""
    small_store(tmp_path, 200)
    named = {"source": str(tmp_path / "source"), "out": tmp_path / "out", "image_size": 8}
    options = TwoChangesOptions.from_args(Namespace(quick=True, **named))
    assert command.two_changes(options) == 0
    printed = capsys.readouterr().out
    assert "its figures support no conclusion" in printed
    assert "WGAN minus DCGAN (mean-score, clip" not in printed
    assert (tmp_path / "out" / "feature-distance.svg").exists()
    runs = (tmp_path / "out" / "runs.jsonl").read_text().splitlines()
    assert len(runs) == 3 * (12 + 3)
    assert len((tmp_path / "out" / "curves.jsonl").read_text().splitlines()) == 3 * 12
    assert (tmp_path / "out" / "estimates.svg").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 12 + 3
    assert any(CORRELATION in json.loads(line)["metrics"] for line in runs)
    assert command.two_changes(options) == 0
    assert len((tmp_path / "out" / "runs.jsonl").read_text().splitlines()) == len(runs)
