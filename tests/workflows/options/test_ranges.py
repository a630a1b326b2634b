"""Numbers of a command line: what makes no sense is refused where it is typed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.errors import TesseraeError
from workflows.cli import COMMANDS, command_of, main
from workflows.options.ranges import MAX_INT, Range
from workflows.training.stages import STAGES, load_name


def parsers() -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """Every option of every command, with the parser that reads it."""
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
    """A bare int takes -5, and a bare float takes nan: neither is the type of any option."""
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
def test_a_number_that_makes_no_sense_is_named_with_one_that_does(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the option, as it was typed; `--help` of the command says more."""
    assert main(words.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"tesserae: {message} See `tesserae {words.split()[0]}"), err


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_options_in_code_have_the_same_ranges(stage: str, value: float) -> None:
    """Options that are read from a run's folder are checked too: others may have written it."""
    options: Any = load_name(STAGES[stage].options)
    with pytest.raises(ValueError, match=f"--learning-rate is {value}: expected .*more than 0"):
        options(learning_rate=value)


def test_the_ends_of_a_range() -> None:
    """Both belong to it, but for one that must be exceeded."""
    assert [Range(minimum=1, maximum=3)(text) for text in "123"] == [1, 2, 3]
    share = Range(kind=float, above=0, maximum=1)
    assert share.expected(0) == "more than 0, at most 1"
    assert share("1") == 1
    assert Range(minimum=0).expected(10**400) == f"at most {MAX_INT:,}"
