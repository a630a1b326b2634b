"""Tests that the reading options of a stage reach the loader and change no step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.loader import Loader, Reading, Staging
from tests.commands import wait_until
from tests.workflows.training.small import ENCODED, SIZE, small_store, tensors, train_here
from workflows.classify.options import ClassifyOptions
from workflows.colourise.options import ColouriseOptions
from workflows.devise.options import DeviseOptions as Words
from workflows.training.options import CHANGEABLE_ON_RESUME, TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.wgan.options import WganOptions as Gan

READING: dict[str, Any] = {
    "order": "windowed",
    "staging_dir": "/nvme/copies",
    "staging_bytes": 10**9,
    "checksum": "once",
    "loader_threads": 3,
    "prefetch_bytes": 10**8,
}


def last_state(run: RunFolder) -> list[torch.Tensor]:
    """Return all tensors of the newest checkpoint."""
    newest = run.newest_checkpoint()
    assert newest is not None
    return tensors(run.load(newest))


@pytest.mark.parametrize(
    "kind",
    [TrainingOptions, Gan, ClassifyOptions, ColouriseOptions, Words],
    ids=["all", "wgan", "classify", "colourise", "devise"],
)
def test_every_stage_passes_reading_options_to_the_loader(
    tmp_path: Path, kind: type[TrainingOptions]
) -> None:
    """Every stage has the loader's options; held-out splits are neither staged nor shuffled."""
    more = {"learn": "all"} if kind is Words else {}
    options = kind(**READING, **more)
    loader = Loader(tmp_path, size=64, batch_size=8, **options.loader_arguments())
    reading = Reading(threads=3, prefetch_bytes=10**8, checksum="once")
    assert (loader.order, loader.reading, loader.threads) == ("windowed", reading, 3)
    assert loader.staging == Staging("/nvme/copies", 10**9)
    held_out = Loader(tmp_path, size=64, batch_size=8, **options.loader_arguments(training=False))
    assert (held_out.order, held_out.reading, held_out.staging) == ("sequential", reading, None)
    assert Loader(tmp_path, **kind().loader_arguments()).reading == Reading()
    assert {*READING} - {*CHANGEABLE_ON_RESUME} == {"order"}  # only the order changes the batches


@pytest.mark.parametrize(("name", "value"), READING.items(), ids=READING)
def test_reading_options_are_refused_for_features(name: str, value: Any) -> None:
    """Reading options are refused for features, and accepted with a trunk that reads pixels."""
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is {value!r}: .*--learn all"):
        Words(**{name: value})
    Words(**{name: value}, learn="all")


def test_the_staging_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The staging folder is absolute, since ranks have other working folders."""
    monkeypatch.chdir("/")
    assert Gan(staging_dir="tmp/copies").with_absolute_paths().staging_dir == "/tmp/copies"
    assert (
        Words(staging_dir="c", learn="all", word_vectors="w").with_absolute_paths().staging_dir
        == "/c"
    )


@pytest.mark.parametrize("encoded", [pytest.param(None, marks=pytest.mark.slow), ENCODED])
def test_a_windowed_and_staged_run_resumes_to_the_bit(tmp_path: Path, encoded: str | None) -> None:
    """A resumed run is bit-identical and reads staged copies, even if the store is damaged."""
    store = small_store(tmp_path, encoded=() if encoded is None else (encoded,))
    reading: dict[str, Any] = {"order": "windowed", "checksum": "once", "encoded": encoded}
    plain = train_here(store, tmp_path / "plain", steps=8, **reading)
    staged = {**reading, "staging_dir": str(tmp_path / "near")}
    uninterrupted = train_here(store, tmp_path / "whole", steps=8, **staged)
    assert all(map(torch.equal, last_state(uninterrupted), last_state(plain)))
    shutil.rmtree(tmp_path / "near")
    interrupted = train_here(store, tmp_path / "broken", steps=3, **staged)
    loader = Loader(
        store,
        size=SIZE,
        encoded=encoded,
        batch_size=8,
        order="windowed",
        reading=Reading(checksum="once"),
        staging=tmp_path / "near",
    )
    array = str(SIZE) if encoded is None else "jpeg24@90/bytes"
    originals = sorted((store / "images.zarr" / "train" / array).glob("c.*"))
    assert originals

    def all_are_there() -> bool:
        for _ in loader:  # iterating starts the copies
            pass
        near = [path.name for path in (tmp_path / "near").rglob("c.*")]
        return sorted(near) == [path.name for path in originals]

    assert wait_until(all_are_there)
    for file in originals:
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(Exception, match=r"checksum|damaged|repair"):
        train_here(store, tmp_path / "unstaged", steps=1, **reading)
    train_here(store, tmp_path / "broken", steps=8, **staged)
    assert all(map(torch.equal, last_state(interrupted), last_state(uninterrupted)))


def test_a_run_of_an_earlier_version_keeps_its_behaviour() -> None:
    """A run without the newer options keeps its behaviour, unless they are given."""
    earlier = Gan().as_dict()
    for name in ("resize", *READING):
        del earlier[name]
    assert Gan().with_former_defaults(earlier).resize is False
    assert Gan.from_dict(earlier).resize is False
    assert Gan().with_former_defaults({**earlier, "resize": True}).resize is True
    assert Gan().with_former_defaults(earlier).order == "random"
    assert Gan(order="windowed").with_former_defaults(earlier).order == "windowed"
