"""`tesserae tune` as a command, and `prepare --workers auto`."""

from __future__ import annotations

import dataclasses
import re
import shlex
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import code_digest
from pipeline.errors import TesseraeError
from tests.commands import run
from tests.images import make_folder
from workflows.cli import command_of, main
from workflows.preparation import prepare
from workflows.preparation.options import AUTO_WORKERS, PrepareOptions
from workflows.preparation.plans import (
    leased,
    open_split_for_prepare,
    plan_splits,
    resolve_plans,
)
from workflows.preparation.tuning import command as tuning
from workflows.preparation.tuning.search import (
    Candidate,
    Measure,
    RateInterval,
    SearchOutcome,
)
from workflows.preparation.tuning.settings import Setting
from workflows.preparation.tuning.trials import Rate, Trials
from workflows.reports.store_model import RunReport

SETTING = r"--workers (\d+) --threads (\d+) --readers (\d+)"


def try_the_default(
    measure: Measure, settings: Sequence[Setting], default: Setting, **_: object
) -> SearchOutcome:
    """Return the outcome of a search that tries nothing but the default, once."""
    candidate = Candidate(default, [measure(default, 1.0).images_per_second])
    return SearchOutcome(candidate, candidate, None, (candidate,), 1.0)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_tune_prints_the_options_of_prepare(tmp_path: Path, kind: str) -> None:
    """They work, and no file of the trials is left."""
    source = make_folder(tmp_path / "source", 60)
    if kind == "tar.gz":
        with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as archive:
            archive.add(source, "train")
        source = tmp_path / "source.tar.gz"
    (tmp_path / "scratch").mkdir()
    before = sorted(tmp_path.iterdir())
    store = tmp_path / "store"
    arguments = (str(source), str(store), "--sizes", "32")
    done = run("tune", *arguments, "--seconds", "1", seconds=200, scratch=tmp_path / "scratch")
    assert done.status == 0, done.err
    found = re.search(SETTING, done.out)
    assert found is not None, done.out
    assert "written and removed: 32 px" in done.out
    assert ("can only be streamed" in done.out) == (kind == "tar.gz")
    assert sorted(tmp_path.iterdir()) == before
    prepared = run(
        "prepare", *arguments, *found[0].split(), seconds=200, scratch=tmp_path / "scratch"
    )
    assert prepared.status == 0, prepared.err
    again = run("tune", *arguments, "--seconds", "1", seconds=200, scratch=tmp_path / "scratch")
    assert again.status == 0, again.err
    assert run("verify", str(store), seconds=200, scratch=tmp_path / "scratch").status == 0


def test_tune_names_the_command_of_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The options that decide the store are repeated: without them, another one would be made."""

    def measure(self: Trials, setting: Setting, seconds: float) -> Rate:
        time.sleep(0.01)
        return Rate(9.0, 0.0)

    monkeypatch.setattr(Trials, "measure", measure)
    source, store = make_folder(tmp_path / "a source", 40), tmp_path / "store"
    words = ["--sizes", "32", "16", "--fit", "pad", "--exif"]
    assert main(["tune", str(source), str(store), *words, "--seconds", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    used = shlex.split(line.removeprefix("use: tesserae "))
    options = PrepareOptions.from_args(command_of(used[0])[1].parse_args(used[1:]))
    assert (options.source, options.store) == (str(source), str(store))
    assert (options.sizes, options.fit, options.exif) == ((32, 16), "pad", True)
    assert options.workers is not None
    assert not store.exists()


def test_another_source_is_refused_before_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`prepare` would refuse the command that is printed, for its listing, classes or seed."""
    source, store = make_folder(tmp_path / "source" / "train", 40), tmp_path / "store"
    words = [str(store), "--sizes", "32", "--seconds", "1"]
    options = PrepareOptions(source=str(source.parent), store=str(store), sizes=(32,), seed=5)
    cluster: Any = None  # a source that is read at random is listed without one
    plan_splits(dataclasses.replace(options, split=("train",)), cluster)
    monkeypatch.setattr(Trials, "measure", lambda *_: Rate(9.0, 0.0))
    monkeypatch.setattr(Trials, "__enter__", lambda self: self)
    monkeypatch.setattr(tuning, "search", try_the_default)
    fewer = make_folder(tmp_path / "fewer" / "train", 39)
    others = make_folder(tmp_path / "others" / "train", 40)
    next(others.iterdir()).rename(others / "n09999999")
    for folder, seed, error in (
        (source, "5", ""),
        (source, "0", "the seed is 5 in the store, 0 now"),
        (fewer, "5", "the number of samples is 40 in the store, 39 now"),
        (others, "5", "1 class is not among the store's 3: 'n09999999'"),
    ):
        status = main(["tune", str(folder.parent), *words, "--seed", seed])
        assert (status, folder) == (1 if error else 0, folder)
        assert error in capsys.readouterr().err


