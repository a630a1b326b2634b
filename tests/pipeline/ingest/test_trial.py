"""Trials of the work of `prepare`, which leave nothing behind."""

from __future__ import annotations

import errno
import itertools
import os
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from pipeline.errors import ReadError, StoreError
from pipeline.ingest.source_index import Sample
from pipeline.ingest.trial import GROUP, TrialWork, cached_share, run_trial
from pipeline.sources.reader import SourceReader
from pipeline.store.lease import lease
from pipeline.store.local import LocalObjects
from tests.images import make_folder

IMAGES = 40


def samples_of(root: Path) -> list[Sample]:
    """Return the samples of a folder."""
    files = sorted(root.glob("*/*"))
    return [
        Sample(i, f"{f.parent.name}/{f.name}", 0, f.stat().st_size, f"{f.parent.name}/{f.name}",
               None, None)
        for i, f in enumerate(files)
    ]  # fmt: skip


def work_of(root: Path, *, is_cold: bool = False) -> TrialWork:
    """Return the work of a store of two sizes."""
    arguments = {"fit": "crop", "serves": 32, "exif": False, "rules": 2, "missing_end": "refuse"}
    return TrialWork(
        root=str(root),
        arrays=("16", "32", "jpeg32@90"),
        filter="bicubic",
        decode_arguments=arguments,
        is_cold=is_cold,
    )


def test_a_trial_counts_whole_groups_and_leaves_nothing(tmp_path: Path) -> None:
    """Images are read again and again; those that cannot be decoded are no work done."""
    source = make_folder(tmp_path / "source", IMAGES, bad=3)
    samples = samples_of(source)
    objects = LocalObjects(str(tmp_path / "store"), "tune-1")
    with lease(objects, "tune", wait=False):
        objects.begin()
        count = run_trial(
            work_of(source), itertools.cycle(samples), objects,
            name="a", readers=2, seconds=0.2, max_seconds=60, stop=Event(),
        )  # fmt: skip
        assert count.images > 0
        assert count.num_read % (2 * GROUP) == 0
        assert count.images + count.num_unreadable < count.num_read  # the first round is left out
        rounds, rest = divmod(count.num_read, IMAGES)
        assert 3 * rounds <= count.num_unreadable <= 3 * rounds + min(rest, 3)
        assert 0.2 <= count.seconds < 20
        assert list((tmp_path / "store" / ".tmp" / "tune-1").iterdir()) == []
        objects.end()
    assert [p.name for p in (tmp_path / "store").rglob("*") if p.is_file()] == ["tune.lock"]


@pytest.mark.parametrize("readers", [1, 8])
def test_whole_rounds_of_the_readers_are_counted(tmp_path: Path, readers: int) -> None:
    """Groups arrive together on a slow source: a part of a round would have another rate."""
    source = make_folder(tmp_path / "source", IMAGES)
    samples, rounds = samples_of(source), max(2, readers) * GROUP
    count = run_trial(
        work_of(source), itertools.cycle(samples), None,
        name="a", readers=readers, seconds=0.01, max_seconds=60, stop=Event(),
    )  # fmt: skip
    assert count.images > 0
    assert count.images % rounds == 0
    assert count.num_read == count.images + rounds
    assert 0 <= count.waited_seconds <= count.seconds
    assert run_trial(
        work_of(source), itertools.islice(itertools.cycle(samples), 2 * rounds - 1), None,
        name="a", readers=readers, seconds=0, max_seconds=60, stop=Event(),
    ).images == 0  # fmt: skip


@pytest.mark.parametrize(("least", "max_seconds"), [(2 * GROUP, 0.5), (1, 0.001)])
def test_a_trial_on_a_slow_source_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int, max_seconds: float
) -> None:
    """It counts from the beginning: a round, or less if that takes far too long."""
    source = make_folder(tmp_path / "source", IMAGES)
    read = SourceReader.read

    def read_slowly(self: SourceReader, *arguments: Any) -> bytes:
        time.sleep(0.03)
        return read(self, *arguments)

    monkeypatch.setattr(SourceReader, "read", read_slowly)
    count = run_trial(
        work_of(source), itertools.cycle(samples_of(source)), None,
        name="a", readers=2, seconds=1e9, max_seconds=max_seconds, stop=Event(),
    )  # fmt: skip
    assert count.images == count.num_read >= least
    assert count.seconds >= max_seconds
    assert count.waited_seconds > 0.1
    assert count.seconds >= 0.12


