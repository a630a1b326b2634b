"""ONNX files of trained networks, which other programs run without Tesserae."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from pipeline.errors import TesseraeError
from pipeline.filesystem import replacing

TOLERANCE = 0.5 / 255
"""The largest allowed difference between the file's results and those of torch: half a level."""


@dataclass(frozen=True)
class OnnxNetwork:
    """A network in the form in which an ONNX file computes it, with the inputs that check it."""

    network: nn.Module
    """The network on the CPU, in evaluation mode. It returns float32 images from 0 to 1."""
    dynamic_shapes: Mapping[str, Mapping[int, Any]]
    """The names of its inputs, in order; for each the axes of any length, as `torch.export.Dim`."""
    output: str
    """The name of its output."""
    batches: Sequence[tuple[Tensor, ...]]
    """Inputs of different lengths, by which the file is checked. The first ones are traced: torch
    takes an axis of length 1 there for one that is always 1."""
    metadata: Mapping[str, Any]
    """Facts that a program needs to use the file, by name: texts and values of JSON."""


def write_onnx(
    exported: OnnxNetwork, file: Path, *, metadata: Mapping[str, Any], description: str
) -> float:
    """Write a network as an ONNX file, after a comparison of its results with torch's.

    The graph computes in float32. The metadata of the file has texts as they are, and other values
    as JSON. The file appears complete or not at all.

    Args:
        exported: The network.
        file: The target file, which must not exist; folders above it are created.
        metadata: Entries in addition to those of the network: texts and values of JSON.
        description: The text that describes the network in the file (`doc_string`), in Markdown.

    Returns:
        The largest difference between results of ONNX Runtime and of torch, in levels.

    Raises:
        TesseraeError: The file exists, or its results differ from torch's by half a level or more.
        OSError: The file cannot be written.
    """
    if file.exists():
        raise TesseraeError(f"{file} exists already: pass another --out.")
    model = _graph(exported)
    model.doc_string = description
    entries = {**exported.metadata, **metadata}
    onnx.helper.set_model_props(
        model, {n: v if isinstance(v, str) else json.dumps(v) for n, v in entries.items()}
    )
    content = model.SerializeToString()
    difference = _difference(exported, content)
    if not difference < TOLERANCE:  # also NaN
        raise TesseraeError(
            f"the exported network differs from the trained one by {255 * difference:.2f} levels:"
            f" expected less than {255 * TOLERANCE:.1f}. {file} is not written. Try other versions"
            " of onnx and onnxruntime."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, durable=True) as out:
        out.write(content)
    return 255 * difference


def _graph(exported: OnnxNetwork) -> onnx.ModelProto:
    """Return the checked graph of a network."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision is not there
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                exported.network,
                exported.batches[0],
                dynamo=True,
                input_names=list(exported.dynamic_shapes),
                output_names=[exported.output],
                # A tuple, as names would have to be those of the arguments of `forward`.
                dynamic_shapes=tuple(dict(axes) for axes in exported.dynamic_shapes.values()),
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


def _difference(exported: OnnxNetwork, content: bytes) -> float:
    """Return the largest difference of results for all batches, in the range 0 to 1."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = []
    for batch in exported.batches:
        with torch.no_grad():
            expected = exported.network(*batch).numpy()
        inputs = (value.numpy() for value in batch)
        feed = dict(zip(exported.dynamic_shapes, inputs, strict=True))
        (actual,) = session.run([exported.output], feed)
        differences.append(np.abs(actual - expected).max())
    return float(np.max(differences))
