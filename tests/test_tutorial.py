"""Tests that run every block of `docs/tutorial.md` as printed, on small and on real images."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_first_hour import ROOT, SCRIPT, blocks

PAGE = ROOT / "docs" / "tutorial.md"
IMAGES = 140
"""The number of training images of the small set, more than a batch of the page has."""
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
DATA = Path(os.environ.get("TESSERAE_DATA", "missing")) / "cifar-10-batches-py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the command at the place where the page has it."""
    program = tmp_path / ".venv" / "bin" / "tesserae"
    program.parent.mkdir(parents=True)
    program.write_text(SCRIPT.format(python=sys.executable))
    program.chmod(0o755)
    return tmp_path


def write_small_set(folder: Path) -> None:
    """Write a set in CIFAR-10's layout whose classes are colours, with noise."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (10, 3, 1))
    for file, count in (("data_batch_1", IMAGES), ("test_batch", 40)):
        labels = [row % 10 for row in range(count)]
        noise = generator.normal(0, 20, (count, 3, 1024))
        pixels = (colours[labels] + noise).clip(0, 255).astype(np.uint8).reshape(count, 3072)
        (folder / file).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, 2))
    names = [name.encode() for name in NAMES]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, 2))


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder with this project on its path; return what it prints."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout


def program() -> str:
    """Return the Python blocks of the page, which are one program."""
    return "\n".join(content for language, content in blocks(PAGE) if language == "python")


def accuracies(printed: str) -> dict[str, float]:
    """Return the accuracy in percent of each step that the program prints."""
    return {name: float(value) for name, value in re.findall(r"^(.*): ([0-9.]+)%$", printed, re.M)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_block_of_the_tutorial_runs(folder: Path) -> None:
    """Commands run in order, the Python blocks as one program before the second command."""
    write_small_set(folder / "cifar-10-batches-py")
    commands = [content for language, content in blocks(PAGE) if language == "bash"]
    assert {language for language, _ in blocks(PAGE)} == {"bash", "python"}
    run(["bash", "-euo", "pipefail", "-c", commands[0]], folder)
    printed = run([sys.executable, "-c", program()], folder)
    assert len(accuracies(printed)) == 4
    assert str(NAMES) in printed
    for command in commands[1:]:
        run(["bash", "-euo", "pipefail", "-c", command], folder)
    assert (folder / "better" / "report.html").is_file()
    assert (folder / "better" / "trunk" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not DATA.is_dir(), reason="TESSERAE_DATA has no CIFAR-10")
def test_each_step_gains_on_real_images(folder: Path) -> None:
    """Every step of the page's program is better than the one before it, on CIFAR-10 itself."""
    (folder / "cifar-10-batches-py").symlink_to(DATA)
    prepare = next(content for language, content in blocks(PAGE) if language == "bash")
    run(["bash", "-euo", "pipefail", "-c", prepare], folder)
    values = list(accuracies(run([sys.executable, "-c", program()], folder)).values())
    assert len(values) == 4
    assert values == sorted(values)
    assert values[-1] > 50
