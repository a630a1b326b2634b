"""Options as flags of a command line and as values in code."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.cli import COMMANDS, command_of
from workflows.commands import Group
from workflows.options.fields import Options, PrintingFlag, add_flags, argument, flags_of, option


@dataclass(frozen=True, kw_only=True)
class Shared(Options):
    """Options that several commands have."""

    loud: bool = option(False, "noise", group="shared")
    fast: bool = option(True, "speed", group="shared")


@dataclass(frozen=True, kw_only=True)
class Sample(Shared):
    """Options of every type."""

    source: str = argument("folder of images", metavar="SOURCE")
    target: str | None = argument("where to", metavar="TARGET", default=None)
    count: int = option(3, "how many", minimum=1, maximum=9)
    rate: float | None = option(None, "how fast", implied="as it goes", minimum=0)
    kind: str = option("a", "which", choices=("a", "b"))
    sizes: tuple[int, ...] = option((8, 16), "sides", minimum=1)
    skip: tuple[str, ...] = option((), "names to skip", repeatable=True)
    out: Path = option(Path("x"), "file", aliases=("-o",), name="--to")
    rows: int | None = option(None, "rows to check", bare=100, minimum=1)
    label: str = option(MISSING, "label of all")


@dataclass(frozen=True, kw_only=True)
class Restricted(Sample):
    """Options of which some are no flags."""

    OMITTED_FLAGS = frozenset({"loud", "count"})


def parser_of(kind: type[Options]) -> argparse.ArgumentParser:
    """Return a parser with the flags of *kind*."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, kind)
    return parser


def parsed(*words: str) -> Sample:
    """Return the options that a command line gives."""
    return Sample.from_args(parser_of(Sample).parse_args([*words, "--label", "l"]))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ((), {}),
        (("t",), {"target": "t"}),
        (("--count", "4", "--rate", "0.5"), {"count": 4, "rate": 0.5}),
        (("--kind", "b", "--loud", "--no-fast"), {"kind": "b", "loud": True, "fast": False}),
        (("--no-loud", "--fast"), {}),
        (("--sizes", "1", "2", "--sizes", "3"), {"sizes": (3,)}),
        (("--skip", "a", "--skip", "b", "c"), {"skip": ("a", "b", "c")}),
        (("-o", "y"), {"out": Path("y")}),
        (("--to", "y"), {"out": Path("y")}),
        (("--rows",), {"rows": 100}),
        (("--rows", "7"), {"rows": 7}),
    ],
)
def test_a_flag_sets_its_field(words: tuple[str, ...], values: dict[str, Any]) -> None:
    """Fields without a flag on the command line have their defaults."""
    assert parsed("s", *words) == Sample(source="s", label="l", **values)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("t", "--count", "4", "--rate", "0.5", "--kind", "b", "--loud", "--no-fast"),
        ("--sizes", "1", "2", "--skip", "a", "--skip", "b", "--to", "y", "--rows"),
        ("--to=-",),
    ],
)
def test_options_give_their_flags(words: tuple[str, ...]) -> None:
    """A command line of these flags has the same options; defaults need none."""
    options = parsed("s", *words)
    flags = flags_of(options, exclude=("label",))
    assert parsed("s", *words[: words[:1] == ("t",)], *flags) == options
    assert len(flags) <= len(words)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ((), ("cat", 3, ("x",))),
        (("dog",), ("dog", 3, ("x",))),
        (("dog", "4", "a", "b"), ("dog", 4, ("a", "b"))),
    ],
)
def test_an_omitted_argument_has_its_default(
    words: tuple[str, ...], values: tuple[Any, ...]
) -> None:
    """Of any type, with choices or without."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(Options):
        kind: str = argument(
            "kind of animal", metavar="KIND", default="cat", choices=["cat", "dog"]
        )
        count: int = argument("number of animals", metavar="N", default=3)
        names: tuple[str, ...] = argument("names of animals", metavar="NAME", default=("x",))

    parser = argparse.ArgumentParser()
    add_flags(parser, Arguments)
    parsed = Arguments(**vars(parser.parse_args(words)))
    assert (parsed.kind, parsed.count, parsed.names) == values


def test_a_flag_without_a_default_is_required() -> None:
    """A positional argument is required, too."""
    for words in (["s"], ["--label", "l"]):
        with pytest.raises((argparse.ArgumentError, SystemExit)):
            parser_of(Sample).parse_args(words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "--count is 0: expected 1 to 9"),
        ({"count": 10}, "--count is 10: expected 1 to 9"),
        ({"count": True}, "--count is 'True': expected int"),
        ({"count": None}, "--count is 'None': expected int"),
        ({"count": "4"}, "--count is '4': expected int"),
        ({"rate": -0.1}, "--rate is -0.1: expected at least 0"),
        ({"rate": float("nan")}, "--rate is nan"),
        ({"rate": 2**70}, "--rate is 1180591620717411303424: expected at most"),
        ({"kind": "c"}, "--kind is 'c': expected one of a, b"),
        ({"sizes": (4, 0)}, "--sizes is 0: expected at least 1"),
        ({"sizes": 4}, "--sizes is '4': expected tuple of int"),
        ({"source": ""}, "SOURCE is empty: expected a folder of images"),
        ({"out": 3}, "--to is '3': expected Path"),
    ],
)
def test_invalid_values_are_refused_in_code(values: dict[str, Any], message: str) -> None:
    """The error has the flag's name and what was expected, also for a wrong type."""
    with pytest.raises(ValueError, match=message):
        Sample(**{"source": "s", "label": "l", **values})


