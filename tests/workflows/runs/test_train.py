"""`tesserae train` as a user runs it, and faults of processes and machines."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.store import records
from pipeline.store.open import open_objects
from tests.commands import ROOT, Command, run, start, wait_until
from tests.images import jpeg
from tests.workflows.training.small import small_store
from workflows.cli import main
from workflows.training.run_folder import RunFolder
from workflows.training.run_lock import locked_run

SMALL = (
    *("--image-size", 16, "--batch-size", 8, "--latent-dim", 5, "--generator-width", 4),
    *(
        "--critic-width",
        4,
        "--critic-steps",
        2,
        "--warmup-critic-steps",
        0,
        "--learning-rate",
        "1e-3",
    ),
    *("--precision", "float32", "--no-dashboard"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 36 and 18 images of 16 px."""
    return small_store(tmp_path_factory.mktemp("small"))


def curve(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the metrics of each step, by step."""
    steps = {}
    for line in RunFolder(folder).metrics():
        if line.get("what", "") == "":
            steps[line["step"]] = {k: v for k, v in line.items() if k != "generation"}
    return steps


def ranks(command: Command) -> list[psutil.Process]:
    """Return the processes of the ranks of *command*."""
    processes = []
    for process in command.processes():
        try:
            if "cluster.ranks.rank_process" in process.cmdline():
                processes.append(process)
        except psutil.Error:
            pass
    # A guard has the command line of its rank, which is its parent.
    pids = {process.pid for process in processes}
    return [process for process in processes if process.ppid() not in pids]


def step_of(folder: Path) -> int:
    """Return the newest step in the metrics file of a run."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines[:-1]), default=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    [pytest.param((), id="squares"), pytest.param(("--encoded", "jpeg:24@90"), id="encoded")],
)
def test_train_with_data_prepares_and_trains(tmp_path: Path, rows: tuple[str, ...]) -> None:
    """The command prepares, trains during the rest of preparation, and names the samples."""
    for split in ("train", "val"):
        for number in range(40):
            file = tmp_path / "source" / split / f"n{number % 2:08d}" / f"{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(number, 30, 24))
    done = run(
        *("train", "wgan", tmp_path / "store", "--data", tmp_path / "source"),
        *("--run", tmp_path / "run", "--steps", 12, "--eval-every", 6, *SMALL, "--workers", 2),
        *rows,
        scratch=tmp_path,
        seconds=120,
    )
    assert (done.status, done.err) == (0, "")
    assert "train: prepare: 40 images" in done.out
    assert "val: prepare: 40 images" in done.out
    assert f"latest generated images: {tmp_path}/run/samples/samples-000000012.png" in done.out
    assert sorted(curve(tmp_path / "run")) == list(range(1, 13))
    done_record = records.load_finish_record(open_objects(str(tmp_path / "store")), "val")
    assert done_record is not None
    assert done_record.array_names == (("jpeg24@90",) if rows else ("16",))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Return the folder of an uninterrupted run of two ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(*command(store, folder / "run"), scratch=folder, seconds=120)
    assert (done.status, done.err) == (0, "")
    assert len(curve(folder / "run")) == STEPS
    return folder / "run"


STEPS = 60


def command(store: Path, folder: Path) -> tuple[object, ...]:
    """Return the arguments of a run of two ranks."""
    return (
        *("train", "wgan", store, "--run", folder, "--ranks", 2, "--steps", STEPS, *SMALL),
        *("--save-every", 20, "--eval-every", 40, "--log-every", 5),
    )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """Return the folder of a run of two ranks that Ctrl-C stopped and a second command finished."""
    folder = tmp_path_factory.mktemp("interrupted")
    stop_and_go_on(folder, (*command(store, folder / "run"), *BRIEF), signal.SIGINT, 2)
    return folder / "run"


BRIEF = ("--steps", 15, "--save-every", 5, "--log-every", 1)


