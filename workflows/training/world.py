"""Collective operations over the ranks of a stage, so that two ranks compute what one would.

A batch is that of all ranks, and each rank has its part of the rows. Gradients are averaged over
ranks, and batch norm covers the whole batch. Random numbers are drawn for the whole batch from a
key (the seed, the step and a purpose), so a step does not depend on the number of ranks, and a
checkpoint holds no generator state.
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

from cluster.ranks.rank_process import Rank
from workflows.training import records, writing

RENDEZVOUS_TIMEOUT_SECONDS = 300.0
"""How long a rank waits for its peers at the start."""
COLLECTIVE_TIMEOUT_SECONDS = 300.0
"""How long a collective operation may take before a peer counts as hanging."""
POLL_SECONDS = 0.05
"""The interval at which a rank looks for the address of rank 0."""


@dataclass(frozen=True)
class World:
    """A rank's view of the world: its number, its device and the collective operations.

    `World()` is a world of one rank, on the CPU. The operations of more ranks work only inside the
    block of `join`.
    """

    rank: int = 0
    """The number of this rank, 0 to size - 1."""
    size: int = 1
    """The number of ranks."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """The device of this rank's tensors (default: the CPU)."""
    control: Any = None
    """The process group for decisions: gloo on CPUs, even where training uses NCCL."""

    def part(self, batch: int) -> slice:
        """Return this rank's rows of a batch as a slice.

        Each rank has equally many rows, rank 0 the first ones.

        Args:
            batch: Number of rows in the batch, over all ranks.

        Raises:
            ValueError: The rows do not divide evenly among the ranks.
        """
        if batch % self.size:
            raise ValueError(
                f"a batch of {batch} cannot be divided evenly among {self.size} ranks."
            )
        per_rank = batch // self.size
        return slice(self.rank * per_rank, (self.rank + 1) * per_rank)

    def normal(self, batch: int, *shape: int, key: tuple[Any, ...]) -> Tensor:
        """Draw this rank's rows of standard normal noise.

        Args:
            batch: Number of rows drawn for the whole batch, over all ranks.
            shape: Shape of a row; without it a row is one number.
            key: The values that decide the draw by their `repr`, such as seed, step and purpose.
                Equal keys give equal draws, for any number of ranks; torch's global generator is
                not used.

        Returns:
            (rows of this rank, *shape) float32 on the rank's device.

        Raises:
            ValueError: The rows do not divide evenly among the ranks.
        """
        drawn = torch.randn(batch, *shape, generator=_generator(key))
        return drawn[self.part(batch)].to(self.device)

    def uniform(self, batch: int, *shape: int, key: tuple[Any, ...]) -> Tensor:
        """Draw this rank's rows of uniform numbers in [0, 1).

        Args:
            batch: Number of rows drawn for the whole batch, over all ranks.
            shape: Shape of a row; without it a row is one number.
            key: The values that decide the draw by their `repr`, such as seed, step and purpose.
                Equal keys give equal draws, for any number of ranks; torch's global generator is
                not used.

        Returns:
            (rows of this rank, *shape) float32 on the rank's device.

        Raises:
            ValueError: The rows do not divide evenly among the ranks.
        """
        drawn = torch.rand(batch, *shape, generator=_generator(key))
        return drawn[self.part(batch)].to(self.device)

    def integers(self, batch: int, high: int, *, key: tuple[Any, ...]) -> Tensor:
        """Draw an integer from 0 to *high* - 1 for each row of this rank.

        Args:
            batch: Number of rows drawn for the whole batch, over all ranks.
            high: Number of possible values, at least 1.
            key: The values that decide the draw by their `repr`, such as seed, step and purpose.
                Equal keys give equal draws, for any number of ranks; torch's global generator is
                not used.

        Returns:
            (rows of this rank,) int64 on the rank's device.

        Raises:
            ValueError: The rows do not divide evenly among the ranks.
        """
        drawn = torch.randint(high, (batch,), generator=_generator(key))
        return drawn[self.part(batch)].to(self.device)

    def seed_dropout(self, key: tuple[Any, ...]) -> None:
        """Seed torch's global generator, by which layers of a library draw their dropout.

        Args:
            key: The values that decide the seed by their `repr`, such as seed and step. Each rank
                draws other numbers, so dropout of this kind depends on the number of ranks.
        """
        torch.manual_seed(_seed((*key, self.rank)))

    def mean(self, values: Tensor) -> Tensor:
        """Return the element-wise mean of a tensor over all ranks, which must all call it.

        More than one rank must call it inside the block of `join`.

        Args:
            values: A tensor of any shape and of a floating-point dtype, on the rank's device, with
                the same shape and dtype in all ranks. It stays unchanged.

        Returns:
            A tensor of the same shape, dtype and device, equal in all ranks; *values* itself if
            there is one rank.
        """
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def batch_mean(self, values: Tensor) -> Tensor:
        """Return the mean of one value for each row over all ranks, with gradients to all of them.

        All ranks must call it with equally many rows, more than one rank inside the block of
        `join`.

        Args:
            values: (n,) float32 on the rank's device.

        Returns:
            A 0-d tensor, equal in all ranks. Its gradients are those of the sum of all ranks'
            losses, so that `average_gradients` gives those of the loss of the whole batch.
        """
        if self.size == 1:
            return values.mean()
        return _sum(values.mean()) / self.size

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, True if any rank has set it: the same answer in all ranks.

        All ranks must call it, with the same number of flags; more than one rank, inside the block
        of `join`.

        Args:
            flags: This rank's flags.
        """
        if self.size == 1:
            return flags
        any_flags = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(any_flags, dist.ReduceOp.MAX, group=self.control)
        return tuple(bool(flag) for flag in any_flags)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of parameters by their mean over all ranks, in one all-reduce.

        All ranks must call it, inside the block of `join`. With one rank it changes nothing, and
        needs no such block.

        Args:
            parameters: Parameters on the rank's device, the same ones in the same order in all
                ranks, of one dtype. Their `grad` is changed in place; those without a gradient are
                skipped, and must be the same ones in all ranks.
        """
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
    """Load an optimiser's statistics from *state*, and keep its present hyperparameters.

    So a run that is continued with another learning rate gets that rate, not the one of the
    checkpoint.

    Args:
        optimiser: The optimiser with the hyperparameters of the options, such as the learning rate,
            which is changed in place. Statistics are moved to the devices of its parameters.
        state: The state dictionary of an optimiser of the same kind and parameters. Tensors that
            are on the right device are not copied: later steps of *optimiser* change them.

    Raises:
        ValueError: The groups of parameters differ.
    """
    groups = optimiser.param_groups
    present = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    optimiser.load_state_dict(state)
    for group, hyperparameters in zip(optimiser.param_groups, present, strict=True):
        group.update(hyperparameters)


