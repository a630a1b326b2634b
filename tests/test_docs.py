"""The documentation is complete, and everything that it names exists.

`make docs` builds it strictly, which finds broken links. These tests need no MkDocs.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import inspect
import itertools
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree
from pathlib import Path

import grimp
import pytest
import yaml

import tesserae
from pipeline.loader import Loader, Reading, Staging
from pipeline.sources import open_source
from pipeline.sources.listing import listing_digest
from pipeline.store.commit import Commit
from pipeline.store.encoded_plan import EncodedPlan
from pipeline.store.features import FeatureCommit, FeatureFinishRecord, FeatureRecipe
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe
from pipeline.store.records import FinishRecord
from workflows.cli import COMMANDS, command_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

DOCUMENTS = {
    "recipe.json": Recipe,
    "splits/&lt;split&gt;.json": Plan,
    "splits/&lt;split&gt;.&lt;encoding&gt;.json": EncodedPlan,
    "commits/&lt;split&gt;/&lt;shard&gt;.json": Commit,
    "splits/&lt;split&gt;.done.json": FinishRecord,
    "features/&lt;name&gt;/recipe.json": FeatureRecipe,
    "features/&lt;name&gt;/commits/&lt;split&gt;/&lt;shard&gt;.json": FeatureCommit,
    "features/&lt;name&gt;/splits/&lt;split&gt;.done.json": FeatureFinishRecord,
}
"""The class that reads and writes each document, by the document's heading in docs/format.md."""

COMMON = {"format", "digest"}
"""The keys of every document, which the page describes once."""


FOREIGN_OPTIONS = {
    *("--constraint", "--cpus-per-task", "--mem", "--ntasks-per-node"),  # Slurm's
    *("--nproc-per-node", "--standalone"),  # torchrun's
    *("--find-links", "--sort", "--strict"),  # of pip, tar and MkDocs
    *("--backend-store-uri", "--logdir"),  # of MLflow and TensorBoard
    *("--build-arg", "--device", "--network", "--rm", "--user", "--userns"),  # of podman
    *("--bind", "--container", "--entrypoint", "--env", "--nv", "--volume"),  # of it and others
}
"""The options of other programs in the pages."""

BENCHMARKS = {
    "--choices", "--methods", "--minutes", "--only", "--rehearse", "--repeat", "--rounds", "--rows",
    "--seconds", "--seed", "--warm-up",
}  # fmt: skip
"""The options of `make chaos` and other scripts that are no commands."""

MAX_PICTURE_BYTES = 300_000
"""The size that the pictures of all pages together must not reach: every clone has all of them."""

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def _hook(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


REFERENCE = _hook("command_reference")
DRAWING = _hook("room_drawing")


def _leaves(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _leaves(value) if isinstance(value, list) else [value]


def _options(parser):
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            yield from action.option_strings
    for child in REFERENCE._children(parser):
        yield from _options(child)


@functools.cache
def _options_of(command):
    return frozenset(_options(command_of(command)[1]))


def test_every_page_is_in_the_navigation():
    """A page that the navigation lacks is never found, and a name without a page is a dead link."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    listed = list(_leaves(nav))

    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(listed) == pages | {REFERENCE.PAGE}
    assert len(listed) == len(set(listed))


def test_the_reference_has_every_command():
    """Every command has a section, and a line in the table at the beginning."""
    page = REFERENCE.page()

    sections = re.findall(r"^## tesserae (\S+)$", page, re.MULTILINE)

    assert sections == list(COMMANDS)
    assert all(f"(#tesserae-{name})" in page for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_has_every_option(command):
    """The options of a command's parser and of its subparsers are in its section."""
    section = REFERENCE._section(command_of(command)[1], 2)

    options = _options_of(command) - {"-h", "--help"}

    shown = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", section))
    assert options <= shown


@pytest.mark.parametrize("kind", [Loader, Reading, Staging])
def test_the_loaders_guide_has_every_parameter(kind):
    """Parameters are written between backticks, so that they can be searched for."""
    guide = (DOCS / "loader.md").read_text()
    parameters = set(inspect.signature(kind).parameters)

    missing = {name for name in parameters if f"`{name}`" not in guide}

    assert missing == set()


def test_the_page_of_the_python_api_has_every_public_name():
    """The page uses the names that a program uses."""
    page = (DOCS / "reference" / "api.md").read_text()

    shown = re.findall(r"^::: tesserae\.(\w+)$", page, re.MULTILINE)

    assert {*shown, "__version__"} == set(tesserae.__all__)
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_keys_of_a_document_are_those_of_its_class(document):
    """A reader of stores without this code depends on the page on the format alone."""
    page = (DOCS / "format.md").read_text()
    (section,) = re.findall(
        rf"^### {re.escape(document)}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL
    )

    keys = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))

    fields = {field.name for field in dataclasses.fields(DOCUMENTS[document])}
    assert keys | COMMON == fields | COMMON


