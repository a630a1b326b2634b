"""Other modules that have the names of Tesserae's are reported, or do no harm."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import tesserae_command
from cluster.processes.commands import SchedulerConfig, scheduler_program
from cluster.processes.stdin_link import stdin_worker_command
from tests.images import make_folder

ROOT = Path(__file__).parents[1]
NAMES = tuple(tesserae_command.MODULES)
SCRIPT = """
import sys
from tesserae_command import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""The script that pip creates for `tesserae`."""


def write_module(folder: Path, name: str, *, package: bool = False) -> Path:
    """Write a module that says that it was imported, and return its path."""
    module = folder / name if package else folder / f"{name}.py"
    file = module / "__init__.py" if package else module
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"print('imported {name}', flush=True)\n")
    return module


def run_python(
    *words: object, folder: Path, path: tuple[Path, ...] = (), root: Path | None = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with *path* and then Tesserae's folder as PYTHONPATH.

    Without *root*, its environment lacks the checkout, which a .pth file there names.
    """
    site = Path(sysconfig.get_path("purelib"))
    options = () if root else ("-S",)
    return subprocess.run(
        [sys.executable, *options, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, root or site)))},
        capture_output=True,
        text=True,
        check=False,
    )


def run_command(*words: object, folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder by a script in another one, beside which Python looks first."""
    script = folder / "bin" / "tesserae"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    return run_python(script, *words, folder=folder, **settings)


@pytest.mark.parametrize("package", [False, True], ids=["module", "package"])
@pytest.mark.parametrize("name", NAMES)
def test_the_command_refuses_another_module(tmp_path: Path, name: str, package: bool) -> None:
    """It is named by its path, with a cure, and is not imported."""
    module = write_module(tmp_path / "mine", name, package=package)

    done = run_command("info", folder=tmp_path, path=(tmp_path / "mine",))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"tesserae: Python finds {name} in {module}, not Tesserae's in {ROOT}."
        f" Remove {module.parent} from PYTHONPATH, or rename {module.name}.\n"
    )


def test_a_module_of_another_distribution_is_named_with_it(tmp_path: Path) -> None:
    """Renaming it would help nobody."""
    site = tmp_path / "site"
    module = write_module(site, "tesserae", package=True)
    info = site / "tesserae-0.41.8.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("tesserae/__init__.py,,\ntesserae-0.41.8.dist-info/RECORD,,\n")

    done = run_command("doctor", folder=tmp_path, path=(site,))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"tesserae: Python finds tesserae in {module}, not Tesserae's in {ROOT}. It belongs to"
        " tesserae 0.41.8: install Tesserae in a virtual environment without it.\n"
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tesserae"])
def test_a_program_beside_another_module_gets_the_reason(tmp_path: Path, name: str) -> None:
    """Python puts the folder of a program before all others."""
    module = write_module(tmp_path, name)
    (tmp_path / "program.py").write_text("import tesserae\ntesserae.Crop\n")

    done = run_python("program.py", folder=tmp_path)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: Python finds {name} in {module}, not Tesserae's in {ROOT}."
        f" Rename {module.name}, or start Python in another folder."
    )


@pytest.mark.parametrize("overwritten", [False, True])
def test_a_package_that_lacks_modules_is_a_sentence(tmp_path: Path, overwritten: bool) -> None:
    """Another distribution in the same folder may have overwritten a package, or removed it."""
    for name in ("tesserae.py", "workflows", "cluster"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "tesserae_command.py", tmp_path)
    if overwritten:
        write_module(tmp_path, "pipeline", package=True)
    lacking = "pipeline.errors" if overwritten else "pipeline"

    done = run_command("info", folder=tmp_path, path=(tmp_path,), root=None)

    assert done.returncode == 1
    assert done.stderr == (
        f"tesserae: {tmp_path} lacks Tesserae's module {lacking}: another package may have"
        " overwritten it. Install Tesserae again, in a virtual environment of its own.\n"
    )


def run_beside_other_modules(folder: Path, *words: object) -> str:
    """Run the command in a folder with modules that it must not import; return its output."""
    for name in (*NAMES, "random", "pyarrow"):
        write_module(folder, name)
    done = run_command(*words, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "imported" not in done.stdout + done.stderr
    return done.stdout


def test_modules_in_the_working_folder_do_no_harm(tmp_path: Path) -> None:
    """The processes that a command starts do not search the folder in which it runs."""
    make_folder(tmp_path / "source", 20)
    words = ("prepare", "source", "store", "--sizes", 8, "--shard-rows", 8, "--chunk-rows", 4)
    assert "train: finished, 20 rows" in run_beside_other_modules(tmp_path, *words, "--workers", 1)


@pytest.mark.slow
def test_nor_do_they_in_training(tmp_path: Path) -> None:
    """Ranks are programs of their own."""
    make_folder(tmp_path / "source", 20)
    shape = ("--sizes", 16, "--shard-rows", 8, "--chunk-rows", 4)
    small = ("--image-size", 16, "--generator-width", 4, "--critic-width", 4, "--batch-size", 4)
    run_beside_other_modules(tmp_path, "prepare", "source", "store", *shape)

    words = ("train", "wgan", "store", "--steps", 1, "--run", "run", *small)

    assert "1 step" in run_beside_other_modules(tmp_path, *words)


def test_nor_do_they_where_a_scheduler_or_workers_are_started(tmp_path: Path) -> None:
    """Their programs run in the folder of the command that starts them."""
    for name in NAMES:
        write_module(tmp_path, name)

    program = scheduler_program(SchedulerConfig())

    for command in (
        [*program.command[: program.command.index("--host")], "--help"],
        [*stdin_worker_command(sys.executable, "tls://127.0.0.1:1", {}), "--help"],
    ):
        done = run_python(*command[1:], folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "imported" not in done.stdout
