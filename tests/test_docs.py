"""The documentation: nothing is left out of it, and what it names exists.

`make docs` builds it strictly, which finds broken links. These tests need no MkDocs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.loader import Loader
from pipeline.store.commit import Commit
from pipeline.store.features import FeatureCommit, FeatureRecipe, FeaturesDone
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import Done
from workflows.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

DOCUMENTS = {
    "recipe.json": Recipe,
    "splits/&lt;split&gt;.json": Plan,
    "commits/&lt;split&gt;/&lt;shard&gt;.json": Commit,
    "splits/&lt;split&gt;.done.json": Done,
    "features/&lt;name&gt;/recipe.json": FeatureRecipe,
    "features/&lt;name&gt;/commits/&lt;split&gt;/&lt;shard&gt;.json": FeatureCommit,
    "features/&lt;name&gt;/splits/&lt;split&gt;.done.json": FeaturesDone,
}
"""Heading of a document in docs/format.md -> the class that reads and writes it."""

COMMON = {"format", "digest"}
"""Keys of every document, which the page describes once."""

OLD_NAMES = {"stage", "stage_bytes"}
"""Parameters of the loader that still work, with a warning."""


FOREIGN_OPTIONS = {
    *("--constraint", "--cpus-per-task", "--mem", "--ntasks-per-node"),  # Slurm's
    *("--nproc-per-node", "--standalone"),  # torchrun's
    *("--find-links", "--sort", "--strict"),  # of pip, tar and MkDocs
}
"""Options in the pages that are of other programs."""

BENCHMARKS = {"--minutes", "--seed"}
"""Options of scripts that are no command: `make chaos`."""

MAX_PICTURE_BYTES = 150_000
"""The size that the pictures of all pages together must not reach."""

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def _command_reference():
    spec = importlib.util.spec_from_file_location("reference", DOCS / "command_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REFERENCE = _command_reference()


def _leaves(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _leaves(value) if isinstance(value, list) else [value]


def _options(parser):
    for action in parser._actions:
        yield from action.option_strings
    for child in REFERENCE._children(parser):
        yield from _options(child)


def test_every_page_is_in_the_navigation():
    """A page that is not there is found by nobody; a name without a page is a dead link."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    listed = list(_leaves(nav))

    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(listed) == pages | {REFERENCE.PAGE}
    assert len(listed) == len(set(listed))


def test_the_reference_has_every_command():
    """A section each, and a line in the table at its head."""
    page = REFERENCE.page()

    sections = re.findall(r"^## tesserae (\S+)$", page, re.MULTILINE)

    assert sections == list(COMMANDS)
    assert all(f"(#tesserae-{name})" in page for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_option(command):
    """Those of its parsers, and of the parsers below them."""
    section = REFERENCE._section(REFERENCE.parser_of(command), 2)

    options = set(_options(REFERENCE.parser_of(command))) - {"-h", "--help"}

    shown = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", section))
    assert options <= shown


def test_the_loaders_guide_has_every_parameter():
    """Between backticks, so that it can be searched for."""
    guide = (DOCS / "loader.md").read_text()
    parameters = set(inspect.signature(Loader).parameters) - OLD_NAMES

    missing = {name for name in parameters if f"`{name}`" not in guide}

    assert missing == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_keys_of_a_document_are_those_of_its_class(document):
    """Whoever reads a store without this code has that page alone."""
    page = (DOCS / "format.md").read_text()
    (section,) = re.findall(
        rf"^### {re.escape(document)}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL
    )

    keys = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))

    fields = {field.name for field in dataclasses.fields(DOCUMENTS[document])}
    assert keys | COMMON == fields | COMMON


def test_the_architecture_has_every_import_contract():
    """By its name, in a line with its reason."""
    page = (DOCS / "architecture.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]

    missing = [c["name"] for c in settings["contracts"] if f"| {c['name']} | " not in page]

    assert missing == []


def test_every_page_that_is_named_in_the_readme_exists():
    """The README is shown where no site is built."""
    named = re.findall(r"\]\((docs/[^)#]+)", (ROOT / "README.md").read_text())

    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_pictures_of_the_pages_exist_and_are_small():
    """Each is described, none is left over, and a clone does not grow for them."""
    shown = [
        (description, (page.parent / name).resolve())
        for page in PAGES
        for description, name in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", page.read_text())
    ]

    files = sorted((DOCS / "pictures").iterdir())

    assert sorted({file for _, file in shown}) == files
    assert all(description for description, _ in shown)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert 0 < sum(file.stat().st_size for file in files) < MAX_PICTURE_BYTES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_source_file_and_folder_that_a_page_names_exists(page):
    """A module that moves takes its name in the pages with it."""
    places = re.findall(
        r"(?<![\w./-])((?:benchmarks|cluster|pipeline|tests|workflows)/[\w/.]*)", page.read_text()
    )
    missing = [place for place in places if not (ROOT / place.rstrip(".")).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_exists(page):
    """An option that was renamed stays in no page."""
    known = {option for name in COMMANDS for option in _options(REFERENCE.parser_of(name))}
    known |= FOREIGN_OPTIONS | {"--debug", "--help", *BENCHMARKS}

    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", page.read_text()))

    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_takes_its_options(page):
    """Lines that begin with `tesserae`, in blocks and between backticks, up to a comment."""
    shown = re.findall(r"tesserae ([a-z-]+) ([^`#\n]*)", page.read_text())

    wrong = {
        (command, option)
        for command, rest in shown
        if command in COMMANDS
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", rest)
        if option not in {*_options(REFERENCE.parser_of(command)), "--help", "--debug"}
    }

    assert wrong == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_that_a_page_names_exists(page):
    """With its variables."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+): .*##", makefile, re.MULTILINE))
    (knobs,) = re.findall(r"^KNOBS := (.*)$", makefile, re.MULTILINE)

    shown = re.findall(r"(?:^ *|`)make ([a-z-]+[^`#\n]*)", page.read_text(), re.MULTILINE)

    words = [word for line in shown for word in re.sub(r'"[^"]*"', '""', line).split()]
    variables = {word.partition("=")[0] for word in words if re.match(r"[A-Z]+=", word)}
    assert {line.split()[0] for line in shown} <= targets
    assert variables <= set(knobs.split())
