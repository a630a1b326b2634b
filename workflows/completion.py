"""The implementation of `tesserae completion`: the parsers of all commands, as a shell's script."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

from workflows import cli
from workflows.setup.options import CompletionOptions

FILES = frozenset({"FILE", "FILE_OR_FOLDER", "IMAGE", "MODEL", "OUT", "OUT.png", "PATH"}) | {
    *("CLASSES", "NAME_OR_FILE", "SOURCE", "STORE_OR_TABLE", "WHERE"),
}
"""The metavars of values that may be files or folders."""
FOLDERS = frozenset({"DIR", "FOLDER", "RUN", "STORE"})
"""The metavars of values that are folders."""


def run_completion(options: CompletionOptions) -> int:
    """Print the script of a shell.

    Args:
        options: The options: `shell`, such as `bash`.

    Returns:
        The exit status, 0.
    """
    print(shtab.complete(whole_parser(), options.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser that has every command of `tesserae` as a subparser.

    Values that are files or folders, by their metavar, get the attribute that shtab looks for.
    """
    parser = argparse.ArgumentParser(prog="tesserae", description="")
    commands = parser.add_subparsers()
    for name, summary in cli.COMMANDS.items():
        cli.command_of(name)[0].add_to(commands.add_parser(name, help=summary))
    for action in _actions(parser):
        if action.choices is None:
            for names, kind in ((FILES, shtab.FILE), (FOLDERS, shtab.DIRECTORY)):
                if action.metavar in names:
                    action.complete = kind  # type: ignore[attr-defined]
    return parser


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
        else:
            yield action
