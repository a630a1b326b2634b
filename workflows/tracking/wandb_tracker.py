"""A run of Weights & Biases.

Without an API key it is written into the folder `wandb` of the run, for `wandb sync`, as with
WANDB_MODE=offline. WANDB_PROJECT and the other variables of the library apply.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from workflows.tracking.tracker import Tracker, flat_options


class WandbTracker(Tracker):
    """A run on a server of Weights & Biases, or in a folder."""

    def __init__(
        self, folder: Path, record: Mapping[str, Any], run_id: str | None, *, num_calls: int = 0
    ) -> None:
        """Create or continue a run, in the project `tesserae` unless WANDB_PROJECT names one."""
        has_key = wandb.setup().settings.api_key is not None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "tesserae"),
            name=folder.name,
            dir=folder,
            id=run_id,
            resume="allow",
            config=flat_options(record),
            mode=None if "WANDB_MODE" in os.environ or has_key else "offline",
        )
        self.run_id = self._run.id
        self._num_calls = num_calls
        # Of all metrics: the library's own step must grow, and ours may go back to a checkpoint's.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step, with the step itself as one of them."""
        self._log({"step": step, **metrics})

    def log_image(self, name: str, step: int, file: Path) -> None:
        """Write a grid of images."""
        self._log({"step": step, name: wandb.Image(str(file))})

    def _log(self, values: dict[str, Any]) -> None:
        self._run.log(values, step=self._num_calls)
        self._num_calls += 1

    def flush(self) -> None:
        """Do nothing: a process of the library writes what is logged."""

    def close(self, *, succeeded: bool) -> None:
        """Wait until the library has written or sent everything."""
        self._run.finish(exit_code=0 if succeeded else 1)
