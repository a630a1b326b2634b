"""Tests that run the programs in `examples/` without changes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from pipeline.features.reader import open_features
from tests.commands import free_port
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


def torch_weights(path: Path) -> list[torch.Tensor]:
    return list(torch.load(path, weights_only=True)["model"].values())


def fsdp_weights(folder: Path) -> list[torch.Tensor]:
    whole = folder.with_suffix(".pt")
    dcp_to_torch_save(folder, whole)
    return torch_weights(whole)


def lightning_weights(path: Path) -> list[torch.Tensor]:
    return list(torch.load(path, weights_only=False)["state_dict"].values())


def accelerate_weights(path: Path) -> list[torch.Tensor]:
    return [weights for _, weights in sorted(safetensors.torch.load_file(path).items())]


def numpy_weights(path: Path) -> list[torch.Tensor]:
    with np.load(path) as state:
        return [torch.from_numpy(state["weights"])]


def jax_weights(path: Path) -> list[torch.Tensor]:
    with np.load(path) as state:
        return [torch.from_numpy(state[name]) for name in ("in", "out")]


def torchrun(program: str, ranks: int, store: Path, *steps: str) -> list[str]:
    """Return the command that starts a program on ranks of this machine."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    return [sys.executable, *torchrun, str(EXAMPLES / program), str(store), *steps]


def accelerate(program: str, ranks: int, store: Path, *steps: str) -> list[str]:
    """Return the command of Accelerate that starts a program on ranks of this machine."""
    words = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(ranks))
    port = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
    several = ("--main_process_port", str(free_port())) if ranks > 1 else ()
    return [sys.executable, *words, *port, *several, str(EXAMPLES / program), str(store), *steps]


def lightning(program: str, ranks: int, store: Path, *steps: str) -> list[str]:
    """Return the command of a program that starts its ranks itself."""
    return [sys.executable, str(EXAMPLES / program), str(store), str(ranks), *steps]


def alone(program: str, ranks: int, store: Path, *steps: str) -> list[str]:
    """Return the command of a program that has one rank."""
    assert ranks == 1
    return [sys.executable, str(EXAMPLES / program), str(store), *steps]


class Trainer(NamedTuple):
    """A program that trains, and what it leaves."""

    command: Callable[..., list[str]]
    checkpoint: str
    weights: Callable[[Path], list[torch.Tensor]]
    ranks: int = 2
    library: str = "torch"
    counts_all_steps: bool = False
    """True if STEPS counts those of the runs before, too."""


TRAINERS = {
    "train_ddp.py": Trainer(torchrun, "ddp.pt", torch_weights),
    "train_fsdp.py": Trainer(torchrun, "fsdp", fsdp_weights),
    "train_accelerate.py": Trainer(
        accelerate, "accelerate/model.safetensors", accelerate_weights, library="accelerate"
    ),
    "train_lightning.py": Trainer(
        lightning, "lightning/last.ckpt", lightning_weights, library="pytorch_lightning",
        counts_all_steps=True,
    ),
    "train_numpy.py": Trainer(alone, "numpy.npz", numpy_weights, ranks=1),
    "train_jax.py": Trainer(alone, "jax.npz", jax_weights, ranks=1, library="jax"),
}  # fmt: skip


def run_in(folder: Path, command: list[str]) -> str:
    """Run a command in a folder, which is created, and return what it printed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "program",
    [
        name if trainer.ranks == 1 else pytest.param(name, marks=pytest.mark.slow)
        for name, trainer in TRAINERS.items()
    ],
)
def test_a_training_that_is_broken_off_leaves_the_weights_of_a_whole_one(
    program: str, store: Path, tmp_path: Path
) -> None:
    """Two epochs of 5 batches, the last of 14 rows, are broken off in the middle of both.

    The weights are equal to the bit, and those of a single rank up to rounding. The finished
    training is not continued.
    """
    trainer = TRAINERS[program]
    pytest.importorskip(trainer.library)

    def weights(folder: str, ranks: int, *steps: str) -> list[torch.Tensor]:
        run_in(tmp_path / folder, trainer.command(program, ranks, store, *steps))
        return trainer.weights(tmp_path / folder / trainer.checkpoint)

    whole = weights("whole", trainer.ranks)
    third = weights("parts", trainer.ranks, "3")
    seventh = weights("parts", trainer.ranks, "7" if trainer.counts_all_steps else "4")
    last = weights("parts", trainer.ranks)
    again = weights("parts", trainer.ranks)

    assert not any(map(torch.equal, third, seventh))
    assert not any(map(torch.equal, seventh, last))
    assert all(map(torch.equal, last, whole))
    assert all(map(torch.equal, again, whole))
    if trainer.ranks > 1:
        alone = weights("alone", 1)
        assert len(alone) == len(whole)
        for one, two in zip(alone, whole, strict=True):
            assert torch.allclose(one, two, atol=2e-5)


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
