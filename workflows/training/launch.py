"""The command's side of a training run: start ranks on a cluster and show their progress."""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, Self

from cluster.ranks.world import WorldConfig, run_world
from pipeline import code_digest
from pipeline.features.loader import FeatureLoader
from pipeline.store.open import open_objects
from pipeline.store.records import load_plan
from workflows.dashboard.plugin import TOPIC, install
from workflows.dashboard.publisher import end_message
from workflows.session import Cluster
from workflows.terminal.formatting import seconds_text
from workflows.terminal.progress import Progress
from workflows.training.image_grid import smaller
from workflows.training.loop import Data, TrainingJob
from workflows.training.options import FREE, TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.training.stages import import_location, recorded_name

ENTRY = "workflows.training.loop:train"
COST_SECONDS = 3.0
"""How long updates are timed before the cost of a step is reported."""
PACKAGES = ("torch", "numpy", "zarr", "tesserae")
"""The packages whose versions are recorded in `options.json`."""


def train_on(
    cluster: Cluster,
    wanted: WorldConfig,
    stage: str,
    options: TrainingOptions,
    data: Data,
    folder: RunFolder,
    *,
    from_step: int | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """Train a stage on ranks of *cluster* to its end, restarting the ranks when one is lost.

    Args:
        cluster: The cluster that runs the ranks.
        wanted: The number and kind of ranks.
        stage: The stage (`workflows.training.loop.Stage`): its name in
            `workflows.training.stages.STAGES`, or `module:class`.
        options: The options of the stage.
        data: The loaders of the training and held-out rows.
        folder: The run folder, which all machines see. A run that it holds is continued.
        from_step: The step of an earlier checkpoint to go back to (default None: the newest).
        files: Further files of a new run folder, as name -> content.

    Returns:
        `done`, or the step at which training stopped.

    Raises:
        TrainingRankError: Training fails.
        ClusterError: No worker arrives, or a worker has other code or another torch.
        TesseraeError: The folder holds another run.
    """
    cluster.check_ranks(gpu=wanted.gpu)
    facts = {"versions": versions(), "data": _described(data, folder)}
    state = data.train.state_dict()
    learned = {
        "split": data.train.split,
        "stored_size": data.train.sizes[0],
        "rows": state["split"],
        "features": state.get("features"),
    }
    folder.begin(
        {"stage": recorded_name(stage), **learned, **options.as_dict()},
        facts,
        free=FREE,
        complete=options.complete,
        changeable=options.changeable(),
        from_step=from_step,
        files=files,
    )
    # Only the first generation goes back; later ones continue from its checkpoints.
    back = deque([] if from_step is None else [from_step])

    def begin(world: int) -> tuple[int, tuple[Any, ...]]:
        number, resumed = folder.claim(from_step=back.popleft() if back else None)
        name = None if resumed is None else resumed.name
        code, torch = code_digest.digest(), facts["versions"]["torch"]
        location, path = import_location(stage), str(folder.path.absolute())
        job = TrainingJob(location, path, options, data, name, code, torch)
        return number, (job,)

    name = folder.path.absolute().name
    updates = options.updates_to(options.steps)
    rows = updates if options.minutes is None else None
    unit = "steps" if updates == options.steps else "updates"
    with (
        Progress(f"{name}: train", rows=rows, unit=unit) as progress,
        _Watcher(cluster, folder, options, progress) as watcher,
    ):
        results = run_world(
            cluster.client,
            wanted,
            ENTRY,
            begin,
            on_event=watcher.events.append,
            report=progress.note,
            tick=watcher.tick,
        )
    return str(results[0])


def _described(data: Data, folder: RunFolder) -> dict[str, Any]:
    store = data.train.store
    near = None
    if "://" not in store:
        near = os.path.relpath(os.path.realpath(store), os.path.realpath(folder.path))
    return {
        "store": store,
        "store_from_run": near,
        "plan": load_plan(open_objects(store), data.train.split).digest,
        "split": data.train.split,
        "size": data.train.sizes[0],
        "features": data.train.name if isinstance(data.train, FeatureLoader) else None,
        "held_out": None if data.held_out is None else data.held_out.split,
        "classes": list(data.classes),
        "wnids": [wnid for wnid, _ in data.train.classes],
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the main packages, by name."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        installed[package] = version(package)
    return installed


class _Watcher:
    """Shows the events of ranks in the terminal and on the dashboard."""

    def __init__(
        self, cluster: Cluster, folder: RunFolder, options: TrainingOptions, progress: Progress
    ) -> None:
        self._cluster = cluster
        self._folder = folder
        self._name = folder.path.absolute().name
        self._path = str(folder.path.resolve())
        self._progress = progress
        self._options = options
        self._command_start: int | None = None
        """The number of complete updates when the command started."""
        self._ranks_start = self._furthest = 0
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
        self._page = bool(client.run_on_scheduler(install))
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
            show = {
                "begun": self._on_begun, "update": self._on_update, "told": self._on_metrics,
                "grid": self._on_grid,
            }.get(event["what"])  # fmt: skip
            if show is not None:
                messages += show(event)
        self._send(*messages)
        self._cluster.maintain()

    def _send(self, *messages: dict[str, Any]) -> None:
        if messages and self._page:
            # The full path identifies a run: folders may hold runs of the same name.
            entries = [{"run": self._path, **message} for message in messages]
            self._cluster.client.log_event(TOPIC, entries)

    def _on_begun(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if event["rank"] == 0:
            self._ranks_start = self._options.updates_to(event["step"])
            if self._command_start is None:
                self._command_start = self._furthest = self._ranks_start
                self._progress.set_initial_rows(self._ranks_start)
            self._step = event["step"]
            for line in _beginning(event, self._options):
                self._progress.note(f"{self._name}: {line}")
            yield {"what": "begun", "step": event["step"], "ranks": event["world"]}

    def _on_update(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._losses.update(event["losses"])
        first = event["updates"] == 1  # its duration includes starting ranks and opening files
        self._reach(event["step"], self._ranks_start + event["updates"], first=first)
        cost = event["seconds_an_update"]
        if cost is not None and event["seconds"] >= COST_SECONDS and not self._cost_reported:
            self._cost_reported = True
            self._progress.note(f"{self._name}: {cost_line(self._options, self._step, cost)}")
        yield {"what": "left", "step": event["step"], "seconds": self._progress.seconds_left()}

    def _on_metrics(self, event: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if event["lines"]:
            self._losses = dict(event["lines"][-1])
        self._reach(event["step"], self._options.updates_to(event["step"]))
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
            jpeg = smaller(self._folder.samples_file(name, step).read_bytes())
            yield {"what": "grid", "name": name, "step": step, "jpeg": jpeg}

    def _reach(self, step: int, updates: int, *, first: bool = False) -> None:
        """Count complete updates and show the position.

        Args:
            step: Number of complete steps.
            updates: Number of complete updates.
            first: True for the first update of the ranks, which counts for no rate. Neither do
                updates that are repeated after a rank was lost.
        """
        updates = min(updates, self._options.updates_to(step + 1))
        more = max(0, updates - self._furthest)
        self._furthest += more
        self._step = max(step, self._step)
        steps = "" if self._options.minutes is not None else f" of {self._options.steps:,}"
        warm = self._options.warming(self._step)
        parts = (f"step {self._step:,}{steps}", warm, losses_line(self._losses))
        self._progress.detail(", ".join(filter(None, parts)))
        if first or (more and self._repeating):
            self._progress.restart_rates(rows=more)
        elif more:
            self._progress.update(rows=more)
        self._repeating = not more and (first or self._repeating)


def _beginning(event: dict[str, Any], options: TrainingOptions) -> Iterator[str]:
    """Yield the lines that describe a start of ranks: their number, step and share of a batch."""
    world, step = event["world"], event["step"]
    where = "from scratch" if not step else f"from step {step:,}"
    share = options.batch_size // world
    each_share = "" if world == 1 else f"; batch size {options.batch_size:,}, {share:,} per rank"
    yield f"training on {world} rank{'s' * (world != 1)} {where}{each_share}"
    beside, cores = event.get("beside", 1), event.get("cores")
    if cores is not None and beside > cores:
        yield (
            f"notice: {beside} ranks share {cores} core{'s' * (cores != 1)} on one machine;"
            f" --ranks {cores} is faster"
        )


def cost_line(options: TrainingOptions, step: int, seconds: float) -> str:
    """Return a line with the duration of a step, the time left, and options that speed it up.

    Args:
        options: The options of the run.
        step: Number of complete steps.
        seconds: Mean duration of an update, in seconds.
    """
    usual = options.usual_updates
    now = options.updates_to(step + 1) - options.updates_to(step)
    left = options.updates_to(options.steps) - options.updates_to(step)
    cost = f"about {seconds_text(usual * seconds)} per step"
    if usual > 1:
        cost += f" ({usual:,} updates of {seconds_text(seconds)})"
    if now != usual:
        cost += f"; during the warm-up {seconds_text(now * seconds)} ({now:,} updates)"
    steps = options.steps - step
    return (
        f"{cost}; {seconds_text(left * seconds)} left for {steps:,} steps. To speed up:"
        f" {options.speedup_options()}."
    )


def losses_line(line: Mapping[str, Any]) -> str:
    """Return the metrics of a step as one line, without those that are not finite (None)."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in line.items()
        if name != "step" and value is not None
    )
