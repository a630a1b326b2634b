"""`tesserae train superres`: what it reads, how it goes on, and what it refuses."""

from __future__ import annotations

import io
import math
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import run as run_command
from tests.workflows.classify.small import small_trunk
from tests.workflows.runs.test_train import curve, stop_and_go_on
from tests.workflows.training.inline import inline_ranks
from tests.workflows.training.small import small_store, tensors
from workflows.cli import main
from workflows.runs.train import _arrays_to_prepare, _held_out_to_prepare
from workflows.superres.options import SuperresOptions
from workflows.training.image_grid import GAP_PIXELS
from workflows.training.run_folder import RunFolder
from workflows.training.run_options import RunOptions

ENCODED = "jpeg:24@90"
QUICK: tuple[object, ...] = (
    *("--network", "fsrcnn", "--patch-size", 8, "--batch-size", 8, "--threads-per-rank", 1),
    *("--precision", "float32", "--no-dashboard", "--log-every", 1, "--schedule", "constant"),
    *("--critic-width", 4),
)
"""The flags of a quick command."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of 36 and 18 images of 12 and 24 px, and pretrained trunks."""
    folder = tmp_path_factory.mktemp("superres")
    small_store(folder, sizes=(12, 24), encoded=(ENCODED,))
    small_trunk(folder)
    small_trunk(folder, "vit")
    return folder


def train(monkeypatch: pytest.MonkeyPatch, store: Path, run: Path, *words: object) -> int:
    """Run the command with one rank in this process; return its exit status."""
    with inline_ranks(monkeypatch):
        line = ("train", "superres", store, "--run", run, *QUICK, *words)
        return main([str(word) for word in line])


def last_state(run: Path) -> list[torch.Tensor]:
    """Return all tensors of the newest checkpoint of a run."""
    newest = RunFolder(run).newest_checkpoint()
    assert newest is not None
    return tensors(RunFolder(run).load(newest)["stage"])


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of evaluations."""
    return [line for line in RunFolder(run).metrics() if line.get("what") == "look"]


def test_a_run_is_trained_continued_and_recorded(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command goes on to the bit, with what the run has chosen."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(monkeypatch, folder / "store", whole, "--steps", 4, "--eval-every", 2) == 0
    output = capsys.readouterr().out
    assert "notice: training on pairs of stored images, 12 px and 24 px." in output
    assert f"latest generated images: {whole}/samples/low-enlarged-original-000000004.png" in output
    record = RunFolder(whole).read_options()
    assert (record["options"]["stage"], record["options"]["scale"]) == ("superres", 2)
    assert record["options"]["degradation"] == "stored"
    assert record["data"]["sizes"] == [12, 24]
    assert [line["step"] for line in evaluations(whole)] == [2, 4]
    assert evaluations(whole)[0].keys() >= {"held_out_psnr", "held_out_ssim", "bicubic_psnr"}
    assert set(curve(whole)[1]) == {"step", "pixel_loss"}
    for steps in (1, 4):
        words = ("--steps", steps, "--eval-every", 2)
        assert train(monkeypatch, folder / "store", parts, *words) == 0
    assert curve(parts) == curve(whole)
    pairs = zip(last_state(whole), last_state(parts), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_grid_has_three_pictures_of_an_image_beside_each_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images are in a row: the low-resolution one with large pixels, and at the end its own."""
    words = ("--steps", 1, "--eval-every", 1)
    assert train(monkeypatch, folder / "store", tmp_path / "run", *words) == 0
    (file,) = (tmp_path / "run" / "samples").glob("*.png")
    pixels = np.asarray(Image.open(io.BytesIO(file.read_bytes())))
    step = 24 + GAP_PIXELS
    assert pixels.shape == (4 * step - GAP_PIXELS, 6 * step - GAP_PIXELS, 3)
    for row in range(4):
        for column in (0, 3):
            low, enlarged, original = (
                pixels[step * row : step * row + 24, step * c : step * c + 24].astype(int)
                for c in range(column, column + 3)
            )
            assert np.array_equal(low, low[::2, ::2].repeat(2, 0).repeat(2, 1))
            assert 0 < np.abs(enlarged - original).mean() < 30
            assert 0 < np.abs(low - original).mean() < 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--degradation", "stored", "--scale", 3), "(24 / 12 is 2.00): --degradation stored"),
        (("--degradation", "stored", "--patch-size", 13), "px. Pass at most 12, or add larger"),
        (("--scale", 4), "has 0 readable images of at least 48 px, fewer than --batch-size 8"),
        (("--batch-size", 40), "has 36 readable images, fewer than --batch-size 40"),
        (("--encoded", "jpeg:72@90"), "jpeg:72@90"),
        (("--held-out", "test"), "--held-out is 'test': expected none or a finished split: train"),
        (("--adversarial-weight", 0.1), "its original has 16 px, and the critic takes at least 24"),
        (("--adversarial-weight", 0.1, "--patch-size", 12, "--micro-batch-size", 2),
         "--micro-batch-size is 2: --objective relativistic compares each score"),
        (("--blur", 2, 1), "--blur is 2 1: expected the smallest and the largest value."),
        (("--perceptual", "{folder}/store", "--perceptual-blocks", "a"), "is not a backbone"),
        (("--perceptual", "{folder}/resnet", "--perceptual-blocks", "encoder.stages.5"),
         "has no block 'encoder.stages.5': expected one of encoder.stages.1"),
        (("--perceptual", "{folder}/vit", "--perceptual-blocks", "layers.0", "--patch-size", 6),
         "--patch-size is 6: ViTModel (vit) fails on its originals of 12 px"),
        (("--perceptual", "{folder}/vit", "--perceptual-blocks", "layers.0"),
         "the output of block 'layers.0' of ViTModel (vit) has the shape (1, 5, 16): expected a"),
    ],
)  # fmt: skip
def test_an_impossible_command_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], words: tuple[object, ...], message: str,
) -> None:  # fmt: skip
    """The command ends with one sentence and exit status 1, and creates no folder."""
    run = tmp_path / "run"
    named = [str(word).format(folder=folder) for word in words]
    assert train(monkeypatch, folder / "store", run, *named) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not run.exists()


