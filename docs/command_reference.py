"""Write the page of commands from their parsers, so that it cannot differ from `--help`.

MkDocs calls `on_files` as a hook (`mkdocs.yml`). Run as a program, this file prints the page.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # MkDocs loads hooks by path, with its own folder first
    sys.path.insert(0, str(ROOT))

from workflows.cli import COMMANDS, command_of  # noqa: E402

PAGE = "reference/commands.md"

INTRODUCTION = """# Commands

`tesserae COMMAND` runs one command. `make setup` installs it as `.venv/bin/tesserae`; the `make`
targets call it and print the call. This page is generated from the parsers of the commands, so it
contains what `tesserae COMMAND --help` prints.

Every command exits with status 0 on success, 1 after an error that it explains in one sentence,
and 130 after Ctrl-C. `--debug` prints the traceback of an error.

| Command | Effect |
|---|---|
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the page to the site. MkDocs calls this after it has collected the files."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Return the Markdown of the whole page."""
    rows = "".join(
        f"| [`tesserae {name}`](#tesserae-{name}) | {_text(effect)} |\n"
        for name, effect in COMMANDS.items()
    )
    return (
        INTRODUCTION
        + rows
        + "\n"
        + "\n".join(_section(command_of(name)[1], 2) for name in COMMANDS)
    )


def _section(parser: argparse.ArgumentParser, level: int) -> str:
    parts = [
        f"{'#' * level} {parser.prog}\n",
        f"```text\n{parser.format_usage().removeprefix('usage: ').strip()}\n```\n",
        _description(parser.description or ""),
    ]
    for group in parser._action_groups:
        parts += _table(parser, group)
    parts += [_section(child, level + 1) for child in _children(parser)]
    return "\n".join(parts)


def _values(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the placeholder of an action's values, such as `N` or `{crop,pad}`; may be empty."""
    formatter = argparse.HelpFormatter(parser.prog)
    default = action.dest if not action.option_strings else action.dest.upper()
    return formatter._format_args(action, formatter._metavar_formatter(action, default)(1)[0])


def _description(text: str) -> str:
    """Return a module's text as Markdown: columns that are aligned by spaces stay as they are."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.splitlines()
        if all(line.startswith("    ") for line in lines):
            lines = [line[4:] for line in lines]
            paragraphs.append("```text\n" + "\n".join(lines) + "\n```\n")
        elif all(re.search(r"\S {2,}\S", line) for line in lines):
            paragraphs.append("```text\n" + paragraph + "\n```\n")
        else:
            paragraphs.append(_text(" ".join(lines)) + "\n")
    return "\n".join(paragraphs)


def _table(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> Iterator[str]:
    shown = [
        action
        for action in group._group_actions
        if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]
    if not shown:
        return
    title = {"positional arguments": "Arguments", "options": "Options"}.get(
        group.title or "", (group.title or "").capitalize()
    )
    rows = "".join(f"| {_name(parser, action)} | {_help(action)} |\n" for action in shown)
    yield f"**{title}**\n\n| | Effect |\n|---|---|\n{rows}"


def _name(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    values = _values(parser, action)
    if not action.option_strings:
        return _code(values)
    spelled = ", ".join(action.option_strings)
    return _code(f"{spelled} {values}".strip())


def _help(action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return "one of " + ", ".join(f"`{name}`" for name in action.choices)
    return _text(argparse.HelpFormatter("tesserae")._expand_help(action)) if action.help else ""


def _children(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _text(text: str) -> str:
    """Escape what Markdown would read as markup, but not what is between backticks."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part.replace("|", "\\|")
        if part.startswith("`")
        else re.sub(r"([*_|\[\]])", r"\\\1", html.escape(part, quote=False))
        for part in parts
    )


if __name__ == "__main__":
    sys.stdout.write(page())
