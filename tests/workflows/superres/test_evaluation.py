"""A report says how similar the images of a network are to their originals, and shows them."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from tests.workflows.superres.small import STEP, small_run
from tests.workflows.test_run_report import Check
from tests.workflows.training.small import small_store, train_rank
from workflows.cli import main
from workflows.evaluation.evaluated_run import EvaluatedRun
from workflows.evaluation.image_quality import luma
from workflows.evaluation.options import EvaluationOptions
from workflows.superres import bicubic, evaluation
from workflows.superres.choices import BLUR_JPEG, STORED
from workflows.superres.data import PairArrays, pair_loader
from workflows.superres.evaluation import (
    EvaluatedSet,
    evaluate_for_report,
    image_interval,
    measure,
)
from workflows.superres.options import SuperresOptions
from workflows.training.run_folder import RunFolder
from workflows.training.stage import Data

CPU = torch.device("cpu")
SET5 = Path(os.environ.get("TESSERAE_DATA", "")) / "superres" / "Set5"
needs_set5 = pytest.mark.skipif(
    not os.environ.get("TESSERAE_DATA") or not SET5.is_dir(), reason="TESSERAE_DATA has no Set5"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, a run on it, runs without one, and a folder of images."""
    folder = tmp_path_factory.mktemp("superres")
    store = small_store(folder, sizes=(12, 24))
    options = SuperresOptions(
        network="fsrcnn", scale=2, degradation=STORED, steps=1, batch_size=4, patch_size=8,
        precision="float32", log_every=1,
    )  # fmt: skip
    arrays = PairArrays(2, STORED, (12, 24))
    train, held_out = (
        pair_loader(str(store), split, options, arrays, training=split == "train")
        for split in ("train", "val")
    )
    train_rank("superres", options, Data(train, held_out, ()), folder / "run<b>")
    small_run(folder / "used")
    small_run(folder / "four", scale=4, degradation=BLUR_JPEG)
    for name in "abcde":
        save(folder / "images" / f"{name}.png", noise(ord(name), 40, 36))
    return folder


def noise(seed: int, width: int, height: int) -> Tensor:
    """Return a smooth random image, (1, 3, height, width) float32 in whole levels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (255 * smooth).round().clamp(0, 255)


def save(file: Path, image: Tensor) -> None:
    """Write an image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[0].permute(1, 2, 0).byte().numpy()).save(file)


def evaluate(run: Path, **choices: Any) -> EvaluatedRun:
    """Return the evaluation of a run for its report."""
    evaluated = evaluate_for_report(RunFolder(run), EvaluationOptions(**choices), CPU)
    assert evaluated is not None
    return evaluated


# --- figures --------------------------------------------------------------------------------------


def test_measures_have_their_known_values() -> None:
    """The border does not count, and an error of grey levels is less of luma."""
    original = torch.full((1, 3, 30, 34), 100.0)
    image = original.clone()
    image[:, :, 4:-4, 4:-4] += 3
    image[:, :, :4] = 0
    of_luma, ssim_of_luma, of_rgb, ssim_of_rgb = measure(image, original, 4, CPU)
    assert of_rgb == pytest.approx(20 * np.log10(255 / 3))
    # 16 + 219 v / 255 is 101.9 of 100 and 104.5 of 103, which round to 102 and 104
    assert of_luma == pytest.approx(20 * np.log10(255 / 2))
    c1 = (0.01 * 255) ** 2
    assert ssim_of_rgb == pytest.approx((2 * 103 * 100 + c1) / (103**2 + 100**2 + c1))
    assert ssim_of_luma == pytest.approx((2 * 104 * 102 + c1) / (104**2 + 102**2 + c1))


def test_measures_equal_those_of_scikit_image() -> None:
    """Luma is that of BT.601; SSIM of RGB is the mean over channels."""
    original, image = noise(0, 33, 28), noise(1, 33, 28)
    arguments = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False,
                 "data_range": 255}  # fmt: skip
    inner = (slice(3, -3), slice(3, -3))
    x, y = (each[0].permute(1, 2, 0).double().numpy()[inner] for each in (original, image))
    x_luma, y_luma = (luma(each)[0, 0].numpy()[inner] for each in (original, image))
    expected = [
        peak_signal_noise_ratio(x_luma, y_luma, data_range=255),
        structural_similarity(x_luma, y_luma, **arguments),
        peak_signal_noise_ratio(x, y, data_range=255),
        structural_similarity(x, y, channel_axis=2, **arguments),
    ]
    assert measure(image, original, 3, CPU) == pytest.approx(expected, abs=1e-9)


