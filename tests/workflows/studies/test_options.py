"""The small versions of studies: what `--quick` sets, and what it leaves to the command line."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import pytest

from workflows.commands.study import COMMAND
from workflows.options.fields import add_flags
from workflows.studies.options import RecordedStudyOptions

REQUIRED = {
    "two-changes": ["--store", "s"],
    "hacks": ["--store", "s"],
    "adversarial": ["--store", "s"],
    "cosine": ["--store", "s"],
    "neighbours": ["--store", "s"],
    "parallel": ["--source", "s"],
    "cut": ["--store", "s", "--trunk", "m", "--word-vectors", "w"],
    "fit": ["--source", "s"],
    "perceptual": ["--store", "s", "--judges", "m", "n"],
}
"""The required options of each study that has a small version."""
GANS = {"seeds": 3, "max_images": 1_000, "width": 8, "batch_size": 32, "steps": 24}
SMALL: dict[str, dict[str, Any]] = {
    "two-changes": GANS,
    "hacks": GANS,
    "adversarial": GANS,
    "cosine": {"rows": 800, "queries": 100, "searched": 2_000, "seeds": 3},
    "neighbours": {
        "sizes": (774, 5_000, 20_000), "queries": 50, "seeds": 3, "max_vectors": 20_000,
    },
    "parallel": {"images": 48, "seeds": 2},
    "cut": {"rows": 400, "test_rows": 200},
    "fit": {"classes": 10, "images_per_class": 20, "epochs": 4, "seeds": 3},
    "perceptual": {
        "seeds": 2, "max_images": 200, "evaluated_images": 4, "network": "fsrcnn",
        "patch_size": 24, "batch_size": 4, "minutes": 0.04,
    },
}  # fmt: skip
"""The values of the small versions, which finished runs in their folders depend on."""


def options_class(study: str) -> type[RecordedStudyOptions]:
    """Return the class of the options of a study."""
    (options,) = COMMAND.commands()[study].options
    assert issubclass(options, RecordedStudyOptions)
    return options


def parsed(study: str, *words: str) -> RecordedStudyOptions:
    """Return the options of a command line."""
    parser, options = ArgumentParser(), options_class(study)
    add_flags(parser, options)
    return options.from_args(parser.parse_args([*REQUIRED[study], *words]))


def test_every_recorded_study_has_a_small_version() -> None:
    """`--quick` of a new study must not run the whole of it."""
    recorded = {
        name
        for name, command in COMMAND.commands().items()
        if issubclass(command.options[0], RecordedStudyOptions)
    }
    assert recorded == SMALL.keys()


@pytest.mark.parametrize("study", SMALL)
def test_quick_sets_what_is_not_named(study: str) -> None:
    """Nothing else differs, and nothing does without it."""
    full, small = parsed(study).as_dict(), parsed(study, "--quick").as_dict()
    assert small == {**full, **SMALL[study], "quick": True}


def another(value: Any) -> Any:
    """Return a value that an option of the same kind may have."""
    if isinstance(value, tuple):
        return (*value, 999)
    return "edsr" if isinstance(value, str) else value + 150


@pytest.mark.parametrize("study", SMALL)
@pytest.mark.parametrize("value", ["default", "another"])
def test_named_options_count_with_quick_too(study: str, value: str) -> None:
    """Whether they are larger than those of the small version, or the default of the study."""
    full = parsed(study)
    for name, small in SMALL[study].items():
        named = getattr(full, name)
        if value == "another" or named is None:
            named = another(small)
        words = map(str, named if isinstance(named, tuple) else [named])
        options = parsed(study, "--quick", f"--{name.replace('_', '-')}", *words)
        assert options.as_dict() == {**full.as_dict(), **SMALL[study], name: named, "quick": True}


def test_the_help_shows_the_values_of_the_small_version() -> None:
    """Beside the default, or what it implies."""
    shown = {}
    for study in ("neighbours", "fit"):
        parser = ArgumentParser()
        add_flags(parser, options_class(study))
        shown[study] = " ".join(parser.format_help().split())
    assert "200000; 774 5000 20000 with --quick)" in shown["neighbours"]
    assert "(default: all; 10 with --quick)" in shown["fit"]


def test_the_small_version_has_no_answers() -> None:
    """Its figures support none, so that it has the caution in their place."""
    assert parsed("cosine").answers(["Better."]) == ["Better."]
    (caution,) = parsed("cosine", "--quick").answers(["Better."])
    assert "its figures support no conclusion" in caution
