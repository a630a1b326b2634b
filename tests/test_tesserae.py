"""Tests of the public interface: its names, the cost of its import, and its use as a program."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tesserae
from tests.images import contents, make_folder, prepare_inline

ROOT = Path(__file__).parents[1]
LOCATIONS = tesserae._LOCATIONS

EXAMPLES = (
    "Augment", "Crop", "Hierarchy", "Loader", "SplitDataset", "build_index", "class_vectors",
    "parse_query", "view",
)  # fmt: skip
"""The names whose docstrings have an example."""

HEAVY = ("dask", "distributed", "numpy", "PIL", "pyarrow", "torch", "typing", "zarr")
"""Libraries that `import tesserae` must not load."""


def run_python(*words: object, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_the_names_of_type_checkers_are_those_of_python() -> None:
    """Both import each name from the same module."""
    tree = ast.parse((ROOT / "tesserae.py").read_text())
    (guarded,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == LOCATIONS
    assert set(tesserae.__all__) == {*LOCATIONS, "__version__"}
    assert dir(tesserae) == sorted(tesserae.__all__)


@pytest.mark.parametrize("name", LOCATIONS)
def test_every_public_name_is_documented(name: str) -> None:
    """A docstring is a sentence, and describes each argument of a function of several."""
    module, _, attribute = LOCATIONS[name].partition(":")
    value = getattr(tesserae, name)
    assert value is getattr(importlib.import_module(module), attribute)

    text = inspect.getdoc(value) or ""

    assert re.match(r"[A-Z`].*[.:]", text), text
    assert (">>>" in text) == (name in EXAMPLES)
    if inspect.isfunction(value):
        parameters = list(inspect.signature(value).parameters)
        described = re.findall(r"^ +\*{0,2}(\w+): ", text, re.MULTILINE)
        assert len(parameters) == 1 or set(parameters) <= set(described)


@pytest.fixture(scope="module")
def folder_of_a_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    make_folder(folder / "train", 12, bad=1)
    prepare_inline(folder / "train", str(folder / "store"), sizes=(72,))
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_docstrings_run(
    name: str, folder_of_a_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with a store, an example prints what its docstring shows."""
    import torch

    monkeypatch.chdir(folder_of_a_store)
    text = inspect.getdoc(getattr(tesserae, name))
    names = {"np": np, "tesserae": tesserae, "torch": torch}
    example = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    output: list[str] = []

    results = doctest.DocTestRunner().run(example, out=output.append)

    assert results.attempted
    assert not results.failed, "".join(output)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The error is that of any module."""
    with pytest.raises(AttributeError, match="module 'tesserae' has no attribute 'Laoder'"):
        tesserae.Laoder  # noqa: B018


def test_the_import_of_the_interface_loads_no_library(tmp_path: Path) -> None:
    """Each name loads the libraries that it needs and no others."""
    code = (
        "import sys, tesserae\n"
        f"heavy = lambda: [name for name in {HEAVY} if name in sys.modules]\n"
        "print(heavy())\n"
        "tesserae.StoreError\n"
        "print(heavy())\n"
        "from tesserae import read_word_vectors\n"
        "print(heavy())\n"
    )
    done = run_python("-c", code, folder=tmp_path)
    assert (done.stdout.splitlines(), done.stderr) == (["[]", "[]", "['numpy', 'typing']"], "")


def test_a_missing_library_is_reported_with_its_extra(tmp_path: Path) -> None:
    """The message is that of the command."""
    code = "import sys; sys.modules['torch'] = None; import tesserae; tesserae.SplitDataset"
    done = run_python("-c", code, folder=tmp_path)
    assert "tesserae.SplitDataset needs torch: run `make setup EXTRAS=train`." in done.stderr


def prepare_words(source: Path, store: Path) -> list[object]:
    shape = ("--sizes", 8, "--shard-rows", 8, "--chunk-rows", 4, "--workers", 1)
    return ["-m", "tesserae", "prepare", source, store, *shape]


@pytest.mark.parametrize("start", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_the_module_runs_as_the_command(tmp_path: Path, start: str) -> None:
    """Worker processes import it as their main module and do not run the command again."""
    source, store = make_folder(tmp_path / "source", 20), tmp_path / "store"
    method = {"DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": start}

    done = run_python(*prepare_words(source, store), folder=tmp_path, **method)

    assert done.returncode == 0, done.stderr
    assert "train: finished, 20 rows, 20 readable" in done.stdout
    assert done.stdout.count("dashboard:") == 1  # a worker that ran the command would print another


def test_the_program_of_the_guide_makes_the_store_of_the_command(tmp_path: Path) -> None:
    """Its worker processes import the program and run nothing below its guard."""
    guide = (ROOT / "docs" / "preparing.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    for split, images in (("train", 20), ("val", 8)):
        make_folder(tmp_path / "photographs" / split, images)
    (tmp_path / "program.py").write_text(f"print('this is', __name__, flush=True)\n{program}")

    done = run_python("program.py", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "20 rows\n" in done.stdout
    assert done.stdout.count("this is __main__") == 1
    assert "this is __mp_main__" in done.stdout
    options = {"sizes": (72, 224), "shard_rows": None, "chunk_rows": None}
    for split in ("train", "val"):
        source, store = tmp_path / "photographs", tmp_path / "expected"
        prepare_inline(source, str(store), split=split, **options)
    assert contents(tmp_path / "store") == contents(tmp_path / "expected")


SNIPPET = """
import tesserae
from tesserae import Augment, read_word_vectors

reveal_type(tesserae.Loader("store", size=72))
reveal_type(tesserae.view("store").labels)
reveal_type(tesserae.__version__)
reveal_type(Augment(size=64))
reveal_type(read_word_vectors("vectors.txt"))
tesserae.Laoder
"""

TYPES = (
    "pipeline.loader.loader.Loader",
    "numpy.ndarray",
    "str",
    "pipeline.augment.Augment",
    "pipeline.wordvectors.vectors.WordVectors",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mypy_knows_every_name_of_a_checkout(tmp_path: Path) -> None:
    """A misspelt name is an error."""
    (tmp_path / "snippet.py").write_text(SNIPPET)
    words = ["-m", "mypy", "--strict", "--cache-dir", ROOT / ".mypy_cache", "snippet.py"]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert tuple(name.partition("[")[0] for name in revealed) == TYPES, done.stdout
    assert len(errors) == 1
    assert 'Module has no attribute "Laoder"; maybe "Loader"?' in errors[0]