def test_the_architecture_has_every_import_contract():
    """Each contract has a line with its name and its reason."""
    page = (DOCS / "architecture.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]

    missing = [c["name"] for c in settings["contracts"] if f"| {c['name']} | " not in page]

    assert missing == []


@pytest.mark.parametrize("package", DRAWING.TITLES)
def test_the_drawn_imports_are_those_of_the_code(package):
    """Another program, which the import contracts use, finds the same imports between rooms."""
    graph = grimp.build_graph(package)
    expected = {
        (source.split(".")[1], target.split(".")[1])
        for source in graph.modules
        for target in graph.find_modules_directly_imported_by(source)
        if source.count(".") and target.count(".")
    }

    edges = DRAWING.imports(package)

    found = {(room, target) for room, targets in edges.items() for target in targets}
    assert found == {(a, b) for a, b in expected if a != b and not a.startswith("__")}


@pytest.mark.parametrize("package", DRAWING.TITLES)
def test_the_drawing_leaves_out_only_what_it_says(package):
    """Arrows lead downwards; with the circles and the bottom row they imply every import."""
    rows, arrows = DRAWING.rows_and_arrows(package)

    level = {room: number for number, row in enumerate(rows) for group in row for room in group}
    group_of = {room: group for row in rows for group in row for room in group}
    reached = DRAWING._reachable(arrows)
    for room, targets in DRAWING.imports(package).items():
        for target in targets:
            source, end = group_of[room], group_of[target]
            assert source == end or level[room] < level[target]
            assert source == end or end in rows[-1] or end in reached[source]
    for upper, lower in itertools.pairwise(DRAWING.contract_layers(package)):
        assert max(level[room] for room in upper) < min(level[room] for room in lower)


def test_the_drawing_shows_every_room_and_the_page_describes_it():
    """Both variants are well formed and show each room once, and a table names each."""
    page = (DOCS / "architecture.md").read_text()
    html = DRAWING.on_page_content(page)

    variants = [
        xml.etree.ElementTree.fromstring(svg)
        for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    ]

    assert len(variants) == 2
    rooms = [room for package in DRAWING.TITLES for room in DRAWING.imports(package)]
    for variant in variants:
        shown = [text.text for text in variant.iter("text") if "class" not in text.attrib]
        assert sorted(shown) == sorted(rooms)
    for package in DRAWING.TITLES:
        (section,) = re.findall(rf"^### {package}\n(.*?)^##", page, re.MULTILINE | re.DOTALL)
        described = set(re.findall(r"`(\w+)(?:/[\w.]*|\.py|\.yaml)`", section))
        assert set(DRAWING.imports(package)) - described == set()


def test_the_command_of_the_page_computes_the_digest_of_a_listing(tmp_path):
    """Names that sort differently as paths, a link and a hidden file are no exceptions."""
    page = (DOCS / "sources.md").read_text()
    (command,) = re.findall(r"```bash\ncd ILSVRC2012/train\n(find .*?)```", page, re.DOTALL)
    for name in ("n1/a.jpg", "n1/b.jpg", "n1-x/a.jpg", "n10/\u00e9 1.jpg", "n10/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xd8\xff" + name.encode())
    (tmp_path / "n1" / "link.jpg").symlink_to(tmp_path / "n10" / "\u00e9 1.jpg")
    listing = open_source(tmp_path, "train").list(lambda _: None)

    printed = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout

    assert printed.split() == [listing_digest(listing), "-"]


def test_the_table_of_extras_is_complete():
    """A message that names an extra leads there."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = {*tables["project"]["optional-dependencies"], *tables["dependency-groups"]}
    rows = (DOCS / "installation.md").read_text().split("| Extra or group |")[1].split("\n\n")[0]
    named = [line.split("|")[1] for line in rows.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(named))) == extras


def test_every_page_that_the_readme_names_exists():
    """The README is also shown where no documentation site is built."""
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
    assert all(file.read_bytes().startswith((b"\x89PNG", b"<svg ")) for file in files)
    assert 0 < sum(file.stat().st_size for file in files) < MAX_PICTURE_BYTES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_source_file_and_folder_that_a_page_names_exists(page):
    """If a module moves, its name in the pages must follow."""
    text = page.read_text()
    folders = "benchmarks|cluster|examples|pipeline|tests|workflows"
    named = set(re.findall(rf"(?<![\w./-])((?:{folders})/[\w/.]*)", text))
    copied = set(re.findall(r"Copy `\S+` to `(\S+)`", text))

    missing = [name for name in named - copied if not (ROOT / name.rstrip(".")).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_names_exists(page):
    """A renamed option must not remain in any page."""
    known = frozenset().union(*map(_options_of, COMMANDS))
    known |= FOREIGN_OPTIONS | {"--debug", "--help", "--version", *BENCHMARKS}

    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", page.read_text()))

    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_accepts_its_options(page):
    """Commands are lines that begin with `tesserae`, in blocks and between backticks."""
    shown = re.findall(r"tesserae ([a-z-]+) ([^`#\n]*)", page.read_text())

    wrong = {
        (command, option)
        for command, rest in shown
        if command in COMMANDS
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", rest)
        if option not in {*_options_of(command), "--help", "--debug"}
    }

    assert wrong == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_that_a_page_names_exists(page):
    """The variables that a page passes to a target exist, too."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+): .*##", makefile, re.MULTILINE))
    (knobs,) = re.findall(r"^KNOBS := (.*)$", makefile, re.MULTILINE)

    shown = re.findall(r"(?:^ *|`)make ([a-z-]+[^`#\n]*)", page.read_text(), re.MULTILINE)

    words = [word for line in shown for word in re.sub(r'"[^"]*"', '""', line).split()]
    variables = {word.partition("=")[0] for word in words if re.match(r"[A-Z]+=", word)}
    assert {line.split()[0] for line in shown} <= targets
    assert variables <= set(knobs.split())