def test_trials_are_files_of_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next run of the split removes those of a command that was killed."""
    source, store = make_folder(tmp_path / "source", 40), tmp_path / "store"
    names = set()

    def measure(self: Trials, setting: Setting, seconds: float) -> Rate:
        names.update(path.name.partition("-")[0] for path in (store / ".tmp").iterdir())
        raise TesseraeError("the trial failed.")

    monkeypatch.setattr(Trials, "measure", measure)
    assert main(["tune", str(source), str(store), "--seconds", "1"]) == 1
    assert names == {"train.lock", "train"}
    assert not store.exists()
    (store / ".tmp" / "train-killed").mkdir(parents=True)
    assert main(["tune", str(source), str(store), "--seconds", "1"]) == 1
    assert [path.name for path in (store / ".tmp").iterdir()] == ["train.lock"]


@pytest.mark.parametrize(
    ("num_unreadable", "status", "text"),
    [
        (100, 1, "none of 40 images can be decoded, so no rate can be measured."),
        (30, 0, "30.0% of the images that were read cannot be decoded, and do not count; prepare"),
        (1, 0, ""),
    ],
)
def test_unreadable_images_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    num_unreadable: int,
    status: int,
    text: str,
) -> None:
    """Without a readable one there is no setting to recommend."""
    rate = Rate(100.0 - num_unreadable, 0.0, 100, num_unreadable)
    monkeypatch.setattr(Trials, "measure", lambda *_: rate)
    monkeypatch.setattr(Trials, "__enter__", lambda self: self)
    monkeypatch.setattr(tuning, "search", try_the_default)
    source = make_folder(tmp_path / "source", 40)
    assert main(["tune", str(source), "--seconds", "1"]) == status
    out, err = capsys.readouterr()
    assert text in (err if status else out)
    assert ("decoded" in out + err) == bool(text)
    assert ("use:" in out) == (status == 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_prepare_tunes_itself(tmp_path: Path) -> None:
    """A small source is prepared without trials; the option needs a local cluster."""
    source = make_folder(tmp_path / "source", 40)
    arguments = (str(source), str(tmp_path / "store"), "--sizes", "32", "--workers", "auto")
    done = run("prepare", *arguments, seconds=200, scratch=tmp_path / "scratch")
    assert done.status == 0, done.err
    assert "--workers auto: 40 images would be prepared before trials pay" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("auto", "--cluster", "tcp://127.0.0.1:1"), "--workers is auto and --cluster is tcp://"),
        (("auto", "--threads", "2"), "--workers is auto and --threads is 2: auto chooses the"),
        (("many",), "--workers is many: expected a whole number, 1 to 10,000, or auto"),
        (("0",), "--workers is 0: expected 1 to 10,000"),
    ],
)
def test_workers_are_a_number_or_tuned_on_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """Workers of a cluster are not started by the command; threads are tuned with workers."""
    command = ["prepare", str(tmp_path), str(tmp_path / "store"), "--workers", *words]
    assert main(command) == 1
    assert message in capsys.readouterr().err


def test_further_splits_get_the_choice_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cluster that has started is not tuned, and a line says so."""
    options = PrepareOptions(
        source=str(tmp_path), store=str(tmp_path / "store"), workers=AUTO_WORKERS, readers=7
    )
    cluster: Any = SimpleNamespace(is_started=True)
    plan: Any = SimpleNamespace(rows=range)
    split: Any = (options, None, None, plan, (tuning.MIN_TUNED_IMAGES,), cluster)
    tuner = tuning.Tuner()
    assert tuner.readers(*split) == 7
    assert "--workers auto: the workers have started already" in capsys.readouterr().out
    tuner._chosen = Setting(2, 2, 4)
    assert tuner.readers(*split) == 4
    assert capsys.readouterr().out == ""
    numbered: Any = (dataclasses.replace(options, workers=2), *split[1:])
    assert tuning.Tuner().readers(*numbered) == 7