@pytest.fixture(scope="module")
def started(folder: Path) -> Path:
    """Return the folder of a run of two steps without a critic."""
    run = folder / "started"
    with pytest.MonkeyPatch.context() as patch:
        words = ("--steps", 2, "--patch-size", 12, "--save-every", 1)
        assert train(patch, folder / "store", run, *words) == 0
    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "span"), "was started with --network fsrcnn and cannot continue with"),
        (("--scale", 3), "was started with --scale 2 and cannot continue with --scale 3"),
        (("--degradation", "bicubic"), "was started with --degradation stored and cannot continue"),
        (
            ("--encoded", ENCODED),
            "--encoded is jpeg:24@90: the run trains on stored pairs. Omit it",
        ),
        (("--pixel-weight", 2), "or pass --from-step N to change --pixel-weight from that step on"),
        (("--adversarial-weight", 1), "or pass --from-step N to change --adversarial-weight from"),
    ],
)
def test_a_run_does_not_go_on_with_other_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[object, ...], message: str, started: Path,
) -> None:  # fmt: skip
    """It is refused in a sentence, and the run is unchanged."""
    before = (started / "options.json").read_bytes()
    assert train(monkeypatch, folder / "store", started, "--patch-size", 12, *words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert (started / "options.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_goes_back_to_a_step_and_gets_a_critic(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with other weights of its losses, to the bit also after an interruption."""
    store = folder / "store"
    start = ("--patch-size", 12, "--save-every", 1, "--eval-every", 10)
    changed = ("--adversarial-weight", 0.1, "--warmup-steps", 3, "--pixel-weight", 0.5)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for run in (whole, parts):
        assert train(monkeypatch, store, run, *start, "--steps", 4) == 0
    assert train(monkeypatch, store, whole, *start, *changed, "--steps", 6, "--from-step", 2) == 0
    assert train(monkeypatch, store, parts, *start, *changed, "--steps", 4, "--from-step", 2) == 0
    assert train(monkeypatch, store, parts, *start, *changed, "--steps", 6) == 0
    pairs = zip(last_state(whole), last_state(parts), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    steps = curve(whole)
    assert steps == curve(parts)
    assert steps[3]["critic_loss"] == 0 < steps[4]["critic_loss"]
    without = ("--adversarial-weight", 0, "--steps", 6, "--from-step", 5)
    assert train(monkeypatch, store, whole, *start, "--pixel-weight", 0.5, *without) == 0
    assert set(curve(whole)[6]) == {"step", "pixel_loss"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("--degradation", "blur+jpeg", "--scale", 2), id="squares"),
        pytest.param(
            ("--encoded", ENCODED, "--scale", 2, "--patch-size", 4, "--degradation", "bicubic"),
            id="encoded",
        ),
        pytest.param(("--scale", 3), id="scale 3"),
        pytest.param(
            ("--adversarial-weight", 0.1, "--warmup-steps", 0, "--objective", "wgan-gp",
             "--patch-size", 12, "--micro-batch-size", 3), id="micro-batches",
        ),
        pytest.param(
            ("--perceptual", "{folder}/resnet", "--perceptual-blocks", "embedder",
             "encoder.stages.0", "--style-weight", 0.1), id="perceptual",
        ),
        pytest.param(("--precision", "bfloat16", "--network", "successor"), id="bfloat16"),
    ],
)  # fmt: skip
def test_every_kind_of_run_goes_on_to_the_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]
) -> None:
    """The state after four steps is that of two commands of two steps, and it is evaluated."""
    named = [str(word).format(folder=folder) for word in words]
    is_tripled = named == ["--scale", "3"]
    store = small_store(tmp_path, sizes=(8, 24)) if is_tripled else folder / "store"
    states = []
    for name, ends in (("whole", (4,)), ("parts", (2, 4))):
        for end in ends:
            assert train(monkeypatch, store, tmp_path / name, *named, "--steps", end) == 0
        states.append(last_state(tmp_path / name))
        assert math.isfinite(evaluations(tmp_path / name)[-1]["held_out_psnr"])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.slow
