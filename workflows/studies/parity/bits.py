"""Same order and pixels: are the weights after an epoch equal to the bit?

A stage is trained for an epoch twice, from the same initial weights: fed by the loader, and by a
DataLoader of the plain dataset whose sampler has the loader's order. Everything else is the same
code: augmentation on the device, network, optimiser, collective operations. Both run in the same
process, one after the other, with the same number of threads; with several ranks, in each of them.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from cluster.ranks.rank_process import Rank
from pipeline.errors import TesseraeError
from workflows.studies.parity import FORMS
from workflows.studies.parity.child_errors import sentence_of_child
from workflows.studies.parity.data import ParityData
from workflows.studies.parity.feeds import (
    DataLoaderBatches,
    TracedBatch,
    TracedBatches,
    data_loader_in_order,
)
from workflows.studies.parity.source_images import SourceSamples
from workflows.terminal.signals import STOP_SIGNALS, deferred_signals
from workflows.training.errors import DivergedError
from workflows.training.finite import first_non_finite
from workflows.training.world import World, join

NUM_RANKS = (1, 2)
"""The numbers of ranks that are compared."""
END_SECONDS = 5.0
"""How long ranks may take to end after Ctrl-C, with their own processes, before they are killed."""
LOOPBACK = "127.0.0.1"
"""The address by which the ranks of this machine reach each other."""


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison of two feeds."""

    setting: str
    """The name of the compared setting, such as `raw, 2 ranks`."""
    steps: int
    """The number of training steps of each feed."""
    images: int
    """The number of images that each feed has handed out, over all ranks."""
    tensors: int
    """The number of compared tensors: weights, running statistics, and those of the optimiser."""
    values: int
    """The number of their elements."""
    difference: str
    """The first difference, as a phrase; empty if all bits are equal."""

    @property
    def is_equal(self) -> bool:
        """True if all bits are equal."""
        return not self.difference


class Epoch(NamedTuple):
    """A stage after an epoch."""

    trace: list[TracedBatch]
    """The batches of the epoch."""
    tensors: dict[str, Tensor]
    """The tensors of the network, of its average and of the optimiser, by name."""


def setting_name(form: str, num_ranks: int) -> str:
    """Return the name of a setting, such as `raw, 2 ranks`.

    Args:
        form: The form of images, `raw` or `encoded`.
        num_ranks: The number of ranks.
    """
    return f"{form}, {num_ranks} rank{'s' * (num_ranks > 1)}"


def settings_of(data: ParityData) -> dict[str, tuple[str, int]]:
    """Return the settings to compare, (form of images, number of ranks) by name.

    Args:
        data: The data of the study; a form that the store lacks has no settings.

    Raises:
        ValueError: A batch cannot be divided among the ranks.
    """
    batch_size, together = data.recipe.batch_size, data.recipe.rows_together
    unit = max(NUM_RANKS) * together
    if batch_size % unit:
        raise ValueError(
            f"--batch-size is {batch_size}: expected a multiple of {unit}, since batches are"
            f" divided among {max(NUM_RANKS)} ranks."
        )
    return {
        setting_name(form, num_ranks): (form, num_ranks)
        for form in FORMS
        if form in data.rows
        for num_ranks in NUM_RANKS
    }


def compare(data: ParityData, form: str, num_ranks: int, *, threads: int) -> Comparison:
    """Train for an epoch with each feed, and compare the results.

    One rank runs in this process, several in processes of their own, connected by gloo.

    Args:
        data: The data of the study.
        form: The form of images.
        num_ranks: The number of ranks.
        threads: Number of torch's threads in each rank.

    Raises:
        DivergedError: A weight is NaN or infinite.
        TesseraeError: An image or the store cannot be read, or a rank has failed.
    """
    if num_ranks == 1:
        return compare_in_rank(data, form, World())
    comparisons = _in_processes(data, form, num_ranks, threads)
    differences = [
        f"rank {rank}: {each.difference}"
        for rank, each in enumerate(comparisons)
        if each.difference
    ]
    return replace(
        comparisons[0],
        images=sum(each.images for each in comparisons),
        difference=differences[0] if differences else "",
    )


# --- in a rank ------------------------------------------------------------------------------------


def compare_in_rank(data: ParityData, form: str, world: World) -> Comparison:
    """Train for an epoch with each feed in this rank, and compare the results.

    It sets torch's global seed.

    Args:
        data: The data of the study.
        form: The form of images.
        world: The rank; all ranks call it.

    Raises:
        DivergedError: A weight is NaN or infinite.
        TesseraeError: An image or the store cannot be read.
    """
    ours = _train_epoch(data, form, world, plain=False)
    plain = _train_epoch(data, form, world, plain=True)
    difference = _feed_difference(ours.trace, plain.trace, data.samples)
    weights = _tensor_difference(ours.tensors, plain.tensors)
    return Comparison(
        setting=setting_name(form, world.size),
        steps=len(ours.trace),
        images=sum(len(batch.rows) for batch in ours.trace),
        tensors=len(ours.tensors),
        values=sum(tensor.numel() for tensor in ours.tensors.values()),
        difference="; ".join(text for text in (difference, weights) if text),
    )


