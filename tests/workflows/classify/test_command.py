"""`tesserae train classify`: what it chooses, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.store import records
from pipeline.store.open import open_objects
from tests.commands import run as run_command
from tests.images import prepare_inline
from tests.inline import tesserae
from tests.workflows.classify.small import (
    ENCODED,
    QUICK,
    SIZES,
    class_store,
    coloured,
    config_file,
    open_small,
    small_trunk,
)
from tests.workflows.classify.small import train_inline as train
from tests.workflows.runs.test_train import curve, stop_and_go_on
from tests.workflows.training.inline import inline_ranks
from tests.workflows.training.small import tensors
from workflows.classify.options import ClassifyOptions
from workflows.cli import main
from workflows.runs.train import _arrays_to_prepare
from workflows.training.errors import DivergedError
from workflows.training.run_folder import RunFolder
from workflows.training.run_options import RunOptions

CHOSEN: tuple[object, ...] = ("--network", "resnet9", "--image-size", 16, "--epochs", 2)
"""The options that a run goes on with if they are not named again."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, whose split `test` has no labels, and a pretrained trunk."""
    folder = tmp_path_factory.mktemp("classify")
    class_store(folder, encoded=(ENCODED,))
    for number in range(10):
        file = folder / "source" / "test" / f"{number}.JPEG"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(coloured(number, 0))
    prepare_inline(folder / "source", str(folder / "store"), split="test", sizes=SIZES,
                   encoded=(ENCODED,), serves=24)  # fmt: skip
    small_trunk(folder)
    return folder


def last_state(run: Path) -> list[torch.Tensor]:
    """Return all tensors of the newest checkpoint of a run."""
    folder = RunFolder(run)
    newest = folder.newest_checkpoint()
    assert newest is not None
    return tensors(folder.load(newest)["stage"])


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of evaluations."""
    lines = [line for line in RunFolder(run).metrics() if line.get("what") == "look"]
    return [{k: v for k, v in line.items() if k != "generation"} for line in lines]


def test_a_run_is_chosen_trained_and_recorded(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the command chooses is printed and recorded, and an evaluation ends each epoch."""
    run = tmp_path / "run"
    assert train(monkeypatch, folder / "store", run, "--image-size", 16, "--epochs", 2) == 0
    output = capsys.readouterr().out
    assert "chosen for this store and this machine: " in output
    assert "--network resnet9" in output
    assert "--steps 8" in output
    assert "--image-size" not in output
    assert f"{run}: done. Run `tesserae report {run}` to evaluate it." in output
    record = RunFolder(run).read_options()
    assert record["options"]["stage"] == "classify"
    assert (record["options"]["network"], record["options"]["steps"]) == ("resnet9", 8)
    assert (record["data"]["size"], record["data"]["held_out_size"]) == (16, 16)
    assert record["data"]["sizes"] == [8, 16, 20]
    assert [line["step"] for line in evaluations(run)] == [4, 8]
    assert set(evaluations(run)[0]) - {"step", "what"} == {
        "held_out_loss", "held_out_accuracy", "held_out_top5",
    }  # fmt: skip


GROWING = ("--start-image-size", 8, "--growth-epochs", 0, 2, "--evaluation-size", 18)


