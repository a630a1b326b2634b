"""The implementation of `tesserae export RUN`: it writes a trained network for other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from pipeline.backbone.save import save_backbone, save_model
from pipeline.errors import TesseraeError
from workflows.classify import model as classify
from workflows.colourise import model as colourise
from workflows.devise import model as devise
from workflows.runs.model_card import model_card
from workflows.runs.options import ExportOptions
from workflows.superres import model as superres
from workflows.training.run_folder import RunFolder
from workflows.wgan import sampling as wgan

_STAGES = (classify.STAGE, colourise.STAGE, devise.STAGE, superres.STAGE, wgan.STAGE)
"""The names of the stages whose networks can be exported."""


def run_export_network(options: ExportOptions) -> int:
    """Write the trained network of a run for other programs, and print its path.

    Of a DeViSE run it is the trunk, of a classifier the trunk with its last layer, both as a folder
    of `transformers`, whose progress bars and messages are switched off in this process. A network
    that returns images is an ONNX file: that of super-resolution, the generator of a GAN, and the
    network that colourises.

    Args:
        options: `what`, the folder of a run; `out`, the new folder or file, or None for RUN/trunk,
            RUN/upscaler.onnx, RUN/generator.onnx or RUN/colouriser.onnx; and `licence`, that of the
            weights, or None if it is unknown. The folder or file appears complete or not at all;
            folders above it are created.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The folder holds no run of a stage of Tesserae with a checkpoint, or a DeViSE
            run that has not trained its trunk; the run has diverged, its pretrained trunk cannot be
            opened, or the target exists.
        OSError: The target cannot be written.
    """
    run = Path(options.what)
    stage = RunFolder(run).read_options()["options"].get("stage")
    if stage == classify.STAGE:
        _export_classifier(run, options.out or run / "trunk", options.licence)
    elif stage == devise.STAGE:
        _export_devise_trunk(run, options.out or run / "trunk", options.licence)
    elif stage in _STAGES:
        # Imported here, because the exports of other stages need none of its packages.
        from workflows.runs.export_onnx import ONNX_EXPORTS

        ONNX_EXPORTS[stage](run, options.out, options.licence)
    else:
        raise TesseraeError(
            f"{run} is a run of the stage {stage}: expected one of {', '.join(_STAGES)}, whose"
            " networks can be exported."
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
    model = devise.open_devise_model(run, torch.device("cpu"))
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