def _train_epoch(data: ParityData, form: str, world: World, *, plain: bool) -> Epoch:
    loader = data.loader(form, seed=0)
    stage = data.stage(form, loader, world)
    ranks = {"ranks_on_host": world.size}
    if plain:
        images = data.images(loader)
        data_loader = data_loader_in_order(images, loader, world, workers=data.workers)
        batches: TracedBatches = DataLoaderBatches(
            stage.batches, data_loader, images, world, **ranks
        )
    else:
        batches = TracedBatches(stage.batches, world, **ranks)
    batches.trace = []
    stage.batches = batches
    try:
        for _ in range(len(batches.loader)):
            stage.advance()
    finally:
        batches.close()
    state = stage.state_dict()
    state = {name: state[name] for name in ("network", "average", "optimiser")}
    if (name := first_non_finite(state)) is not None:
        raise DivergedError(
            f"training diverged in its first epoch: {name} contains NaN or infinity, and equal ones"
            f" would mean nothing. Lower {data.recipe.options_to_lower()}."
        )
    return Epoch(batches.trace, dict(_named_tensors(state)))


def _named_tensors(state: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """Return copies of all tensors of nested mappings and sequences, with their names."""
    if isinstance(state, Tensor):
        return [(name, state.detach().clone())]
    if isinstance(state, Mapping):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = dict(enumerate(state)).items()
    else:
        return []
    return [
        named for key, item in items for named in _named_tensors(item, f"{name}.{key}".strip("."))
    ]


# --- differences ----------------------------------------------------------------------------------


def _feed_difference(
    ours: Sequence[TracedBatch], plain: Sequence[TracedBatch], samples: SourceSamples
) -> str:
    """Return the first difference of two feeds; empty if there is none."""
    if len(ours) != len(plain):
        return f"the loader has {len(ours):,} batches, and the DataLoader {len(plain):,}"
    for step, (left, right) in enumerate(zip(ours, plain, strict=True), 1):
        if not np.array_equal(left.rows, right.rows):
            return f"the order differs from step {step:,} on"
        unequal = np.flatnonzero(np.array(left.digests) != np.array(right.digests))
        if len(unequal):
            return (
                f"step {step:,} is the first with other pixels, of {len(unequal):,} of its images:"
                f" those of {_key(left.rows[unequal[0]], samples)!r}"
            )
        unequal = np.flatnonzero(left.labels != right.labels)
        if len(unequal):
            return f"step {step:,} is the first with another label, of" + (
                f" {_key(left.rows[unequal[0]], samples)!r}"
            )
    return ""


def _key(row: np.int64, samples: SourceSamples) -> str:
    return samples.keys[samples.indices(np.array([row]))[0]]


def _tensor_difference(ours: Mapping[str, Tensor], plain: Mapping[str, Tensor]) -> str:
    """Return how two states differ; empty if all bits are equal."""
    if ours.keys() != plain.keys():
        return f"the tensors differ: {', '.join(sorted(ours.keys() ^ plain.keys()))}"
    unequal = [name for name, tensor in ours.items() if not _same_bits(tensor, plain[name])]
    if not unequal:
        return ""
    largest = max(float((ours[name] - plain[name]).abs().max()) for name in unequal)
    return (
        f"{len(unequal):,} of {len(ours):,} tensors differ, by up to {largest:.3g}, such as"
        f" {unequal[0]}"
    )


def _same_bits(left: Tensor, right: Tensor) -> bool:
    # Not torch.equal: it takes 0.0 and -0.0 for the same.
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.cpu().contiguous().numpy().tobytes() == right.cpu().contiguous().numpy().tobytes()
    )


# --- several ranks --------------------------------------------------------------------------------


def _in_processes(data: ParityData, form: str, num_ranks: int, threads: int) -> list[Comparison]:
    """Return the comparison of each rank of a world of processes."""
    with tempfile.TemporaryDirectory() as folder:
        context = None
        try:
            # Interrupted in between, the first rank would wait for one that does not come.
            with deferred_signals(), _blocked_signals():
                context = start_processes(  # type: ignore[no-untyped-call]
                    _run_rank,
                    (num_ranks, data, form, threads, folder),
                    nprocs=num_ranks,
                    join=False,
                    start_method="spawn",
                )
            while not context.join():
                pass
        except (ProcessRaisedException, ProcessExitedException) as e:
            raise TesseraeError(
                f"a rank of {setting_name(form, num_ranks)} failed: {sentence_of_child(e)}"
            ) from e
        finally:
            _end_ranks([] if context is None else context.processes)
        files = [_result_file(folder, rank) for rank in range(num_ranks)]
        return [Comparison(**json.loads(file.read_text())) for file in files]


def _end_ranks(processes: Sequence[BaseProcess]) -> None:
    """End the ranks that still run after Ctrl-C, which they get too."""
    deadline = time.monotonic() + END_SECONDS
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals to stop inside the block; one that came is handled at its end.

    Processes that are started inside inherit that, so that they do not die of Ctrl-C with a
    traceback while they import modules.
    """
    resource_tracker.ensure_running()  # it would unblock them when the first process is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_rank(
    number: int, num_ranks: int, data: ParityData, form: str, threads: int, folder: str
) -> None:
    """Compare the feeds in a rank, and write the result to a file."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    torch.set_num_threads(threads)
    rank = Rank(
        rank=number, world=num_ranks, generation=1, host=LOOPBACK, gpu=False,
        ranks_on_host=num_ranks,
    )  # fmt: skip
    with join(rank, Path(folder)) as world:
        comparison = compare_in_rank(data, form, world)
    _result_file(folder, number).write_text(json.dumps(asdict(comparison)))


def _result_file(folder: str, rank: int) -> Path:
    return Path(folder, f"rank-{rank}.json")