def test_a_run_goes_on_with_its_choices_and_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run is bit-identical, though the store has got smaller squares since."""
    store = class_store(tmp_path, sizes=(16, 20))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(monkeypatch, store, whole, *CHOSEN, *GROWING) == 0
    assert train(monkeypatch, store, parts, *CHOSEN, *GROWING, "--steps", 2) == 0
    for split in ("train", "val"):
        prepare_inline(tmp_path / "source", str(store), split=split, sizes=(8, 12, 18), serves=24)
    capsys.readouterr()
    assert train(monkeypatch, store, parts, *GROWING) == 0
    assert "--network" not in capsys.readouterr().out
    pairs = zip(last_state(whole), last_state(parts), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert evaluations(parts)[-1] == evaluations(whole)[-1]
    assert RunFolder(parts).data()["sizes"] == [16, 20]
    assert RunFolder(parts).data()["held_out_size"] == 20
    new = tmp_path / "new"
    assert train(monkeypatch, store, new, *CHOSEN, *GROWING, "--steps", 1) == 0
    assert RunFolder(new).data()["sizes"] == [8, 12, 16, 18, 20]
    assert RunFolder(new).data()["held_out_size"] == 18


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "resnet18"), "was started with --network resnet9 and cannot continue with"),
        (("--image-size", 8), "was started with --image-size 16 and cannot continue with"),
        (("--trunk", "{folder}/resnet"), "and cannot continue without --network. Pass --network"),
        (("--preset", "resnet9-cifar"), "was started without --preset and cannot continue with"),
        (("--epochs", 3), "or pass --from-step N to change --epochs from that step on"),
        (("--start-image-size", 20), "--start-image-size is 20: expected at most --image-size, 16"),
    ],
)
def test_a_run_does_not_go_on_with_another_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[object, ...], message: str, started: Path,
) -> None:  # fmt: skip
    """It is refused in a sentence, and the run is unchanged."""
    before = (started / "options.json").read_bytes()
    named = [str(word).format(folder=folder) for word in words]
    line = ["train", "classify", str(folder / "store"), "--run", str(started)]
    quick = [str(word) for word in QUICK]
    if "--trunk" in named:  # which has its own width
        quick = quick[: quick.index("--width")] + quick[quick.index("--width") + 2 :]
    with inline_ranks(monkeypatch):
        assert main([*line, *quick, *named]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert (started / "options.json").read_bytes() == before


@pytest.fixture(scope="module")
def started(folder: Path) -> Iterator[Path]:
    """Return the folder of a run of one step."""
    with pytest.MonkeyPatch.context() as patch:
        run = folder / "started"
        assert train(patch, folder / "store", run, *CHOSEN, "--steps", 1) == 0
        yield run


def test_a_run_of_another_stage_is_refused(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its options, such as the size of its images, are not taken over before that."""
    RunFolder(tmp_path / "run").create_or_continue(
        {"stage": "wgan", "image_size": 4, "epochs": 0}, {}
    )
    assert train(monkeypatch, folder / "store", tmp_path / "run") == 1
    assert "holds a run of the stage wgan, not of the stage classify." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--split", "test"), "split 'test' has no readable image with a label. Pass another --sp"),
        (("--held-out", "test"), "split 'test' has no readable image with a label. Pass another -"),
        (("--held-out", "nothing"), "--held-out is 'nothing': expected none or a finished split"),
        (("--batch-size", 40), "has 36 readable, labelled images, fewer than --batch-size 40"),
        (("--network", "resnet20"), "--network is 'resnet20': expected one of resnet18"),
        (("--image-size", 30), "expected at least 30 px. Add that size with `tesserae prepare"),
        (("--evaluation-size", 30), "--evaluation-size is 30: split 'val' has images of 8, 16, 20"),
        (("--encoded", ENCODED, "--evaluation-size", 30),
         "--evaluation-size is 30: the pictures of jpeg:24@90 are smaller."),
        (("--mixup", 0.2, "--batch-size", 7), "--batch-size is 7: --mixup and --cutmix mix pairs"),
        (("--network", "vit-small"), "--width is 8: expected a multiple of 64 for vit-small."),
        (("--preset", "resnet9-cifar", "--image-size", 3), "--image-size is 3: expected 8 to"),
        (("--save-minutes", -1), "--save-minutes is -1"),
    ],
)  # fmt: skip
def test_an_impossible_command_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], words: tuple[object, ...], message: str,
) -> None:  # fmt: skip
    """The command ends with one sentence and exit status 1, and creates no folder."""
    run = tmp_path / "run"
    line = (*QUICK, "--network", "resnet9", "--image-size", 16)
    assert train(monkeypatch, folder / "store", run, *line, *words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not run.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--network", "{folder}/no.json"), "--network is {folder}/no.json: expected the config"),
        (("--network", "{folder}/bad.json"), "Unrecognized model identifier: nothing"),
        (("--network", "{folder}/vit-config.json", "--start-image-size", 8),
         "--start-image-size is 8: ViTForImageClassification fails on such images"),
        (("--trunk", "{folder}/nothing"), "{folder}/nothing is not a backbone"),
        (("--last-layer", "pretrained"), "a network with random weights has none. Pass --trunk"),
        (("--trunk", "{folder}/resnet", "--frozen-blocks", 4), "--frozen-blocks is 4: ResNet"),
        (("--trunk", "{folder}/vit", "--image-size", 8), "--image-size is 8: ViT"),
        (("--trunk", "{folder}/started"), "{folder}/started is a training run: `tesserae export"),
    ],
)  # fmt: skip
def test_an_unsuitable_network_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: Path,
    capsys: pytest.CaptureFixture[str], words: tuple[object, ...], message: str,
) -> None:  # fmt: skip
    """The command ends with one sentence and exit status 1, and creates no folder."""
    assert started.exists()
    config_file(folder, "vit")
    (folder / "bad.json").write_text('{"model_type": "nothing"}')
    if not (folder / "vit").exists():
        small_trunk(folder, "vit")
    run = tmp_path / "run"
    line = ["train", "classify", str(folder / "store"), "--run", str(run), "--batch-size", "8"]
    with inline_ranks(monkeypatch):
        status = main([*line, *(str(word).format(folder=folder) for word in words)])
    captured = capsys.readouterr()
    assert (status, captured.err.count("\n")) == (1, 1)
    assert message.format(folder=folder) in captured.err
    assert not run.exists()