def stop_and_go_on(folder: Path, words: tuple[object, ...], number: int, step: int) -> None:
    """Send a signal to a run in *folder* once it is beyond a step, and continue it to its end."""
    with start(*words, scratch=folder) as first:
        assert wait_until(lambda: step_of(folder / "run") > step)
        first.signal_all(number)
        assert first.wait(90) == 130
        assert f"Run the same command again to continue in {folder}/run" in first.err
        assert first.gone(), "a process is left behind"
    assert sorted((folder / "run" / "checkpoints").glob("*.json"))
    again = run(*words, scratch=folder, seconds=120)
    assert (again.status, again.err) == (0, "")
    assert "training on 2 ranks from step" in again.out


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues(interrupted: Path) -> None:
    """No step is missing or repeated after an interruption."""
    steps = [line["step"] for line in RunFolder(interrupted).metrics() if not line.get("what")]
    assert steps == list(range(1, 16))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tracker_has_the_metrics_of_the_run(tmp_path: Path, store: Path) -> None:
    """Of both parts of an interrupted run: each metric of each step, as the run folder has it."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    words = (*command(store, tmp_path / "run"), *BRIEF, "--log", "tensorboard")
    stop_and_go_on(tmp_path, words, signal.SIGINT, 2)

    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [(e.step, e.value) for e in events.Scalars("train/critic_loss")]
    recorded = [line for line in RunFolder(tmp_path / "run").metrics() if not line.get("what")]
    assert [step for step, _ in losses] == list(range(1, 16))
    assert [value for _, value in losses] == pytest.approx(
        [line["critic_loss"] for line in recorded], rel=1e-6
    )
    assert "speed/images_per_second" in events.Tags()["scalars"]
    assert [image.step for image in events.Images("samples")]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_does_not_change_the_curve(
    tmp_path: Path, store: Path, undisturbed: Path, number: int
) -> None:
    """The metrics are bit-identical to those of an uninterrupted run."""
    stop_and_go_on(tmp_path, command(store, tmp_path / "run"), number, 15)
    assert curve(tmp_path / "run") == curve(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_command_that_is_killed_leaves_a_checkpoint(
    tmp_path: Path, store: Path, undisturbed: Path
) -> None:
    """The workers end with the command, and ranks save and end within a minute."""
    words = command(store, tmp_path / "run")
    with start(*words, "--save-every", 1_000, scratch=tmp_path) as first:
        assert wait_until(lambda: step_of(tmp_path / "run") > 15, 180)
        assert not list((tmp_path / "run" / "checkpoints").glob("*.json"))
        first.process.kill()
        assert first.gone(60)
    (step,) = RunFolder(tmp_path / "run").checkpoint_steps()
    assert step >= 15
    again = run(*words, scratch=tmp_path, seconds=120)
    assert (again.status, again.err) == (0, "")
    assert f"training on 2 ranks from step {step}" in again.out
    assert curve(tmp_path / "run") == curve(undisturbed)


TERMINAL = """
import os, pty, select, sys
pid, terminal = pty.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
while sys.stdin not in (ready := select.select([sys.stdin, terminal], [], [])[0]):
    os.read(terminal, 65536)
