"""`tesserae loader`: the rates of a real store, or a one-line error."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.images import make_folder, prepare_inline
from workflows.cli import main

WORDS: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a store with 50 images."""
    folder = tmp_path_factory.mktemp("loader")
    prepare_inline(make_folder(folder / "train", 50), str(folder / "store"), **WORDS)
    return folder / "store"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("order", ["random", "windowed", "sequential"])
@pytest.mark.parametrize("cold", [[], ["--drop-cache"]])
def test_each_epoch_is_measured(
    store: Path, order: str, cold: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The output has rate, cost and bottleneck of each epoch, and the shuffle quality."""
    words = ["loader", str(store), "--size", "8", "--batch", "5", "--epochs", "2"]
    assert main([*words, "--order", order, *cold]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"50 rows of train at 8 px, 10 batches of 5, {order} order" in out[0]
    for epoch, line in enumerate(out[1:3]):
        pattern = (
            r"epoch \d: [\d,.]+ images/s, .*/s, [\d.]+ CPU ms per image, first batch after .*limit"
        )
        assert re.match(pattern, line)
        assert line.startswith(f"epoch {epoch}: ")
    assert out[3].startswith("same-class pairs within a batch: ")
    assert len(out) == (4 if order == "sequential" else 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "51"], "the split has no full batch of 51 rows"),
        (["--epochs", "0"], "--epochs is 0: expected at least 1"),
        (["--size", "9"], "no finished 9 px: it has 8"),
        (["--split", "val"], "no plan for split 'val'"),
        (["--threads", "-2"], "threads is -2"),
    ],
)
def test_unmeasurable_requests_are_one_line_errors(
    store: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1."""
    assert main(["loader", str(store), "--size", "8", *words]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_batches_of_one_row_have_no_pairs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rates are printed, and no shuffle quality."""
    words = ["loader", str(store), "--size", "8", "--batch", "1", "--epochs", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    assert out[1].startswith("epoch 0: ")


def test_reads_of_staged_copies_are_measured(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copies are in the folder that the option names."""
    words = ["--size", "8", "--batch", "10", "--epochs", "9", "--stage", str(tmp_path / "stage")]
    assert main(["loader", str(store), *words]) == 0
    assert "epoch 8: " in capsys.readouterr().out
    assert list((tmp_path / "stage").glob("*/.use"))


def test_emulated_accelerators_are_counted(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slow one is fed; the batch size is that of its profile."""
    file = tmp_path / "mine.yaml"
    file.write_text("slow: {batch_size: 5, step_seconds: 0.9, utilisation: 0.01}\n")
    words = ["loader", str(store), "--size", "8", "--epochs", "1", "--profiles", str(file)]
    assert main([*words, "--emulate", "fast"]) == 1
    assert "expected one of resnet50-v100, " in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        from workflows.loader import emulation

        results = iter([emulation.Emulation(1, 1, 0.95, 5.0, 0.1)])
        real = emulation.feed

        def feed(loader: Any, *arguments: Any) -> emulation.Emulation:
            real(loader, *arguments)
            return next(results, emulation.Emulation(arguments[1], 1, 0.001, 6.0, 0.2))

        patch.setattr(emulation, "feed", feed)
        assert main([*words, "--emulate", "slow", "--emulate-seconds", "1"]) == 0
    out = capsys.readouterr().out
    assert "10 batches of 5" in out
    assert "1 x slow: utilisation 95.0%, 5 images/s in 1 step, longest" in out
    assert "feeds 1 x slow at 1% or more (6 images/s each)" in out
