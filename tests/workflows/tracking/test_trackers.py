"""What trackers write is read back by their own readers, and none of them stops a training."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import TesseraeError
from tests.commands import ROOT
from workflows.tracking import launch
from workflows.tracking.launch import check_trackers, tracked
from workflows.tracking.tracker import TRACKERS, TrackerEntry
from workflows.training import records
from workflows.training.run_folder import RunFolder

LOSSES = [(1, 0.5), (2, 0.25), (3, None), (4, 0.125)]
NAME = "first run?x=1"
"""A name that must be quoted in a URL."""
GRID = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def make_run(folder: Path) -> Path:
    """Return a run folder with four steps, an evaluation and a grid."""
    (folder / "samples").mkdir(parents=True)
    record = {"options": {"stage": "wgan", "steps": 4, "image_size": 6}, "data": {"store": "s"}}
    (folder / "options.json").write_text(json.dumps(record))
    lines: list[dict[str, Any]] = [
        {"step": step, "generation": 1, "critic_loss": loss} for step, loss in LOSSES
    ]
    lines.append({"step": 4, "generation": 1, "what": "look", "held_out_distance": 2.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Image.fromarray(GRID).save(folder / "samples" / "samples-000000004.png")
    return folder


def follow(name: str, folder: Path, word: str, **environment: str) -> None:
    """Run the process of a tracker until the training that it follows has ended."""
    pytest.importorskip(TRACKERS[name].library)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-m", "workflows.tracking.process", name, str(folder)],
        cwd=ROOT,
        input=word,
        env={**kept, "HOME": str(folder.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / NAME)


def continue_run(folder: Path) -> None:
    """Continue a run from step 2, with other losses."""
    lines = [{"step": step, "generation": 2, "critic_loss": 10.0 + step} for step in (3, 4, 5)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_tensorboard_reads_the_run(run: Path) -> None:
    """Scalars, the grid and the options; what a continued run repeats is replaced."""
    follow("tensorboard", run, "finished\n")
    continue_run(run)
    follow("tensorboard", run, "finished\n")

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/critic_loss", "eval/held_out_distance"}
    losses = [(e.step, e.value) for e in events.Scalars("train/critic_loss")]
    assert losses == [(1, 0.5), (2, 0.25), (3, 13.0), (4, 14.0), (5, 15.0)]
    (image,) = events.Images("samples")
    assert image.step == 4
    with Image.open(io.BytesIO(image.encoded_image_string)) as shown:
        assert np.array_equal(np.asarray(shown), GRID)
    text = events.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| image_size | 6 |" in text


def read_wandb(folder: Path) -> list[Any]:
    """Return the records of all files that the library has written in a folder.

    A file is a log of LevelDB behind a header of 7 bytes: in blocks of 32 KiB, each part of a
    record has a checksum (4 bytes), its length (2) and its kind (1: whole, first, middle, last).
    """
    from wandb.proto import wandb_internal_pb2

    records = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, parts = file.read_bytes(), 7, b""
        assert data.startswith(b":W&B")
        while at + 7 <= len(data):
            if 2**15 - at % 2**15 < 7:
                at += 2**15 - at % 2**15  # no room for a header: the rest of the block is empty
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(parts)
                records.append(record)
                parts = b""
    return records


@pytest.mark.slow
def test_wandb_writes_the_run_without_a_network(run: Path) -> None:
    """One run, which a second process continues; its files are those of `wandb sync`."""
    follow("wandb", run, "finished\n")
    continue_run(run)
    follow("wandb", run, "failed\n")

    records = read_wandb(run)
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert len({each.run_id for each in runs}) == 1
    assert {each.display_name for each in runs} == {NAME}
    config = {item.key: item.value_json for item in runs[0].config.update}
    assert (config["image_size"], config["data.store"]) == ("6", '"s"')
    rows = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    losses = [
        (int(row["step"]), json.loads(row["train/critic_loss"]))
        for row in rows
        if "train/critic_loss" in row
    ]
    assert [step for step, _ in losses] == [1, 2, 3, 4, 3, 4, 5]
    assert [loss for _, loss in losses if loss == loss and loss != "NaN"] == [
        0.5, 0.25, 0.125, 13.0, 14.0, 15.0,
    ]  # fmt: skip
    assert any("eval/held_out_distance" in row for row in rows)
    images = [row for row in rows if "samples/path" in row]  # of step 4, which was repeated
    assert [(row["samples/width"], row["samples/height"]) for row in images] == [("6", "4")] * 2
    assert [int(row["_step"]) for row in rows] == list(range(len(rows)))
    exits = [r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit"]
    assert exits == [0, 1]


@pytest.mark.slow
def test_mlflow_reads_the_run(run: Path) -> None:
    """One run, which a second process continues and which has failed in the end."""
    follow("mlflow", run, "finished\n")
    continue_run(run)
    follow("mlflow", run, "")

    from mlflow import MlflowClient

    # Of SQLAlchemy, which MLflow uses in a way that it is to lose.
    warnings.simplefilter("ignore", DeprecationWarning)
    client = MlflowClient(f"sqlite:///{quote(str(run))}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("tesserae")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (NAME, "FAILED")
    assert found.data.params["image_size"] == "6"
    history = client.get_metric_history(found.info.run_id, "train/critic_loss")
    values = [(metric.step, metric.value) for metric in history]
    assert [step for step, _ in values] == [1, 2, 3, 4, 3, 4, 5]
    assert [v for _, v in values if v == v] == [0.5, 0.25, 0.125, 13.0, 14.0, 15.0]
    (image,) = client.list_artifacts(found.info.run_id, "samples")
    assert image.path == "samples/samples-000000004.png"
    assert len(list(run.glob("mlflow/artifacts/**/samples-000000004.png"))) == 1
    assert not (ROOT / "mlruns").exists()
    assert [path.name for path in run.parent.iterdir() if "first" in path.name] == [NAME]


# --- trackers that fail ---------------------------------------------------------------------------


def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Make the process of the tracker `odd` run *code* in place of following."""
    (tmp_path / "odd_process.py").write_text(code)
    monkeypatch.setitem(TRACKERS, "odd", TrackerEntry("json", "json:JSONEncoder"))
    popen = subprocess.Popen

    def start(command: list[str], **words: Any) -> Any:
        return popen([command[0], str(tmp_path / "odd_process.py"), *command[4:]], **words)

    monkeypatch.setattr(launch.subprocess, "Popen", start)


