"""Tests of the options: recipes, what follows from the store, and what is refused."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loader.crops import Crop
from tests.workflows.classify.small import small_trunk
from workflows.classify.options import CHOSEN, ClassifyOptions
from workflows.classify.recipes import default_epochs, describe_preset, recipes
from workflows.cli import command_of, main

PRESETS = tuple(recipes())


def parsed(*words: str) -> ClassifyOptions:
    """Return the options that a command line gives."""
    _, parser = command_of("train")
    return ClassifyOptions.from_args(parser.parse_args(["classify", "STORE", *words]))


# --- recipes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_a_recipe_has_valid_options(preset: str) -> None:
    """They are options with other values than the defaults, and the run records all of them."""
    recipe = recipes()[preset]
    assert recipe.source
    assert recipe.result
    options = ClassifyOptions.of_preset(preset)
    assert options.preset == preset
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in recipe.options.items()}
    assert {name: getattr(options, name) for name in values} == values
    assert {"network", "image_size", "epochs", "batch_size", "learning_rate"} <= values.keys()
    recorded = json.loads(json.dumps(options.as_dict()))
    assert ClassifyOptions.from_dict(recorded) == options
    without_name = ClassifyOptions(**{**options.as_dict(), "preset": None})
    named_alone = ClassifyOptions(**values)
    assert without_name == named_alone


@pytest.mark.parametrize("preset", PRESETS)
def test_the_shown_flags_are_those_of_the_recipe(preset: str) -> None:
    """Who types what `--show` prints has the recipe; its source is printed too."""
    text = describe_preset(argparse.Namespace(preset=preset))
    recipe = recipes()[preset]
    assert text.splitlines()[0] == preset
    for part in (recipe.source, recipe.result, recipe.differences):
        assert part in text
    flags = text.partition("  options:\n")[2].split()
    expected = ClassifyOptions.of_preset(preset)
    assert parsed(*flags, "--preset", preset) == expected
    assert parsed(*flags) == ClassifyOptions(**{**expected.as_dict(), "preset": None})


def test_show_prints_the_recipe_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no store, and the command ends with exit status 0."""
    with pytest.raises(SystemExit) as ended:
        main(["train", "classify", "--preset", "resnet9-cifar", "--show"])
    assert ended.value.code == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("resnet9-cifar\n  source: Page")
    assert "    --padding 4\n" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--show"], "--show: expected --preset NAME before it, of resnet50-90, "),
        (["--show", "--preset", "resnet9-cifar"], "--show: expected --preset NAME before it"),
        (["STORE", "--preset", "resnet9-cifr"], "(did you mean resnet9-cifar?)"),
        (["--preset", "resnet9-cifar"], "STORE"),
    ],
)
def test_a_recipe_that_is_not_named_is_an_error(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """The command ends with one sentence and exit status 1."""
    assert main(["train", "classify", *words]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_typed_options_take_precedence() -> None:
    """Options that repeat the default or are switched off count, in any order."""
    recipe = ClassifyOptions.of_preset("resnet50-ffcv-16")
    options = parsed(
        "--batch-size", "128", "--preset", "resnet50-ffcv-16", "--no-mirrored-evaluation",
        "--label-smoothing", "0", "--seed", "3",
    )  # fmt: skip
    assert recipe.batch_size == 4096
    assert recipe.mirrored_evaluation
    assert recipe.label_smoothing == 0.1
    changed = {"batch_size": 128, "mirrored_evaluation": False, "label_smoothing": 0.0, "seed": 3}
    assert options == ClassifyOptions(**{**recipe.as_dict(), **changed})


@pytest.mark.parametrize(
    ("preset", "words", "changed"),
    [
        ("resnet50-90", "--schedule cosine", {"schedule": "cosine", "milestones": ()}),
        ("resnet50-90", "--epochs 18", {"epochs": 18, "milestones": (6, 12, 16)}),
        ("resnet50-90", "--epochs 18 --milestones 9", {"epochs": 18, "milestones": (9,)}),
        ("resnet50-ffcv-16", "--epochs 32", {"epochs": 32, "growth_epochs": (22, 26)}),
        ("resnet50-ffcv-16", "--epochs 1", {"epochs": 1, "growth_epochs": (1, 1)}),
        ("resnet50-ffcv-16", "--image-size 224", {"image_size": 224}),
        (
            "resnet50-ffcv-16",
            "--image-size 128 --start-image-size 96",
            {"image_size": 128, "start_image_size": 96},
        ),
        ("resnet18-16", "--trunk TRUNK", {"network": None, "trunk": "TRUNK"}),
        ("resnet18-16", "--network resnet34", {"network": "resnet34"}),
        ("resnet9-cifar", "--crop resized", {"crop": "resized", "padding": 0}),
        ("resnet9-cifar", "--crop random --padding 2", {"padding": 2}),
    ],
)
def test_the_rest_of_a_recipe_follows_what_is_typed(
    preset: str, words: str, changed: dict[str, Any]
) -> None:
    """Epochs are scaled, and values that belong to another choice are left out."""
    recipe = ClassifyOptions.of_preset(preset)
    options = parsed("--preset", preset, *words.split())
    assert options == ClassifyOptions(**{**recipe.as_dict(), **changed})


def test_an_unknown_recipe_is_refused_in_code() -> None:
    """An unknown name and an unknown option are refused."""
    with pytest.raises(ValueError, match="--preset is 'resnet': expected one of resnet50-90, "):
        ClassifyOptions.of_preset("resnet")
    with pytest.raises(TypeError, match="colour"):
        ClassifyOptions.of_preset("resnet9-cifar", colour=3)


# --- what follows from the store ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "encoded", "on_cpu", "on_gpu"),
    [
        ((32,), (), (32, "resnet9"), (32, "resnet9")),
        ((72,), (), (64, "resnet9"), (72, "resnet18-stem3")),
        ((224,), (), (224, "resnet18"), (224, "resnet50")),
        ((72, 224, 288), (), (64, "resnet9"), (224, "resnet50")),
        ((288,), (), (224, "resnet18"), (224, "resnet50")),
        ((96,), (), (96, "resnet9"), (96, "resnet18-stem3")),
        ((16,), (), (16, "resnet9"), (16, "resnet9")),
        ((28, 160), (), (160, "resnet18"), (160, "resnet50")),
        ((), (256,), (224, "resnet18"), (224, "resnet50")),
        ((), (224,), (224, "resnet18"), (224, "resnet50")),
        ((), (64,), (64, "resnet9"), (64, "resnet18-stem3")),
        ((72,), (256,), (64, "resnet9"), (224, "resnet50")),
        ((), (), (224, "resnet18"), (224, "resnet50")),
    ],
)
def test_size_and_network_suit_the_store_and_the_machine(
    sizes: tuple[int, ...],
    encoded: tuple[int, ...],
    on_cpu: tuple[int, str],
    on_gpu: tuple[int, str],
) -> None:
    """What is named is kept, and the network suits a named size."""
    for gpu, expected in ((False, on_cpu), (True, on_gpu)):
        chosen = ClassifyOptions().for_store(sizes, encoded, gpu=gpu)
        assert (chosen.image_size, chosen.network) == expected
        named = ClassifyOptions(network="vit-small", image_size=48)
        assert named.for_store(sizes, encoded, gpu=gpu) == named
        chosen = ClassifyOptions(image_size=32).for_store(sizes, encoded, gpu=gpu)
        assert (chosen.image_size, chosen.network) == (32, "resnet9")


def test_the_size_of_a_trunk_is_its_own(tmp_path: Path) -> None:
    """A trunk has its own size, unless another one is named, and no other network."""
    folder = str(small_trunk(tmp_path, size=24))
    chosen = ClassifyOptions(trunk=folder).for_store((72,), (), gpu=False)
    assert (chosen.image_size, chosen.network) == (24, None)
    chosen = ClassifyOptions(trunk=folder, image_size=40).for_store((72,), (), gpu=False)
    assert (chosen.image_size, chosen.network) == (40, None)


@given(rows=st.integers(0, 10**8), batch_size=st.integers(1, 4_096))
def test_epochs_and_steps_follow_from_the_rows(rows: int, batch_size: int) -> None:
    """Fewer images have more epochs, and steps are those of whole batches."""
    assert 16 <= default_epochs(rows + 1) <= default_epochs(rows) <= 60
    options = ClassifyOptions(batch_size=batch_size).for_rows(rows)
    assert options.epochs == default_epochs(rows)
    assert options.eval_every == max(1, rows // batch_size)
    assert options.steps == options.epochs * options.eval_every
    named = ClassifyOptions(batch_size=batch_size, steps=7, eval_every=2, epochs=3)
    assert named.for_rows(rows) == named


def test_known_stores_have_the_expected_epochs() -> None:
    """ImageNet has the fewest, CIFAR-10 the most."""
    assert [default_epochs(rows) for rows in (1_281_167, 13_000, 10_000, 5_000, 0)] == [
        16, 23, 30, 60, 60,
    ]  # fmt: skip


def test_a_run_goes_on_with_what_it_has_chosen() -> None:
    """Network, size and epochs that are not named are those of the run; others are kept."""
    assert CHOSEN == ("network", "image_size", "epochs", "last_layer")
    recorded = {"network": "resnet18", "image_size": 48, "epochs": 5, "encoded": "jpeg256@90"}
    chosen = ClassifyOptions().with_recorded_choices(recorded)
    assert (chosen.network, chosen.image_size, chosen.epochs) == ("resnet18", 48, 5)
    assert chosen.encoded == "jpeg:256@90"
    named = ClassifyOptions(network="resnet9", image_size=32, epochs=6, encoded="original")
    assert named.with_recorded_choices(recorded) == named
    assert ClassifyOptions().with_recorded_choices({}) == ClassifyOptions()
    of_trunk = ClassifyOptions(trunk="other").with_recorded_choices(recorded)
    assert (of_trunk.network, of_trunk.image_size) == (None, 48)


# --- sizes of images ------------------------------------------------------------------------------


@given(
    start=st.integers(8, 256),
    grows=st.integers(0, 200),
    first=st.integers(0, 20),
    length=st.integers(0, 20),
)
def test_images_grow_from_the_start_to_the_size(
    start: int, grows: int, first: int, length: int
) -> None:
    """Sizes never fall, and have whole units between the ends, as FFCV computes them."""
    size, last = start + grows, first + length
    options = ClassifyOptions(
        image_size=size, start_image_size=start, growth_epochs=(first, last), epochs=50
    )
    if not last:
        last = 37
    sizes = [options.image_size_in(epoch) for epoch in range(50)]
    assert sizes == sorted(sizes)
    assert sizes[0] == (start if last > 0 else size)
    assert set(sizes[last:]) == {size}
    unit = 32 if size >= 128 else 8
    for epoch, actual in enumerate(sizes[: last + 1]):
        expected = np.interp(epoch, [first, last], [start, size]) if first < last else start
        if first < epoch < last:
            rounded = int(np.round(expected / unit)) * unit
            assert actual == min(size, max(start, rounded))
        assert start <= actual <= size


def test_the_sizes_of_a_published_recipe() -> None:
    """Sizes are 160 px until epoch 11 and 192 px from epoch 13 on, as FFCV has them."""
    options = ClassifyOptions.of_preset("resnet50-ffcv-16")
    assert [options.image_size_in(epoch) for epoch in (0, 11, 12, 13, 15)] == [
        160, 160, 192, 192, 192,
    ]  # fmt: skip
    assert options.evaluated_size == 256
    assert ClassifyOptions(image_size=64).image_size_in(0) == 64
    grows = ClassifyOptions(image_size=64, start_image_size=32, epochs=16)
    assert [grows.image_size_in(epoch) for epoch in range(13)] == [
        32, 32, 40, 40, 40, 48, 48, 48, 56, 56, 56, 64, 64,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("crop", "training", "expected"),
    [
        ("resized", True, Crop("resized", area=(0.2, 1.0))),
        ("random", True, Crop("centre", share=1.0)),
        ("none", True, Crop("centre", share=1.0)),
        ("resized", False, Crop("centre", share=0.875)),
        ("random", False, Crop("centre", share=0.875)),
    ],
)
def test_the_loader_cuts_encoded_rows(crop: str, training: bool, expected: Crop) -> None:
    """Training reads random regions or the whole centre, and evaluation 7/8 of the short side."""
    options = ClassifyOptions(encoded="jpeg:256@90", crop=crop, min_area=0.2)
    arguments = options.loader_arguments(training=training)
    assert arguments["crop"] == expected
    assert arguments["drop_last"] is training
    assert arguments["order"] == ("random" if training else "sequential")
    assert "crop" not in ClassifyOptions(crop=crop).loader_arguments(training=training)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"network": "resnet20"}, "--network is 'resnet20': expected one of resnet18, .* path of"),
        ({"network": "config"}, "--network is 'config': expected one of"),
        ({"network": "resnet9", "trunk": "t"}, "--network is resnet9 and --trunk is t: .*only one"),
        ({"width": 9, "trunk": "t"}, "--width is 9 and --trunk is t: "),
        ({"trunk": "new"}, "--trunk is 'new', a network with random weights"),
        ({"frozen_blocks": 2}, "--frozen-blocks is 2: .*Pass --trunk, or omit it"),
        ({"frozen_blocks": -2}, "--frozen-blocks is -2: expected at least -1"),
        ({"image_size": 7}, "--image-size is 7: expected 8 to 4,096"),
        ({"image_size": 32, "start_image_size": 40}, "--start-image-size is 40: expected at most"),
        ({"growth_epochs": (3,)}, "--growth-epochs are 3: expected the first and the last"),
        ({"growth_epochs": (3, 2)}, "--growth-epochs are 3 2: expected the first and the last"),
        ({"growth_epochs": (1, 2, 3)}, "--growth-epochs are 1 2 3: expected"),
        ({"mixup": 0.2, "batch_size": 33}, "--batch-size is 33: .*pairs of images. Pass an even"),
        ({"cutmix": 1.0, "batch_size": 33}, "--batch-size is 33: "),
        ({"padding": 4}, "--padding is 4 with --crop resized: only --crop random"),
        ({"padding": 32, "crop": "random", "image_size": 32}, "--padding is 32: expected less tha"),
        ({"padding": 9, "crop": "random", "image_size": 32, "start_image_size": 8},
         "--padding is 9: expected less than 8 pixels"),
        ({"cutout": 33, "image_size": 32}, "--cutout is 33: expected at most 32 pixels"),
        ({"cutout": 9, "image_size": 32, "start_image_size": 8}, "--cutout is 9: expected at most"),
        ({"milestones": (3,)}, "--milestones are 3 with --schedule cosine: only the schedule step"),
        ({"milestones": (0,), "schedule": "step"}, "--milestones is 0: expected at least 1"),
        ({"ema_decay": 1.0}, "--ema-decay is 1"),
        ({"min_area": 0.0}, "--min-area is 0"),
        ({"precision": "float16"}, "--precision is 'float16': expected one of auto"),
        ({"optimiser": "adam"}, "--optimiser is 'adam': expected one of sgd, adamw"),
        ({"crop": "centre"}, "--crop is 'centre': expected one of resized, random, none"),
        ({"schedule": "exponential"}, "--schedule is 'exponential'"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(choices: dict[str, Any], message: str) -> None:
    """The sentence names the options with their values."""
    with pytest.raises(ValueError, match=message) as caught:
        ClassifyOptions(**choices)
    assert str(caught.value).endswith(".")


def test_a_store_needs_two_classes() -> None:
    """Nothing can be learned from one."""
    options = ClassifyOptions()
    options.check_labels(2, 100)
    for classes, phrase in ((1, "1 class:"), (0, "0 classes:")):
        with pytest.raises(ValueError, match=f"the store has {phrase} expected at least 2"):
            options.check_labels(classes, 0)


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks run in other folders; names of the hub stay names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trunk").mkdir()
    options = ClassifyOptions(trunk="trunk", staging_dir="near").with_absolute_paths()
    assert (options.trunk, options.staging_dir) == (f"{tmp_path}/trunk", f"{tmp_path}/near")
    assert ClassifyOptions(trunk="a/b").with_absolute_paths().trunk == "a/b"
    options = ClassifyOptions(network="my/config.json").with_absolute_paths()
    assert options.network == f"{tmp_path}/my/config.json"
    assert ClassifyOptions(network="resnet9").with_absolute_paths().network == "resnet9"


def test_mixed_rows_stay_in_one_rank() -> None:
    """A batch of mixed rows divides among ranks by pairs."""
    assert ClassifyOptions().rows_together == 1
    assert ClassifyOptions(mixup=0.1).rows_together == 2
    assert ClassifyOptions(cutmix=1.0).rows_together == 2


def test_a_trunk_has_gentle_defaults_unless_one_of_them_is_typed() -> None:
    """A typed rate, optimiser or decay is not mixed with defaults that suit others."""
    tuned = parsed("--trunk", "folder").resolved()
    assert (tuned.optimiser, tuned.learning_rate) == ("adamw", 1e-3)
    assert (tuned.trunk_learning_rate, tuned.weight_decay) == (1e-4, 0.01)
    typed = parsed("--trunk", "folder", "--learning-rate", "0.01").resolved()
    assert (typed.optimiser, typed.trunk_learning_rate, typed.weight_decay) == ("sgd", 0.01, 5e-4)
    new = parsed().resolved()
    assert (new.optimiser, new.learning_rate, new.trunk_learning_rate) == ("sgd", 0.1, 0.1)
    named = parsed("--trunk", "folder", "--preset", "resnet50-90").resolved()
    assert (named.optimiser, named.learning_rate, named.trunk_learning_rate) == ("sgd", 0.1, 0.1)