def test_a_store_of_one_class_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store of one class, or of none, is refused, and no folder is created."""
    store = class_store(tmp_path / "one", classes=("ant",), held_out=0, sizes=(16,))
    assert train(monkeypatch, store, tmp_path / "run") == 1
    assert "the store has 1 class: expected at least 2 to tell apart." in capsys.readouterr().err
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(9):
        (flat / f"{number}.JPEG").write_bytes(coloured(number, 0))
    prepare_inline(flat, str(tmp_path / "none"), sizes=(16,))
    assert train(monkeypatch, tmp_path / "none", tmp_path / "run") == 1
    assert "the store has 0 classes: expected at least 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_held_out_split_without_labels_is_left_out_unless_it_is_named(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run is trained and not evaluated, after a notice."""
    run = tmp_path / "run"
    assert train(monkeypatch, folder / "store", run, *CHOSEN, "--split", "val") == 0
    output = capsys.readouterr().out
    assert "notice: split 'test' has no readable image with a label: this run is not eva" in output
    assert evaluations(run) == []
    assert RunFolder(run).data()["held_out"] is None


def test_rows_without_a_label_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither training nor evaluation reads them; unreadable ones are not counted."""
    features = {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}
    hub = {"huggingface": json.dumps({"info": {"features": features}})}
    labels = [0, 1, 1, None, 0, 1, 0, -1, 1, 0, None]
    images = [{"bytes": coloured(k, k), "path": f"{k}.png"} for k in range(len(labels))]
    for unreadable in (3, 4):
        images[unreadable]["bytes"] = b"no image"
    (tmp_path / "source").mkdir()
    for split in ("train", "val"):
        table = pa.table({"image": images, "label": pa.array(labels)})
        pq.write_table(
            table.replace_schema_metadata(hub), tmp_path / "source" / f"{split}-0.parquet"
        )
    words = ("--split", "train", "val", "--sizes", 16, "--max-bad", 1, "--workers", 1)
    assert tesserae(monkeypatch, "prepare", tmp_path / "source", tmp_path / "store", *words) == 0
    capsys.readouterr()
    options, data = open_small(tmp_path / "store", batch_size=3)
    assert "notice: 2 images without a label are left out." in capsys.readouterr().out
    assert data.held_out is not None
    assert (data.train.num_rows, data.held_out.num_rows) == (7, 7)
    assert options.steps == 3 * 2
    for loader, count in ((data.train, 6), (data.held_out, 7)):
        read = [int(label) for batch in loader for label in batch.labels]
        assert len(read) == count
        assert min(read) == 0
    assert len([*data.held_out]) == 3, "its last batch has one row"


def test_the_network_of_a_file_is_recorded_with_its_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on from another working folder, as the recorded path is absolute."""
    config_file(tmp_path, "convnext")
    monkeypatch.chdir(tmp_path)
    words = ["train", "classify", str(folder / "store"), "--run", str(tmp_path / "run"),
             "--batch-size", "8", "--threads-per-rank", "1", "--image-size", "16"]  # fmt: skip
    with inline_ranks(monkeypatch):
        assert main([*words, "--network", "convnext-config.json", "--steps", "1"]) == 0
        os.chdir("/")
        assert main([*words, "--steps", "2"]) == 0
    recorded = RunFolder(tmp_path / "run").read_options()["options"]["network"]
    assert recorded == f"{tmp_path}/convnext-config.json"


