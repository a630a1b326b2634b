"""How a stage reads pictures: what its options say reaches the loader, and changes no step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.loader import Loader
from tests.commands import wait_until
from tests.workflows.training.small import SIZE, small_store, tensors, train_here
from workflows.colourise.options import Options as Colours
from workflows.devise.options import Options as Words
from workflows.training.options import FREE, Training
from workflows.training.run_folder import RunFolder
from workflows.wgan.options import Options as Gan

READING: dict[str, Any] = {
    "order": "windowed",
    "staging_dir": "/nvme/copies",
    "staging_bytes": 10**9,
    "checksum": "once",
    "loader_threads": 3,
    "prefetch": 10**8,
}


def last_state(run: RunFolder) -> list[torch.Tensor]:
    """All that the newest checkpoint holds."""
    newest = run.newest()
    assert newest is not None
    return tensors(run.load(newest))


@pytest.mark.parametrize(
    "kind", [Training, Gan, Colours, Words], ids=["all", "wgan", "colourise", "devise"]
)
def test_every_stage_reaches_what_the_loader_offers(tmp_path: Path, kind: type[Training]) -> None:
    """By the same words; where nothing is learned from, nothing is staged or shuffled."""
    more = {"learn": "all"} if kind is Words else {}
    options = kind(**READING, **more)
    loader = Loader(tmp_path, size=64, batch_size=8, **options.loading())
    assert (loader.order, loader.checksum, loader.threads) == ("windowed", "once", 3)
    assert (loader.staging_dir, loader.staging_bytes) == ("/nvme/copies", 10**9)
    assert loader.prefetch_bytes == 10**8
    other = Loader(tmp_path, size=64, batch_size=8, **options.loading(learns=False))
    assert (other.order, other.checksum, other.threads) == ("sequential", "once", 3)
    assert other.staging_dir is None
    assert Loader(tmp_path, **kind().loading()).checksum == Loader(tmp_path).checksum
    assert {*READING} - {*FREE} == {"order"}  # it alone changes what comes out


@pytest.mark.parametrize(("name", "value"), READING.items(), ids=READING)
def test_features_are_not_staged_and_it_is_said(name: str, value: Any) -> None:
    """They are read of small files; with a trunk that learns, pixels are."""
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is {value!r}: .*--learn all"):
        Words(**{name: value})
    Words(**{name: value}, learn="all")


def test_a_folder_for_copies_is_named_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks have other working folders than the command."""
    monkeypatch.chdir("/")
    assert Gan(staging_dir="tmp/copies").located().staging_dir == "/tmp/copies"
    assert Words(staging_dir="c", learn="all", words="w").located().staging_dir == "/c"


def test_windowed_staged_and_checked_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    """And it does read the copies: those of the store are spoilt while it is stopped."""
    store = small_store(tmp_path)
    reading = {"order": "windowed", "checksum": "once"}
    plain = train_here(store, tmp_path / "plain", steps=8, **reading)
    staged = {**reading, "staging_dir": str(tmp_path / "near")}
    whole = train_here(store, tmp_path / "whole", steps=8, **staged)
    assert all(map(torch.equal, last_state(whole), last_state(plain)))
    shutil.rmtree(tmp_path / "near")
    broken = train_here(store, tmp_path / "broken", steps=3, **staged)
    loader = Loader(store, size=SIZE, batch_size=8, **staged)
    originals = sorted((store / "images.zarr" / "train" / str(SIZE)).glob("c.*"))
    assert originals

    def all_are_there() -> bool:
        for _ in loader:  # whoever iterates has shards copied
            pass
        near = [path.name for path in (tmp_path / "near").rglob("c.*")]
        return sorted(near) == [path.name for path in originals]

    assert wait_until(all_are_there)
    for file in originals:
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(Exception, match=r"checksum|damaged|repair"):
        train_here(store, tmp_path / "unstaged", steps=1, **reading)
    train_here(store, tmp_path / "broken", steps=8, **staged)
    assert all(map(torch.equal, last_state(broken), last_state(whole)))


def test_a_run_of_an_earlier_version_goes_on_as_it_was() -> None:
    """It names no order and did not resize; what is said otherwise is said."""
    known = Gan().as_dict()
    for name in ("shrink", *READING):
        del known[name]
    assert Gan().as_before(known).shrink is False
    assert Gan.of(known).shrink is False
    assert Gan().as_before({**known, "shrink": True}).shrink is True
    assert Gan().as_before(known).order == "random"
    assert Gan(order="windowed").as_before(known).order == "windowed"
