"""`tesserae study fit` from its flags to its report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.loader import Loader
from pipeline.loader.dataset import SplitDataset
from tests.inline import tesserae
from tests.workflows.studies.cut.small import SIZE, small_network
from tests.workflows.studies.fit.small import NUM_VAL, small_source, words
from workflows.classify.networks import pretrained_classifier
from workflows.classify.stage import Classify
from workflows.cli import main
from workflows.studies.fit import FITS, command
from workflows.studies.fit.options import FitOptions
from workflows.studies.fit.shapes import SHAPES, elongation, shape_of
from workflows.studies.fit.stores import evaluated_images, prepare_stores
from workflows.studies.fit.training import QueryHits, Training, metric_name, train_and_evaluate
from workflows.training.stage import Data
from workflows.training.world import World

DATA = Path(os.environ.get("TESSERAE_DATA", "/nowhere"))


def metrics_of(out: Path) -> dict[tuple[str, int], Mapping[str, float]]:
    """Return the metrics of the recorded runs, by arm and seed."""
    lines = map(json.loads, (out / "runs.jsonl").read_text().splitlines())
    return {(line["arm"], line["seed"]): line["metrics"] for line in lines}


@pytest.mark.slow
def test_a_study_ends_with_a_report_and_continues_with_equal_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C loses the run that was trained; other settings are refused."""
    source = small_source(tmp_path / "source")
    (source / "val" / "n00000000" / "broken.JPEG").write_bytes(b"no image")
    line, whole = (words(source, tmp_path / name) for name in ("out", "whole"))
    started = []

    def interrupted(
        data: Training, arm: str, seed: int
    ) -> tuple[Mapping[str, float], list[QueryHits]]:
        started.append((arm, seed))
        if len(started) == 2:
            raise KeyboardInterrupt
        return train_and_evaluate(data, arm, seed)

    with monkeypatch.context() as patch:
        patch.setattr(command, "train_and_evaluate", interrupted)
        assert tesserae(patch, *line) == 130
        assert "1 run that is finished" in capsys.readouterr().err
        assert tesserae(patch, *line) == 0
        assert started[2:] == [("pad", 0), ("squish", 0)]
        output = capsys.readouterr().out
        assert output.count("(the notebook's mix)") == 1
        assert "16 training and 10 evaluated images of 2 classes" in output
        assert "1 image that cannot be decoded: left out for all fits" in output
        page = (tmp_path / "out" / "report.html").read_text()
        assert "Crop, pad or squish" in page
        assert {file.name for file in (tmp_path / "out").glob("*.svg")} == {
            "differences.svg", "shapes.svg",
        }  # fmt: skip

        assert tesserae(patch, *line, "--epochs", 2) == 1
        assert "epochs is 1 in the folder and 2 here" in capsys.readouterr().err
    torch.manual_seed(99)
    assert tesserae(monkeypatch, *whole) == 0
    assert metrics_of(tmp_path / "out") == metrics_of(tmp_path / "whole")
    hits = [(tmp_path / name / "hits.jsonl").read_text() for name in ("out", "whole")]
    assert hits[0] == hits[1]
    for each in map(json.loads, hits[0].splitlines()):
        share = each["bits"].count("1") / len(each["bits"])
        metrics = metrics_of(tmp_path / "out")[each["arm"], each["seed"]]
        assert share == pytest.approx(metrics[metric_name(each["query"])])
    assert list(metrics_of(tmp_path / "whole")) == [(fit, 0) for fit in FITS]


