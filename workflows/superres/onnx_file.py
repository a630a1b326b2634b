"""A trained network that enlarges images as an ONNX file, which other programs can run."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import IO, cast

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from pipeline.errors import TesseraeError
from pipeline.filesystem import replacing
from workflows.superres.model import TrainedUpscaler

INPUT, OUTPUT = "images", "enlarged"
"""The names of the input and the output of the graph."""
CHECKED_SIZES = ((1, 24, 20), (2, 7, 33), (1, 50, 5))
"""The batches, heights and widths of the images by which a file is checked."""
TOLERANCE = 0.5 / 255
"""The largest allowed difference between the file's results and those of torch: half a level."""


class _UnitRange(nn.Module):
    """A network whose input and output are in the range 0 to 1 instead of levels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        enlarged: Tensor = self.network(255 * images)
        return (enlarged / 255).clamp(0, 1)


def write_onnx(trained: TrainedUpscaler, file: Path) -> float:
    """Write a trained network as an ONNX file, after a comparison of its results with torch's.

    The graph computes in float32. Its input `images`, (n, 3, h, w) RGB from 0 to 1, may have any
    number of images and any size; its output `enlarged` is (n, 3, h * scale, w * scale), from 0
    to 1. The metadata has `scale`, `reach` (the overlap of tiles, in pixels of the input), the name
    of the `network`, and the `step` of the run.

    Args:
        trained: The network, on the CPU.
        file: The target file, which must not exist; folders above it are created.

    Returns:
        The largest difference between results of ONNX Runtime and of torch, in levels.

    Raises:
        TesseraeError: The file exists, or its results differ from torch's by half a level or more.
        OSError: The file cannot be written.
    """
    if file.exists():
        raise TesseraeError(f"{file} exists already: pass another --out.")
    network = _UnitRange(trained.network).eval()
    model = _graph(network)
    properties = {
        "scale": trained.scale,
        "reach": trained.network.reach,
        "network": trained.options.network,
        "step": trained.step,
    }
    onnx.helper.set_model_props(model, {name: json.dumps(v) for name, v in properties.items()})
    content = model.SerializeToString()
    difference = _difference(network, content)
    if not difference < TOLERANCE:
        raise TesseraeError(
            f"the exported network differs from the trained one by {255 * difference:.2f} levels:"
            f" expected less than {255 * TOLERANCE:.1f}. {file} is not written. Try other versions"
            " of onnx and onnxruntime."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, durable=True) as out:
        out.write(content)
    return 255 * difference


def _graph(network: nn.Module) -> onnx.ModelProto:
    """Return the checked graph of a network for images of any number and size."""
    sides = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision is not there
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (torch.rand(2, 3, 24, 20),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: sides},
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert program is not None  # only the former exporter returns None
    buffer = io.BytesIO()
    program.save(cast("IO[bytes]", buffer))  # type: ignore[arg-type]
    model = onnx.load_model_from_string(buffer.getvalue())
    onnx.checker.check_model(model, full_check=True)
    return model


def _difference(network: nn.Module, content: bytes) -> float:
    """Return the largest difference of results for images of several sizes, in the range 0 to 1."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = []
    for n, height, width in CHECKED_SIZES:
        images = np.random.default_rng(0).random((n, 3, height, width), dtype=np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        (actual,) = session.run([OUTPUT], {INPUT: images})
        differences.append(np.abs(actual - expected).max())
    return float(max(differences))
