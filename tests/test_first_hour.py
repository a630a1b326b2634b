"""A test that runs every block of the tutorial, `docs/first-hour.md`, as it is printed.

It runs in a copy of the project whose `.venv` is this environment under another path. `make` gets a
program that does nothing as the Python that sets it up: installing has tests of its own. The
pretrained network and the file of word vectors, which a reader downloads, are small ones of the
same names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.commands import PATIENCE, wait_until

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first-hour.md"
FOLDERS = ("pipeline", "workflows", "cluster")
FILES = ("tesserae.py", "tesserae_command.py", "Makefile", "pyproject.toml", "constraints.txt")
TRUNK = "facebook/convnext-tiny-224"
WORDS = ["person", "ceramic", "vehicle", "eye", "text", "celestial", "body", "land", "boat"]

SCRIPT = """#!{python}
import sys
from tesserae_command import main
if __name__ == "__main__":
    sys.exit(main())
"""
"""The script that pip creates for `tesserae`."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the language and the content of each fenced block of a page."""
    for indent, language, content in re.findall(
        r"^( *)```(\w.*?)\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL
    ):
        assert not indent, "a block of the tutorial is for all readers"
        yield language, content


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a copy of the project with a `.venv` and the files that a reader downloads."""
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "tesserae").write_text(SCRIPT.format(python=sys.executable))
    for program in programs.iterdir():
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    write_trunk(tmp_path / "hub")
    write_words(tmp_path / "GoogleNews.bin")
    return tmp_path


def write_trunk(home: Path) -> None:
    """Write a small ConvNeXt in the layout of the model hub's cache."""
    from transformers import ConvNextConfig, ConvNextModel

    repository = home / "hub" / f"models--{TRUNK.replace('/', '--')}"
    revision = "0" * 40
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], image_size=224)
    ConvNextModel(config).save_pretrained(snapshot)
    half = [0.5, 0.5, 0.5]
    transform = {"size": {"shortest_edge": 224}, "image_mean": half, "image_std": half}
    (snapshot / "preprocessor_config.json").write_text(json.dumps(transform))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)


def write_words(file: Path, dim: int = 8) -> None:
    """Write vectors of the sample's classes in word2vec's binary format."""
    vectors = np.random.default_rng(0).standard_normal((len(WORDS), dim)).astype("<f4")
    with file.open("wb") as out:
        out.write(f"{len(WORDS)} {dim}\n".encode())
        for word, vector in zip(WORDS, vectors, strict=True):
            out.write(f"{word} ".encode() + vector.tobytes() + b"\n")


def environment(clone: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    offline = {"HF_HOME": str(clone / "hub"), "HF_HUB_OFFLINE": "1"}
    return {**kept, **offline, "PYTHONPATH": str(clone), "PYTHON": "true"}


def run(command: list[str], clone: Path) -> str:
    done = subprocess.run(
        command,
        cwd=clone,
        env=environment(clone),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    return done.stdout


def serve(command: str, clone: Path) -> None:
    """Run a command that serves a page: open it, search, and press Ctrl-C."""
    output = clone / "served.txt"
    with output.open("w") as out:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=clone,
            env=environment(clone),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: process.poll() is not None or "Ctrl-C" in output.read_text())
        (address,) = re.findall(r"search: (http://\S+)", output.read_text())
        with urllib.request.urlopen(address) as page:
            assert b"<title>" in page.read()
        query = urllib.parse.urlencode({"q": "vehicle + person", "k": 3})
        with urllib.request.urlopen(f"{address}api/search?{query}") as answer:
            assert len(json.load(answer)["images"]) == 3
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE)
    assert "tesserae: stopped." in output.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_command_of_the_tutorial_succeeds(clone: Path) -> None:
    """The blocks run in order, and print the lines that the page shows as their output."""
    printed = ""
    for language, content in blocks(PAGE):
        if language == "bash" and content.startswith("make search"):
            serve(content, clone)
        elif language == "bash":
            printed = run(["bash", "-euo", "pipefail", "-c", content], clone)
        elif language == "python":
            printed = run([".venv/bin/python", "-c", content], clone)
        elif language == 'text title="Output"':
            for line in content.splitlines():
                assert line in printed.splitlines(), line
        else:
            assert language == "text"
    for file in ("store/report.html", "runs/devise/report.html"):
        assert (clone / file).is_file()
    (guide,) = (content for name, content in blocks(ROOT / "docs/search.md") if name == "python")
    lines = run([".venv/bin/python", "-c", guide], clone).splitlines()
    assert len(lines) == 5