@pytest.mark.parametrize(
    ("stored", "choices", "expected"),
    [
        ((), {}, {"sizes": (224,)}),
        ((), {"image_size": 64}, {"sizes": (72,)}),
        ((), {"image_size": 192, "evaluation_size": 256}, {"sizes": (192, 256)}),
        ((), {"image_size": 192, "evaluation_size": 160}, {"sizes": (192,)}),
        ((8, 16, 20), {"image_size": 16}, {"sizes": (16,)}),
        ((8, 16, 20), {"image_size": 12, "evaluation_size": 18}, {"sizes": (16, 20)}),
        ((8, 16, 20), {"image_size": 12, "evaluation_size": 30}, {"sizes": (16, 30)}),
        ((8, 16, 20), {}, {"encoded": (ENCODED,)}),  # its rows have a short side of 24 px
        ((8, 16, 20), {"encoded": ENCODED, "image_size": 16}, {"encoded": (ENCODED,)}),
        ((), {"trunk": "resnet"}, {"sizes": (16,)}),
    ],
)
def test_the_arrays_that_are_read_are_prepared(
    folder: Path, tmp_path: Path, stored: tuple[int, ...], choices: dict[str, Any],
    expected: dict[str, Any],
) -> None:  # fmt: skip
    """With --data, the squares of evaluations and of a trunk are prepared, too."""
    store = folder / "store" if stored else tmp_path / "store"
    if "trunk" in choices:
        choices = {"trunk": str(folder / choices["trunk"])}
    run_options = RunOptions(stage="classify", store=str(store), data="SOURCE")
    run = RunFolder(tmp_path / "run")
    assert _arrays_to_prepare(run_options, ClassifyOptions(**choices), run) == expected


