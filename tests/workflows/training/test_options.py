"""Tests of options on a command line, in code and in a run folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.adversarial.objectives import OBJECTIVES
from workflows.colourise.options import ColouriseOptions
from workflows.devise.options import DeviseOptions as Devise
from workflows.options.fields import add_flags, flag_of
from workflows.training.options import CHANGEABLE_ON_RESUME, TrainingOptions
from workflows.wgan.options import WganOptions as Gan


@pytest.mark.parametrize(
    "kind", [TrainingOptions, Gan, ColouriseOptions], ids=["all", "wgan", "colourise"]
)
def test_every_option_has_a_help_text_and_survives_json(kind: type[TrainingOptions]) -> None:
    """A round trip through JSON returns equal options."""
    options = kind()
    assert kind.from_dict(json.loads(json.dumps(options.as_dict()))) == options
    assert all(flag_of(field).help for field in fields(kind))
    parser = argparse.ArgumentParser(prog="x")
    add_flags(parser, kind)
    for field in fields(kind):
        assert f"--{field.name.replace('_', '-')}" in parser.format_help()


@given(objective=st.sampled_from(list(OBJECTIVES)), critic=st.sampled_from(["conv", "perceptron"]))
def test_options_left_out_follow_from_others(objective: str, critic: str) -> None:
    """Options left out follow from others, and given ones are kept."""
    resolved = Gan(objective=objective, critic=critic).resolved()
    assert all(
        getattr(resolved, field.name) is not None
        for field in fields(resolved)
        if field.name not in ("minutes", "threads_per_rank", "encoded", *CHANGEABLE_ON_RESUME)
    )
    assert resolved.resolved() == resolved
    given = Gan(
        objective=objective, critic=critic, learning_rate=0.5, weight_clip=0.0, critic_steps=7
    ).resolved()
    assert (given.learning_rate, given.clip_limit, given.critic_steps) == (0.5, None, 7)
    papers = {"wgan": (5e-5, 0.01, 0.0, 5, 100), "wgan-gp": (1e-4, None, 10.0, 5, 0)}
    if objective in papers:
        assert papers[objective] == (
            resolved.learning_rate, resolved.clip_limit, resolved.penalty_weight,
            resolved.critic_steps, resolved.warmup_critic_steps,
        )  # fmt: skip


@given(objective=st.sampled_from(list(OBJECTIVES)))
def test_naming_an_implied_value_changes_nothing(objective: str) -> None:
    """A run that was started without an option continues with the implied value only."""
    begun = Gan(objective=objective)
    named = Gan(
        objective=objective,
        learning_rate=begun.resolved().learning_rate,
        weight_clip=begun.resolved().weight_clip,
    )
    assert Gan.complete(begun.as_dict()) == Gan.complete(named.as_dict())
    different = Gan(objective=objective, learning_rate=0.3)
    assert Gan.complete(begun.as_dict()) != Gan.complete(different.as_dict())
    assert Gan.complete({"split": "x"})["split"] == "x"
    assert Gan.complete({"learning_rate": "fast"})["learning_rate"] == "fast"


def test_conditioning_requires_classes_and_labels() -> None:
    """Conditioning needs two classes, and a label for every row."""
    Gan().check_labels(0, 5)
    Gan(condition="projection").check_labels(2, 0)
    for classes, unlabelled in ((1, 0), (0, 0), (9, 1)):
        with pytest.raises(ValueError, match="at least two classes"):
            Gan(condition="concatenation").check_labels(classes, unlabelled)


def test_help_names_the_kind_of_a_value() -> None:
    """The placeholders in the help text distinguish files, folders and models."""
    parser = argparse.ArgumentParser()
    add_flags(parser, Devise)
    text = " ".join(parser.format_help().split())
    for flag in (
        "--staging-dir DIR",
        "--trunk MODEL",
        "--init-from RUN",
        "--class-names FILE",
        "--steps N",
    ):
        assert flag in text


@pytest.mark.parametrize("kind", [Gan, ColouriseOptions], ids=["wgan", "colourise"])
@given(stored=st.integers(64, 1_000))
def test_large_stored_images_are_resized_before_cropping(
    kind: type[Gan] | type[ColouriseOptions], stored: int
) -> None:
    """A crop has at least four fifths of each side, unless resizing is turned off."""
    options = kind(image_size=64)
    side = options.resized_side(stored)
    assert 64 <= (side or stored) < 1.25 * 64
    assert (side is None) == (stored < 80)
    assert kind(image_size=64, resize=False).resized_side(stored) is None
