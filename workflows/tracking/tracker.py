"""The interface of trackers, and their table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class TrackerEntry(NamedTuple):
    """A tracker, as `--log` names it."""

    library: str
    """The package that it needs, by the name under which it is imported."""
    location: str
    """The `module:class` of its `Tracker`, which is imported in a process of its own."""
    look: str = ""
    """How to look at what it has written on this machine, with `folder` for that of the run."""


TRACKERS = {
    "tensorboard": TrackerEntry(
        "tensorboard",
        "workflows.tracking.tensorboard_tracker:TensorBoardTracker",
        "tensorboard --logdir {folder}/tensorboard",
    ),
    "wandb": TrackerEntry(
        "wandb",
        "workflows.tracking.wandb_tracker:WandbTracker",
        "wandb sync {folder}/wandb/offline-run-*, of a run without an API key",
    ),
    "mlflow": TrackerEntry(
        "mlflow",
        "workflows.tracking.mlflow_tracker:MlflowTracker",
        "mlflow ui --backend-store-uri sqlite:///{folder}/mlflow/mlflow.db",
    ),
}
"""The trackers by name."""


class Tracker(ABC):
    """A run in an experiment tracker, which is created or continued with the object."""

    @abstractmethod
    def __init__(
        self, folder: Path, record: Mapping[str, Any], run_id: str | None, *, num_calls: int = 0
    ) -> None:
        """Create or continue the run of the tracker.

        Args:
            folder: The run folder, whose name the run gets. What the tracker keeps on this machine
                is written there.
            record: The content of `options.json`, with the options in `options`.
            run_id: The `run_id` of the object that began the run; None for a new run.
            num_calls: The number of calls of `log` and `log_image` of the objects before (default:
                0).
        """

    run_id: str
    """The name by which the tracker finds the run again."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step.

        Args:
            step: The number of the step. It may be less than that of an earlier call, if the run
                was continued from an earlier checkpoint.
            metrics: The values by name; NaN for one that is not finite.
        """

    @abstractmethod
    def log_image(self, name: str, step: int, file: Path) -> None:
        """Write a grid of images.

        Args:
            name: The name of the grid, such as `samples`.
            step: The number of the step at which it was made.
            file: The PNG file.
        """

    def rewind(self, step: int) -> None:  # noqa: B027 - most trackers keep both values
        """Prepare for values of *step* and later ones, which replace those that were written."""

    @abstractmethod
    def flush(self) -> None:
        """Hand over what was logged, so that it survives the end of this process."""

    @abstractmethod
    def close(self, *, succeeded: bool) -> None:
        """End the run, or this part of it; *succeeded* is False if training failed."""


def flat_options(record: Mapping[str, Any]) -> dict[str, str | int | float | bool | None]:
    """Return the options, data and versions of a run as one level of names and plain values.

    Args:
        record: The content of `options.json`.

    Returns:
        The options by their names; the entries of `data` and `versions` as `data.split` and so on.
        Lists are texts, such as `a, b`.
    """
    sections = {"": record["options"]}
    sections |= {f"{name}.": record.get(name) or {} for name in ("data", "versions")}
    return {
        f"{prefix}{name}": ", ".join(map(str, value)) if isinstance(value, list) else value
        for prefix, section in sections.items()
        for name, value in section.items()
    }