def _generator(key: tuple[Any, ...]) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(key))


def _seed(key: tuple[Any, ...]) -> int:
    # Shifted to 63 bits, so that the seed is a non-negative signed integer.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def join(rank: Rank, folder: Path, *, connect_alone: bool = False) -> Iterator[World]:
    """Connect to the other ranks of this generation inside the block.

    The connection is torch's default process group, by NCCL for ranks on GPUs, else by gloo. At the
    end of the block each rank waits for the others, and the connection is closed. After an error in
    the block neither happens, as the others may be gone. A single rank connects to nothing and
    writes nothing, unless *connect_alone* is set.

    Args:
        rank: The `cluster.ranks.rank_process.Rank` of this process: `rank`, its number; `world`,
            the number of ranks; `generation`; `host`, the address of the machine; and `gpu`, True
            if the rank has a GPU.
        folder: A folder that all ranks see, which is created if it is missing. Rank 0 publishes its
            address there as `<generation>.json`, such as `000002.json`.
        connect_alone: True to create the process group of a single rank too, which shows that the
            machine's NCCL or gloo works (default: False).

    Yields:
        The world of this rank, whose device is the first visible GPU for a rank on a GPU, else the
        CPU. Code outside of a rank uses `World()`.

    Raises:
        TimeoutError: Rank 0 did not publish its address within `RENDEZVOUS_TIMEOUT_SECONDS` (300).
        RunFileError: The file with its address has invalid content.
        OSError: The file with its address cannot be written.
        DiskFullError: The disk has no room for it.
    """
    device = torch.device("cuda:0" if rank.gpu else "cpu")
    if rank.world == 1 and not connect_alone:
        yield World(device=device)
        return
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_SECONDS)
    store = _rendezvous(rank, folder / f"{rank.generation:06d}.json")
    backend = "nccl" if rank.gpu else "gloo"
    dist.init_process_group(
        backend,
        store=store,
        rank=rank.rank,
        world_size=rank.world,
        timeout=timeout,
        device_id=device if rank.gpu else None,
    )
    control = dist.new_group(backend="gloo", timeout=timeout) if rank.gpu else None
    # Not in a `finally`: after an error the peers may be gone, and a barrier would wait for them.
    yield World(rank.rank, rank.world, device, control)
    dist.barrier()
    dist.destroy_process_group()


