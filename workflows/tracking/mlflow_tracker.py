"""A run of MLflow, on the server that MLFLOW_TRACKING_URI names, else in a database of the run.

`mlflow ui --backend-store-uri sqlite:///RUN/mlflow/mlflow.db` shows the latter.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from sqlalchemy import URL

from workflows.tracking.tracker import Tracker, flat_options

_OTHER_CHARACTERS = re.compile(r"[^\w. /:-]")
"""The characters that MLflow refuses in the names of metrics and parameters."""
MAX_METRICS = 1000
"""The number of metrics that MLflow accepts in one call."""
MAX_PARAMETERS = 100
"""The number of parameters that MLflow accepts in one call."""
MAX_VALUE_LENGTH = 6000
"""The length of a parameter's text that MLflow accepts."""


class MlflowTracker(Tracker):
    """A run of the experiment `tesserae`, unless MLFLOW_EXPERIMENT_NAME names another one."""

    def __init__(
        self, folder: Path, record: Mapping[str, Any], run_id: str | None, *, num_calls: int = 0
    ) -> None:
        """Create or continue a run."""
        own = folder / "mlflow"
        uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            own.mkdir(exist_ok=True)
            # What a character of the path must be quoted as depends on the version of SQLAlchemy.
            address = URL.create("sqlite", database=str(own / "mlflow.db"))
            uri = address.render_as_string()
            artifacts = (own / "artifacts").as_uri()
        self._client = MlflowClient(uri)
        self._metrics: list[Metric] = []
        if run_id is not None:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "tesserae")
        experiment = self._client.get_experiment_by_name(name)
        number = (
            self._client.create_experiment(name, artifact_location=artifacts)
            if experiment is None
            else experiment.experiment_id
        )
        self.run_id = self._client.create_run(number, run_name=folder.name).info.run_id
        parameters = [
            Param(key, str(value)[:MAX_VALUE_LENGTH]) for key, value in flat_options(record).items()
        ]
        for start in range(0, len(parameters), MAX_PARAMETERS):
            self._client.log_batch(self.run_id, params=parameters[start : start + MAX_PARAMETERS])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Collect the metrics of a step, since each call of MLflow is a request."""
        now = time.time_ns() // 10**6
        self._metrics += [
            Metric(_OTHER_CHARACTERS.sub("_", name), value, now, step)
            for name, value in metrics.items()
        ]

    def log_image(self, name: str, step: int, file: Path) -> None:
        """Write a grid of images as an artifact of the run."""
        self._client.log_artifact(self.run_id, str(file), name)

    def flush(self) -> None:
        """Send the metrics."""
        while self._metrics:
            self._client.log_batch(self.run_id, metrics=self._metrics[:MAX_METRICS])
            del self._metrics[:MAX_METRICS]

    def close(self, *, succeeded: bool) -> None:
        """Mark the run as finished or failed."""
        self.flush()
        self._client.set_terminated(self.run_id, "FINISHED" if succeeded else "FAILED")
