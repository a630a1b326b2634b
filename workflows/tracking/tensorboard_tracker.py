"""Event files of TensorBoard, in the folder `tensorboard` of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from workflows.tracking.tracker import Tracker, flat_options


class TensorBoardTracker(Tracker):
    """A run as event files, of which each start of the training adds one."""

    def __init__(
        self, folder: Path, record: Mapping[str, Any], run_id: str | None, *, num_calls: int = 0
    ) -> None:
        """Open a new event file; that of an earlier start of the run stays."""
        self._folder = folder / "tensorboard"
        self.run_id = self._folder.name
        self._writer = SummaryWriter(str(self._folder))
        if run_id is None:
            lines = [f"| {name} | {value} |" for name, value in flat_options(record).items()]
            self._writer.add_text("options", "\n".join(["| Option | Value |", "|---|---|", *lines]))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step as scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_image(self, name: str, step: int, file: Path) -> None:
        """Write a grid of images, decoded."""
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def rewind(self, step: int) -> None:
        """Begin an event file that makes TensorBoard drop what is written of *step* and later."""
        self._writer.close()
        self._writer = SummaryWriter(str(self._folder), purge_step=step)

    def flush(self) -> None:
        """Write the events to the disk."""
        self._writer.flush()

    def close(self, *, succeeded: bool) -> None:
        """Close the event file."""
        self._writer.close()
