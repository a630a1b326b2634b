"""`tesserae loader`: the rates of a real store, or a one-line error."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.images.crop_decode import crop_decoder
from pipeline.loader import crops
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from tests.images import make_folder, prepare_inline
from workflows.cli import main
from workflows.loader import benchmark, options

WORDS: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a store with 50 images."""
    folder = tmp_path_factory.mktemp("loader")
    prepare_inline(make_folder(folder / "train", 50), str(folder / "store"), **WORDS)
    return folder / "store"


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a store with the encoded rows of 50 images and no squares."""
    folder = tmp_path_factory.mktemp("encoded")
    source, arrays = make_folder(folder / "train", 50), {"encoded": ("jpeg:16@90", "jpeg:40@90")}
    prepare_inline(source, str(folder / "store"), **{**WORDS, "sizes": (), **arrays})
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
        (["--split", "val"], "no split 'val'"),
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


@pytest.mark.slow
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


@pytest.mark.parametrize("words", [[], ["--drop-cache"], ["--crop", "resized"],
                                   ["--encoded", "jpeg:40@90", "--stage", "."]])  # fmt: skip
def test_encoded_rows_are_decoded(
    encoded: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The first line has crop, encoding and decoder; the rates are of the encoded bytes."""
    monkeypatch.chdir(tmp_path)
    command = ["loader", str(encoded), "--size", "8", "--batch", "5", "--epochs", "2", *words]
    assert main(command) == 0
    out = capsys.readouterr().out.splitlines()
    kind = "resized" if "--crop" in words else "centre"
    encoding = "jpeg:40@90" if "--encoded" in words else "jpeg:16@90"
    assert (
        f"50 rows of train at 8 px, {kind} crops of the encoded rows {encoding}"
        f" ({crop_decoder()}), 10 batches of 5, random order"
    ) in out[0]
    for line in out[1:3]:
        assert re.match(r"epoch \d: [\d,.]+ images/s, .*B/s of encoded rows, [\d.]+ CPU ms", line)
        assert line.endswith(
            ("decoding", "the disk, the network or other processes on these cores")
        )


def test_the_bytes_are_those_of_the_encoded_rows(
    encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch reads the bytes of every row once."""
    clock = iter(range(100))
    times = SimpleNamespace(perf_counter=lambda: next(clock), process_time=lambda: 0.0)
    monkeypatch.setattr(benchmark, "time", times)
    rates: list[float] = []

    def record(rate: float) -> str:
        rates.append(rate)
        return ""

    monkeypatch.setattr(benchmark, "bytes_text", record)
    assert main(["loader", str(encoded), "--size", "8", "--batch", "5", "--epochs", "1"]) == 0
    split = open_split(open_objects(str(encoded)), "train", (), encoded=["jpeg:16@90"])
    ticks = 2  # the first batch, and the end
    assert rates == [split.encoded["jpeg16@90"].num_bytes_of_rows / ticks]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoded", "png"], "encoding is 'png': expected original, or jpeg:N@Q"),
        (["--encoded", "original"], "no finished original: it has jpeg:16@90, jpeg:40@90"),
        (["--crop", "square"], "invalid choice"),
    ],
)
def test_encoded_rows_that_cannot_be_decoded_are_one_line_errors(
    encoded: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1."""
    assert main(["loader", str(encoded), "--size", "8", *words]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_stored_squares_have_no_crop(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the option to pass."""
    assert main(["loader", str(store), "--size", "8", "--crop", "resized"]) == 1
    assert "--crop is 'resized': stored images are read as they are. Pass --encoded" in (
        capsys.readouterr().err
    )


def test_encoded_rows_of_an_unfinished_split_are_decoded(
    encoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are detected from the commits of its shards; the largest pictures may be enlarged."""
    copy = tmp_path / "store"
    shutil.copytree(encoded, copy)
    (copy / "splits" / "train.done.json").unlink()
    words = ["loader", str(copy), "--size", "64", "--batch", "5", "--epochs", "1"]
    assert main(words) == 1
    assert "split 'train' is not finished" in capsys.readouterr().err
    assert main([*words, "--partial"]) == 0
    assert "50 rows of train at 64 px, centre crops of the encoded rows jpeg:40@90" in (
        capsys.readouterr().out
    )


def test_the_crops_of_the_option_are_those_of_the_loader() -> None:
    """They are listed twice, since the loader's package loads torch."""
    assert options.CROPS == crops.CROPS
