"""Helpers for tests: a small store, and a stage that runs in this process without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from cluster.ranks.rank_process import Rank
from pipeline.loader import Loader
from pipeline.store.encoding import parse_encoding
from tests.images import jpeg, prepare_inline
from workflows.training.image_rows import decoded_rows
from workflows.training.launch import _data_section, versions
from workflows.training.loop import TrainingJob, train
from workflows.training.options import CHANGEABLE_ON_RESUME, TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.training.stage import Data
from workflows.training.stage_registry import import_location
from workflows.training.world import World
from workflows.wgan.options import WganOptions
from workflows.wgan.sampling import STAGE
from workflows.wgan.stage import Wgan

SIZE, BATCH = 16, 8
ENCODED = "jpeg:24@90"
"""The encoding of a small store with encoded rows."""

SMALL = {
    "image_size": SIZE,
    "batch_size": BATCH,
    "latent_dim": 5,
    "generator_width": 4,
    "critic_width": 4,
    "critic_steps": 2,
    "warmup_critic_steps": 0,
    "learning_rate": 1e-3,
    "precision": "float32",
    "threads_per_rank": 1,
}


def small_store(
    folder: Path, rows: int = 36, sizes: tuple[int, ...] = (SIZE,), encoded: tuple[str, ...] = ()
) -> Path:
    """Prepare a store of *rows* images of three classes, with 18 more in split val.

    Args:
        folder: A folder that gets the folders `source` and `store`.
        rows: The number of images of the split train, of 24 px.
        sizes: The sides of the stored squares.
        encoded: The encodings of further rows.
    """
    for split, count in (("train", rows), ("val", 18)):
        for number in range(count):
            file = folder / "source" / split / f"n{number % 3:08d}" / f"{split}{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(number + 1_000 * (split == "val"), 24, 24))
        prepare_inline(
            folder / "source", str(folder / "store"), split=split, sizes=sizes, encoded=encoded,
            serves=SIZE,
        )  # fmt: skip
    return folder / "store"


def rows_of(options: WganOptions, encoded: str | None) -> dict[str, Any]:
    """Return the arguments of a loader of stored squares, or of those of encoded rows."""
    if encoded is None:
        return {"size": SIZE}
    return asdict(decoded_rows(parse_encoding(encoded), options))


def small_stage(
    store: Path, world: World | None = None, *, encoded: str | None = None, **choices: Any
) -> Wgan:
    """Return a stage on *store* before its first step."""
    options = WganOptions(**{**SMALL, **choices})
    torch.manual_seed(options.seed)
    rows = rows_of(options, encoded)
    train = Loader(store, batch_size=options.batch_size, **rows)
    val = Loader(store, "val", batch_size=options.batch_size, order="sequential", **rows)
    data = Data(train, val, tuple(wnid for wnid, _ in train.classes))
    return Wgan(options, data, world or World())


def advance(stage: Wgan, updates: int) -> list[dict[str, float]]:
    """Take updates; return the metrics of the steps that they complete."""
    steps = []
    for _ in range(updates):
        before, metrics = stage.step, stage.advance()
        if stage.step > before:
            steps.append({name: float(value) for name, value in metrics.items()})
    return steps


def tensors(state: Any) -> list[torch.Tensor]:
    """Return all tensors of a state, in order."""
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in tensors(value)]
    if isinstance(state, list | tuple):
        return [tensor for value in state for tensor in tensors(value)]
    return []


def train_here(
    store: Path,
    folder: Path,
    *,
    from_step: int | None = None,
    encoded: str | None = None,
    **choices: Any,
) -> RunFolder:
    """Train a GAN on one rank in this process, or continue its run; return the run folder."""
    options = WganOptions(**{**SMALL, "steps": 6, "eval_every": 3, **choices})
    size = options.batch_size
    rows = rows_of(options, encoded)
    data = Data(
        Loader(store, batch_size=size, **rows, **options.loader_arguments()),
        Loader(store, "val", batch_size=size, **rows, **options.loader_arguments(training=False)),
        ("zero", "one", "two"),
    )
    run, result = train_rank(STAGE, options, data, folder, from_step=from_step)
    assert result == "done"
    return run


def train_rank(
    stage: str,
    options: TrainingOptions,
    data: Data,
    folder: Path,
    *,
    from_step: int | None = None,
    stop_at: int | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
    gpu: bool = False,
) -> tuple[RunFolder, str]:
    """Train one rank of any stage in this process, or continue its run.

    Args:
        stage: The name of the stage.
        options: Its options.
        data: Its loaders.
        folder: The run folder.
        from_step: The step to go back to (default: continue from the newest checkpoint).
        stop_at: The step after which a stop is requested, as by Ctrl-C, with `log_every` 1.
        files: Further files of a new run folder.
        gpu: True to train on a GPU.

    Returns:
        The run folder, and what the rank returns.
    """
    run = RunFolder(folder)
    facts = {"versions": versions(), "data": _data_section(data, run)}
    run.create_or_continue(
        {"stage": stage, **options.as_dict()},
        facts,
        changeable_on_resume=CHANGEABLE_ON_RESUME,
        complete=options.complete,
        changeable_on_rewind=options.changeable_on_rewind(),
        from_step=from_step,
        files=files,
    )
    number, resumed = run.claim(from_step=from_step)
    rank = Rank(rank=0, world=1, generation=number, host="127.0.0.1", gpu=gpu)

    def emit(**event: Any) -> None:
        if stop_at is not None and event["step"] >= stop_at:
            rank.stopping.set()

    object.__setattr__(rank, "emit", emit)
    name = None if resumed is None else resumed.name
    job = TrainingJob(import_location(stage), str(folder), options, data, name)
    return run, train(rank, job)