def test_each_query_is_evaluated_on_its_own_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is a stage that is trained in the same way, with that store as held-out split.

    A folder that has lost what a run recognises is refused.
    """
    source = small_source(tmp_path / "source")
    assert tesserae(monkeypatch, *words(source, tmp_path / "out", "--epochs", 3)) == 0
    stores = prepare_stores(tmp_path / "out", dict.fromkeys(FITS, (16,)), train=True)
    data = Training(
        FitOptions(source=str(source), size=16, width=8, epochs=3, batch_size=8,
                   learning_rate=0.05),
        stores,
        evaluated_images(stores),
    )  # fmt: skip
    recorded = metrics_of(tmp_path / "out")["pad", 0]
    images = data.images
    assert len(images.labels) == 2 * NUM_VAL
    counts = np.bincount(shape_of(elongation(images.widths, images.heights)), minlength=3)
    recipe = data.recipe(0)
    loader = Loader(tmp_path / "out" / "stores" / "pad", size=16, batch_size=8, seed=0)
    recipe = recipe.for_rows(loader.num_rows)
    for query in FITS:
        torch.manual_seed(0)
        held_out = Loader(
            tmp_path / "out" / "stores" / query, "val", size=16, batch_size=4, order="sequential",
            drop_last=False,
        )  # fmt: skip
        stage = Classify(recipe, Data(loader, held_out, stores.classes, sizes=(16,)), World())
        while stage.step < recipe.steps:
            stage.advance()
        stage.batches.close()
        expected = stage.evaluate()[0]["held_out_accuracy"]
        assert recorded[metric_name(query)] == pytest.approx(expected)
        of_shapes = [recorded.get(metric_name(query, shape=shape), 0.0) for shape in SHAPES]
        assert np.average(of_shapes, weights=counts) == pytest.approx(expected)

    hits = tmp_path / "out" / "hits.jsonl"
    hits.write_text("".join(hits.read_text().splitlines(keepends=True)[1:]))
    assert tesserae(monkeypatch, *words(source, tmp_path / "out", "--epochs", 3)) == 1
    assert "hits.jsonl lacks a line of the run crop, seed 0. Remove" in capsys.readouterr().err


def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sentences say what has no effect."""
    assert main(["study", "fit", "--source", "x", "--class-names", "y"]) != 0
    assert "only --trunk knows classes by their names" in capsys.readouterr().err
    assert main(["study", "fit", "--source", "x", "--trunk", "y", "--validation"]) != 0
    assert "--trunk trains nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_a_pretrained_network_is_evaluated_on_the_classes_that_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that were missing can be passed; other names, or other weights, are refused."""
    source = small_source(tmp_path / "source", width=60, classes=3)
    trunk = small_network(tmp_path / "trunk")
    processor = trunk / "preprocessor_config.json"
    crop = {"size": {"shortest_edge": 20}, "crop_size": SIZE, "do_center_crop": True}
    processor.write_text(json.dumps(json.loads(processor.read_text()) | crop))
    names = tmp_path / "names.txt"
    out = tmp_path / "out"
    line = ["study", "fit", "--source", source, "--trunk", trunk, "--out", out]
    assert tesserae(monkeypatch, *line) == 1
    assert "knows 0 of the 3 classes" in capsys.readouterr().err
    line += ["--class-names", names]
    names.write_text("n00000000\thorse\nn00000001\tbee\nn00000002\tant\n")
    assert tesserae(monkeypatch, *line) == 0
    assert f"{2 * NUM_VAL} images of 2 classes that the network knows" in capsys.readouterr().out
    recorded = (out / "policies.jsonl").read_text()
    hits = {each["policy"]: each["first"] for each in map(json.loads, recorded.splitlines())}
    assert set(hits) == {*FITS, "network's own"}
    assert all({*bits} == {"0", "1"} for bits in hits.values())
    classifier = pretrained_classifier(str(trunk), ["ant", "bee"], new_last_layer=False)
    classifier.model.eval()
    for policy, first in hits.items():
        fit, side = (policy, SIZE) if policy in FITS else ("crop", 20)
        dataset = SplitDataset(out / "stores" / fit, "val", size=side)
        margin = (side - SIZE) // 2
        for hit, (image, label, _) in zip(
            first, [item for item in dataset if item[1] > 0], strict=True
        ):
            pixels = image[None, :, margin : margin + SIZE, margin : margin + SIZE]
            with torch.no_grad():
                answer = int(classifier.logits(classifier.transform.apply(pixels)).argmax())
            assert (hit == "1") == (answer == {1: 1, 2: 0}[label])

    assert tesserae(monkeypatch, *line) == 0
    assert (out / "policies.jsonl").read_text() == recorded
    names.write_text("n00000000\thorse\nn00000001\tant\nn00000002\tbee\n")
    assert tesserae(monkeypatch, *line) == 1
    assert "classes of other --class-names" in capsys.readouterr().err
    names.write_text("n00000000\thorse\nn00000001\tbee\nn00000002\tant\n")
    weights = load_file(trunk / "model.safetensors")
    weights["classifier.bias"][0] += 1
    save_file(weights, trunk / "model.safetensors", {"format": "pt"})
    assert tesserae(monkeypatch, *line) == 1
    assert "has results of another --trunk" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not DATA.is_dir(), reason="TESSERAE_DATA is no folder")
def test_a_quick_study_of_real_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Squares of Tiny-ImageNet are cut, with workers of their own."""
    tar = DATA / "tiny-imagenet-200.tar"
    out = tmp_path / "out"
    assert main(["study", "fit", "--source", str(tar), "--quick", "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "its figures support no conclusion" in output
    assert "The rectangles are artificial" in output
    assert len(metrics_of(out)) == 9


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not DATA.is_dir(), reason="TESSERAE_DATA is no folder")
def test_a_pretrained_network_on_real_photographs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It recognises most photographs; what is evaluated is not evaluated again."""
    line = [
        *(
            "study",
            "fit",
            "--source",
            DATA / "imagenet",
            "--classes",
            40,
            "--out",
            tmp_path / "out",
        ),
        *("--trunk", DATA / "mobilenet_v1_0.75_224"),
        *("--class-names", DATA / "meta" / "LOC_synset_mapping.txt"),
    ]
    assert tesserae(monkeypatch, *line) == 0
    first = capsys.readouterr().out
    assert "40 images of 40 classes" in first
    assert "Images are used as they are" in first
    rates = {row.split()[0]: row for row in first.splitlines() if "top-1 " in row}
    assert "network's" in rates
    assert tesserae(monkeypatch, *line) == 0
    assert [row for row in capsys.readouterr().out.splitlines() if row in first.splitlines()]
    hits = map(json.loads, (tmp_path / "out" / "policies.jsonl").read_text().splitlines())
    share = {line["policy"]: line["first"].count("1") / 40 for line in hits}
    assert share["crop"] > 0.6
    assert set(share) == {*FITS, "network's own"}
