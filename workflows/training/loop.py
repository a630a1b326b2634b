"""What a rank does: step after step, until there are enough or it is told to stop.

A stage takes one update after the other; some of them complete a step. Between two updates all
ranks agree whether to save and whether to stop, and what a checkpoint holds is all that the rest
depends on: who goes on from one makes what would have been made.
"""

from __future__ import annotations

import importlib
import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.cores import cores
from cluster.ranks.process import Rank
from pipeline import code_digest
from pipeline.errors import TesseraeError
from workflows.training.batches import AnyLoader, Batches
from workflows.training.errors import DivergedError
from workflows.training.finite import NotFiniteError, finite_or_none, first_not_finite
from workflows.training.image_grid import grid_png
from workflows.training.options import Training
from workflows.training.run_folder import Checkpoint, RunFolder
from workflows.training.world import World, join

PULSE_SECONDS = 1.0
"""Between two words about updates, at least."""


class Stage(Protocol):
    """What is trained. Made in every rank, of the same seed."""

    step: int
    """Steps that are complete."""
    batches: Batches
    """What it takes."""

    def __init__(self, options: Any, data: Data, world: World) -> None:
        """Make it as it is before the first step."""

    def advance(self) -> dict[str, Tensor]:
        """Take the next update; `step` grows by one where it completes a step.

        Returns:
            What is told of the update, each a 0-d tensor of this rank's rows. Where it completed a
            step, what is told of the step: the mean over ranks is noted.
        """

    def look(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """How good it is now: figures, the same in all ranks, and (n, h, w, 3) pictures.

        Called in all ranks at the same step; changes nothing.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class Data:
    """What a stage learns from."""

    train: AnyLoader
    """Of the whole batch: a stage takes its rank's part of it."""
    held_out: AnyLoader | None
    """Of a split that nothing is learned from."""
    classes: tuple[str, ...]
    """In words, of label 0, 1, ..."""
    beside: int = 1
    """Ranks that are on this machine."""
    folder: str = ""
    """Of the run, with whatever else the stage was given there."""


@dataclass(frozen=True)
class Job:
    """What ranks are to do."""

    stage: str
    """`module:class`."""
    folder: str
    options: Training
    data: Data
    resumed: str | None
    """The checkpoint that they go on from."""
    code: str = ""
    """What `pipeline.code_digest.digest` says where the run was begun; empty = any will do."""
    torch: str = ""
    """The version of torch there; empty = any will do."""


def train(rank: Rank, job: Job) -> str:
    """Do it: what runs in each rank. Returns `done`, or where it stopped."""
    code_digest.check(job.code)  # a worker that came after all were asked, or whose files changed
    _check_torch(job.torch)
    torch.set_num_threads(job.options.rank_threads or max(1, cores() // rank.beside))
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
            f"torch is {actual} on {socket.gethostname()} and {expected} where the run was begun:"
            " expected the same version. Install it there, and start the worker again."
        )


def make_stage(job: Job, world: World, *, beside: int = 1) -> Stage:
    """The stage of *job*, as it is before its first step."""
    module, _, name = job.stage.partition(":")
    torch.manual_seed(job.options.seed)
    data = replace(job.data, beside=beside, folder=job.folder)
    made: Stage = getattr(importlib.import_module(module), name)(job.options, data, world)
    return made


class _Loop:
    def __init__(self, rank: Rank, job: Job, folder: RunFolder, world: World) -> None:
        self._rank = rank
        self._options = job.options
        self._folder = folder
        self._world = world
        self._updates = 0
        self._told: list[tuple[int, dict[str, Tensor]]] = []
        self._stage = make_stage(job, world, beside=rank.beside)
        self._checked = -1
        """Updates after which the state was last seen to be finite."""
        if job.resumed is not None:
            state = folder.load(Checkpoint.named(job.resumed))
            self._refuse_resumed(state["stage"])
            self._stage.load_state_dict(state["stage"])
            self._updates = state["updates"]
        self._began = self._saved_at = time.monotonic()
        self._clock = _Clock(self._stage)
        self._pulse = _Pulse()

    def run(self) -> str:
        """Train to the last step, or until it is to stop; says which."""
        options, stage = self._options, self._stage
        self._say_begun()
        while stage.step < options.steps:
            before = stage.step
            told = stage.advance()
            self._updates += 1
            if not self._world.rank and (beat := self._pulse.beat(told)) is not None:
                self._rank.emit(what="update", step=stage.step, **beat)
            complete = stage.step > before
            if complete:
                self._note(told)
            stop, over, save = self._world.any(*self._wishes())
            if over:
                self._look()
            if save or over or stop or (complete and stage.step % options.save_every == 0):
                self._save()
            if over or stop:
                return f"stopped at step {stage.step:,}"
        self._save()
        return "done"

    def _say_begun(self) -> None:
        self._rank.emit(
            what="begun",
            step=self._stage.step,
            world=self._world.size,
            beside=self._rank.beside,
            cores=None if self._rank.gpu else cores(),
        )

    def close(self) -> None:
        """Let go of files and threads."""
        self._stage.batches.close()

    def _note(self, told: dict[str, Tensor]) -> None:
        """A step is complete."""
        options, step = self._options, self._stage.step
        self._told.append((step, told))
        if step % options.look_every == 0 or step == options.steps:
            self._look()
        if len(self._told) >= options.tell_every:
            self._tell()

    def _wishes(self) -> tuple[bool, bool, bool]:
        """Whether this rank is to stop, whether its time is over, and whether it would save."""
        now, options = time.monotonic(), self._options
        over = options.minutes is not None and now - self._began > 60 * options.minutes
        due = now - self._saved_at > 60 * options.save_minutes
        return self._rank.stopping.is_set(), over, due

    def _look(self) -> None:
        self._tell()
        self._check_state()
        step = self._stage.step
        try:
            figures, pictures = self._stage.look()
        except NotFiniteError as e:  # weights are finite, and what they make is not
            self._diverge(step, str(e))
        if self._world.rank:
            return
        if figures:
            self._say({"what": "look", "step": step, **figures})
        for name, images in pictures.items():
            png = grid_png(images)
            self._folder.picture(name, step, png)
            self._rank.emit(what="grid", step=step, name=name)
        self._rank.emit(what="told", step=step, lines=[{"step": step, **figures}])

    def _tell(self) -> None:
        """Say what the steps since the last time were like."""
        if not self._told:
            return
        names = sorted(self._told[0][1])
        rows = torch.stack(
            [torch.stack([told[name].float() for name in names]) for _, told in self._told]
        )
        values = self._world.mean(rows).tolist()
        steps = [step for step, _ in self._told]
        self._told = []
        lines = [
            {"step": step, **dict(zip(names, row, strict=True))}
            for step, row in zip(steps, values, strict=True)
        ]
        self._check_lines(lines)
        if self._world.rank:
            return
        for line in lines:
            self._say(line)
        speed = self._clock.since()
        self._say({"what": "speed", "step": steps[-1], **speed})
        self._rank.emit(what="told", step=steps[-1], lines=lines, speed=speed)

    def _say(self, line: dict[str, Any]) -> None:
        self._folder.say({**line, "generation": self._rank.generation})

    def _save(self) -> None:
        self._tell()
        self._check_state()
        self._saved_at = time.monotonic()
        if self._world.rank:
            return
        state = {"stage": self._stage.state_dict(), "updates": self._updates}
        checkpoint = Checkpoint(self._rank.generation, self._updates)
        self._folder.save(checkpoint, state, step=self._stage.step)

    # --- values that are not finite ---------------------------------------------------------------

    def _check_lines(self, lines: list[dict[str, float]]) -> None:
        """End the run at the first figure that is not finite. They are those of all ranks."""
        for place, line in enumerate(lines):
            for name, value in line.items():
                if not math.isfinite(value):
                    if not self._world.rank:
                        for said in lines[: place + 1]:
                            self._say(said)
                    self._diverge(int(line["step"]), f"{name} is {value}")

    def _check_state(self) -> None:
        """End the run where what a checkpoint would hold is not finite.

        At checkpoints and looks alone: it waits for the device, and reads all of the state.
        """
        if self._checked == self._updates:
            return
        self._checked = self._updates
        bad = first_not_finite(self._stage.state_dict())
        if self._world.any(bad is not None)[0]:
            name = bad or "the state of another rank"
            self._diverge(self._stage.step, f"{name} holds values that are not finite")

    def _diverge(self, step: int, fault: str) -> NoReturn:
        steps = self._folder.steps()
        last = f"--from-step {steps[-1]}" if steps else "--from-step 0"
        saved = f"the last checkpoint is of step {steps[-1]:,}" if steps else "nothing was saved"
        why = (
            f"training diverged at step {step:,}: {fault}; {saved}. Lower"
            f" {self._options.to_lower()}, and go on with {last}, or in another folder."
        )
        if not self._world.rank:
            self._say({"what": "diverged", "step": step, "why": why})
        raise DivergedError(why)

    def _refuse_resumed(self, state: Mapping[str, Any]) -> None:
        """Refuse to go on from weights that earlier versions saved though they were not finite."""
        bad = first_not_finite(state)
        if bad is not None:
            steps = ", ".join(f"{step:,}" for step in [0, *self._folder.finite_steps()])
            raise DivergedError(
                f"the checkpoint of step {state['step']:,} holds values that are not finite"
                f" ({bad}): lower {self._options.to_lower()}, and go back with --from-step to one"
                f" of {steps}."
            )


class _Clock:
    """How fast it goes."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._mark()

    def _mark(self) -> None:
        self._at = time.perf_counter()
        self._step = self._stage.step
        self._taken = self._stage.batches.taken
        self._waited = self._stage.batches.waited

    def since(self) -> dict[str, float]:
        """Steps and images a second, and the share of time that the loader was waited for."""
        before = (self._at, self._step, self._taken, self._waited)
        self._mark()
        seconds = max(1e-9, self._at - before[0])
        return {
            "steps_per_second": (self._step - before[1]) / seconds,
            "images_per_second": (self._taken - before[2]) / seconds,
            "wait_share": (self._waited - before[3]) / seconds,
        }


class _Pulse:
    """Says what updates are like and cost, long before the first figures of steps are there.

    A step may have a hundred updates, and losses of steps are told by tens of them. The figures of
    an update are those of this rank's rows: no other rank is waited for, and the device each second
    at most.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._updates = 0
        self._first = self._last = clock()

    def beat(self, told: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Count an update.

        Args:
            told: What the stage told of it.

        Returns:
            What is to be said of the first update, and then once a second: updates since the ranks
            began, the seconds of all but the first and of each of those, and the newest losses;
            None in between.
        """
        self._updates += 1
        if self._updates > 1 and self._clock() - self._last < PULSE_SECONDS:
            return None
        losses = {name: finite_or_none(float(value)) for name, value in told.items()}
        self._last = self._clock()  # now that the device has done what it was handed
        if self._updates == 1:
            self._first = self._last  # the first one opens files and chooses kernels
        seconds = self._last - self._first
        return {
            "updates": self._updates,
            "seconds": seconds,
            "seconds_an_update": seconds / (self._updates - 1) if self._updates > 1 else None,
            "losses": losses,
        }
