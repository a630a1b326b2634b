"""Tests of the report of a run, and of its samples and evaluation."""

from __future__ import annotations

import html.parser
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.loader import Loader
from tests.workflows.training.small import ENCODED, SIZE, small_store, train_here
from workflows.cli import main
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.runs import report
from workflows.training.run_folder import RunFolder
from workflows.wgan import evaluation
from workflows.wgan.evaluation import evaluate_gan_run
from workflows.wgan.sampling import open_sampler


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small store."""
    return small_store(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Return the folder of a finished run, with a name to escape."""
    return train_here(store, tmp_path_factory.mktemp("runs") / "plain<b>").path


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Return the folder of a finished run that conditions on classes."""
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    return train_here(store, folder, condition="concatenation").path


class Check(html.parser.HTMLParser):
    """A parser that checks that every element is closed and nothing external is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        for name, value in attrs:
            if name in ("src", "href"):
                assert value is not None
                assert value.startswith("data:")
        if tag not in ("meta", "img", "br", "line", "polyline", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_report_shows_curves_samples_and_metrics(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page is self-contained, and names in it are escaped."""
    assert main(["report", str(plain), "--samples", "16"]) == 0
    output = capsys.readouterr().out
    assert "sliced Wasserstein distance" in output
    assert "Fréchet" not in output
    page = (plain / "report.html").read_text()
    check = Check()
    check.feed(page)
    assert not check.open
    for word in (
        "Critic score: real minus generated",
        "held-out images",
        "step 6",
        "nearest training image",
    ):
        assert word in page
    for heading in ("Curves", "Samples", "Evaluation at step 6", "Options", "Data", "Versions"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png") == 4
    assert "<b>" not in page
    assert "<h1>plain&lt;b&gt;</h1>" in page


def test_smoothing_is_a_median() -> None:
    """A single outlier is smoothed away."""
    points = [(float(x), 1.0) for x in range(300)]
    points[150] = (150.0, 1e9)
    assert {y for _, y in report.smoothed(points)} == {1.0}
    assert report.smoothed([]) == []


def test_samples_are_those_of_seed_and_step(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed and step decide the samples, and --n their number."""
    monkeypatch.chdir(tmp_path)
    assert main(["sample-images", str(plain), "--n", "9", "-o", "one.png"]) == 0
    assert main(["sample-images", str(plain), "--n", "9", "-o", "two.png", "--seed", "0"]) == 0
    assert main(["sample-images", str(plain), "--n", "9", "-o", "other.png", "--seed", "1"]) == 0
    first, again, another = ((tmp_path / f"{n}.png").read_bytes() for n in ("one", "two", "other"))
    assert first == again != another
    assert Image.open(io.BytesIO(first)).size == (3 * SIZE + 4, 3 * SIZE + 4)
    assert main(["sample-images", str(plain), "--n", "20", "--interpolate"]) == 0
    with Image.open("samples.png") as image:
        assert image.size == (10 * SIZE + 18, 2 * SIZE + 2)
    assert main(["sample-images", str(plain), "--n", "8", "--interpolate"]) == 0
    with Image.open("samples.png") as image:
        assert image.size == (8 * SIZE + 14, SIZE)
    assert "8 images of step 6" in capsys.readouterr().out
    assert main(["sample-images", str(plain), "--n", "9"]) == 0
    assert "9 images of step 6" in capsys.readouterr().out


def test_classes_are_given_by_number_words_or_wnid(
    conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples of two classes differ."""
    out = tmp_path / "x.png"
    grids = []
    for label in ("0", "zero", "n00000000", "2"):
        assert main(["sample-images", str(conditional), "-o", str(out), "--label", label]) == 0
        grids.append(out.read_bytes())
    assert grids[0] == grids[1] == grids[2] != grids[3]
    assert main(["sample-images", str(conditional), "-o", str(out), "--label", "nine"]) == 1
    assert "expected one of zero, one, two" in capsys.readouterr().err


def test_interpolations_begin_and_end_at_samples(plain: Path) -> None:
    """The ends of an interpolation use the noise of samples."""
    sampler = open_sampler(RunFolder(plain))
    paths = sampler.interpolate(3, 7, seed=4).view(3, 7, -1)
    ends = sampler.noise(6, 4)
    np.testing.assert_allclose(paths[:, 0], ends[:3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(paths[:, -1], ends[3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["report", "nowhere"],
            "is not a run folder: it has no options.json. Pass the --run folder",
        ),
        (["report", "{run}", "--samples", "1"], "--samples is 1"),
        (["report", "{run}", "--device", "abacus"], "--device is 'abacus': expected cpu"),
        (["report", "{run}", "--store", "nowhere"], "pass its location with --store"),
        (["report", "{run}", "--backbone", "nowhere"], "is not a backbone"),
        (["sample-images", "nowhere"], "is not a run folder"),
        (["sample-images", "{run}", "--n", "0"], "--n is 0"),
        (["sample-images", "{run}", "-o", "x.jpg"], "ends in .png"),
        (
            ["sample-images", "{run}", "-o", "no/x.png"],
            "the folder no does not exist. Create it first",
        ),
        (
            ["sample-images", "{run}", "--label", "one"],
            "needs a run that is conditioned on classes",
        ),
    ],
)
def test_an_invalid_command_is_refused(
    plain: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """An invalid command fails with one error message."""
    assert main([word.format(run=plain) for word in words]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_an_evaluation_equals_separate_computations(plain: Path, store: Path) -> None:
    """The metrics of an evaluation equal those computed separately."""
    folder = RunFolder(plain)
    evaluated = evaluate_gan_run(folder, samples=16, backbone=None)
    sampler = open_sampler(folder)
    samples = sampler.generate(sampler.noise(16, 1))

    def rows(split: str) -> torch.Tensor:
        loader = Loader(store, split, size=SIZE, batch_size=4, order="sequential")
        return torch.cat([images for images, _, _ in loader]).float() / 127.5 - 1

    train, val = rows("train"), rows("val")[:16]
    assert (evaluated.num_samples, evaluated.num_real, evaluated.split) == (16, 16, "val")
    assert evaluated.sliced_distance == pytest.approx(sliced_wasserstein(samples, val), rel=1e-4)

    def median_distance(images: torch.Tensor) -> float:
        return float(torch.cdist(images.flatten(1), train.flatten(1)).min(1).values.median())

    assert evaluated.neighbour_ratio == pytest.approx(
        median_distance(samples) / median_distance(val), rel=1e-3
    )


@pytest.mark.parametrize("encoded", [None, ENCODED])
def test_all_training_rows_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: str | None
) -> None:
    """The nearest row is found even if it is the last one, also in a store without squares."""
    arrays = {"sizes": (), "encoded": (encoded,)} if encoded else {}
    store = small_store(tmp_path, rows=100, **arrays)
    folder = train_here(store, tmp_path / "run", steps=1, encoded=encoded)
    monkeypatch.setattr(evaluation, "BLOCK_ROWS", 32)
    copies = evaluation._first(
        evaluation._real_image_blocks(folder.data(), "train", open_sampler(folder), 8), 100
    )
    monkeypatch.setattr(
        evaluation, "_generated_samples", lambda sampler, count: [copies[-count:].float()]
    )
    judged = evaluate_gan_run(folder, samples=8, backbone=None)
    assert judged.searched == (8, 100)
    assert judged.neighbour_ratio == pytest.approx(0, abs=1e-3)  # samples are of half precision
    beside = np.asarray(Image.open(io.BytesIO(judged.images[0][1])))
    assert np.array_equal(beside[:SIZE], beside[SIZE + 2 :])
    assert (
        "(8 samples and as many real images, searched among all 100 training images)"
        in dict(judged.metrics())["nearest-neighbour distance ratio"]
    )


def test_weights_that_are_not_finite_are_not_evaluated(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page explains why there is no evaluation, and no samples are generated."""
    run = train_here(store, tmp_path / "run")
    newest = run.newest_checkpoint()
    assert newest is not None
    state = run.load(newest)
    next(value for value in state["stage"]["average"].values() if value.dim())[:] = float("nan")
    run.save(newest, state, step=6)
    with (run.path / "metrics.jsonl").open("a") as out:  # as earlier versions wrote it
        out.write('{"step": 7, "estimate": NaN, "critic_loss": NaN, "generation": 1}\n')
    assert main(["report", str(run.path), "--samples", "8"]) == 0
    output = capsys.readouterr().out
    assert "notice: the run cannot be evaluated" in output
    assert "step 7: estimate not finite" in output
    assert "precision" not in output
    assert main(["sample-images", str(run.path), "-o", str(tmp_path / "x.png")]) == 1
    assert "contains NaN or infinity (average.module" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_a_moved_store_is_found_or_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A moved store is found or named, and another store is refused."""
    small_store(tmp_path / "here")
    train_here(tmp_path / "here" / "store", tmp_path / "here" / "run", steps=1)
    (tmp_path / "here").rename(tmp_path / "there")
    run, store = tmp_path / "there" / "run", tmp_path / "there" / "store"
    assert RunFolder(run).store() == str(store)
    report = ["report", str(run), "--samples", "8"]
    assert main(report) == 0
    store.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(report) == 1
    assert (
        f"{tmp_path}/here/store or {store}: pass its location with --store"
        in capsys.readouterr().err
    )
    assert main([*report, "--store", str(tmp_path / "elsewhere")]) == 0
    another = small_store(tmp_path / "other", rows=40)
    assert main([*report, "--store", str(another)]) == 1
    assert "is not the one that" in capsys.readouterr().err
    assert main(["sample-images", str(run), "-o", str(tmp_path / "x.png")]) == 0
