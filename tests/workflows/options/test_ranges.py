"""The ranges of numbers on the command line: invalid values are refused with the valid range."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.errors import TesseraeError
from workflows.cli import COMMANDS, command_of, main
from workflows.options.ranges import MAX_INT, Range
from workflows.training.stage_registry import STAGES, import_object


def parsers() -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """Yield every option of every command, with its parser."""
    for name in COMMANDS:
        pending = [command_of(name)[1]]
        while pending:
            subparser = pending.pop()
            for action in subparser._actions:
                if isinstance(action, argparse._SubParsersAction):
                    pending += action.choices.values()
                elif action.option_strings:
                    yield subparser, action


def test_every_number_of_every_command_has_a_range() -> None:
    """No option has the type int, which accepts -5, or float, which accepts nan."""
    count = 0
    for parser, action in parsers():
        option = f"{parser.prog} {action.option_strings[-1]}"
        assert action.type not in (int, float) or action.choices, option
        if isinstance(action.type, Range):
            count += 1
            below = action.type.minimum if action.type.above is None else action.type.above + 1
            assert below is not None, option
            for bad in ("nan", "inf", "x", f"{below - 1:g}"):
                with pytest.raises(TesseraeError, match=f"-{action.dest[:1]}.* is {bad}: expected"):
                    parser.parse_args([action.option_strings[-1], bad])
    assert count > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train wgan s --minutes 0", "--minutes is 0: expected more than 0."),
        ("train devise s --steps 0", "--steps is 0: expected at least 1."),
        (
            "train colourise s --learning-rate nan",
            "--learning-rate is nan: expected a finite number, more than 0.",
        ),
        ("train wgan s --steps 1e3", "--steps is 1e3: expected a whole number, at least 1."),
        ("demo --minutes -1", "--minutes is -1: expected at least 0."),
        ("loader s --epochs 0", "--epochs is 0: expected at least 1."),
        ("study gaussians --seeds 0", "--seeds is 0: expected at least 1."),
        ("cluster certs --days 0", "--days is 0: expected more than 0, at most 3,650."),
        ("cluster scheduler --port 70000", "--port is 70000: expected 1 to 65,535."),
    ],
)
def test_an_invalid_number_is_refused_with_the_valid_range(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error has the option and the value, and refers to `--help` of the command."""
    assert main(words.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"tesserae: {message} See `tesserae {words.split()[0]}"), err


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_options_in_code_have_the_same_ranges(stage: str, value: float) -> None:
    """Options in the folder of a run may have been written by anybody, so they are checked, too."""
    options: Any = import_object(STAGES[stage].options)
    with pytest.raises(ValueError, match=f"--learning-rate is {value}: expected .*more than 0"):
        options(learning_rate=value)


def test_range_bounds_are_inclusive() -> None:
    """A bound that must be exceeded is the exception."""
    assert [Range(minimum=1, maximum=3)(text) for text in "123"] == [1, 2, 3]
    share = Range(kind=float, above=0, maximum=1)
    assert share.expected(0) == "more than 0, at most 1"
    assert share("1") == 1
    assert Range(minimum=0).expected(10**400) == f"at most {MAX_INT:,}"
