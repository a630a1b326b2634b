"""The command's side of a training run: it starts ranks on a cluster and waits for their end."""

from __future__ import annotations

import os
import platform
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cluster.ranks.world import WorldConfig, run_world
from pipeline import code_digest
from pipeline.features.loader import FeatureLoader
from pipeline.installation import installed_version
from pipeline.loader import Loader
from pipeline.store.open import open_objects
from pipeline.store.records import load_plan
from workflows.cluster_kinds import CommandCluster
from workflows.terminal.progress import Progress
from workflows.training.loop import TrainingJob
from workflows.training.options import CHANGEABLE_ON_RESUME, TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.training.stage import Data
from workflows.training.stage_registry import import_location, recorded_name
from workflows.training.watcher import RunWatcher

ENTRY = "workflows.training.loop:train"
"""The function that each rank runs, as `module:function`."""
PACKAGES = ("torch", "numpy", "zarr", "tesserae")
"""The packages whose versions are recorded in `options.json`."""


def train_on(
    cluster: CommandCluster,
    world: WorldConfig,
    stage: str,
    options: TrainingOptions,
    data: Data,
    folder: RunFolder,
    *,
    from_step: int | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> str:
    """Train a stage on ranks of *cluster* to its end, restarting the ranks when one is lost.

    The call returns when training ends. Progress is shown in the terminal and on the dashboard. The
    run folder is created if need be, and receives options, checkpoints, metrics and samples. Ctrl-C
    raises KeyboardInterrupt after the ranks have saved. The run folder is not locked here
    (`workflows.training.run_lock.locked_run`).

    Args:
        cluster: The cluster that runs the ranks, inside its `with` block; it is started if it has
            not been.
        world: The ranks: `ranks`, their maximum number; `gpu`, True if each needs a GPU; and
            `batch`, which must be the batch size of *options*, so that it divides among them.
        stage: The stage (`workflows.training.stage.Stage`): its name in
            `workflows.training.stage_registry.STAGES`, or `module:class`.
        options: The options of the stage, an instance of its options class.
        data: The training data: `train`, a loader of whole batches, of which each rank reads its
            part; `held_out`, such a loader of another split, or None; and `classes`, the names of
            the classes by label. Its other fields are set here.
        folder: The run folder, which all machines see. A run that it holds is continued.
        from_step: The step of an earlier checkpoint to go back to; 0 starts from scratch (default
            None: continue from the newest checkpoint).
        files: Further files of a new run folder, as name -> content; they are not written if a run
            is continued.

    Returns:
        `done` after the last step; `stopped at step N`, where N has commas between thousands, if a
        stop was requested or the time of `options.minutes` was over.

    Raises:
        TrainingRankError: A rank failed with an error that would only be repeated, such as a
            diverged loss or a full disk, or ranks failed repeatedly without progress.
        ClusterError: No worker arrives, workers are lost repeatedly, or a worker has other code or
            another torch.
        TesseraeError: The folder holds another run, a run with other options, or other files, or
            has no checkpoint of *from_step*.
    """
    cluster.check_ranks(gpu=world.gpu)
    sections = {"versions": versions(), "data": _data_section(data, folder)}
    state = data.train.state_dict()
    data_entries = {
        "split": data.train.split,
        "stored_size": data.train.sizes[0],
        "rows": state["split"],
        "features": state.get("features"),
    }
    folder.create_or_continue(
        {"stage": recorded_name(stage), **data_entries, **options.as_dict()},
        sections,
        changeable_on_resume=CHANGEABLE_ON_RESUME,
        complete=options.complete,
        changeable_on_rewind=options.changeable_on_rewind(),
        from_step=from_step,
        files=files,
    )
    # Only the first generation goes back; later ones continue from its checkpoints.
    rewinds = deque([] if from_step is None else [from_step])

    def start_generation(num_ranks: int) -> tuple[int, tuple[Any, ...]]:
        number, resumed = folder.claim(from_step=rewinds.popleft() if rewinds else None)
        checkpoint_name = None if resumed is None else resumed.name
        code, torch = code_digest.running_code_digest(), sections["versions"]["torch"]
        location, path = import_location(stage), str(folder.path.absolute())
        job = TrainingJob(location, path, options, data, checkpoint_name, code, torch)
        return number, (job,)

    name = folder.path.absolute().name
    updates = options.updates_after(options.steps)
    rows = updates if options.minutes is None else None
    unit = "steps" if updates == options.steps else "updates"
    with (
        Progress(f"{name}: train", rows=rows, unit=unit) as progress,
        RunWatcher(cluster, folder, options, progress) as watcher,
    ):
        results = run_world(
            cluster.client,
            world,
            ENTRY,
            start_generation,
            on_event=watcher.events.append,
            report=progress.note,
            tick=watcher.tick,
        )
    return str(results[0])


def _data_section(data: Data, folder: RunFolder) -> dict[str, Any]:
    """Return the `data` section of `options.json`."""
    store = data.train.store
    store_from_run = None
    if "://" not in store:  # a relative path stays valid if run and store are moved together
        store_from_run = os.path.relpath(os.path.realpath(store), os.path.realpath(folder.path))
    return {
        "store": store,
        "store_from_run": store_from_run,
        "plan": load_plan(open_objects(store), data.train.split).digest,
        "split": data.train.split,
        "size": data.train.sizes[0],
        "encoded": data.train.encoded if isinstance(data.train, Loader) else None,
        "features": data.train.name if isinstance(data.train, FeatureLoader) else None,
        **({"sizes": list(data.sizes)} if data.sizes else {}),
        "held_out": None if data.held_out is None else data.held_out.split,
        **({"held_out_size": data.held_out.sizes[0]} if isinstance(data.held_out, Loader) else {}),
        "classes": list(data.classes),
        "wnids": [wnid for wnid, _ in data.train.classes],
    }


def versions() -> dict[str, str]:
    """Return the versions of `python`, `torch`, `numpy`, `zarr` and `tesserae` by these names."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        installed[package] = installed_version(package)
    return installed
