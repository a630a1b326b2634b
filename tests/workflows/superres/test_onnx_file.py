"""An exported network computes in ONNX Runtime what `tesserae upscale` computes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.workflows.superres.small import STEP, small_run
from workflows.cli import main
from workflows.runs import onnx_file
from workflows.superres.choices import NETWORKS
from workflows.superres.model import open_upscaler

IMAGES = torch.randint(0, 256, (2, 3, 11, 17), generator=torch.Generator().manual_seed(5))


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_file_computes_what_the_run_computes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], network: str, scale: int
) -> None:
    """Whole levels are equal but for halves, at sizes that the export has not seen."""
    run, file = tmp_path / "run", tmp_path / "new" / "x.onnx"
    small_run(run, network=network, scale=scale)
    assert main(["export", str(run), "-o", str(file)]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"{file}: {network} of step {STEP} of {run}, which enlarges by {scale}")
    assert err == ""
    trained = open_upscaler(run)
    assert {entry.key: entry.value for entry in onnx.load(file).metadata_props} == {
        "stage": "superres", "network": network, "scale": str(scale),
        "reach": str(trained.network.reach), "step": str(STEP), "model_license": "unknown",
    }  # fmt: skip

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (enlarged,) = session.run(None, {"images": (IMAGES / 255).numpy()})
    expected = trained.enlarge(IMAGES).numpy()
    difference = np.abs(np.floor(255 * enlarged + 0.5) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_a_file_with_other_results_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command says by how many levels they differ; nor is an existing file replaced."""
    small_run(tmp_path / "run")

    def graph_of_another(network: Any) -> onnx.ModelProto:
        value = onnx.helper.make_tensor_value_info
        sides = ["n", 3, "h", "w"]
        zero = onnx.helper.make_tensor("zero", onnx.TensorProto.FLOAT, [], [0.0])
        scales = onnx.helper.make_tensor("scales", onnx.TensorProto.FLOAT, [4], [1, 1, 2, 2])
        nodes = [
            onnx.helper.make_node("Mul", ["images", "zero"], ["black"]),
            onnx.helper.make_node("Resize", ["black", "", "scales"], ["enlarged"]),
        ]
        graph = onnx.helper.make_graph(
            nodes, "black", [value("images", onnx.TensorProto.FLOAT, sides)],
            [value("enlarged", onnx.TensorProto.FLOAT, ["n", 3, "H", "W"])], [zero, scales],
        )  # fmt: skip
        return onnx.helper.make_model(
            graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)]
        )

    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "_graph", graph_of_another)
        assert main(["export", str(tmp_path / "run")]) == 1
    assert "differs from the trained one by " in capfd.readouterr().err
    assert not (tmp_path / "run" / "upscaler.onnx").exists()

    (tmp_path / "run" / "upscaler.onnx").touch()
    assert main(["export", str(tmp_path / "run")]) == 1
    assert "upscaler.onnx exists already: pass another --out." in capfd.readouterr().err


def test_a_result_that_is_not_finite_is_a_difference() -> None:
    """Also in a batch that is not the first one."""

    class Broken(torch.nn.Module):
        """A network whose results for the last batch are not finite."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images * (torch.nan if images.shape[2] == 5 else 1.0)

    identity = onnx.helper.make_node("Identity", ["images"], ["images_out"])
    value = onnx.helper.make_tensor_value_info
    sides = ["n", 3, "h", "w"]
    graph = onnx.helper.make_graph(
        [identity], "same", [value("images", onnx.TensorProto.FLOAT, sides)],
        [value("images_out", onnx.TensorProto.FLOAT, sides)],
    )  # fmt: skip
    same = onnx.helper.make_model(
        graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    exported = onnx_file.OnnxNetwork(
        network=Broken(), dynamic_shapes={"images": {}}, output="images_out",
        batches=[(torch.rand(2, 3, 4, 4),), (torch.rand(1, 3, 5, 5),)], metadata={},
    )  # fmt: skip
    assert math.isnan(onnx_file._difference(exported, same.SerializeToString()))