def test_bfloat16_learns_what_float32_learns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses of the first steps agree within a few percent."""
    curves = []
    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        words = ("--network", "span", "--steps", 20, "--precision", precision)
        assert train(monkeypatch, folder / "store", run, *words) == 0
        curves.append([metrics["pixel_loss"] for metrics in curve(run).values()])
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.05)


@pytest.mark.slow
def test_a_diverged_run_names_what_to_lower(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The error is a single sentence with both learning rates."""
    words = ("--learning-rate", "1e30", "--steps", 20, "--adversarial-weight", 0.1, "--patch-size",
             12, "--warmup-steps", 0)  # fmt: skip
    assert train(monkeypatch, folder / "store", tmp_path / "run", *words) == 1
    assert re.search(
        r"training diverged at step \d+: .*Lower --learning-rate \(now 1e\+30\) or"
        r" --critic-learning-rate \(now 0\.0001\) and resume with --from-step 0",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, {"sizes": (72, 288)}),
        ({"patch_size": 8}, {"sizes": (12, 24)}),
        ({"patch_size": 8, "scale": 4}, {"sizes": (72, 288)}),
        ({"degradation": "bicubic"}, {"sizes": (288,)}),
        ({"encoded": "original"}, {"encoded": ("original",)}),
    ],
)
def test_the_arrays_that_are_read_are_prepared(
    folder: Path, tmp_path: Path, choices: dict[str, Any], expected: dict[str, Any]
) -> None:
    """With --data: two sizes for stored pairs, unless the store has suitable ones."""
    on = RunOptions(stage="superres", store=str(folder / "store"), data="SOURCE")
    options = SuperresOptions(**choices)
    assert _arrays_to_prepare(on, options, RunFolder(tmp_path / "run")) == expected
    assert _held_out_to_prepare(on, options, ["train", "val", "test"]) == ["val"]


@pytest.mark.slow
def test_a_run_prepares_its_pairs(tmp_path: Path) -> None:
    """With --data both sizes are prepared, and the run is evaluated."""
    source = small_store(tmp_path, sizes=(8,)).parent / "source"
    line = ("train", "superres", tmp_path / "new", "--run", tmp_path / "run", "--data", source,
            *QUICK, "--steps", 2)  # fmt: skip
    done = run_command(*line, scratch=tmp_path, seconds=180)
    assert (done.status, done.err) == (0, "")
    assert "notice: training on pairs of stored images, 72 px and 288 px." in done.out
    assert RunFolder(tmp_path / "run").data()["sizes"] == [72, 288]
    assert len(evaluations(tmp_path / "run")) == 1


RANKS: tuple[object, ...] = (
    *QUICK, "--ranks", 2, "--steps", 15, "--save-every", 5, "--eval-every", 10,
    "--adversarial-weight", 0.1, "--patch-size", 12, "--warmup-steps", 4,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_interrupted_run_of_two_ranks_goes_on_to_the_bit(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C saves, and the same command computes what an uninterrupted one does."""
    curves = []
    for name in ("whole", "parts"):
        scratch = tmp_path / name
        line = ("train", "superres", folder / "store", "--run", scratch / "run", *RANKS)
        if name == "whole":
            done = run_command(*line, scratch=scratch, seconds=180)
            assert (done.status, done.err) == (0, "")
        else:
            stop_and_go_on(scratch, line, signal.SIGINT, 2)
        curves.append(curve(scratch / "run"))
    assert len(curves[0]) == 15
    assert curves[0] == curves[1]
    pairs = zip(*(last_state(tmp_path / name / "run") for name in ("whole", "parts")), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_page_of_a_run_names_its_curves(folder: Path, started: Path) -> None:
    """PSNR is in decibels, beside that of bicubic interpolation."""
    assert main(["report", str(started)]) == 0
    page = (started / "report.html").read_text()
    for text in ("Pixel loss, weighted", "PSNR of luma, held-out images", "dB", "bicubic",
                 "SSIM of luma, held-out images"):  # fmt: skip
        assert text in page
