"""Tests of options on a command line, in code and in a run folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.adversarial.objectives import OBJECTIVES
from workflows.colourise.options import ColouriseOptions
from workflows.devise.options import DeviseOptions as Devise
from workflows.training.options import FREE, OptionsBase, TrainingOptions, add_flags, option
from workflows.wgan.options import WganOptions as Gan


@dataclass(frozen=True, kw_only=True)
class Sample(OptionsBase):
    """Options of every type."""

    count: int = option(3, "how many", least=1, most=9)
    rate: float | None = option(None, "how fast (as it goes)", least=0)
    kind: str = option("a", "which", choices=("a", "b"))
    loud: bool = option(False, "noise")


def parsed(kind: type[OptionsBase], *words: str) -> OptionsBase:
    """Return the options that a command line gives."""
    parser = argparse.ArgumentParser()
    add_flags(parser, kind)
    return kind.read(parser.parse_args(words))


def test_flags_are_fields() -> None:
    """Every field is a flag with the default of the field."""
    assert parsed(Sample) == Sample()
    words = ("--count", "4", "--rate", "0.5", "--kind", "b", "--loud")
    assert parsed(Sample, *words) == Sample(count=4, rate=0.5, kind="b", loud=True)
    assert parsed(Sample, "--no-loud") == Sample()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"count": 0}, "--count is 0: expected 1 to 9"),
        ({"count": 10}, "--count is 10: expected 1 to 9"),
        ({"rate": -0.1}, "--rate is -0.1: expected at least 0"),
        ({"rate": float("nan")}, "--rate is nan"),
        ({"kind": "c"}, "--kind is 'c': expected one of a, b"),
    ],
)
def test_invalid_values_are_refused(choices: dict[str, object], message: str) -> None:
    """A value outside of its range or choices is refused in code too."""
    with pytest.raises(ValueError, match=message):
        Sample(**choices)


@pytest.mark.parametrize(
    "kind", [TrainingOptions, Gan, ColouriseOptions], ids=["all", "wgan", "colourise"]
)
def test_every_option_is_explained_and_survives_json(kind: type[TrainingOptions]) -> None:
    """Every option has a help text, and a round trip through JSON returns it."""
    options = kind()
    assert kind.of(json.loads(json.dumps(options.as_dict()))) == options
    assert all(field.metadata["what"] for field in fields(kind))
    parser = argparse.ArgumentParser(prog="x")
    add_flags(parser, kind)
    for field in fields(kind):
        assert f"--{field.name.replace('_', '-')}" in parser.format_help()


@given(objective=st.sampled_from(list(OBJECTIVES)), critic=st.sampled_from(["conv", "perceptron"]))
def test_options_left_out_follow_from_others(objective: str, critic: str) -> None:
    """Options left out follow from others, and given ones are kept."""
    filled = Gan(objective=objective, critic=critic).filled()
    assert all(
        getattr(filled, field.name) is not None
        for field in fields(filled)
        if field.name not in ("minutes", "rank_threads", *FREE)
    )
    assert filled.filled() == filled
    given = Gan(objective=objective, critic=critic, rate=0.5, clip=0.0, critic_steps=7).filled()
    assert (given.rate, given.clip_limit, given.critic_steps) == (0.5, None, 7)
    papers = {"wgan": (5e-5, 0.01, 0.0, 5, 100), "wgan-gp": (1e-4, None, 10.0, 5, 0)}
    if objective in papers:
        assert papers[objective] == (
            filled.rate, filled.clip_limit, filled.penalty_weight, filled.critic_steps,
            filled.warm_critic_steps,
        )  # fmt: skip


@given(objective=st.sampled_from(list(OBJECTIVES)))
def test_naming_an_implied_value_changes_nothing(objective: str) -> None:
    """A run begun without an option continues with the implied value, and with no other."""
    begun = Gan(objective=objective)
    named = Gan(objective=objective, rate=begun.filled().rate, clip=begun.filled().clip)
    assert Gan.complete(begun.as_dict()) == Gan.complete(named.as_dict())
    different = Gan(objective=objective, rate=0.3)
    assert Gan.complete(begun.as_dict()) != Gan.complete(different.as_dict())
    assert Gan.complete({"split": "x"})["split"] == "x"
    assert Gan.complete({"rate": "fast"})["rate"] == "fast"


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
    for flag in ("--staging-dir DIR", "--trunk MODEL", "--start RUN", "--names FILE", "--steps N"):
        assert flag in text


@pytest.mark.parametrize("kind", [Gan, ColouriseOptions], ids=["wgan", "colourise"])
@given(stored=st.integers(64, 1_000))
def test_pictures_are_resized_and_not_cut_to_a_tiny_part(
    kind: type[Gan] | type[ColouriseOptions], stored: int
) -> None:
    """Training sees at least four fifths of each side, unless resizing is turned off."""
    options = kind(image_size=64)
    side = options.shrunk_side(stored)
    assert 64 <= (side or stored) < 1.25 * 64
    assert (side is None) == (stored < 80)
    assert kind(image_size=64, shrink=False).shrunk_side(stored) is None
