"""The training stages by name, as import locations, so that listing them imports nothing.

Run folders record the name of a stage and never its import location, so modules can move.
"""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_NAME = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII)


@dataclass(frozen=True)
class StageEntry:
    """The import locations of a training stage, and its former names in run folders."""

    summary: str
    """A phrase for the help text that says what the stage trains."""
    options: str
    """The options class, as `module:class`."""
    stage: str
    """The stage class, as `module:class`."""
    prepare_data: str | None = None
    """The function that opens the training data, as `module:function`; None = images of one size.
    It is called with the `workflows.training.run_options.RunOptions`, the options of the stage, the
    `workflows.cluster_kinds.CommandCluster` and the name of the held-out split or None; it
    returns the `workflows.training.stage.Data` and further files of a new run folder, as
    name -> content."""
    choose_options: str | None = None
    """The function that completes the options by what the store has, as `module:function`; only
    together with `prepare_data`, before which it is called with the
    `workflows.training.run_options.RunOptions` and the options of the stage. It returns the
    options."""
    evaluate: str | None = None
    """The function that evaluates a run for `tesserae report`, as `module:function`; None = the
    report has no evaluation. It is called with the `RunFolder`, the
    `workflows.evaluation.options.EvaluationOptions` and the torch device, and returns a
    `workflows.runs.report.RunEvaluation` or None."""
    evaluation_options: tuple[str, ...] | None = None
    """The fields of `workflows.evaluation.options.EvaluationOptions` that `evaluate` uses, beside
    `device` and `store`; of others that are passed, the report tells that they have no effect.
    None = it may use all of them."""
    former_names: tuple[str, ...] = ()
    """The names that run folders of earlier versions record for the stage."""


_stages = {
    "wgan": StageEntry(
        "train a GAN: WGAN, WGAN-GP, DCGAN, LSGAN or hinge",
        "workflows.wgan.options:WganOptions",
        "workflows.wgan.stage:Wgan",
        evaluate="workflows.wgan.evaluation:evaluate_for_report",
        evaluation_options=("backbone", "samples"),
        former_names=("workflows.wgan.stage:Wgan",),
    ),
    "classify": StageEntry(
        "train an image classifier: ResNet, ConvNeXt, ViT or a network for small images",
        "workflows.classify.options:ClassifyOptions",
        "workflows.classify.stage:Classify",
        evaluate="workflows.classify.evaluation:evaluate_for_report",
        evaluation_options=("split", "evaluation_store"),
    ),
    "colourise": StageEntry(
        "train a network that colourises grey images, optionally with an adversarial loss",
        "workflows.colourise.options:ColouriseOptions",
        "workflows.colourise.stage:Colourise",
        former_names=("workflows.colourise.stage:Colourise",),
    ),
    "superres": StageEntry(
        "train a network that enlarges images: super-resolution",
        "workflows.superres.options:SuperresOptions",
        "workflows.superres.stage:Superres",
        "workflows.superres.data:prepare_data",
        choose_options="workflows.superres.data:choose_options",
        evaluate="workflows.superres.evaluation:evaluate_for_report",
        evaluation_options=(
            "split",
            "evaluation_store",
            "images",
            "low_images",
            "samples",
            "judge",
            "judge_blocks",
            "self_ensemble",
            "precision",
        ),
    ),
    "devise": StageEntry(
        "train DeViSE, a network that maps images to word vectors",
        "workflows.devise.options:DeviseOptions",
        "workflows.devise.stage:Devise",
        "workflows.devise.data:prepare_data",
        evaluate="workflows.devise.evaluation:evaluate_for_report",
        evaluation_options=("clip_model", "samples"),
        former_names=("workflows.devise.stage:Devise",),
    ),
}
STAGES = MappingProxyType(_stages)
"""The stages of this process by name: those of Tesserae, and those that were registered."""


def register(name: str, stage: StageEntry) -> None:
    """Add a stage that lies outside of Tesserae to `STAGES`, in this process only.

    To register the same stage under the same name again changes nothing.

    Args:
        name: The name that `tesserae train` and run folders use for it: a letter, then letters,
            digits, `-` and `_`, in lower case.
        stage: The stage: `summary`, a phrase for the help text, and import locations as
            `module:name`, which are not imported here and which ranks must be able to import too:
            `options`, its options class; `stage`, its class; and, or None, `prepare_data` and
            `evaluate`, the functions that open its training data and that evaluate a run, with
            `evaluation_options`, the options of the report that the latter uses.

    Raises:
        ValueError: The name is taken by another stage, or is no name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name of a stage is {name!r}: expected a letter, then letters, digits, - and _,"
            " in lower case."
        )
    if _stages.setdefault(name, stage) != stage:
        raise ValueError(f"there is a stage {name!r} already: choose another name.")


def recorded_name(stage: str) -> str:
    """Return the name by which run folders record a stage.

    Args:
        stage: A name in `STAGES`, such as `wgan`; the import location of a stage as `module:class`;
            or a name that an earlier version recorded.

    Returns:
        The name in `STAGES`; *stage* itself if it is none of these, as a stage outside of Tesserae
        that was not registered has no other name.
    """
    for name, entry in STAGES.items():
        if stage in (entry.stage, *entry.former_names):
            return name
    return stage


def import_location(stage: str) -> str:
    """Return the import location of a stage class, as `module:class`.

    Args:
        stage: A name in `STAGES`, such as `wgan`. Anything else is taken for an import location and
            returned as it is, without a check.
    """
    return STAGES[stage].stage if stage in STAGES else stage


def import_object(name: str) -> Any:
    """Import the object that a name refers to, and return it.

    Args:
        name: `module:name`, such as `workflows.wgan.stage:Wgan`. The name may have dots, as that of
            a method; without a colon, the longest beginning that is a module is the module.

    Raises:
        ImportError: There is no module of the part before the colon or, without one, of the part
            before the first dot.
        AttributeError: The module has no such name.
        ValueError: *name* is not made of identifiers, dots and at most one colon.
    """
    return pkgutil.resolve_name(name)
