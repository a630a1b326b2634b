"""The implementation of `tesserae export RUN`: it writes a trained network for other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pipeline.backbone.save import save_backbone, save_model
from pipeline.errors import TesseraeError
from workflows.classify import model as classify
from workflows.devise.model import open_devise_model
from workflows.runs.model_card import model_card
from workflows.runs.options import ExportOptions
from workflows.superres import model as superres
from workflows.training.run_folder import RunFolder


def run_export_network(options: ExportOptions) -> int:
    """Write the trained network of a run for other programs, and print its path.

    Of a DeViSE run it is the trunk, of a classifier the trunk with its last layer, both as a folder
    of `transformers`, whose progress bars and messages are switched off in this process. Of a run
    of super-resolution it is an ONNX file.

    Args:
        options: `what`, the folder of a run of `classify`, `devise` or `superres`; and `out`, the
            new folder or file, or None for RUN/trunk or RUN/upscaler.onnx. It appears complete or
            not at all; folders above it are created.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The folder holds no such run with a checkpoint, or a DeViSE run that has not
            trained its trunk; the run has diverged, its pretrained trunk cannot be opened, or the
            target exists.
        OSError: The target cannot be written.
    """
    run = Path(options.what)
    folder = options.out or run / "trunk"
    stage = RunFolder(run).read_options()["options"].get("stage")
    if stage == classify.STAGE:
        _export_classifier(run, folder, options.licence)
    elif stage == "devise":
        _export_devise_trunk(run, folder, options.licence)
    elif stage == superres.STAGE:
        _export_upscaler(run, options.out or run / "upscaler.onnx")
    else:
        raise TesseraeError(
            f"{run} is a run of the stage {stage}: expected one of `tesserae train"
            " classify`, `tesserae train devise` or `tesserae train superres`."
        )
    return 0


def _export_classifier(run: Path, out: Path, licence: str | None) -> None:
    trained = classify.open_classifier(run)
    classifier, size = trained.classifier, trained.size
    transform = replace(classifier.transform, size=size, crop_share=trained.crop_share)
    name = type(classifier.model).__name__
    card = model_card(
        RunFolder(run),
        title=f"{name}, a classifier of {len(trained.names):,} classes for images of {size} px",
        task="image-classification",
        step=trained.step,
        licence=licence,
    )
    save_model(classifier.model, classifier.model.state_dict(), transform, out, card=card)
    print(
        f"{out}: {name} of step {trained.step:,} of {run}, with {len(trained.names):,} classes,"
        f" for images of {size} px"
    )
    if classifier.model.config.model_type.startswith("tesserae-"):
        print(
            "The commands of Tesserae open it. `transformers` alone does not know this network: a"
            " program opens it after `import pipeline.backbone.small_images`."
        )


def _export_devise_trunk(run: Path, out: Path, licence: str | None) -> None:
    model = open_devise_model(run, torch.device("cpu"))
    if model.trunk_state is None:
        raise TesseraeError(
            f"{run} has trained a head only; its trunk is {model.options.trunk},"
            " unchanged. `export` needs a run of `train devise --learn all`."
        )
    # It was trained on the largest squares of pictures, or on crops of any part.
    model.trunk.transform = replace(model.trunk.transform, crop_share=1.0)
    card = model_card(
        RunFolder(run),
        title=f"{model.trunk.name}, the trunk of DeViSE for images of {model.size} px",
        task="image-feature-extraction",
        step=model.step,
        licence=licence,
    )
    save_backbone(model.trunk, out, card=card)
    rows = "" if model.encoded is None else f" of the encoded rows {model.encoded}"
    print(
        f"{out}: {model.trunk.name} of step {model.step:,} of {run}, trained on images of"
        f" {model.size} px{rows}"
    )


def _export_upscaler(run: Path, out: Path) -> None:
    # Imported here, because the exports of other stages need none of its packages.
    from workflows.superres.onnx_file import write_onnx

    trained = superres.open_upscaler(run)
    difference = write_onnx(trained, out)
    print(
        f"{out}: {trained.options.network} of step {trained.step:,} of {run}, which enlarges by"
        f" {trained.scale}; within {difference:.1g} levels of the network in torch"
    )
