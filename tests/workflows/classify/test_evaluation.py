"""Tests of the evaluation of a classifier: its figures, its tables and its page."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from tests.workflows.classify.small import (
    CLASSES,
    ENCODED,
    HELD_OUT_ROWS,
    class_store,
    train_inline,
)
from tests.workflows.test_run_report import Check
from workflows.classify import evaluation
from workflows.classify.evaluation import (
    Predictions,
    calibration_error,
    evaluate_for_report,
    predict,
    wilson_interval,
)
from workflows.classify.model import TrainedClassifier, open_classifier
from workflows.cli import main
from workflows.evaluation.evaluated_split import evaluated_split
from workflows.evaluation.options import EvaluationOptions
from workflows.training.run_folder import RunFolder

CPU = torch.device("cpu")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CHOSEN = ("--network", "resnet9", "--image-size", 16, "--epochs", 4, "--learning-rate", 0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, and runs on its squares and on its encoded rows."""
    folder = tmp_path_factory.mktemp("evaluation")
    store = class_store(folder, encoded=(ENCODED,))
    kinds: dict[str, tuple[object, ...]] = {
        "squares": ("--evaluation-size", 18),
        "encoded": ("--encoded", ENCODED, "--ema-decay", 0.5),
        "mirrored": ("--mirrored-evaluation", "--steps", 3),
        "run<b>": ("--steps", 2, "--held-out", "none"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, words in kinds.items():
            assert train_inline(patch, store, folder / name, *CHOSEN, *words) == 0
    return folder


def evaluate(run: Path, **choices: Any) -> Any:
    """Return the evaluation of a run for its report."""
    return evaluate_for_report(RunFolder(run), EvaluationOptions(**choices), CPU)


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 1, 0.0, 0.7935), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0),
     (81, 263, 0.2553, 0.3662)],
)  # fmt: skip
def test_an_interval_is_that_of_wilson(hits: int, count: int, low: float, high: float) -> None:
    """The last one is the example of Newcombe, 1998, method 3; others follow from the formula."""
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=5e-5)
    z, share = 1.959963984540054, hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    assert wilson_interval(hits, count) == pytest.approx((centre - half, centre + half))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 200), classes=st.integers(2, 6))
def test_the_calibration_error_is_that_of_torchmetrics(seed: int, n: int, classes: int) -> None:
    """Random predictions have the same error in 15 bins; counts repeat images."""
    # Not at the top: it takes seconds to import, in each process that runs tests.
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(n, classes, generator=generator).mul(2).softmax(1).double()
    labels = torch.randint(classes, (n,), generator=generator)
    confidence, predicted = probabilities.max(1)
    hits = (predicted == labels).numpy()
    expected = multiclass_calibration_error(probabilities, labels, classes, n_bins=15, norm="l1")
    assert calibration_error(confidence.numpy(), hits) == pytest.approx(float(expected), abs=1e-5)
    counts = torch.randint(0, 4, (n,), generator=generator).numpy()
    counts[0] = 1
    repeated = np.repeat(np.arange(n), counts)
    assert calibration_error(confidence.numpy(), hits, counts) == pytest.approx(
        calibration_error(confidence.numpy()[repeated], hits[repeated])
    )


def test_calibrated_predictions_have_no_error() -> None:
    """Of ten images with a confidence of 0.7, seven are right; one of 1 is right."""
    confidence = np.array([0.7] * 10 + [1.0])
    hits = np.array([True] * 7 + [False] * 3 + [True])
    assert calibration_error(confidence, hits) == pytest.approx(0, abs=1e-12)
    assert calibration_error(confidence, ~hits) == pytest.approx((4 + 1) / 11)


def predictions_of(labels: list[int], predicted: list[int]) -> Predictions:
    """Return predictions with a confidence of 0.75."""
    n = len(labels)
    return Predictions(
        labels=np.array(labels),
        predicted=np.array(predicted),
        confidence=np.full(n, 0.75),
        in_top=np.ones(n, bool),
        losses=np.ones(n),
        among_shared=np.array(labels) == np.array(predicted),
    )


