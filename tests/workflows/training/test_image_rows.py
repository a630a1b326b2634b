"""Which rows `tesserae train` reads, and that a run goes on to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreError
from tests.workflows.training.inline import inline_ranks
from tests.workflows.training.small import ENCODED, small_store
from workflows.cli import main
from workflows.colourise.options import ColouriseOptions
from workflows.training.image_rows import (
    FinishedArrays,
    ImageRows,
    choose_rows,
    finished_arrays,
)
from workflows.training.options import TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.wgan.options import WganOptions

ENCODINGS = (ENCODED, "jpeg:40@80", "original")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of squares of 16 and 20 px and of encoded rows."""
    return small_store(tmp_path_factory.mktemp("both"), sizes=(16, 20), encoded=ENCODINGS)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of encoded rows alone."""
    return small_store(tmp_path_factory.mktemp("encoded"), sizes=(), encoded=ENCODINGS)


def chosen(
    store: Path, size: int, encoded: str | None = None, run: RunFolder | None = None, **choices: Any
) -> ImageRows:
    """Return the rows that a GAN of images of a size reads."""
    options: TrainingOptions = WganOptions(image_size=size, encoded=encoded, **choices)
    if run is not None:
        recorded = run.read_options()["options"] if run.holds_run() else {}
        options = options.with_recorded_choices(recorded)
    return choose_rows(str(store), "train", options, run)


def test_squares_are_read_unless_encoded_rows_are_requested(both: Path, tmp_path: Path) -> None:
    """A run keeps its squares and its encoded rows, whatever else the store has."""
    squares, decoded = RunFolder(tmp_path / "squares"), RunFolder(tmp_path / "decoded")
    squares.create_or_continue({"stage": "wgan", "stored_size": 20}, {})
    decoded.create_or_continue({"stage": "wgan", "stored_size": 16, "encoded": ENCODED}, {})
    assert chosen(both, 16) == ImageRows(16)
    assert chosen(both, 16, run=RunFolder(tmp_path / "new")) == ImageRows(16)
    assert chosen(both, 16, run=squares) == ImageRows(20)
    assert chosen(both, 16, "jpeg40@80") == ImageRows(16, "jpeg:40@80")
    assert chosen(both, 16, run=decoded) == ImageRows(16, ENCODED)
    assert chosen(both, 32) == ImageRows(32, "jpeg:40@80"), "no squares are large enough"
    assert chosen(both, 64) == ImageRows(64, "original")
    assert finished_arrays(str(both), "val") == FinishedArrays(
        (16, 20), ("jpeg:24@90", "jpeg:40@80", "original")
    )


def test_random_crops_get_an_eighth_more(encoded: Path) -> None:
    """The pictures' short side is the limit."""
    assert chosen(encoded, 16) == ImageRows(16, ENCODED)
    assert chosen(encoded, 16, crop="random") == ImageRows(18, ENCODED)
    perceptrons = {"generator": "perceptron", "critic": "perceptron"}
    assert chosen(encoded, 23, crop="random", **perceptrons) == ImageRows(24, ENCODED)
    assert chosen(encoded, 64, "original", crop="random") == ImageRows(72, "original")
    colourise = ColouriseOptions(image_size=16)
    assert choose_rows(str(encoded), "train", colourise) == ImageRows(18, ENCODED)


def test_unsuitable_rows_are_refused_in_a_sentence(encoded: Path, tmp_path: Path) -> None:
    """It names what there is, and what to do."""
    with pytest.raises(ValueError, match=r"--encoded is jpeg:24@90: .* and --image-size is 32"):
        chosen(encoded, 32, ENCODED)
    with pytest.raises(ValueError, match=r"--no-resize cuts .*\(jpeg:24@90\)"):
        chosen(encoded, 16, resize=False)
    with pytest.raises(ValueError, match="--encoded: encoding is 'png'"):
        WganOptions(encoded="png")
    small = small_store(tmp_path, rows=8, encoded=(ENCODED,))
    message = (
        r"images of 16 px and encoded rows jpeg:24@90: expected at least 64 px\. .*--sizes 72`"
        r".*--encoded jpeg:256@90`"
    )
    with pytest.raises(StoreError, match=message):
        chosen(small, 64)


SMALL = ("--image-size", "16", "--batch-size", "8", "--threads-per-rank", "1", "--no-dashboard")
GAN = ("--latent-dim", "4", "--generator-width", "2", "--critic-width", "2", "--critic-steps", "1",
       "--warmup-critic-steps", "0", "--precision", "float32")  # fmt: skip