os.close(terminal)  # as a window that is closed
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_terminal_that_is_closed_ends_the_run_with_a_checkpoint(
    tmp_path: Path, store: Path
) -> None:
    """The run saves although nothing reads its output any more."""
    words = [*map(str, command(store, tmp_path / "run")), "--save-every", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, sys.executable, "-m", "workflows", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert wait_until(lambda: step_of(tmp_path / "run") > 15, 180)
        output, _ = process.communicate("end\n", timeout=90)
    finally:
        process.kill()
    assert output.strip() == "130"
    assert RunFolder(tmp_path / "run").checkpoint_steps()[-1] >= 15


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["wgan", "colourise"])
def test_a_diverged_run_is_not_reported_as_done(tmp_path: Path, store: Path, stage: str) -> None:
    """A diverged run ends with a single error that names a finite checkpoint."""
    words: list[object] = ["train", stage, store, "--run", tmp_path / "run", "--image-size", 16]
    words += ["--batch-size", 8, "--no-dashboard", "--steps", 40, "--log-every", 2]
    words += ["--objective", "wgan-gp"]
    if stage == "wgan":
        words += ["--generator-width", 4, "--critic-width", 4]
    done = run(*words, "--learning-rate", "1e30", scratch=tmp_path, seconds=120)
    assert done.status == 1
    assert re.fullmatch(
        r"tesserae: training diverged at step \d+: .*Lower --learning-rate \(now 1e\+30\) and"
        r" resume with --from-step \d+, or start a new run with another --run\.\n",
        done.err,
    )
    assert "restart from" not in done.out
    assert "done" not in done.out
    (line,) = [m for m in RunFolder(tmp_path / "run").metrics() if m.get("what") == "diverged"]
    assert line["why"] in done.err


def strike(command: Command, fault: str, rng: random.Random) -> None:
    """Kill a rank, a worker or the client, or suspend a rank for a while."""
    if fault == "client":
        command.process.kill()
        return
    victim = rng.choice(ranks(command))
    if fault == "worker":
        victim = psutil.Process(victim.ppid())
    if fault == "stopped":
        victim.suspend()
        time.sleep(2)
        victim.resume()
        return
    victim.kill()


def reaches(command: Command, folder: Path, step: int) -> bool:
    """Wait until a run reaches *step* with both ranks; return False if it ended before."""
    wait_until(lambda: step_of(folder) >= step or not command.running(), 120)
    return (
        wait_until(lambda: len(ranks(command)) == 2 or not command.running()) and command.running()
    )