def test_intervals_are_those_of_the_choice_of_images() -> None:
    """They are close to Student's t, which percentiles of few images are too narrow for."""
    values = np.random.default_rng(0).normal(30, 2, 12)
    interval = image_interval(values)
    assert interval is not None
    half = 2.201 * values.std(ddof=1) / 12**0.5
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    equal = image_interval(np.full(5, 2.5))
    assert equal is not None
    assert (equal.low, equal.high) == (2.5, 2.5)
    assert image_interval(values[:4]) is None


def set_of(bicubic_psnr: list[float], network_psnr: list[float]) -> EvaluatedSet:
    """Return a set with these PSNR of luma."""
    n = len(bicubic_psnr)
    scores = [np.full((n, 4), 0.5) for _ in range(2)]
    scores[0][:, 0], scores[1][:, 0] = bicubic_psnr, network_psnr
    names = tuple(f"image{i}" for i in range(n))
    return EvaluatedSet(tuple(range(n)), names, *scores, ())


class _Images:
    description, num_available = "of a test", 7


def test_a_perfect_image_counts_for_no_mean(runs: Path) -> None:
    """Its PSNR is infinite, which the table says, and the notice."""
    trained = evaluation.open_upscaler(runs / "used")
    perfect = set_of([30, 31, np.inf, 32], [31, np.inf, np.inf, 34])
    texts = dict(evaluation._metric_texts(perfect, _Images(), trained, None, EvaluationOptions()))  # type: ignore[arg-type]
    assert texts["PSNR, luma"] == "network 32.50 dB, bicubic 31.00 dB, difference +1.50 dB"
    assert texts["images"] == "4 of 7, of a test"
    rows = [row[:4] for row in evaluation._image_table(perfect).rows]
    assert rows == [
        ["image1", "31.00", "∞", "+∞"],
        ["image3", "32.00", "34.00", "+2.00"],
        ["image0", "30.00", "31.00", "+1.00"],
        ["image2", "∞", "∞", "-"],
    ]
    notice = evaluation._notice(perfect, trained, None, EvaluationOptions())
    assert "2 images with an enlargement that equals the original, whose PSNR" in notice
    assert "Intervals" not in notice
    texts = dict(evaluation._metric_texts(set_of([np.inf], [3]), _Images(), trained, None,
                                          EvaluationOptions()))  # type: ignore[arg-type]  # fmt: skip
    assert texts["PSNR, luma"] == "infinite for every image, by one of the two methods"


def test_a_long_table_has_both_ends() -> None:
    """Fifty images with the largest gain, and fifty with the smallest."""
    gains = list(np.random.default_rng(0).permutation(120).astype(float))
    table = evaluation._image_table(set_of([30.0] * 120, [30 + gain for gain in gains]))
    shown = [float(row[3]) for row in table.rows]
    assert shown == [*range(119, 69, -1), *range(49, -1, -1)]
    assert table.title == "The 50 images of largest and of smallest gain of PSNR of luma"


def test_instructive_images_are_the_ends_and_the_middle() -> None:
    """One image has one role; few have no median of their own."""
    assert evaluation._instructive([4, 0, 3, 1, 2]) == {
        4: "largest gain", 3: "median gain", 2: "smallest gain",
    }  # fmt: skip
    assert evaluation._instructive([1, 0]) == {1: "largest gain", 0: "smallest gain"}
    assert evaluation._instructive([0]) == {0: "the only image"}


# --- the command ----------------------------------------------------------------------------------


