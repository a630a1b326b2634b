"""The options by which a stage evaluates a run for its report."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from workflows.options.fields import Options, option
from workflows.options.shared import clip_option


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """The options of `tesserae report`, without the folder of the run."""

    FORMER_NAMES = MappingProxyType({"clip": "clip_model"})

    backbone: str | None = option(
        None,
        "vision model of `transformers`, a folder or a hub name, whose features are used for FID,"
        " KID, precision, recall and coverage",
        implied="leave these out",
        metavar="MODEL",
    )
    clip_model: str | None = clip_option()
    split: str | None = option(
        None,
        "split that a classifier is evaluated on",
        implied="the held-out split of the run",
        metavar="SPLIT",
    )
    evaluation_store: str | None = option(
        None,
        "folder or URL of another store that a classifier is evaluated on; classes are matched by"
        " their ids",
        implied="the store of the run",
        metavar="STORE",
    )
    samples: int = option(
        1_000,
        "maximum number of images to evaluate: generated ones of a GAN, or of DeViSE those whose"
        " nearest images are counted",
        minimum=8,
        maximum=1_000_000,
    )
    device: str | None = option(
        None,
        "torch device to evaluate on, e.g. cpu, cuda or cuda:1",
        implied="a GPU if there is one",
        metavar="DEVICE",
    )
    store: str | None = option(
        None,
        "folder or URL of the run's store, if it has moved",
        implied="the location recorded in the run",
        metavar="STORE",
    )
