"""The progress of a training run, shown in the terminal and on the dashboard while ranks train."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Self

from workflows.cluster_kinds import CommandCluster
from workflows.dashboard.plugin import TOPIC, install_page
from workflows.dashboard.publisher import end_message
from workflows.terminal.formatting import seconds_text
from workflows.terminal.progress import Progress
from workflows.training.image_grid import jpeg_preview
from workflows.training.options import TrainingOptions
from workflows.training.run_folder import RunFolder

COST_SECONDS = 3.0
"""How long updates are timed before the cost of a step is reported."""


class RunWatcher:
    """Shows the events of a run's ranks in the terminal and on the dashboard.

    It is a context manager: when the block ends, the dashboard shows whether the run has failed.
    """

    def __init__(
        self,
        cluster: CommandCluster,
        folder: RunFolder,
        options: TrainingOptions,
        progress: Progress,
    ) -> None:
        """Announce the run on the dashboard.

        Args:
            cluster: The cluster that runs the ranks and has the dashboard.
            folder: The run folder, from which sample grids are read.
            options: The options of the run.
            progress: The display in the terminal.
        """
        self._cluster = cluster
        self._folder = folder
        self._name = folder.path.absolute().name
        self._path = str(folder.path.resolve())
        self._progress = progress
        self._options = options
        self._command_start: int | None = None
        """The number of complete updates when the command started."""
        self._ranks_start = self._max_updates = 0
        """The number of complete updates when the ranks started, and the largest so far."""
        self._step = 0
        self._losses: dict[str, Any] = {}
        """The metrics of the newest step or evaluation, and of the updates after it."""
        self._cost_reported = False
        self._repeating = False
        """True while the ranks repeat updates that were complete before a rank was lost."""
        self.events: deque[dict[str, Any]] = deque()
        """Events of ranks. Another thread appends them; `tick` removes them."""
        client = cluster.client
        self._has_dashboard = bool(client.run_on_scheduler(install_page))
        self._send(
            {
                "what": "training",
                "client": client.id,
                "folder": str(folder.path),
                "steps": options.steps,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with suppress(Exception):  # a failing dashboard must hide neither the result nor the error
            self.tick()
            self._send(end_message(error, seconds=0.0))

    def tick(self) -> None:
        """Show the events received since the last call, and check the cluster."""
        messages: list[dict[str, Any]] = []
        while self.events:
            event = self.events.popleft()
            handler = {
                "start": self._on_start, "update": self._on_update, "metrics": self._on_metrics,
                "grid": self._on_grid,
            }.get(event["what"])  # fmt: skip
            if handler is not None:
                messages += handler(event)
        self._send(*messages)
        self._cluster.maintain()

    def _send(self, *messages: dict[str, Any]) -> None:
        if messages and self._has_dashboard:
            # The full path identifies a run: folders may hold runs of the same name.
            entries = [{"run": self._path, **message} for message in messages]
            self._cluster.client.log_event(TOPIC, entries)

    def _on_start(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if event["rank"] == 0:
            self._ranks_start = self._options.updates_after(event["step"])
            if self._command_start is None:
                self._command_start = self._max_updates = self._ranks_start
                self._progress.set_initial_rows(self._ranks_start)
            self._step = event["step"]
            for line in start_lines(event, self._options):
                self._progress.note(f"{self._name}: {line}")
            yield {"what": "begun", "step": event["step"], "ranks": event["world"]}

    def _on_update(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._losses.update(event["losses"])
        first = event["updates"] == 1  # its duration includes starting ranks and opening files
        self._update_position(event["step"], self._ranks_start + event["updates"], first=first)
        cost = event["seconds_an_update"]
        if cost is not None and event["seconds"] >= COST_SECONDS and not self._cost_reported:
            self._cost_reported = True
            self._progress.note(f"{self._name}: {cost_line(self._options, self._step, cost)}")
        yield {"what": "left", "step": event["step"], "seconds": self._progress.seconds_left()}

    def _on_metrics(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if event["lines"]:
            self._losses = dict(event["lines"][-1])
        self._update_position(event["step"], self._options.updates_after(event["step"]))
        for line in event["lines"]:
            for name, value in line.items():
                if name != "step" and value is not None:
                    yield {"what": "curve", "name": name, "step": line["step"], "value": value}
        if "speed" in event:
            yield {"what": "speed", "step": event["step"], **event["speed"]}
        yield {"what": "left", "step": event["step"], "seconds": self._progress.seconds_left()}

    def _on_grid(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        name, step = event["name"], event["step"]
        with suppress(OSError):  # a network file system may show the file later
            jpeg = jpeg_preview(self._folder.samples_file(name, step).read_bytes())
            yield {"what": "grid", "name": name, "step": step, "jpeg": jpeg}

    def _update_position(self, step: int, updates: int, *, first: bool = False) -> None:
        """Count complete updates and show the position.

        Args:
            step: Number of complete steps.
            updates: Number of complete updates.
            first: True for the first update of the ranks, which counts for no rate. Neither do
                updates that are repeated after a rank was lost.
        """
        updates = min(updates, self._options.updates_after(step + 1))
        new_updates = max(0, updates - self._max_updates)
        self._max_updates += new_updates
        self._step = max(step, self._step)
        steps = "" if self._options.minutes is not None else f" of {self._options.steps:,}"
        warmup = self._options.warmup_text(self._step)
        parts = (f"step {self._step:,}{steps}", warmup, losses_line(self._losses))
        self._progress.detail(", ".join(filter(None, parts)))
        if first or (new_updates and self._repeating):
            self._progress.restart_rates(rows=new_updates)
        elif new_updates:
            self._progress.update(rows=new_updates)
        self._repeating = not new_updates and (first or self._repeating)


def start_lines(event: dict[str, Any], options: TrainingOptions) -> Iterator[str]:
    """Yield the lines that describe a start of ranks: their number, step and part of a batch.

    Args:
        event: The event of a rank's start: `world`, the number of ranks; `step`, the number of
            complete steps; `ranks_on_host`, the number of ranks on its machine (1 if it is
            missing); and `cores`, the number of cores that they share. Without `cores`, or if it is
            None, as for a rank on a GPU, there is no notice.
        options: The options of the run.

    Yields:
        A line such as `training on 2 ranks from step 500; batch size 64, 32 per rank`, or `training
        on 1 rank from scratch`; and a notice if more ranks share the cores of a machine than it
        has. Lines do not end in a newline.
    """
    world, step = event["world"], event["step"]
    origin = "from scratch" if not step else f"from step {step:,}"
    per_rank = options.batch_size // world
    batch = "" if world == 1 else f"; batch size {options.batch_size:,}, {per_rank:,} per rank"
    yield f"training on {world} rank{'s' * (world != 1)} {origin}{batch}"
    ranks_on_host, cores = event.get("ranks_on_host", 1), event.get("cores")
    if cores is not None and ranks_on_host > cores:
        yield (
            f"notice: {ranks_on_host} ranks share {cores} core{'s' * (cores != 1)} on one machine;"
            f" --ranks {cores} is faster"
        )


def cost_line(options: TrainingOptions, step: int, seconds: float) -> str:
    """Return a line with the duration of a step, the time left, and options that speed it up.

    An update is one call of `Stage.advance`; a step of a GAN has several, and then the line also
    has their number and duration, and the duration of a step of the warm-up.

    Args:
        options: The options of the run, which say how many updates a step has.
        step: Number of complete steps.
        seconds: Mean duration of an update, in seconds.

    Returns:
        The line, without a newline, such as `about 500 ms per step; 1 min 20 s left for 160 steps.
        To speed up: a smaller --batch-size.`
    """
    updates = options.updates_per_step
    next_updates = options.updates_after(step + 1) - options.updates_after(step)
    updates_left = options.updates_after(options.steps) - options.updates_after(step)
    cost = f"about {seconds_text(updates * seconds)} per step"
    if updates > 1:
        cost += f" ({updates:,} updates of {seconds_text(seconds)})"
    if next_updates != updates:
        warmup_seconds = seconds_text(next_updates * seconds)
        cost += f"; during the warm-up {warmup_seconds} ({next_updates:,} updates)"
    steps_left = options.steps - step
    return (
        f"{cost}; {seconds_text(updates_left * seconds)} left for {steps_left:,} steps. To speed"
        f" up: {options.speedup_options()}."
    )


def losses_line(line: Mapping[str, Any]) -> str:
    """Return the metrics of a step as one line, without those that are None.

    Args:
        line: Metrics by name, numbers in the order of the result; None for one that is not finite.
            An entry `step` is left out.

    Returns:
        The metrics with four digits each, and spaces for the underscores of their names, such as
        `critic loss -0.1234, estimate 0.1234`; empty if there are none.
    """
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in line.items()
        if name != "step" and value is not None
    )