def faults(seed: int, count: int) -> Iterator[tuple[str, random.Random]]:
    """Yield the kinds of faults in turn, with a random generator."""
    rng = random.Random(seed)
    for index in range(count):
        yield ("rank", "worker", "client", "stopped")[index % 4], rng


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_faults_leave_the_same_curve(tmp_path: Path, store: Path, undisturbed: Path) -> None:
    """Four faults in each of five runs, at random steps, do not change the metrics."""
    expected = curve(undisturbed)
    struck = 0
    for turn in range(5):
        folder = tmp_path / f"run{turn}"
        words = command(store, folder)
        waiting = list(faults(turn, 4))
        ended = False
        while not ended:
            with start(*words, scratch=tmp_path) as process:
                while waiting:
                    fault, rng = waiting[0]
                    if not reaches(process, folder, step_of(folder) + rng.randrange(2, 12)):
                        break
                    strike(process, fault, rng)
                    waiting.pop(0)
                    struck += 1
                    if fault == "client":
                        assert process.gone(90), "a process was left behind"
                        break
                else:
                    assert process.wait(180) == 0, process.err
                    ended = True
                if not process.running() and process.process.returncode == 0:
                    ended = True
                assert process.gone(90), "a process was left behind"
        assert curve(folder) == expected
    assert struck >= 18


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wgan", "{store}", "--objective", "wasserstein"], "invalid choice"),
        (["wgan", "{store}", "--image-size", "48"], "expected 8, 16, 32, 64"),
        (["wgan", "{store}", "--image-size", "64"], "at least 64 px. Add that size with `tesserae"),
        (
            ["wgan", "{store}", "--batch-size", "64"],
            "has 36 readable images, fewer than --batch-size 64",
        ),
        (["wgan", "{store}", "--split", "no"], "no"),
        (
            ["wgan", "{store}", "--held-out", "test"],
            "expected none or a finished split: train, val",
        ),
        (["wgan", "{store}", "--steps", "0"], "--steps is 0: expected at least 1"),
        (["wgan", "{store}", "--beta1", "1"], "--beta1 is 1: expected 0 to 0.9999"),
        (["wgan", "{store}", "--ranks", "0"], "--ranks is 0"),
        (["wgan", "{store}", "--gpus", "99"], "this machine has"),
        (["wgan", "nowhere"], "nowhere"),
        (["dcgan", "{store}"], "invalid choice"),
        (["wgn", "{store}"], "(did you mean wgan?). See"),
        (["wgan", "{store}", "--order", "windwed"], "(did you mean windowed?). See"),
        (["wgan", "{store}", "--objective", "wgan-gp", "--compile"], "Pass only one of them"),
        (["wgan", "{store}", "--data", "nowhere"], "nowhere"),
        (["wgan", "{store}", "--cluster", "nowhere"], "--cluster"),
    ],
)
def test_an_invalid_command_is_refused_before_anything_runs(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    """An invalid command fails with one error message and creates no folder."""
    os.chdir(tmp_path)
    arguments = [word.format(store=store) for word in words]
    if "--image-size" not in arguments:
        arguments += ["--image-size", "16"]
    if "--batch-size" not in arguments:
        arguments += ["--batch-size", "8"]
    status = main(["train", *arguments, "--no-dashboard"])
    captured = capsys.readouterr()
    assert status == 1
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_ranks_report_what_one_reports(tmp_path: Path, store: Path, undisturbed: Path) -> None:
    """Metrics are means over ranks, and agree within rounding."""
    words = [word if word != 2 else 1 for word in command(store, tmp_path / "run")[:7]]
    done = run(*words, "--steps", 6, *SMALL, "--log-every", 5, scratch=tmp_path)
    assert (done.status, done.err) == (0, "")
    expected = curve(undisturbed)
    for step, metrics in curve(tmp_path / "run").items():
        assert metrics == pytest.approx(expected[step], rel=1e-3, abs=1e-5)


def test_a_run_folder_in_use_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second command in the same folder is refused."""
    with locked_run(RunFolder(tmp_path / "run")):
        assert main(["train", "wgan", str(store), "--run", str(tmp_path / "run")]) == 1
    assert f"{tmp_path}/run is in use by process {os.getpid()} on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_store_with_other_rows_is_refused(
    tmp_path: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The options file of the run is unchanged."""
    record = RunFolder(interrupted).read_options()
    assert record["options"]["stored_size"] == 16
    assert record["data"]["held_out"] == "val"
    before = (interrupted / "options.json").read_bytes()
    different = small_store(tmp_path / "other", rows=40)
    words = [str(word) for word in (*command(different, interrupted), *BRIEF)]
    assert main(words) == 1
    assert "holds a run with the plan" in capsys.readouterr().err
    assert (interrupted / "options.json").read_bytes() == before


def test_a_folder_of_another_stage_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the stages of both runs."""
    words = ["--image-size", "16", "--batch-size", "8", "--no-dashboard"]
    RunFolder(tmp_path / "run").create_or_continue({"stage": "other"}, {})
    status = main(["train", "wgan", str(store), "--run", str(tmp_path / "run"), *words])
    assert status == 1
    assert "holds a run of the stage other, not of the stage wgan." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_samples_of_a_gan_on_cifar_improve(tmp_path: Path, real_data: Path) -> None:
    """The distance of samples to real images falls with every evaluation."""
    done = run(
        *("train", "wgan", tmp_path / "store", "--data", real_data / "cifar-10-batches-py"),
        *("--run", tmp_path / "run", "--image-size", 32, "--objective", "hinge"),
        *("--critic-steps", 1, "--generator-width", 32, "--critic-width", 32, "--steps", 400),
        *("--eval-every", 100, "--held-out", "none", "--no-dashboard"),
        scratch=tmp_path,
        seconds=600,
    )
    assert (done.status, done.err) == (0, "")
    evaluations = [
        line for line in RunFolder(tmp_path / "run").metrics() if line.get("what") == "look"
    ]
    distances = [line["train_distance"] for line in evaluations]
    assert len(distances) == 4
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.6 * distances[0]
