"""The ranks of a stage as one: what they share, so that two make what one would.

A batch is that of all ranks; each has its part of the rows. Gradients are averaged over ranks,
batch norm is over the whole batch, and whatever is drawn at random is drawn for the whole batch,
from the seed, the step and what it is for: so a step does not depend on how many ranks take it, and
nothing random is to be saved.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore

from cluster.ranks.process import Rank
from workflows.training import records, writing

MEET_SECONDS = 300.0
"""So long a rank waits for the others to come."""
SILENCE_SECONDS = 300.0
"""So long a collective may take: then one of the others hangs."""
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class World:
    """This rank among all."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    control: Any = None
    """The group in which ranks agree on what to do, through processors, whatever they train on."""

    def part(self, batch: int) -> slice:
        """The rows of a batch, of all ranks, that are this rank's.

        Raises:
            ValueError: They cannot be dealt out evenly.
        """
        if batch % self.size:
            raise ValueError(f"a batch of {batch} cannot be dealt out to {self.size} ranks.")
        own = batch // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def normal(self, batch: int, *shape: int, key: tuple[Any, ...]) -> Tensor:
        """Standard normal float32 (rows of this rank, *shape), of a batch that *key* decides."""
        drawn = torch.randn(batch, *shape, generator=_generator(key))
        return drawn[self.part(batch)].to(self.device)

    def uniform(self, batch: int, *shape: int, key: tuple[Any, ...]) -> Tensor:
        """From 0 to 1, without 1; float32 (rows of this rank, *shape), as `normal`."""
        drawn = torch.rand(batch, *shape, generator=_generator(key))
        return drawn[self.part(batch)].to(self.device)

    def integers(self, batch: int, high: int, *, key: tuple[Any, ...]) -> Tensor:
        """From 0 to *high*, without it; int64 (rows of this rank,), as `normal`."""
        drawn = torch.randint(high, (batch,), generator=_generator(key))
        return drawn[self.part(batch)].to(self.device)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over ranks, of each of *values*."""
        if self.size == 1:
            return values
        shared = values.clone()
        dist.all_reduce(shared)
        return shared / self.size

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether a rank has it set: all ranks get the same answer."""
        if self.size == 1:
            return flags
        shared = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.control)
        return tuple(bool(flag) for flag in shared)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make gradients those of the mean over the whole batch, in one exchange."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take what an optimiser has gathered from a state, and keep the rates that options ask for.

    Args:
        optimiser: As options made it.
        state: A state of one with the same parameters, maybe with other rates.
    """
    groups = optimiser.param_groups
    settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    optimiser.load_state_dict(state)
    for group, own in zip(optimiser.param_groups, settings, strict=True):
        group.update(own)


def _generator(key: tuple[Any, ...]) -> torch.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextmanager
def join(rank: Rank, folder: Path) -> Iterator[World]:
    """Meet the other ranks of this generation.

    Args:
        rank: This one.
        folder: That all of them see: where the first writes where it is.

    Yields:
        This rank among them. Outside of a rank use `World()`.
    """
    device = torch.device("cuda:0" if rank.gpu else "cpu")
    if rank.world == 1:
        yield World(device=device)
        return
    silence = timedelta(seconds=SILENCE_SECONDS)
    store = _meet(rank, folder / f"{rank.generation:06d}.json")
    backend = "nccl" if rank.gpu else "gloo"
    dist.init_process_group(
        backend,
        store=store,
        rank=rank.rank,
        world_size=rank.world,
        timeout=silence,
        device_id=device if rank.gpu else None,
    )
    control = dist.new_group(backend="gloo", timeout=silence) if rank.gpu else None
    yield World(rank.rank, rank.world, device, control)
    dist.barrier()
    dist.destroy_process_group()


def _meet(rank: Rank, file: Path) -> TCPStore:
    # torch would listen on all interfaces.
    limit = timedelta(seconds=MEET_SECONDS)
    if rank.rank == 0:
        family = socket.AF_INET6 if ":" in rank.host else socket.AF_INET
        listening = socket.socket(family)
        listening.bind((rank.host, 0))
        listening.listen(rank.world)
        port = listening.getsockname()[1]
        store = TCPStore(
            rank.host,
            port,
            rank.world,
            is_master=True,
            timeout=limit,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        writing.write(file, json.dumps({"host": rank.host, "port": port}).encode())
        return store
    until = time.monotonic() + MEET_SECONDS
    while not file.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"the first rank did not write {file} within {MEET_SECONDS:.0f} s")
        time.sleep(LOOK_SECONDS)
    at = records.read_meeting(file)
    return TCPStore(at.host, at.port, rank.world, is_master=False, timeout=limit)


class _Sum(torch.autograd.Function):
    """The sum over ranks, whose gradient is the sum of gradients over ranks, and so on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Sum."""
        shared = value.clone()
        dist.all_reduce(shared)
        return shared

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum what each rank's loss wants of what they share."""
        return _sum(gradient.contiguous())


def _sum(value: Tensor) -> Tensor:
    shared: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return shared


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of (N, C, H, W) or (N, C) over the whole batch, of all ranks.

    As `torch.nn.SyncBatchNorm`, on CPUs too, and differentiable twice, as a gradient penalty wants.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"batch norm got {input.dim()} dimensions: expected 2 or 4.")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, and note mean and variance for when it is not training."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        kind, input = input.dtype, input.float()  # sums and running figures want more than bfloat16
        over = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = input.numel() // input.shape[1] * dist.get_world_size()
        mean = _sum(input.sum(over)) / count
        centred = input - mean.view(shape)
        variance = _sum(centred.square().sum(over)) / count
        if self.track_running_stats and self.running_mean is not None:
            with torch.no_grad():
                share = 0.1 if self.momentum is None else self.momentum
                unbiased = variance * (count / max(1, count - 1))
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(unbiased, share)  # type: ignore[union-attr]
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        normal: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(kind)
