"""`tesserae study parity` from its flags to its table, in this process."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.images import prepare_inline
from tests.workflows.studies.parity.small import RECIPE, STUDY, small_data, small_source
from tests.workflows.training.small import SIZE
from workflows.cli import command_of, main
from workflows.studies.options import ParityRecipe
from workflows.studies.parity import arm_runs, bits, command
from workflows.studies.parity.arm_runs import ArmRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small source and its store."""
    return small_source(tmp_path_factory.mktemp("parity"))


def words(folder: Path, out: Path, *more: str, **choices: Any) -> list[str]:
    """Return the words of a command line."""
    options = {
        "source": folder / "source", "store": folder / "store", "out": out, **STUDY, **RECIPE,
        **choices,
    }  # fmt: skip
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    return ["study", "parity", *(word for flag in flags for word in flag), *more]


def finished(out: Path) -> list[tuple[int, str]]:
    """Return seed and arm of the finished runs, in their order."""
    lines = (out / "runs.jsonl").read_text().splitlines()
    return [(line["seed"], line["arm"]) for line in map(json.loads, lines)]


def test_own_orders_end_with_a_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every arm runs with every seed from the same weights, and windows are a part of the split."""
    assert main(words(folder, tmp_path / "out", "--parts", "accuracy", "--seeds", "2")) == 0
    out = capsys.readouterr().out
    arms = ("random", "windowed", "dataloader")
    assert finished(tmp_path / "out") == [(seed, arm) for seed in (0, 1) for arm in arms]
    assert "windows of 8 of the 24 images, 2 chunks of 4" in out
    assert "recipe: network resnet9, image size 16, epochs 2, batch size 8" in out
    assert "chance 33.33%" in out
    assert out.count("2 pairs") == 3
    assert "windowed minus random, points: " in out
    assert "equal to the bit" not in out
    lines = map(json.loads, (tmp_path / "out" / "runs.jsonl").read_text().splitlines())
    weights = {(line["seed"], line["initial_weights"]) for line in lines}
    assert len(weights) == len({digest for _, digest in weights}) == 2


@pytest.mark.slow
def test_an_interrupted_study_goes_on_run_by_run(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Finished runs are not repeated, the others have the results of an uninterrupted study."""
    train = arm_runs.train_arm
    trained: list[tuple[int, str]] = []

    def interrupted(data: Any, arm: str, seed: int, **options: Any) -> ArmRun:
        if len(trained) == 4:
            trained.clear()
            raise KeyboardInterrupt
        trained.append((seed, arm))
        return train(data, arm, seed, **options)

    monkeypatch.setattr(command, "train_arm", interrupted)
    line = words(folder, tmp_path / "out", "--parts", "accuracy", "--seeds", "2")
    assert main(line) == 130
    captured = capsys.readouterr()
    assert "Run the same command again to continue" in captured.err
    assert "0 compared settings and 4 runs that are finished" in captured.err
    assert "mean top-1" not in captured.out

    assert main(line) == 0
    assert trained == [(1, "windowed"), (1, "dataloader")]
    assert capsys.readouterr().out.count("top-1") == 6 + 1
    monkeypatch.setattr(command, "train_arm", train)
    assert main([*line[: line.index("--out")], "--out", str(tmp_path / "whole"),
                 *line[line.index("--out") + 2 :]]) == 0  # fmt: skip
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def results(out: Path) -> dict[tuple[int, str], tuple[float, float]]:
    """Return accuracy and loss of each run, by seed and arm."""
    lines = map(json.loads, (out / "runs.jsonl").read_text().splitlines())
    return {(run["seed"], run["arm"]): (run["accuracy"], run["loss"]) for run in lines}