@pytest.mark.parametrize(
    ("workers", "order"), [(AUTO_WORKERS, ["val", "train"]), (2, ["train", "val"])]
)
def test_the_largest_split_is_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, order: list[str]
) -> None:
    """A small one would start the workers, which cannot be tuned afterwards."""
    for split, images in (("train", 6), ("val", 9)):
        make_folder(tmp_path / "source" / split, images)
    splits: list[str] = []

    def prepare_split(options: PrepareOptions, split: str, *_: object) -> RunReport:
        splits.append(split)
        return RunReport(num_rows=1, seconds=1.0, bytes_in=1, bytes_out=1, step_seconds={})

    monkeypatch.setattr(prepare, "prepare_split", prepare_split)
    source, store = str(tmp_path / "source"), str(tmp_path / "store")
    runs = prepare.prepare(PrepareOptions(source=source, store=store, workers=workers))
    assert splits == order
    assert list(runs) == ["train", "val"]


@pytest.mark.parametrize(
    ("rate", "gain", "text"),
    [
        (200.0, (1.5, 1.25, 1.8), ": +50.0% (+25.0% to +80.0%), the mean of 4 pairs of trials, "),
        (200.0, (1.5, 1.25, 1.8), "interval: faster\nchosen: 2 workers x 1 thread, 4 readers\n"),
        (200.0, (1.1, 0.9, 1.3), "interval: no difference seen, so the default is kept\n"),
        (200.0, (1.1, 0.9, 1.3), "chosen: 2 workers x 1 thread, 1 reader, the default\n"),
        (90.0, (0.9, 0.8, 0.95), "interval: slower\n"),
        (190.0, None, ": +90.0%, of too few trials for an interval: too little, as more than +100"),
        (210.0, None, ": +110.0%, of too few trials for an interval: enough, as more than +100%"),
    ],
)
def test_the_choice_is_printed_with_its_reason(
    capsys: pytest.CaptureFixture[str],
    rate: float,
    gain: tuple[float, float, float] | None,
    text: str,
) -> None:
    """The ratio is that of pairs, which that of the means in the table is not."""
    challenger = Candidate(Setting(2, 1, 4), [rate])
    default = Candidate(Setting(2, 1, 1), [100.0])
    is_faster = gain[1] > 1 if gain else rate > 200
    outcome = SearchOutcome(
        challenger if is_faster else default, default, challenger, (challenger, default), 2.0,
        RateInterval(*gain) if gain else None, num_pairs=4,
    )  # fmt: skip
    tuning._print_outcome(outcome)
    out = capsys.readouterr().out
    assert text in out
    assert (
        "2 workers x 1 thread, 4 readers, over the default of 2 workers x 1 thread, 1 reader:"
    ) in out
    assert "despite" not in out


