"""The options of `tesserae train` that are not of a stage: data, run folder and cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workflows.options.cluster import ClusterOptions
from workflows.options.fields import option
from workflows.options.shared import store_argument
from workflows.options.source_reading import SourceReadingOptions
from workflows.tracking.tracker import TRACKERS

_DATA = "data and run folder"
_CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class RunOptions(SourceReadingOptions, ClusterOptions):
    """The data, the run folder and the cluster of `tesserae train`."""

    stage: str = ""
    """The name of the stage, one of `workflows.training.stage_registry.STAGES`."""
    store: str = store_argument()
    run: Path | None = option(
        None,
        "folder of checkpoints, metrics and samples of the run",
        implied="runs/STAGE",
        metavar="DIR",
        group=_DATA,
    )
    data: str | None = option(
        None,
        "folder, archive or URL of images that STORE is first prepared from",
        implied="STORE exists already",
        metavar="SOURCE",
        group=_DATA,
    )
    max_bad: float = option(
        0.01,
        "fraction of images of --data, 0 to 1, that may be quarantined before the run fails",
        minimum=0,
        maximum=1,
        metavar="FRACTION",
        group=_DATA,
    )
    split: str = option("train", "split to train on", metavar="SPLIT", group=_DATA)
    held_out: str | None = option(
        None,
        "split to evaluate on, or `none`",
        implied="val, else test",
        metavar="SPLIT",
        group=_DATA,
    )
    from_step: int | None = option(
        None,
        "resume from the checkpoint of step N, with other learning rates if you pass them; 0 starts"
        " from scratch",
        implied="the newest checkpoint",
        minimum=0,
        group=_DATA,
    )
    log: tuple[str, ...] = option(
        (),
        "experiment trackers that metrics, sample grids and options are copied to while the run"
        " trains; they write into the folder of the run unless their environment variables name a"
        " server",
        implied="none",
        choices=tuple(TRACKERS),
        group=_DATA,
    )
    ranks: int | None = option(
        None,
        "number of training processes; they run on CPUs unless --gpus is given",
        implied="one per GPU, or 1 without GPUs",
        minimum=1,
        group=_CLUSTER,
    )
    gpus: int | None = option(
        None,
        "number of GPUs, with one rank on each; 0 trains on CPUs",
        implied="every GPU, unless --ranks is given",
        minimum=0,
        group=_CLUSTER,
    )
    rank_timeout: float = option(
        600.0,
        "time to wait for workers for all ranks, in seconds, before training starts with fewer"
        " ranks",
        minimum=0,
        maximum=10_000_000,
        metavar="SECONDS",
        group=_CLUSTER,
    )

    def __post_init__(self) -> None:
        """Reject invalid options before anything is read.

        Raises:
            ValueError: An option has an invalid value; the message names its flag.
        """
        super().__post_init__()
        if self.ranks and self.gpus and self.ranks != self.gpus:
            raise ValueError(
                f"--ranks is {self.ranks}, --gpus is {self.gpus}: pass only one of them."
            )

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path("runs", self.stage) if self.run is None else self.run
