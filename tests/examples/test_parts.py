"""Tests of the parts that `docs/contributing.md` adds to the tree, in a copy of the tree.

They follow the page: they copy its files of `examples/` and apply the diffs that it shows.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.augment import Augment
from tests.commands import PATIENCE, wait_until
from tests.images import contents, jpeg, make_folder
from tests.workflows.training.small import small_store, tensors, train_here
from workflows.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
SHAPE = ("--sizes", 16, "--shard-rows", 8, "--chunk-rows", 4, "--workers", 1)


@dataclass(frozen=True)
class Tree:
    """A copy of the tree, to which parts are added."""

    root: Path

    def add(self, heading: str) -> None:
        """Copy the files and apply the diffs of the page's section *heading*."""
        (section,) = re.findall(rf"^## {heading}$(.*?)^## ", PAGE, re.MULTILINE | re.DOTALL)
        copies = re.findall(r"^\d\. Copy `(\S+)` to `(\S+)`", section, re.MULTILINE)
        diffs = [*map(textwrap.dedent, re.findall(r"```diff\n(.*?) *```", section, re.DOTALL))]
        assert copies or diffs
        for example, destination in copies:
            shown = re.findall(rf"^--8<--\n({example}\S*)\n--8<--$", section, re.MULTILINE)
            assert shown
            if (ROOT / example).is_dir():
                shutil.copytree(ROOT / example, self.root / destination)
            else:
                shutil.copy(ROOT / example, self.root / destination)
        for diff in diffs:
            self._apply(diff)

    def _apply(self, diff: str) -> None:
        header, *hunks = re.split(r"^@@\n", diff, flags=re.MULTILINE)
        file = self.root / header.split()[-1]
        text = file.read_text()
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] in " -")
            after = "".join(line[1:] for line in lines if line[0] in " +")
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        file.write_text(text)

    def run(self, *words: object, folder: Path) -> str:
        """Run a command of the copy to its end; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "tesserae", *map(str, words)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root = tmp_path / "tree"
    for name in ("pipeline", "workflows", "cluster"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tesserae.py", "tesserae_command.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    return Tree(root)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_source_is_prepared_and_verified(tree: Tree, tmp_path: Path) -> None:
    """Its kind is detected, and its store equals that of the same images in class folders."""
    tree.add("Add a kind of source")
    lines = []
    for number in range(20):
        name, class_name = f"{number}.jpg", ("cat", "dog")[number % 2]
        key = f"pictures__{name}"
        for file in (
            tmp_path / "table" / "pictures" / name,
            tmp_path / "folders" / "train" / class_name / key,
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(number))
        lines.append(f"pictures/{name},{class_name}\n")
    (tmp_path / "table" / "train.csv").write_text("".join(lines))

    for source in ("table", "folders"):
        tree.run("prepare", source, f"store-{source}", *SHAPE, folder=tmp_path)

    said = tree.run("verify", "store-table", "--source", folder=tmp_path)
    assert "20 rows decoded again from the source, 0 differ" in said
    assert contents(tmp_path / "store-table") == contents(tmp_path / "store-folders")


def test_the_augmentation_depends_on_seed_epoch_and_row() -> None:
    """An image is erased equally in any batch; half of the images are erased in an epoch."""
    example = runpy.run_path(str(ROOT / "examples" / "random_erasing.py"))
    plain = Augment(size=32, seed=3)
    augment = example["RandomErasing"](augment=plain, side=8)
    images = torch.randint(0, 256, (64, 3, 40, 40), generator=torch.Generator().manual_seed(0))
    images, rows = images.to(torch.uint8), torch.arange(64)

    batch = augment(images, rows, 5)

    erased = (batch == 0).all(1).sum((1, 2))
    assert set(erased.tolist()) == {0, 64}
    assert 16 < (erased == 64).sum() < 48
    kept = batch != 0
    assert torch.equal(batch[kept], plain(images, rows, 5)[kept])
    torch.testing.assert_close(augment(images.flip(0), rows.flip(0), 5).flip(0), batch)
    assert not torch.equal(augment(images, rows, 6), batch)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="side is 33: expected 1 to 32 pixels"):
        example["RandomErasing"](augment=plain, side=33)


@pytest.mark.slow
def test_the_augmentation_keeps_the_import_contracts(tree: Tree) -> None:
    """The place that the page gives it is right."""
    tree.add("Add an augmentation")
    linter = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run(
        [linter, "--no-cache"],
        cwd=tree.root,
        env={**os.environ, "PYTHONPATH": str(tree.root)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert (tree.root / "pipeline" / "random_erasing.py").is_file()


@pytest.mark.slow
def test_the_report_shows_the_chart(tree: Tree, tmp_path: Path) -> None:
    """The chart has the title, the unit and the name of the page's example."""
    tree.add("Add a metric or a chart to a report")
    run = train_here(small_store(tmp_path), tmp_path / "run")

    tree.run("report", run.path, "--samples", 16, folder=tmp_path)

    page = (run.path / "report.html").read_text()
    assert "Loader wait" in page
    assert "share of the time of a step" in page


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_stage_trains_and_resumes(tree: Tree, tmp_path: Path) -> None:
    """The checkpoint of three steps and three more equals that of six, bit for bit."""
    tree.add("Add a training stage")
    make_folder(tmp_path / "train", 40)
    tree.run("prepare", "train", "store", *SHAPE, folder=tmp_path)
    small = ("--image-size", 16, "--batch-size", 8, "--threads-per-rank", 1, "--eval-every", 3)

    for run, steps in (("whole", 6), ("parts", 3), ("parts", 6)):
        words = ("train", "coarse", "store", "--run", run, "--steps", steps, *small)
        said = tree.run(*words, folder=tmp_path)
        assert f"{run}: done." in said

    whole, parts = (
        run.load(run.newest_checkpoint())
        for run in map(RunFolder, (tmp_path / "whole", tmp_path / "parts"))
    )
    assert whole["updates"] == parts["updates"] == 6
    assert whole["stage"]["batches"] == parts["stage"]["batches"]
    pairs = list(zip(tensors(whole), tensors(parts), strict=True))
    assert pairs
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_kind_of_cluster_runs_tasks(tree: Tree, tmp_path: Path) -> None:
    """The store that its two workers make equals that of local workers."""
    tree.add("Add a kind of cluster")
    make_folder(tmp_path / "train", 40)
    (tmp_path / "launchers.txt").write_text("127.0.0.1\nenv\nnice -n 1\n")

    tree.run("prepare", "train", "here", *SHAPE, folder=tmp_path)
    where = ("--cluster", "launch:launchers.txt")
    tree.run("prepare", "train", "there", *SHAPE, *where, folder=tmp_path)

    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_kind_of_cluster_replaces_a_lost_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its end, no process remains."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    mark = f"TESSERAE_TEST_PART={os.getpid()}"
    (tmp_path / "launchers.txt").write_text(f"127.0.0.1\nenv {mark}\nenv {mark}\n")
    example = runpy.run_path(str(ROOT / "examples" / "launched_cluster.py"))
    with example["LaunchedCluster"](tmp_path / "launchers.txt", dashboard=False) as cluster:
        with cluster.client() as client:
            client.wait_for_workers(2, PATIENCE)
            assert client.submit(pow, 2, 10).result(PATIENCE) == 1024
            _kill_one(mark)
            assert wait_until(lambda: len(client.nthreads()) < 2)

            def complete() -> bool:
                cluster.maintain()
                return len(client.nthreads()) == 2

            assert wait_until(complete)
        assert _processes(mark)
    assert wait_until(lambda: not _processes(mark))


def _processes(mark: str) -> list[psutil.Process]:
    """Return the processes whose environment has *mark*, `NAME=VALUE`."""
    name, _, value = mark.partition("=")
    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            running = process.status() != psutil.STATUS_ZOMBIE
            if running and process.environ().get(name) == value:
                marked.append(process)
    return marked


def _kill_one(mark: str) -> None:
    """Kill one of the two commands that run a worker, with all that it has started."""
    command = next(p for p in _processes(mark) if p.ppid() == os.getpid())
    os.killpg(command.pid, signal.SIGKILL)