def test_a_trial_can_be_stopped(tmp_path: Path) -> None:
    """It ends with the present group."""
    source = make_folder(tmp_path / "source", IMAGES)
    stop = Event()
    stop.set()
    count = run_trial(
        work_of(source), itertools.cycle(samples_of(source)), None,
        name="a", readers=1, seconds=1e9, max_seconds=1e9, stop=stop,
    )  # fmt: skip
    assert count.images == 0


def test_a_source_without_images_has_no_rate(tmp_path: Path) -> None:
    """A text file takes little time, and would be the fastest image of all."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_text("no image")
    for max_seconds in (60, 0):
        count = run_trial(
            work_of(tmp_path), itertools.cycle(samples_of(tmp_path)), None,
            name="a", readers=1, seconds=0.01, max_seconds=max_seconds, stop=Event(),
        )  # fmt: skip
        assert count.images == 0
        assert count.num_unreadable == count.num_read > 0


def test_a_full_disk_is_named_without_committed_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials commit nothing, and what they wrote is removed; other errors keep their sentence."""
    source = make_folder(tmp_path / "source", IMAGES)
    objects = LocalObjects(str(tmp_path / "store"), "train-1")

    def run() -> None:
        run_trial(
            work_of(source), itertools.cycle(samples_of(source)), objects,
            name="a", readers=1, seconds=60, max_seconds=60, stop=Event(),
        )  # fmt: skip

    with pytest.raises(StoreError, match="run 'train-1' was ended"):
        run()
    objects.begin()

    def write(file: int, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pipeline.store.local._write_all", write)
    monkeypatch.setattr("pipeline.store.local.BLOCK_BYTES", 4096)
    with pytest.raises(StoreError) as raised:
        run()
    assert str(raised.value) == (
        f"trials of settings cannot write to {tmp_path / 'store'}: No space left on device. Free"
        " some space, then run the same command again. What the trials wrote was removed."
    )
    assert list((tmp_path / "store" / ".tmp" / "train-1").iterdir()) == []


def test_an_image_that_cannot_be_read_ends_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate without it would be that of another source."""
    monkeypatch.setattr("pipeline.ingest.trial.RETRY_DELAY_SECONDS", 0)
    source = make_folder(tmp_path / "source", IMAGES)
    samples = samples_of(source)
    (source / samples[20].path).unlink()
    with pytest.raises(ReadError, match=samples[20].path):
        run_trial(
            work_of(source), itertools.cycle(samples), None,
            name="a", readers=1, seconds=60, max_seconds=60, stop=Event(),
        )  # fmt: skip


def test_a_cold_source_stays_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image leaves the page cache after it was read, and a warm one stays there."""
    source = make_folder(tmp_path / "source", IMAGES)
    samples = samples_of(source)
    advised: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *advice: advised.append(advice))
    for is_cold, expected in ((False, []), (True, [(0, s.num_bytes) for s in samples])):
        run_trial(
            work_of(source, is_cold=is_cold), iter(samples), None,
            name="a", readers=1, seconds=60, max_seconds=60, stop=Event(),
        )  # fmt: skip
        assert advised == [(*part, os.POSIX_FADV_DONTNEED) for part in expected]


def test_images_in_memory_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not tell, the share is unknown; a missing file is an error."""
    source = make_folder(tmp_path / "source", IMAGES)
    samples = samples_of(source)
    states = iter([errno.EAGAIN] * 10 + [0] * 30)

    def preadv(*_: object) -> int:
        if state := next(states):
            raise OSError(state, os.strerror(state))
        return 1

    monkeypatch.setattr(os, "preadv", preadv)
    assert cached_share(str(source), samples) == 0.75
    assert cached_share("https://example.org/images", samples) is None
    states = iter([0, errno.EOPNOTSUPP])
    assert cached_share(str(source), samples) is None
    (source / samples[0].path).unlink()
    with pytest.raises(ReadError, match=samples[0].path):
        cached_share(str(source), samples)