def test_a_tracker_that_fails_is_named_at_the_end(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training ends as if there were none; the notice has the last line of the output."""
    use(monkeypatch, tmp_path, "print('hello'); raise SystemExit('no such project.')")

    with tracked(["odd"], run):
        result = "trained"

    assert result == "trained"
    said = capsys.readouterr().out
    assert said.startswith("notice: --log odd failed: no such project. Its output is in ")
    assert (run / "tracking" / "odd.log").read_text() == "hello\nno such project.\n"


def test_a_tracker_that_hangs_is_stopped(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that ignores signals and does not read."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    use(monkeypatch, tmp_path, code)
    monkeypatch.setattr(launch, "END_SECONDS", 1.0)

    with tracked(["odd"], run):
        pass

    assert "--log odd did not end within 1 s, and was stopped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "word"), [(None, "finished\n"), (KeyboardInterrupt(), "failed\n")],
    ids=["finished", "interrupted"],
)  # fmt: skip
def test_a_tracker_hears_how_the_training_ended(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None,
    word: str,
) -> None:  # fmt: skip
    """The error of the training is raised, whatever the tracker does."""
    use(monkeypatch, tmp_path, "import sys; print(sys.argv[1:], repr(sys.stdin.read()))")
    raised: BaseException | None = None

    try:
        with tracked(["odd"], run):
            if error is not None:
                raise error
    except KeyboardInterrupt as e:
        raised = e

    assert raised is error
    assert (run / "tracking" / "odd.log").read_text() == f"{['odd', str(run)]} {word!r}\n"


def test_a_run_that_never_took_a_step_leaves_nothing_of_its_trackers(tmp_path: Path) -> None:
    """A later run in the folder is not refused for what a tracker has left there itself."""
    run = RunFolder(tmp_path / "run")
    options = {"stage": "wgan", "steps": 4}
    run.path.mkdir()
    (run.path / "tracking").mkdir()
    run.create_or_continue(options, {})
    for name in ("tensorboard.json", "tensorboard.log"):
        (run.path / "tracking" / name).write_text("x")
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events").write_text("x")

    run.discard([])

    assert [path.name for path in run.path.iterdir()] == ["tensorboard"]
    RunFolder(run.path).create_or_continue(options, {})


def test_the_trackers_are_those_that_a_run_folder_knows() -> None:
    """Their folders are no files of somebody else."""
    assert tuple(TRACKERS) == records.TRACKERS


def test_a_missing_library_is_an_error_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the command that installs it."""
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TesseraeError, match=r"--log wandb needs wandb: run `.*trackers.*`\.$"):
        check_trackers(["wandb"])
