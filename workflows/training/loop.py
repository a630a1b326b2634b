"""The training loop of a rank: it takes steps until there are enough or a stop is requested.

A stage takes one update after the other; some of them complete a step. Between two updates all
ranks agree whether to save and whether to stop. A checkpoint holds everything that later updates
depend on, so a resumed run computes what an uninterrupted one would.
"""

from __future__ import annotations

import math
import pkgutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from cluster.limits import cores
from cluster.ranks.rank_process import Rank
from pipeline import code_digest
from pipeline.errors import TesseraeError
from workflows.training.errors import DivergedError
from workflows.training.finite import NonFiniteError, finite_or_none, first_non_finite
from workflows.training.image_grid import grid_png
from workflows.training.options import TrainingOptions
from workflows.training.run_folder import Checkpoint, RunFolder
from workflows.training.stage import Data, Stage
from workflows.training.world import World, join

UPDATE_EVENT_SECONDS = 1.0
"""The minimum interval between two progress events of updates."""


@dataclass(frozen=True)
class TrainingJob:
    """The work of a rank, sent from the command."""

    stage: str
    """The stage class, as `module:class`."""
    folder: str
    """The absolute path of the run folder."""
    options: TrainingOptions
    """The options of the stage."""
    data: Data
    """The loaders of the training and held-out rows."""
    resumed: str | None
    """The name of the checkpoint to resume; None = train from scratch."""
    code: str = ""
    """The `running_code_digest` of the command; empty = any code."""
    torch: str = ""
    """The command's version of torch; empty = any version."""