def test_a_report_evaluates_the_held_out_split(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page is self-contained, with a table and crops, and other options are told."""
    run = runs / "run<b>"
    assert main(["report", str(run), "--device", "cpu", "--backbone", "x"]) == 0
    output = capsys.readouterr().out
    assert "notice: --backbone has no effect on a run of superres." in output
    assert "  images: 18, of split val, pairs of stored images, 12 px and 24 px\n" in output
    assert "  PSNR, luma: network " in output
    assert " dB (95 % " in output
    assert "  perceptual distance: not measured; --judge MODEL --judge-blocks BLOCK" in output
    page = (run / "report.html").read_text()
    check = Check()
    check.feed(page)
    assert not check.open
    for text in ("Evaluation at step 1", "Images, by their gain of PSNR of luma", "2x", "fsrcnn",
                 "val0.JPEG", "largest gain", "median gain", "smallest gain"):  # fmt: skip
        assert text in page
    assert "<b>" not in page
    assert "images of None px" not in page
    assert page.count("data:image/png") >= 3


def test_figures_are_the_means_over_images(runs: Path) -> None:
    """They follow from the network and the images of a folder, whose originals are reduced."""
    network = small_run(runs / "again")
    scores: dict[str, list[list[float]]] = {"bicubic": [], "network": []}
    for name in "abcde":
        high = noise(ord(name), 40, 36)
        low = bicubic.reduce(high, 2)
        with torch.no_grad():
            scores["network"].append(measure(bicubic.round_to_levels(network(low)), high, 2, CPU))
        scores["bicubic"].append(measure(bicubic.enlarge(low, 2), high, 2, CPU))
    evaluated = evaluate(runs / "used", images=runs / "images")
    texts = dict(evaluated.metrics())
    assert evaluated.step == STEP
    assert evaluated.complete
    assert texts["images"] == f"5, of {runs / 'images'}, reduced bicubically"
    of_network, of_bicubic = (np.mean(scores[name], 0) for name in ("network", "bicubic"))
    for index, (name, decimals) in enumerate((("PSNR, luma", 2), ("SSIM, luma", 4),
                                              ("PSNR, RGB", 2), ("SSIM, RGB", 4))):  # fmt: skip
        assert f"network {of_network[index]:.{decimals}f}" in texts[name]
        assert f"bicubic {of_bicubic[index]:.{decimals}f}" in texts[name]
        difference = of_network[index] - of_bicubic[index]
        assert f"difference {difference:+.{decimals}f}" in texts[name]
    assert len(evaluated.images) == 3
    few = evaluate(runs / "used", images=runs / "images", samples=8, self_ensemble=True,
                   precision="bfloat16")  # fmt: skip
    texts = dict(few.metrics())
    assert texts["self-ensemble"] == "the network's enlargements of eight orientations are averaged"
    assert texts["precision"] == "the network computes in bfloat16"


def test_images_that_are_left_out_are_told_and_give_exit_status_1(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are evaluated; without any, the command refuses, and the page is unchanged."""
    images = tmp_path / "images"
    save(images / "fine.png", noise(0, 20, 24))
    save(images / "tiny.png", noise(0, 20, 12))
    (images / "broken.png").write_text("<b>no image</b>")
    command = ["report", str(runs / "used"), "--images", str(images), "--device", "cpu"]
    assert main(command) == 1
    output = capsys.readouterr().out
    assert f"notice: left out: {images}/broken.png is not a readable image: " in output
    assert f"notice: left out: {images}/tiny.png has 20x12 pixels: expected at least 15" in output
    assert f"  images: 1 of 3, of {images}, reduced bicubically\n" in output
    page = (runs / "used" / "report.html").read_text()
    assert "2 images left out: " in page
    assert "the only image" in page
    (images / "fine.png").unlink()
    assert main(command) == 1
    error = f"tesserae: none of 2 images of {images}, reduced bicubically can be evaluated: "
    assert f"{error}{images}" in capsys.readouterr().err
    assert (runs / "used" / "report.html").read_text() == page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "nowhere"], "nowhere is not a readable folder (No such file or directory)"),
        (["--split", "train2"], "no split 'train2'"),
        (["--low-images", "x"], "--low-images is x: pass the folder of their originals as well"),
        (["--judge-blocks", "a", "b"], "--judge-blocks is a b: pass the network that has them"),
        (["--images", "x", "--split", "val"], "--images is x and --split is val: a run is"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    runs: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is a sentence with the value."""
    assert main(["report", str(runs / "run<b>"), "--device", "cpu", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_run_without_a_held_out_split(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is evaluated on val, unless it was trained on it; then nothing is."""
    run = RunFolder(runs / "run<b>")
    data = {**run.data(), "held_out": None}
    monkeypatch.setattr(RunFolder, "data", lambda _: data)
    assert dict(evaluate(run.path, samples=8).metrics())["images"].startswith(
        "8 of 18, of split val, "
    )
    data["split"] = "val"
    monkeypatch.setattr(RunFolder, "store", lambda *_: str(runs / "store"))
    assert evaluate_for_report(run, EvaluationOptions(), CPU) is None
    assert "pass --split, one of train, val, or a folder with --images." in capsys.readouterr().out


def test_another_store_is_evaluated_by_name(runs: Path) -> None:
    """It is named beside the split, which is val unless another one is named."""
    store = str(runs / "store")
    evaluated = evaluate(runs / "run<b>", evaluation_store=store, split="train", samples=8)
    texts = dict(evaluated.metrics())
    assert texts["images"].startswith(f"8 of 36, of split train of {store}, pairs of stored")


def test_a_run_without_a_checkpoint_gets_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notice says that nothing was evaluated."""
    options = asdict(SuperresOptions(scale=2, degradation=STORED))
    RunFolder(tmp_path / "new").create_or_continue({**options, "stage": "superres"}, {"data": {}})
    assert main(["report", str(tmp_path / "new"), "--device", "cpu"]) == 0
    assert "the run is not evaluated, as it has no checkpoint yet." in capsys.readouterr().out
    assert "Evaluation at" not in (tmp_path / "new" / "report.html").read_text()


def test_a_run_on_degraded_images_is_told(runs: Path) -> None:
    """Images of a folder are not blurred and compressed as those that it was trained on."""
    evaluated = evaluate(runs / "four", images=runs / "images")
    assert "The run was trained on blurred and compressed images, and these are not" in (
        evaluated.notice
    )


def test_a_judge_measures_a_distance(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a row of the figures, with the network and its blocks, and columns of the table."""

    class _Judge:
        name, blocks = "Net (net)", ("a", "b")

        def distance(self, images: Tensor, originals: Tensor) -> Tensor:
            assert images.shape == originals.shape == (1, 3, 32, 36)  # without a border
            return (images.double() - originals).abs().mean((1, 2, 3))

    monkeypatch.setattr(evaluation, "open_judge", lambda *_: _Judge())
    evaluated = evaluate(
        runs / "used", images=runs / "images", judge="net", judge_blocks=("a", "b")
    )
    texts = dict(evaluated.metrics())
    assert texts["judge"] == "Net (net), blocks a, b; lower distances are better"
    assert texts["perceptual distance"].startswith("network ")
    (table,) = evaluated.tables
    assert table.columns[-3:] == ["distance bicubic", "distance network", "distance change"]
    assert all(len(row) == 10 for row in table.rows)
    assert "not comparable with published ones of LPIPS" in evaluated.notice


# --- published images -----------------------------------------------------------------------------


@needs_set5
@pytest.mark.slow
def test_bicubic_interpolation_of_set5_has_its_published_quality(
    runs: Path, tmp_path: Path
) -> None:
    """PSNR is 28.42 dB and SSIM 0.8104, from published low-resolution images and from ours."""
    for file in SET5.glob("*_HR.png"):
        (tmp_path / file.name).symlink_to(file)
    texts = [dict(evaluate(runs / "four", images=images).metrics()) for images in (SET5, tmp_path)]
    assert texts[0]["images"].startswith("5, of ")
    assert texts[0]["images"].endswith("with the low-resolution images beside them")
    assert texts[1]["images"].endswith("reduced bicubically")
    for name, published, tolerance in (("PSNR, luma", 28.42, 0.05), ("SSIM, luma", 0.8104, 0.001)):
        values = [float(each[name].split("bicubic ")[1].split()[0]) for each in texts]
        assert values[0] == values[1] == pytest.approx(published, abs=tolerance)