@pytest.mark.slow
def test_the_held_out_split_is_prepared_before_training(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run with --data is evaluated after each epoch, also on a split that is named."""
    source = class_store(tmp_path, sizes=(8,)).parent / "source"
    shutil.copytree(source / "val", source / "test")
    for name, words in (
        ("val", ()),
        ("test", ("--held-out", "test")),
        (None, ("--held-out", "none")),
    ):
        run, store = tmp_path / f"run-{name}", tmp_path / f"store-{name}"
        chosen = ("--data", source, *CHOSEN, *words)
        assert train(monkeypatch, store, run, *chosen) == 0
        assert RunFolder(run).data()["held_out"] == name
        assert len(evaluations(run)) == (0 if name is None else 2)
        done = [s for s in ("train", "val", "test")
                if records.load_finish_record(open_objects(str(store)), s) is not None]  # fmt: skip
        assert done == ["train", "val", "test"]


def test_a_network_is_checked_before_images_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network file that cannot be read is refused before hours of decoding."""
    source = class_store(tmp_path, sizes=(8,)).parent / "source"
    words = ["train", "classify", str(tmp_path / "new"), "--run", str(tmp_path / "run"), "--data",
             str(source), "--network", str(tmp_path / "missing.json")]  # fmt: skip
    with inline_ranks(monkeypatch):
        assert main(words) == 1
    captured = capsys.readouterr()
    assert "missing.json: expected the config.json of an image classifier" in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_trunk_that_knows_the_classes_is_evaluated_before_it_is_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], started: Path,
) -> None:  # fmt: skip
    """A run on an exported classifier begins with its accuracy; a new last layer is drawn."""
    model, evaluated = tmp_path / "model", evaluations(started)[-1]
    tesserae(monkeypatch, "export", started, "--out", model)
    line = ["train", "classify", folder / "store", "--trunk", model, "--crop", "random",
            "--batch-size", 8, "--threads-per-rank", 1, "--precision", "float32",
            "--no-dashboard"]  # fmt: skip

    def fine_tune(run: Path, *words: object) -> list[dict[str, Any]]:
        with inline_ranks(monkeypatch):
            assert main([*map(str, (*line, "--run", run, *words))]) == 0
        return evaluations(run)

    first, *later = fine_tune(tmp_path / "run", "--steps", 2)
    assert "--last-layer pretrained" in capsys.readouterr().out
    assert first == pytest.approx({**evaluated, "step": 0})
    assert [evaluation["step"] for evaluation in later] == [2]
    assert RunFolder(tmp_path / "run").read_options()["options"]["last_layer"] == "pretrained"
    repeated = fine_tune(tmp_path / "run", "--steps", 4)
    assert [evaluation["step"] for evaluation in repeated] == [0, 2, 4]
    new = fine_tune(tmp_path / "new", "--steps", 2, "--last-layer", "new")
    assert [evaluation["step"] for evaluation in new] == [2]
    options = tmp_path / "new" / "options.json"
    record = json.loads(options.read_text())
    del record["options"]["last_layer"]  # as of a version that always drew a new one
    options.write_text(json.dumps(record))
    assert [line["step"] for line in fine_tune(tmp_path / "new", "--steps", 4)] == [2, 4]
    without = [word for word in line if word not in ("--trunk", model)]
    with inline_ranks(monkeypatch):
        assert main([*map(str, (*without, "--run", tmp_path / "run"))]) == 1
    assert "and cannot continue without --trunk. Pass --trunk" in capsys.readouterr().err
    other = class_store(tmp_path, classes=("ant", "bee", "wolf"), sizes=(16,))
    line[2] = other
    assert [line["step"] for line in fine_tune(tmp_path / "wolf", "--steps", 1)] == [1]
    assert "--last-layer new" in capsys.readouterr().out
    with inline_ranks(monkeypatch):
        words = (*line, "--run", tmp_path / "no", "--last-layer", "pretrained", "--steps", 1)
        assert main([*map(str, words)]) == 1
    captured = capsys.readouterr().err
    assert "--last-layer is pretrained: the store has a class 'wolf', and" in captured
    assert "has no such class. Pass --last-layer new, or another --trunk." in captured
    assert captured.count("\n") == 1
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ctrl_c_saves_and_the_same_command_continues(folder: Path, tmp_path: Path) -> None:
    """The curve of an interrupted run of two ranks is that of an uninterrupted one."""

    def words(run: Path) -> tuple[object, ...]:
        return (
            *("train", "classify", folder / "store", "--run", run, "--ranks", 2, *QUICK, *CHOSEN),
            *("--steps", 24, "--log-every", 1, "--mixup", 0.2, "--ema-decay", 0.9),
            *("--start-image-size", 8, "--growth-epochs", 2, 5),
        )

    stop_and_go_on(tmp_path, words(tmp_path / "run"), signal.SIGINT, 5)
    done = run_command(*words(tmp_path / "whole"), scratch=tmp_path, seconds=120)
    assert (done.status, done.err) == (0, "")
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_store_is_prepared_trained_on_evaluated_and_exported(tmp_path: Path) -> None:
    """Each command of the whole path succeeds as a user types it."""
    source = class_store(tmp_path).parent / "source"
    words: tuple[object, ...] = ("--run", tmp_path / "run", *QUICK, *CHOSEN, "--workers", 1)
    data = ("--data", source, "--evaluation-size", 24)
    steps: list[tuple[object, ...]] = [
        ("train", "classify", tmp_path / "new", *words, *data),
        ("report", tmp_path / "run"),
        ("classify", tmp_path / "run", source / "val", "--top", 1, "--format", "csv"),
        ("export", tmp_path / "run", "--out", tmp_path / "model"),
        ("features", tmp_path / "new", "--trunk", tmp_path / "model", "--workers", 1),
    ]
    for line in steps:
        done = run_command(*line, scratch=tmp_path, seconds=150)
        assert (done.status, done.err) == (0, "")
    assert (tmp_path / "run" / "report.html").exists()
    assert len(evaluations(tmp_path / "run")) == 2
    shutil.rmtree(tmp_path / "new")


def test_a_diverged_run_names_the_option_to_lower(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the learning rate with its value."""
    words = (*CHOSEN, "--learning-rate", "1e30", "--warmup-epochs", 0)
    with pytest.raises(DivergedError, match=r"Lower --learning-rate \(now 1e\+30\)"):
        train(monkeypatch, folder / "store", tmp_path / "run", *words, "--debug")


def test_the_help_lists_the_recipes_and_every_group(capsys: pytest.CaptureFixture[str]) -> None:
    """That it loads no torch is tested with the help of all commands."""
    with pytest.raises(SystemExit):
        main(["train", "classify", "--help"])
    output = capsys.readouterr().out
    assert output.startswith("usage: tesserae train classify STORE [OPTIONS]")
    for part in ("--preset NAME", "resnet50-ffcv-16", "images and augmentation:", "--show"):
        assert part in output