def train(rank: Rank, job: TrainingJob) -> str:
    """Run a training job in this rank, to its last step or until a stop is requested.

    All ranks of the world run it at the same time, each in a process that
    `cluster.ranks.world.run_world` has started. It reports progress by `rank.emit`. Rank 0
    writes checkpoints, metrics and samples to the run folder. In the whole process it sets the
    number of torch's threads and torch's global seed and, on a GPU, cuDNN's benchmark mode and the
    precision `high` of float32 matrix products.

    Args:
        rank: The `cluster.ranks.rank_process.Rank` of this process, with its number, its device and
            the request to stop.
        job: The `stage`, its class as `module:class`; its `options` and `data`; `folder`, the
            absolute path of the run folder as text, which exists; `resumed`, the name of the
            checkpoint to resume, or None; and `code` and `torch`, the command's
            `running_code_digest` and version of torch, with which this process is compared (empty:
            no comparison).

    Returns:
        `done` after the last step; `stopped at step N`, where N has commas between thousands, if a
        stop was requested of any rank or the time of the option `minutes` was over. The state is
        saved before it returns.

    Raises:
        DivergedError: A metric or a weight is NaN or infinite, in the run or in the checkpoint to
            resume.
        DiskFullError: The disk has no room for a checkpoint or another file of the run folder.
        TesseraeError: The code or the version of torch differs from that of the command, a file of
            the run folder or the store cannot be read, or the split has fewer readable images than
            a batch.
        TimeoutError: Rank 0 did not publish its address within five minutes.
    """
    # A worker may join, or its files change, after the command's check.
    code_digest.check_same_code(job.code)
    _check_torch(job.torch)
    torch.set_num_threads(job.options.threads_per_rank or max(1, cores() // rank.ranks_on_host))
    if rank.gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    folder = RunFolder(Path(job.folder))
    with join(rank, folder.path / "meetings") as world:
        loop = _Loop(rank, job, folder, world)
        try:
            return loop.run()
        finally:
            loop.close()


def _check_torch(expected: str) -> None:
    actual = version("torch")
    if expected and actual.partition("+")[0] != expected.partition("+")[0]:
        raise TesseraeError(
            f"torch is {actual} on {socket.gethostname()} and {expected} where the command runs:"
            " expected the same version. Install it there, and restart the worker."
        )


def make_stage(job: TrainingJob, world: World, *, ranks_on_host: int = 1) -> Stage:
    """Return a new stage of the class that *job* names, in its state before the first step.

    It sets torch's global seed to that of the options, so that every rank draws the same initial
    weights. The checkpoint to resume is not loaded.

    Args:
        job: The `stage`, its class as `module:class`, not its name; its `options` and `data`; and
            `folder`, the path of the run folder. It is only read: the stage gets a copy of the data
            with *ranks_on_host* and the run folder.
        world: The rank that the stage runs in, with its device; `World()` in a process that is no
            rank.
        ranks_on_host: Number of ranks on this machine, which share its cores and memory (default
            1).

    Raises:
        ImportError: There is no such module.
        AttributeError: The module has no such class.
    """
    torch.manual_seed(job.options.seed)
    data = replace(job.data, ranks_on_host=ranks_on_host, folder=job.folder)
    stage: Stage = pkgutil.resolve_name(job.stage)(job.options, data, world)
    return stage


class _Loop:
    def __init__(self, rank: Rank, job: TrainingJob, folder: RunFolder, world: World) -> None:
        self._rank = rank
        self._options = job.options
        self._folder = folder
        self._world = world
        self._updates = 0
        self._unreported: list[tuple[int, dict[str, Tensor]]] = []
        self._stage = make_stage(job, world, ranks_on_host=rank.ranks_on_host)
        self._checked = -1
        """The number of updates at the last check that the state is finite."""
        if job.resumed is not None:
            state = folder.load(Checkpoint.from_name(job.resumed))
            self._refuse_resumed(state["stage"])
            self._stage.load_state_dict(state["stage"])
            self._updates = state["updates"]
        self._started_at = self._saved_at = time.monotonic()
        self._speed = _SpeedMeter(self._stage)
        self._update_events = _UpdateEvents()

    def run(self) -> str:
        """Train to the last step, or until a stop is requested; return which happened."""
        options, stage = self._options, self._stage
        self._report_start()
        if stage.step == 0 and options.evaluated_at_start:
            self._evaluate()
        while stage.step < options.steps:
            before = stage.step
            metrics = stage.advance()
            self._updates += 1
            if not self._world.rank and (event := self._update_events.count(metrics)) is not None:
                self._rank.emit(what="update", step=stage.step, **event)
            complete = stage.step > before
            if complete:
                self._record_step(metrics)
            # Ranks must agree: one that stopped alone would leave its peers in a collective.
            stop, out_of_time, save = self._world.any(*self._requests())
            if out_of_time:
                self._evaluate()
            if save or out_of_time or stop or (complete and stage.step % options.save_every == 0):
                self._save()
            if out_of_time or stop:
                return f"stopped at step {stage.step:,}"
        self._save()
        return "done"

    def _report_start(self) -> None:
        self._rank.emit(
            what="start",
            step=self._stage.step,
            world=self._world.size,
            ranks_on_host=self._rank.ranks_on_host,
            cores=None if self._rank.gpu else cores(),
        )

    def close(self) -> None:
        """Release files and threads."""
        self._stage.batches.close()

    def _record_step(self, metrics: dict[str, Tensor]) -> None:
        """Record the metrics of a complete step; evaluate and report when they are due."""
        options, step = self._options, self._stage.step
        self._unreported.append((step, metrics))
        if step % options.eval_every == 0 or step == options.steps:
            self._evaluate()
        if len(self._unreported) >= options.log_every:
            self._report()

    def _requests(self) -> tuple[bool, bool, bool]:
        """Return this rank's flags: a stop is requested, its time is over, a checkpoint is due."""
        now, options = time.monotonic(), self._options
        limit = options.minutes
        out_of_time = limit is not None and now - self._started_at > 60 * limit
        save = now - self._saved_at > 60 * options.save_minutes
        return self._rank.stopping.is_set(), out_of_time, save

    def _evaluate(self) -> None:
        self._report()
        self._check_state()
        step = self._stage.step
        try:
            metrics, grids = self._stage.evaluate()
        except NonFiniteError as e:  # weights may be finite while their output is not
            self._diverge(step, str(e))
        if self._world.rank:
            return
        if metrics:
            self._log({"what": "look", "step": step, **metrics})
        for name, images in grids.items():
            png = grid_png(images)
            self._folder.save_samples(name, step, png)
            self._rank.emit(what="grid", step=step, name=name)
        self._rank.emit(what="metrics", step=step, lines=[{"step": step, **metrics}])

    def _report(self) -> None:
        """Log and emit the metrics of the steps since the last report, averaged over ranks."""
        if not self._unreported:
            return
        names = sorted(self._unreported[0][1])
        rows = torch.stack(
            [
                torch.stack([metrics[name].float() for name in names])
                for _, metrics in self._unreported
            ]
        )
        values = self._world.mean(rows).tolist()
        steps = [step for step, _ in self._unreported]
        self._unreported = []
        lines = [
            {"step": step, **dict(zip(names, row, strict=True))}
            for step, row in zip(steps, values, strict=True)
        ]
        self._check_lines(lines)
        if self._world.rank:
            return
        for line in lines:
            self._log(line)
        speed = self._speed.measure()
        self._log({"what": "speed", "step": steps[-1], **speed})
        self._rank.emit(what="metrics", step=steps[-1], lines=lines, speed=speed)

    def _log(self, line: dict[str, Any]) -> None:
        self._folder.log({**line, "generation": self._rank.generation})

    def _save(self) -> None:
        self._report()
        self._check_state()
        self._saved_at = time.monotonic()
        if self._world.rank:
            return
        state = {"stage": self._stage.state_dict(), "updates": self._updates}
        checkpoint = Checkpoint(self._rank.generation, self._updates)
        self._folder.save(checkpoint, state, step=self._stage.step)

    # --- values that are not finite ---------------------------------------------------------------

    def _check_lines(self, lines: list[dict[str, float]]) -> None:
        """End the run at the first metric that is not finite; all ranks have the same lines."""
        for index, line in enumerate(lines):
            for name, value in line.items():
                if not math.isfinite(value):
                    if not self._world.rank:
                        for earlier in lines[: index + 1]:
                            self._log(earlier)
                    self._diverge(int(line["step"]), f"{name} is {value}")

    def _check_state(self) -> None:
        """End the run if the state that a checkpoint would hold is not finite.

        Called only at checkpoints and evaluations: it synchronises the device and reads the whole
        state.
        """
        if self._checked == self._updates:
            return
        self._checked = self._updates
        bad_name = first_non_finite(self._stage.state_dict())
        if self._world.any(bad_name is not None)[0]:
            name = bad_name or "the state of another rank"
            self._diverge(self._stage.step, f"{name} contains NaN or infinity")

    def _diverge(self, step: int, fault: str) -> NoReturn:
        steps = self._folder.checkpoint_steps()
        last = f"--from-step {steps[-1]}" if steps else "--from-step 0"
        saved = (
            f"the last checkpoint is of step {steps[-1]:,}" if steps else "no checkpoint was saved"
        )
        why = (
            f"training diverged at step {step:,}: {fault}; {saved}. Lower"
            f" {self._options.options_to_lower()} and resume with {last}, or start a new run with"
            " another --run."
        )
        if not self._world.rank:
            self._log({"what": "diverged", "step": step, "why": why})
        raise DivergedError(why)

    def _refuse_resumed(self, state: Mapping[str, Any]) -> None:
        """Refuse to resume from weights that are not finite, which earlier versions could save."""
        bad_name = first_non_finite(state)
        if bad_name is not None:
            steps = ", ".join(f"{step:,}" for step in [0, *self._folder.finite_checkpoint_steps()])
            raise DivergedError(
                f"the checkpoint of step {state['step']:,} contains NaN or infinity ({bad_name})."
                f" Lower {self._options.options_to_lower()} and resume with --from-step from one of"
                f" {steps}."
            )


class _SpeedMeter:
    """Measures the speed of training between two reports."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._mark()

    def _mark(self) -> None:
        self._at = time.perf_counter()
        self._step = self._stage.step
        self._rows = self._stage.batches.rows_taken
        self._waited = self._stage.batches.wait_seconds

    def measure(self) -> dict[str, float]:
        """Return the speed since the last call.

        Returns:
            Steps and images per second, and the share of time spent waiting for the loader (0..1).
        """
        before = (self._at, self._step, self._rows, self._waited)
        self._mark()
        seconds = max(1e-9, self._at - before[0])
        return {
            "steps_per_second": (self._step - before[1]) / seconds,
            "images_per_second": (self._rows - before[2]) / seconds,
            "wait_share": (self._waited - before[3]) / seconds,
        }


class _UpdateEvents:
    """Events with the metrics and the cost of updates, long before the first steps are reported.

    A step may have a hundred updates, and steps are reported by tens. The metrics of an update are
    those of this rank's rows, so no other rank is waited for, and the device is synchronised at
    most once a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._updates = 0
        self._first = self._last = clock()

    def count(self, metrics: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Count an update and return an event when one is due.

        Args:
            metrics: The metrics that the stage returned for the update.

        Returns:
            For the first update, and then once a second: the number of updates since the ranks
            started, the seconds of all but the first, the mean seconds of those, and the newest
            losses. None in between.
        """
        self._updates += 1
        if self._updates > 1 and self._clock() - self._last < UPDATE_EVENT_SECONDS:
            return None
        losses = {name: finite_or_none(float(value)) for name, value in metrics.items()}
        self._last = self._clock()  # `float` has synchronised the device by now
        if self._updates == 1:
            self._first = self._last  # the first update opens files and selects kernels
        seconds = self._last - self._first
        return {
            "updates": self._updates,
            "seconds": seconds,
            "seconds_an_update": seconds / (self._updates - 1) if self._updates > 1 else None,
            "losses": losses,
        }