def named(*names: str) -> TrainedClassifier:
    """Return the names of classes in place of a classifier."""
    return SimpleNamespace(names=names, wnids=names)  # type: ignore[return-value]


def test_the_most_frequent_confusions_are_listed() -> None:
    """Pairs are listed by their number, with the share of the true class, then by label."""
    predictions = predictions_of([0, 0, 0, 0, 1, 1, 2, 2, 2], [1, 1, 2, 0, 0, 1, 2, 1, 1])
    pairs = evaluation._confused_pairs(predictions, named("ant", "bee", "cat"))
    assert pairs == [
        ("ant", "bee", "2", "50.0%"),
        ("cat", "bee", "2", "66.7%"),
        ("ant", "cat", "1", "25.0%"),
        ("bee", "ant", "1", "50.0%"),
    ]
    assert evaluation._confused_pairs(predictions_of([0, 1], [0, 1]), named("a", "b")) == []


def test_classes_are_listed_by_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes without images are left out, and of many the first and the last are listed."""
    predictions = predictions_of([0, 0, 1, 1, 3, 3], [0, 1, 1, 1, 0, 0])
    table = evaluation._class_table(predictions, named("ant", "bee", "cat", "dog"))
    assert [row[:3] for row in table.rows] == [
        ("bee", "2", "100.0%"), ("ant", "2", "50.0%"), ("dog", "2", "0.0%"),
    ]  # fmt: skip
    assert table.rows[1][3] == "9.5% to 90.5%"
    monkeypatch.setattr(evaluation, "MAX_LISTED_CLASSES", 1)
    table = evaluation._class_table(predictions, named("ant", "bee", "cat", "dog"))
    assert [row[0] for row in table.rows] == ["bee", "dog"]
    assert table.title == "The 1 classes of highest and of lowest accuracy"


def test_the_matrix_has_a_row_for_each_true_class() -> None:
    """A dark cell is a large share of its row."""
    predictions = predictions_of([0, 0, 1, 1], [0, 0, 0, 1])
    ((caption, png),) = evaluation._images(predictions, named("a", "b", "c"))
    assert "a row for each true class" in caption
    pixels = np.asarray(Image.open(BytesIO(png)).convert("L"))
    assert pixels.shape == (480, 480)
    cells = pixels[80::160, 80::160]
    assert cells.tolist() == [[0, 255, 255], [128, 128, 255], [255, 255, 255]]
    many = named(*map(str, range(251)))
    assert list(evaluation._images(predictions, many)) == []


# --- predictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["squares", "encoded"])
def test_predictions_equal_a_plain_computation(folder: Path, kind: str) -> None:
    """Images that are read, cut, normalised and scored by hand have the same predictions."""
    trained = open_classifier(folder / kind)
    store = str(folder / "store")
    predictions = predict(trained, store, "val", {label: label for label in range(6)})
    if kind == "squares":  # 20 px, of which 18 are evaluated
        loader = Loader(store, "val", size=20, batch_size=5, order="sequential", drop_last=False)
        cut = slice(1, 19)
    else:
        loader = Loader(
            store, "val", size=16, batch_size=5, order="sequential", drop_last=False,
            encoded=ENCODED, crop=trained.options.loader_arguments(training=False)["crop"],
        )  # fmt: skip
        cut = slice(None)
    images = torch.cat([batch.images for batch in loader])[:, :, cut, cut]  # type: ignore[arg-type]
    labels = torch.cat([batch.labels for batch in loader])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406),
                                                            (0.229, 0.224, 0.225)))  # fmt: skip
    with torch.no_grad():
        scores = trained.classifier.model((images / 255 - mean) / std).logits.double()
    probabilities = scores.softmax(1)
    order = scores.argsort(1, descending=True)
    assert len(labels) == HELD_OUT_ROWS
    assert predictions.labels.tolist() == labels.tolist()
    assert predictions.predicted.tolist() == order[:, 0].tolist()
    np.testing.assert_allclose(predictions.confidence, probabilities.max(1).values, rtol=1e-4)
    own = probabilities[torch.arange(len(labels)), labels]
    np.testing.assert_allclose(predictions.losses, -own.log(), **CLOSE)
    in_top = (order[:, :5] == labels[:, None]).any(1)
    assert predictions.in_top.tolist() == in_top.tolist()
    assert predictions.among_shared.tolist() == (order[:, 0] == labels).tolist()
    assert predictions.hits.mean() > 0.5


def test_a_report_has_the_accuracy_of_the_training(folder: Path) -> None:
    """The last evaluation of the run is that of its report, on squares and encoded rows."""
    for kind in ("squares", "encoded", "mirrored"):
        last = [m for m in RunFolder(folder / kind).metrics() if m.get("what") == "look"][-1]
        figures = dict(evaluate(folder / kind).metrics())
        assert figures["top-1 accuracy"].startswith(f"{last['held_out_accuracy']:.1%} (95 % ")
        assert figures["top-5 accuracy"].startswith(f"{last['held_out_top5']:.1%} (95 % ")
        loss, _, margin = figures["cross entropy"].partition(" ± ")
        assert float(loss) == pytest.approx(last["held_out_loss"], abs=0.001)
        assert 0 < float(margin) < 3
        assert figures["images"] == "17, of split val"
        assert ("mirror images" in figures) == (kind == "mirrored")


def test_mirrored_predictions_are_the_mean_of_both_scores(folder: Path) -> None:
    """Scores are averaged before the softmax."""
    trained = open_classifier(folder / "mirrored")
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406),
                                                            (0.229, 0.224, 0.225)))  # fmt: skip
    pixels = (images / 255 - mean) / std
    with torch.no_grad():
        both = [trained.classifier.model(p).logits for p in (pixels, pixels.flip(3))]
    expected = ((both[0] + both[1]) / 2).softmax(1)
    torch.testing.assert_close(trained.probabilities(images), expected, **CLOSE)


def test_the_average_of_the_weights_is_opened(folder: Path) -> None:
    """A run with an average is opened with it, in evaluation mode and without gradients."""
    run = RunFolder(folder / "encoded")
    newest = run.newest_checkpoint()
    assert newest is not None
    state = run.load(newest)["stage"]
    model = open_classifier(folder / "encoded").classifier.model
    weights = model.state_dict()
    assert all(torch.equal(v, state["average"][f"module.{n}"]) for n, v in weights.items())
    assert not all(torch.equal(value, state["network"][n]) for n, value in weights.items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


# --- other stores ---------------------------------------------------------------------------------


def test_another_store_is_matched_by_its_classes(folder: Path, tmp_path: Path) -> None:
    """Labels may have another order; classes that the run does not know are left out."""
    classes = ("aardvark", "fox<b>", "dog", "bee")
    second_store = class_store(tmp_path, rows=0, held_out=16, classes=classes, sizes=(20,))
    recipe = Loader(second_store, "val", size=20, batch_size=4).classes
    assert [wnid for wnid, _ in recipe] == ["aardvark", "bee", "dog", "fox<b>"]
    trained = open_classifier(folder / "squares")
    label_map = evaluation._shared_labels(trained, str(second_store))
    assert label_map == {1: CLASSES.index("bee"), 2: CLASSES.index("dog"),
                         3: CLASSES.index("fox<b>")}  # fmt: skip
    predictions = predict(trained, str(second_store), "val", label_map)
    assert sorted(predictions.labels.tolist()) == [1] * 4 + [3] * 4 + [5] * 4
    assert predictions.hits.mean() > 0.5, "its images have the colours of the run's classes"
    assert np.all(predictions.among_shared | ~predictions.hits)
    evaluated = evaluate(folder / "squares", evaluation_store=str(second_store))
    figures = dict(evaluated.metrics())
    assert figures["images"] == f"12, of split val of {second_store}"
    assert "top-1 accuracy among the 3 classes of the store" in figures
    assert evaluated.notice.endswith("were left out: 3 classes are evaluated.")


def test_a_store_without_the_classes_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names classes of both, and the page is not written."""
    second_store = class_store(tmp_path, rows=0, held_out=4, classes=("x", "y"), sizes=(20,))
    page = folder / "squares" / "report.html"
    page.unlink(missing_ok=True)
    words = ["report", str(folder / "squares"), "--evaluation-store", str(second_store)]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert "has classes such as x, y, and the run was trained on ant, bee, cat" in captured.err
    assert captured.err.count("\n") == 1
    assert not page.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "test"], "test"),
        (["--evaluation-store", "{folder}/nowhere"], "{folder}/nowhere"),
        (["--evaluation-store", "{small}"], "split 'val' of {small} has images of 8 px: expected"),
        (["--device", "abacus"], "--device is 'abacus'"),
    ],
)
def test_an_impossible_report_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """The command ends with one sentence and exit status 1."""
    small = tmp_path / "store"
    if "{small}" in words:
        class_store(tmp_path, rows=0, held_out=6, sizes=(8,))
    named_words = [word.format(folder=folder, small=small) for word in words]
    assert main(["report", str(folder / "squares"), *named_words]) == 1
    captured = capsys.readouterr()
    assert message.format(folder=folder, small=small) in captured.err
    assert captured.err.count("\n") == 1