def test_a_higher_mean_of_earlier_rounds_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is there a reason to give where the default is the only setting that worked."""
    default, challenger = Candidate(Setting(2, 1, 1), [100.0]), Candidate(Setting(4, 1, 1), [90.0])
    left, slow = Candidate(Setting(2, 2, 4), [150.0]), Candidate(Setting(1, 1, 1), [50.0])
    tried = (default, challenger, left, slow)
    gain = RateInterval(1.0, 0.9, 1.1)
    tuning._print_outcome(SearchOutcome(default, default, challenger, tried, 2.0, gain, 4))
    assert (
        "not chosen, despite a higher mean: 2 workers x 2 threads, 4 readers. They"
        in capsys.readouterr().out
    )
    tuning._print_outcome(SearchOutcome(default, default, None, (default,), 2.0))
    out = capsys.readouterr().out
    assert out.endswith("in 2.0 s\nchosen: 2 workers x 1 thread, 1 reader, the default\n")


def test_workers_are_not_tuned_without_a_readable_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default settings are used, and the run itself reports the images."""
    monkeypatch.setattr(tuning, "MIN_TUNED_IMAGES", 10)
    monkeypatch.setattr(tuning, "cores", lambda: 2)
    monkeypatch.setattr(Trials, "measure", lambda *_: Rate(0.0, 0.0, 50, 50))
    monkeypatch.setattr(Trials, "__enter__", lambda self: self)
    source = str(make_folder(tmp_path / "source", 40))
    store = str(tmp_path / "store")
    options = PrepareOptions(source=source, store=store, sizes=(32,), workers=AUTO_WORKERS)
    cluster: Any = SimpleNamespace(is_started=False)  # which has no workers to set
    part = open_split_for_prepare(options, "train")
    with leased(part, wait=False):
        recipe, plan = resolve_plans(options, [part], cluster)["train"]
        tuner = tuning.Tuner()
        assert tuner.readers(options, part, recipe, plan, range(plan.num_shards), cluster) is None
    assert (
        f"--workers auto: {source}: none of 40 images can be decoded, so no rate can be measured."
        " 2 workers.\n"
    ) in capsys.readouterr().out


def test_a_large_split_is_tuned_before_its_workers_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cluster and the tasks get what the trials have chosen."""

    class Stop(Exception):
        """The end of the test, before any worker starts."""

    seen = {}

    def measure(self: Trials, setting: Setting, seconds: float) -> Rate:
        time.sleep(0.001)
        return Rate(900.0 if setting == Setting(1, 2, 2) else 100.0 * setting.readers, 0.5)

    def check_workers(self: object, work: object) -> None:
        seen["workers"], seen["readers"] = self._num_workers, work.readers  # type: ignore[attr-defined]
        seen["threads"] = self._num_threads  # type: ignore[attr-defined]
        raise Stop

    monkeypatch.setattr(code_digest, "running_code_digest", lambda: "")
    monkeypatch.setattr(tuning, "MIN_TUNED_IMAGES", 10)
    monkeypatch.setattr(tuning, "PREPARE_SECONDS", 0.2)
    monkeypatch.setattr(tuning, "cores", lambda: 2)
    monkeypatch.setattr(Trials, "measure", measure)
    monkeypatch.setattr(Trials, "__enter__", lambda self: self)
    monkeypatch.setattr("workflows.preparation.tuning.search.READERS", (1, 2))
    monkeypatch.setattr("workflows.cluster_kinds.CommandCluster.check_workers", check_workers)
    options = PrepareOptions(
        source=str(make_folder(tmp_path / "source", 40)),
        store=str(tmp_path / "store"),
        sizes=(32,),
        workers=AUTO_WORKERS,
    )
    with pytest.raises(Stop):
        prepare.prepare(options)
    assert seen == {"workers": 1, "threads": 2, "readers": 2}
    assert "chosen: 1 worker x 2 threads, 2 readers\n" in capsys.readouterr().out