def train(
    monkeypatch: pytest.MonkeyPatch, stage: str, store: Path, run: Path, steps: int, *words: str
) -> int:
    """Run `tesserae train` with one rank in this process; return its exit status."""
    network = GAN if stage == "wgan" else ("--width", "4")
    with inline_ranks(monkeypatch):
        return main(["train", stage, str(store), "--run", str(run), "--steps", str(steps),
                     "--log-every", "1", *SMALL, *network, *words])  # fmt: skip


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of steps and evaluations."""
    lines = RunFolder(run).metrics()
    return [
        {k: v for k, v in line.items() if k != "generation"}
        for line in lines
        if line.get("what") != "speed"
    ]


@pytest.mark.parametrize("stage", ["wgan", "colourise"])
def test_a_store_of_encoded_rows_alone_trains_and_goes_on(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An interrupted run has the metrics of an uninterrupted one, and is told what it reads."""
    words = ("--eval-every", "3")
    assert train(monkeypatch, stage, encoded, tmp_path / "whole", 6, *words) == 0
    assert "px are decoded from the encoded rows jpeg:24@90 of split" in capsys.readouterr().out
    explicit = (*words, "--encoded", ENCODED)
    for steps in (3, 6):
        assert train(monkeypatch, stage, encoded, tmp_path / "parts", steps, *explicit) == 0
    assert "notice: " not in capsys.readouterr().out
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    record = RunFolder(tmp_path / "parts").read_options()
    side = 16 if stage == "wgan" else 18
    assert (record["options"]["encoded"], record["options"]["stored_size"]) == (ENCODED, side)
    assert (record["data"]["encoded"], record["data"]["size"]) == ("jpeg24@90", side)
    assert record["data"]["held_out"] == "val"


def test_a_run_goes_on_with_its_kind_of_rows(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another kind is refused, and nothing of the run changes."""
    squares, decoded = tmp_path / "squares", tmp_path / "decoded"
    assert train(monkeypatch, "wgan", both, squares, 2) == 0
    assert train(monkeypatch, "wgan", both, decoded, 2, "--encoded", ENCODED) == 0
    before = (squares / "options.json").read_bytes()
    capsys.readouterr()
    assert train(monkeypatch, "wgan", both, squares, 3, "--encoded", ENCODED) == 1
    assert "was started without --encoded and cannot continue with --encoded jpeg:24@90. Omit" in (
        capsys.readouterr().err
    )
    assert train(monkeypatch, "wgan", both, decoded, 3, "--encoded", "original") == 1
    assert "with --encoded jpeg:24@90 and cannot continue with --encoded original." in (
        capsys.readouterr().err
    )
    assert (squares / "options.json").read_bytes() == before
    assert train(monkeypatch, "wgan", both, decoded, 3) == 0, "it reads what it has read"
    assert RunFolder(decoded).read_options()["options"]["encoded"] == ENCODED


def test_a_run_of_an_earlier_version_goes_on(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not record which kind of rows it reads: squares."""
    assert train(monkeypatch, "wgan", both, tmp_path / "run", 2) == 0
    file = tmp_path / "run" / "options.json"
    document = json.loads(file.read_bytes())
    del document["options"]["encoded"], document["data"]["encoded"]
    file.write_text(json.dumps(document))
    assert RunFolder(tmp_path / "run").data()["encoded"] is None
    assert train(monkeypatch, "wgan", both, tmp_path / "run", 4) == 0


def test_squares_that_are_removed_do_not_change_a_run(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run over squares does not go on over encoded rows of the same split."""
    run = tmp_path / "run"
    assert train(monkeypatch, "wgan", both, run, 2) == 0
    monkeypatch.setattr(
        "workflows.training.image_rows.finished_arrays", lambda *_: FinishedArrays((), (ENCODED,))
    )
    assert train(monkeypatch, "wgan", both, run, 3) == 1
    assert "was started without --encoded and cannot continue with --encoded jpeg:24@90" in (
        capsys.readouterr().err
    )


def test_what_the_same_command_will_do_depends_on_what_was_saved(tmp_path: Path) -> None:
    """A step that was broken off is not saved, so that a run without one begins anew."""
    from workflows.runs.train import _resume_advice

    class Run:
        path = tmp_path / "run"

        def __init__(self, checkpoint: object, *, exists: bool = True) -> None:
            self.checkpoint, self.exists = checkpoint, exists

        def holds_run(self) -> bool:
            return self.exists

        def newest_checkpoint(self) -> object:
            if isinstance(self.checkpoint, Exception):
                raise self.checkpoint
            return self.checkpoint

    anew = f"{tmp_path / 'run'} has no complete step yet, so training begins anew."
    assert _resume_advice(Run(None)).endswith(anew)  # type: ignore[arg-type]
    assert _resume_advice(Run(object(), exists=False)).endswith(anew)  # type: ignore[arg-type]
    for checkpoint in (object(), OSError("a disk")):
        advice = _resume_advice(Run(checkpoint))  # type: ignore[arg-type]
        assert advice == f"Run the same command again to continue in {tmp_path / 'run'}."