def test_lists_and_paths_are_accepted_in_code() -> None:
    """A program may pass a list for a tuple, and a path for a text or the reverse."""
    options = Sample(source=Path("a/b"), label="l", sizes=[3, 4], out="y")  # type: ignore[arg-type]
    assert (options.source, options.sizes, options.out) == ("a/b", (3, 4), Path("y"))


@given(
    count=st.integers(1, 9),
    rate=st.none() | st.floats(0, 1e6),
    sizes=st.lists(st.integers(1, 99), min_size=1).map(tuple),
    loud=st.booleans(),
)
def test_options_survive_a_round_trip_through_json(
    count: int, rate: float | None, sizes: tuple[int, ...], loud: bool
) -> None:
    """`of` returns the options that `as_dict` wrote."""
    options = Numbers(count=count, rate=rate, sizes=sizes, loud=loud)
    assert Numbers.from_dict(json.loads(json.dumps(options.as_dict()))) == options
    assert Numbers.from_dict({}) == Numbers()


@dataclass(frozen=True, kw_only=True)
class Numbers(Shared):
    """Options that JSON can hold."""

    count: int = option(3, "how many", minimum=1)
    rate: float | None = option(None, "how fast")
    sizes: tuple[int, ...] = option((8,), "sides", minimum=1)


def printed(args: argparse.Namespace) -> str:
    """Return the text of a flag that prints what was named before it."""
    if getattr(args, "count", 0) == 9:
        raise ValueError("--list: 9 is too many")
    return f"count {getattr(args, 'count', None)}"


@dataclass(frozen=True, kw_only=True)
class Printing(Options):
    """Options with a flag that prints."""

    PRINTING_FLAGS = (
        PrintingFlag(name="--list", help="print a list", text=f"{__name__}:printed", group="lists"),
    )

    source: str = argument("folder of images", metavar="SOURCE")
    count: int = option(3, "how many", group="lists")


def test_a_flag_may_print_and_end_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no argument, sees what was named before it, and is no option."""
    parser = parser_of(Printing)
    for words, text in ((["--list"], "count None\n"), (["--count", "4", "--list"], "count 4\n")):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([*words, "--nonsense"])
        assert ended.value.code in (0, None)
        assert capsys.readouterr().out == text
    assert "lists:\n" in parser.format_help()
    assert "print a list" in parser.format_help()
    assert Printing.from_args(parser.parse_args(["s"])) == Printing(source="s")
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parser.parse_args(["--count", "9", "--list"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--list: 9 is too many" in captured.err


def test_the_help_has_every_effect_and_every_default() -> None:
    """A command's own flags precede the shared ones; a default of False is not stated."""
    text = " ".join(parser_of(Sample).format_help().split())
    for part in (
        "how many (default: 3)", "how fast (default: as it goes)", "sides (default: 8 16)",
        "speed (default: yes)", "-o PATH, --to PATH", "--sizes N [N ...]", "--kind {a,b}",
    ):  # fmt: skip
        assert part in text
    assert "--no-loud" not in text
    assert text.index("--count") < text.index("--loud")


def _option_classes() -> list[type[Options]]:
    classes: dict[type[Options], None] = {}
    for name in COMMANDS:
        command = command_of(name)[0]
        chosen = command.commands().values() if isinstance(command, Group) else [command]
        classes |= dict.fromkeys(options for each in chosen for options in each.options)
    return list(classes)


@pytest.mark.parametrize("options", _option_classes())
def test_the_options_of_every_command_are_frozen_values(options: type[Options]) -> None:
    """Every flag has a help text without a full stop and with balanced parentheses."""
    parser = parser_of(options)
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and action.dest != "help":
            assert action.help, action.dest
            assert not action.help.endswith("."), action.dest
            assert action.help.count("(") == action.help.count(")"), action.dest
    assert options.__dataclass_params__.frozen  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Renamed(Options):
    """Options with former names."""

    FORMER_NAMES = MappingProxyType({"size": "width", "big": "large", "shout": "loud"})

    width: int = option(1, "width")
    large: bool = option(True, "size")
    loud: bool = option(False, "noise")


def test_former_flags_are_accepted_and_not_shown() -> None:
    """Existing scripts keep working; help and suggestions have the current names only."""
    parser = parser_of(Renamed)
    words = ["--size", "3", "--no-big", "--shout"]
    assert Renamed.from_args(parser.parse_args(words)) == Renamed(width=3, large=False, loud=True)
    assert not re.search("--(no-)?(size|big|shout)", parser.format_help())


def test_every_former_name_leads_to_an_option() -> None:
    """A former name whose option is renamed again would be accepted and do nothing."""
    by_names: dict[int, set[str]] = {}
    for options in _option_classes():
        by_names.setdefault(id(options.FORMER_NAMES), set()).update(
            field.name for field in fields(options)
        )
    for options in _option_classes():
        assert set(options.FORMER_NAMES.values()) <= by_names[id(options.FORMER_NAMES)]
        assert not options.FORMER_NAMES.keys() & {field.name for field in fields(options)}


def test_omitted_flags_keep_their_defaults_and_cannot_be_named() -> None:
    """An option that the command sets itself is neither in the help nor on the command line."""
    parser = parser_of(Restricted)
    options = Restricted.from_args(parser.parse_args(["a", "--label", "l", "--rate", "2"]))
    assert (options.loud, options.count, options.rate) == (False, 3, 2)
    shown = parser.format_help()
    assert "--rate" in shown
    assert "--loud" not in shown
    assert "--count" not in shown
    _, unknown = parser.parse_known_args(["a", "--label", "l", "--count", "4", "--loud"])
    assert unknown[::2] == ["--count", "--loud"]