def test_more_seeds_continue_a_study_and_other_settings_do_not(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeds and arms may be added; another recipe is refused with both values."""
    out = tmp_path / "out"
    line = words(folder, out, "--parts", "accuracy", "--arms", "dataloader", "--seeds", "1")
    assert main(line) == 0
    assert main([*line[:-2], "random", "--seeds", "2"]) == 0
    arms = ("dataloader", "random")
    assert finished(out) == [(0, "dataloader"), (0, "random"), (1, "dataloader"), (1, "random")]
    assert {arm for _, arm in finished(out)} == set(arms)
    capsys.readouterr()
    assert main([*line, "--epochs", "3"]) == 1
    error = capsys.readouterr().err
    assert "epochs is 2 in the folder and 3 here. Pass the same ones, or another --out." in error


@pytest.mark.parametrize("is_equal", [True, False])
def test_the_comparison_decides_the_exit_status_and_is_done_once(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_equal: bool,
) -> None:
    """Weights that differ are a failure, also when their comparison is only read again."""
    compared: list[str] = []

    def compare(data: Any, form: str, num_ranks: int, *, threads: int) -> bits.Comparison:
        compared.append(bits.setting_name(form, num_ranks))
        difference = "" if is_equal or form == "raw" else "the order differs from step 2 on"
        return bits.Comparison(compared[-1], 3, 24, 74, 1_000, difference)

    monkeypatch.setattr(bits, "compare", compare)
    line = words(folder, tmp_path / "out", "--parts", "bits")
    for _ in range(2):
        assert main(line) == (0 if is_equal else 1)
        assert capsys.readouterr().out.count("DIFFERENT") == (0 if is_equal else 2)
    assert compared == ["raw, 1 rank", "raw, 2 ranks", "encoded, 1 rank", "encoded, 2 ranks"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rename", "'n00000000/another.JPEG' is in the source and not in the store"),
        ("remove", "'n00000000/train0.JPEG' is in the store and not in the source"),
        ("append", r"'n00000000/train0.JPEG' has \d+ bytes in the source, \d+ in the store"),
    ],
)
def test_another_source_is_refused_with_the_first_difference(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    """A key, or a length, that only one of them has is named."""
    shutil.copytree(folder / "source", tmp_path / "source")
    file = tmp_path / "source" / "train" / "n00000000" / "train0.JPEG"
    if change == "rename":
        file.rename(file.with_name("another.JPEG"))
    elif change == "remove":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"x")
    assert main(words(folder, tmp_path / "out", source=tmp_path / "source")) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Pass the source that the store was prepared from" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"held_out": "tset"}, "--held-out is 'tset': expected a finished split of "),
        ({"split": "trian"}, "--split is 'trian': expected a finished split of "),
        ({"window_rows": 24}, "--window-rows is 24: expected fewer than the 24 images of split"),
        ({"batch_size": 26}, "has 24 readable, labelled images, fewer than --batch-size 26"),
        ({"batch_size": 9}, "--batch-size is 9: expected a multiple of 2"),
        ({"encoded": "jpeg:64@80"}, "--encoded is jpeg:64@80: split 'train' of "),
        ({"encoded": "jpeg:24@90", "image_size": 32}, "a short side of at most 24 px"),
        ({"preset": "resnet18-16"}, "--preset is resnet18-16: its images grow from 160 px"),
        ({"network": "resnet7"}, "--network is 'resnet7': expected one of"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    choices: dict[str, Any],
    message: str,
) -> None:
    """The value, what was expected and what to do are named before anything is trained."""
    assert main(words(folder, tmp_path / "out", **choices)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_form_that_the_store_lacks_is_left_out_with_a_notice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store without encoded rows has two settings, and the command says how to get all four."""
    store = str(tmp_path / "store")
    for split in ("train", "val"):
        prepare_inline(folder / "source", store, split=split, sizes=(SIZE,))
    line = words(folder, tmp_path / "out", "--seeds", "1", "--arms", "dataloader", store=store)
    assert main([*line, "--parts", "accuracy"]) == 0
    out = capsys.readouterr().out
    assert "notice: split 'train' has no encoded rows of 16 px or more: they are left out" in out
    assert "no differences" not in out


def test_the_windowed_arm_reads_windows_that_are_a_part_of_the_split(folder: Path) -> None:
    """The rows of a window are those of its chunks, for squares and for encoded rows."""
    for form in ("raw", "encoded"):
        data = small_data(folder)
        loader = data.loader(form, seed=0, order="windowed")
        assert loader.state_dict()["window_chunks"] == data.window_chunks == 2
        order = loader.epoch_order(0)
        for position, chunks in order.windows(0):
            rows = order.rows(position, position + data.window_rows)
            assert {row // data.chunk_rows for row in rows.tolist()} == set(chunks.tolist())


def test_the_help_names_options_of_the_recipe_and_none_that_the_study_sets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seeds and orders are those of the arms, and a run folder has no part in it."""
    _, parser = command_of("study")
    with pytest.raises(SystemExit):
        parser.parse_args(["parity", "--help"])
    out = capsys.readouterr().out
    for flag in ("--source", "--dataloader-workers", "--network", "--min-area", "--encoded"):
        assert f"{flag} " in out
    for name in ParityRecipe.OMITTED_FLAGS:
        assert f"--{name.replace('_', '-')} " not in out
    with pytest.raises(Exception, match="there is no option --order"):
        parser.parse_args(["parity", "--source", "a", "--store", "b", "--order", "random"])
