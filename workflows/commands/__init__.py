"""The subcommands of `tesserae`, a module each: its help text, its options and what runs it.

Nothing of a command's implementation is imported before it runs, so that `--help` is quick and
needs no optional package.
"""

from __future__ import annotations

import argparse
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workflows.options.fields import Options, add_flags


@dataclass(frozen=True)
class Command:
    """A command: its options, and the function that runs it."""

    options: tuple[type[Options], ...]
    """The options classes, all of whose fields are flags of the command."""
    implementation: str
    """The function, as `module:function`. It takes a value of each class in `options`, and returns
    the exit status."""
    description: str = ""
    """The help text of a command within a group; others have the docstring of their module."""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of the command to its parser, and give the parser a usage line.

        Args:
            parser: The parser, which is changed in place.
        """
        for options in self.options:
            add_flags(parser, options)
        parser.usage = _synopsis(parser)

    def function(self) -> Callable[..., int]:
        """Import and return the implementation.

        Returns:
            A function that takes a value of each class in `options`, in this order, and returns the
            exit status.
        """
        function: Callable[..., int] = pkgutil.resolve_name(self.implementation)
        return function


@dataclass(frozen=True)
class Group:
    """A command that consists of several, such as `tesserae cluster up`."""

    metavar: str
    """The name of the choice in the help text, such as STAGE; options may have a field for it."""
    commands: Callable[[], Mapping[str, Command]]
    """The commands by name: a function, because a program may add a stage at any time."""

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the parser of each command to the parser of the group.

        Args:
            parser: The parser of the group, which is changed in place. It then requires one of the
                commands, whose name is parsed under `metavar` in lower case.
        """
        subparsers = parser.add_subparsers(
            dest=self.metavar.lower(), metavar=self.metavar, required=True
        )
        for name, command in self.commands().items():
            description = command.description
            subparser = subparsers.add_parser(
                name, help=description, description=description, allow_abbrev=False,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )  # fmt: skip
            command.add_to(subparser)

    def selected(self, args: argparse.Namespace) -> Command:
        """Return the command of the group that a command line names.

        Args:
            args: The arguments, parsed by the parser to which `add_to` has added the commands.
        """
        return self.commands()[getattr(args, self.metavar.lower())]


def _synopsis(parser: argparse.ArgumentParser) -> str:
    """Return a usage line that names what is required: the options are listed below it anyway."""
    words = [parser.prog]
    for action in parser._actions:
        if not action.option_strings:
            more = " ..." if action.nargs in ("+", "*") else ""
            optional = action.nargs in ("?", "*")
            words.append(f"[{action.metavar}]{more}" if optional else f"{action.metavar}{more}")
        elif action.required:
            words.append(f"{action.option_strings[-1]} {action.metavar}")
    return " ".join([*words, "[OPTIONS]"])