# --- pages ----------------------------------------------------------------------------------------


def test_the_page_has_the_tables_and_escapes_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tags in the names of a run and of a class are escaped."""
    run = folder / "run<b>"
    assert main(["report", str(run), "--split", "val"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"top-1 accuracy: \d+\.\d% \(95 % \d+\.\d% to \d+\.\d%\)", output)
    assert re.search(r"calibration error: 0\.\d+ \(95 % 0\.\d+ to 0\.\d+, 15 bins\)", output)
    page = (run / "report.html").read_text()
    check = Check()
    check.feed(page)
    assert not check.open
    for part in ("Classes, by accuracy", "Most frequent confusions", "Calibration", "fox&lt;b&gt;",
                 "confusions: a row for each true class"):  # fmt: skip
        assert part in page
    assert "<b>" not in page
    assert "<h1>run&lt;b&gt;</h1>" in page


def test_a_run_without_held_out_rows_is_evaluated_on_val(folder: Path) -> None:
    """A report evaluates on val if the run has no held-out split and was not trained on val."""
    evaluated = evaluate(folder / "run<b>")
    assert dict(evaluated.metrics())["images"] == "17, of split val"
    run = folder / "run<b>"
    data = {**RunFolder(run).data(), "split": "val"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "data", lambda _: data)
        assert evaluated_split(RunFolder(run), str(folder / "store"), is_other=False) is None


def test_a_store_without_val_needs_a_split(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notice names those that there are, and the page has no evaluation."""
    second_store = class_store(tmp_path, rows=8, held_out=0, sizes=(20,))
    words = ["report", str(folder / "squares"), "--evaluation-store", str(second_store)]
    assert main(words) == 0
    assert "the run is not evaluated: pass --split, one of train." in capsys.readouterr().out
    assert main([*words, "--split", "train"]) == 0
    assert f"images: 8, of split train of {second_store}" in capsys.readouterr().out


def test_runs_of_other_stages_are_refused(tmp_path: Path) -> None:
    """A run of another stage, or one without a checkpoint, is refused."""
    RunFolder(tmp_path / "gan").create_or_continue({"stage": "wgan"}, {})
    with pytest.raises(TesseraeError, match="gan is not a run of `tesserae train classify`"):
        open_classifier(tmp_path / "gan")
    RunFolder(tmp_path / "new").create_or_continue({"stage": "classify"}, {})
    with pytest.raises(TesseraeError, match="has no checkpoint yet: train it first"):
        open_classifier(tmp_path / "new")
