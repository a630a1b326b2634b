"""Tests that run the programs in `examples/` without changes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.features.reader import open_features
from tests.images import make_folder, prepare_inline
from tests.workflows.devise.small import make_small

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 78 readable rows at 72 px: two whole batches of 32 and a smaller one."""
    folder = tmp_path_factory.mktemp("store")
    make_folder(folder / "train", 80, bad=2)
    prepare_inline(folder / "train", str(folder / "store"), sizes=(72,))
    return folder / "store"


def run_here(program: Path, *words: object, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys, "argv", [program.name, *map(str, words)])
    runpy.run_path(str(program), run_name="__main__")


def test_interrupted_training_continues(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One epoch and then two have the losses of three; a further run has no epoch left."""
    program = EXAMPLES / "train.py"
    shorter = tmp_path / "shorter.py"
    shorter.write_text(
        program.read_text().replace("EPOCHS, CHECKPOINT = 3", "EPOCHS, CHECKPOINT = 1")
    )
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    run_here(program, store, patch=monkeypatch)
    whole = capsys.readouterr().out.splitlines()
    monkeypatch.chdir(tmp_path / "parts")
    run_here(shorter, store, patch=monkeypatch)
    run_here(program, store, patch=monkeypatch)
    parts = capsys.readouterr().out.splitlines()
    run_here(program, store, patch=monkeypatch)

    assert [line.partition(":")[0] for line in whole] == ["epoch 0", "epoch 1", "epoch 2"]
    assert parts == whole
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one(store: Path, tmp_path: Path) -> None:
    """Both see the same batches, the last and smaller one too."""
    losses = []
    for ranks in (1, 2):
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
        done = subprocess.run(
            [sys.executable, *torchrun, str(EXAMPLES / "train_on_ranks.py"), str(store)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        printed = re.findall(r"rank (\d), epoch (\d): loss ([\d.]+)", done.stdout)
        assert sorted(rank + epoch for rank, epoch, _ in printed) == [
            f"{rank}{epoch}" for rank in range(ranks) for epoch in range(3)
        ]
        losses.append([float(loss) for rank, _, loss in sorted(printed) if rank == "0"])
    assert losses[1] == pytest.approx(losses[0], abs=0.002)


def test_the_nearest_images_are_those_of_the_nearest_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order is that of the cosine, without the image of the query."""
    pytest.importorskip("transformers")
    small = make_small(tmp_path)
    features = open_features(small.store, small.features, "train")
    vectors = features.rows(features.readable).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[np.flatnonzero(features.readable == 3)[0]]
    nearest = features.readable[np.argsort(-cosines, kind="stable")]

    run_here(EXAMPLES / "nearest_images.py", small.store, small.features, 3, patch=monkeypatch)

    printed = [int(row) for row in re.findall(r"  row (\d+), n\d+/", capsys.readouterr().out)]
    assert printed == [row for row in nearest.tolist() if row != 3][:5]