def _rendezvous(rank: Rank, file: Path) -> TCPStore:
    # Torch would listen on all interfaces, so rank 0 passes it a socket bound to its own address.
    limit = timedelta(seconds=RENDEZVOUS_TIMEOUT_SECONDS)
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
    until = time.monotonic() + RENDEZVOUS_TIMEOUT_SECONDS
    while not file.exists():
        if time.monotonic() > until:
            raise TimeoutError(
                f"rank 0 did not write {file} within {RENDEZVOUS_TIMEOUT_SECONDS:.0f} s"
            )
        time.sleep(POLL_SECONDS)
    address = records.read_rendezvous(file)
    return TCPStore(address.host, address.port, rank.world, is_master=False, timeout=limit)


class _AllReduceSum(torch.autograd.Function):
    """A sum over ranks that can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Return the sum of *value* over all ranks."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of the ranks' gradients with respect to the shared sum."""
        return _sum(gradient.contiguous())


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _AllReduceSum.apply(value)  # type: ignore[no-untyped-call]
    return total


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of (N, C, H, W) or (N, C) over the whole batch, of all ranks.

    Unlike `torch.nn.SyncBatchNorm` it runs on CPUs and can be differentiated twice, as a gradient
    penalty requires.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"batch norm got {input.dim()} dimensions: expected 2 or 4.")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise *input* by the batch of all ranks, and update the running statistics.

        In training mode all ranks must call it. In evaluation mode the running statistics normalise
        the input, and are not updated.

        Args:
            input: (N, C, H, W) or (N, C) of float32, float16 or bfloat16, with this rank's rows; N
                is the same in all ranks.

        Returns:
            A new tensor with the shape and dtype of *input*.

        Raises:
            ValueError: *input* has another number of dimensions; or, in training mode with one
                rank, only one value for each channel.
        """
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        dtype, input = input.dtype, input.float()  # bfloat16 is too coarse for sums
        axes = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        count = input.numel() // input.shape[1] * dist.get_world_size()
        mean = _sum(input.sum(axes)) / count
        centred = input - mean.view(shape)
        variance = _sum(centred.square().sum(axes)) / count
        if self.track_running_stats and self.running_mean is not None:
            with torch.no_grad():
                momentum = 0.1 if self.momentum is None else self.momentum
                unbiased = variance * (count / max(1, count - 1))
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(unbiased, momentum)  # type: ignore[union-attr]
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        normalised: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(dtype)


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every `nn.BatchNorm2d` in a model by a batch norm over all ranks, in place.

    The values of weights and running statistics, their device and dtype, and the mode of each
    layer are kept.

    Args:
        model: A network whose layers are replaced at any depth, but not the network itself. They
            have weights and running statistics.

    Returns:
        *model* itself.
    """
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = BatchNorm(child.num_features, child.eps, child.momentum)
            norm.to(child.weight).load_state_dict(child.state_dict())
            setattr(model, name, norm.train(child.training))
        else:
            synchronise_batch_norm(child)
    return model
