"""`tesserae train` as a person runs it, and as the world treats it."""

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

from tests.commands import ROOT, Command, run, start, wait_until
from tests.pictures import jpeg
from tests.workflows.training.small import small_store
from workflows.cli import main
from workflows.training.holding import held
from workflows.training.run_folder import RunFolder

SMALL = (
    *("--image-size", 16, "--batch-size", 8, "--noise", 5, "--generator-width", 4),
    *("--critic-width", 4, "--critic-steps", 2, "--warm-critic-steps", 0, "--rate", "1e-3"),
    *("--precision", "float32", "--no-dashboard"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 and 18 pictures of 16 px."""
    return small_store(tmp_path_factory.mktemp("small"))


def curve(folder: Path) -> dict[int, dict[str, Any]]:
    """What was said of each step, by step."""
    found = {}
    for line in RunFolder(folder).metrics():
        if line.get("what", "") == "":
            found[line["step"]] = {k: v for k, v in line.items() if k != "generation"}
    return found


def ranks(command: Command) -> list[psutil.Process]:
    """The processes that train for *command*."""
    found = []
    for process in command.processes():
        try:
            if "cluster.ranks.process" in process.cmdline():
                found.append(process)
        except psutil.Error:
            pass
    # A guard has the command line of its rank, which is its parent.
    pids = {process.pid for process in found}
    return [process for process in found if process.ppid() not in pids]


def step_of(folder: Path) -> int:
    """How far a run is, by what it has written."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return max((json.loads(line)["step"] for line in lines[:-1]), default=0)


def test_from_pictures_to_a_trained_net_in_one_command(tmp_path: Path) -> None:
    """It prepares, trains while the other split is made, and says where to look."""
    for split in ("train", "val"):
        for place in range(40):
            file = tmp_path / "source" / split / f"n{place % 2:08d}" / f"{place}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(place, 30, 24))
    done = run(
        *("train", "wgan", tmp_path / "store", "--data", tmp_path / "source"),
        *("--run", tmp_path / "run", "--steps", 12, "--look-every", 6, *SMALL, "--workers", 2),
        scratch=tmp_path,
        seconds=120,
    )
    assert (done.status, done.err) == (0, "")
    assert "train: prepare: 40 images" in done.out
    assert "val: prepare: 40 images" in done.out
    assert f"Look at {tmp_path}/run/samples/samples-000000012.png." in done.out
    assert sorted(curve(tmp_path / "run")) == list(range(1, 13))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """The run of two ranks that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(*command(store, folder / "run"), scratch=folder, seconds=120)
    assert (done.status, done.err) == (0, "")
    assert len(curve(folder / "run")) == STEPS
    return folder / "run"


STEPS = 60


def command(store: Path, folder: Path) -> tuple[object, ...]:
    return (
        *("train", "wgan", store, "--run", folder, "--ranks", 2, "--steps", STEPS, *SMALL),
        *("--save-every", 20, "--look-every", 40, "--tell-every", 5),
    )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Path:
    """A run of two ranks that was stopped by Ctrl-C, and gone on with."""
    folder = tmp_path_factory.mktemp("interrupted")
    stop_and_go_on(folder, (*command(store, folder / "run"), *BRIEF), signal.SIGINT, 2)
    return folder / "run"


BRIEF = ("--steps", 15, "--save-every", 5, "--tell-every", 1)


def stop_and_go_on(folder: Path, words: tuple[object, ...], number: int, step: int) -> None:
    """Send a signal to a run in *folder* when it is beyond a step, and run it to its end."""
    with start(*words, scratch=folder) as first:
        assert wait_until(lambda: step_of(folder / "run") > step)
        first.signal_all(number)
        assert first.wait(90) == 130
        assert f"Run the same command again to go on in {folder}/run" in first.err
        assert first.gone(), "somebody is left behind"
    assert sorted((folder / "run" / "checkpoints").glob("*.json"))
    again = run(*words, scratch=folder, seconds=120)
    assert (again.status, again.err) == (0, "")
    assert "2 ranks, from step" in again.out


def test_ctrl_c_saves_and_the_same_command_goes_on(interrupted: Path) -> None:
    """With the step after the last one that was taken: none is missing, none is taken twice."""
    steps = [line["step"] for line in RunFolder(interrupted).metrics() if not line.get("what")]
    assert steps == list(range(1, 16))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_after_ctrl_c_or_the_end_of_the_terminal_the_curve_is_the_same(
    tmp_path: Path, store: Path, undisturbed: Path, number: int
) -> None:
    """As that of the run that nothing happened to, bit for bit."""
    stop_and_go_on(tmp_path, command(store, tmp_path / "run"), number, 15)
    assert curve(tmp_path / "run") == curve(undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_command_that_is_killed_leaves_a_checkpoint(
    tmp_path: Path, store: Path, undisturbed: Path
) -> None:
    """Its workers go with it at once; ranks notice, save, and are gone within a minute."""
    words = command(store, tmp_path / "run")
    with start(*words, "--save-every", 1_000, scratch=tmp_path) as first:
        assert wait_until(lambda: step_of(tmp_path / "run") > 15, 180)
        assert not list((tmp_path / "run" / "checkpoints").glob("*.json"))
        first.process.kill()
        assert first.gone(60)
    (step,) = RunFolder(tmp_path / "run").steps()
    assert step >= 15
    again = run(*words, scratch=tmp_path, seconds=120)
    assert (again.status, again.err) == (0, "")
    assert f"2 ranks, from step {step}" in again.out
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
    """Though nothing that is said is read any more."""
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
        said, _ = process.communicate("end\n", timeout=90)
    finally:
        process.kill()
    assert said.strip() == "130"
    assert RunFolder(tmp_path / "run").steps()[-1] >= 15


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["wgan", "colourise"])
def test_a_run_that_diverges_is_not_called_done(tmp_path: Path, store: Path, stage: str) -> None:
    """It ends with a sentence, once; what it saved is finite, and it goes back from there."""
    words: list[object] = ["train", stage, store, "--run", tmp_path / "run", "--image-size", 16]
    words += ["--batch-size", 8, "--no-dashboard", "--steps", 40, "--tell-every", 2]
    words += ["--objective", "wgan-gp"]
    if stage == "wgan":
        words += ["--generator-width", 4, "--critic-width", 4]
    done = run(*words, "--rate", "1e30", scratch=tmp_path, seconds=120)
    assert done.status == 1
    assert re.fullmatch(
        r"tesserae: training diverged at step \d+: .*Lower --rate \(now 1e\+30\), and go on with"
        r" --from-step \d+, or in another folder\.\n",
        done.err,
    )
    assert "begin again" not in done.out
    assert "done" not in done.out
    (line,) = [m for m in RunFolder(tmp_path / "run").metrics() if m.get("what") == "diverged"]
    assert line["why"] in done.err


def strike(found: Command, what: str, rng: random.Random) -> None:
    """Kill a rank, a worker or the client; or stop a rank for a while."""
    if what == "client":
        found.process.kill()
        return
    victim = rng.choice(ranks(found))
    if what == "worker":
        victim = psutil.Process(victim.ppid())
    if what == "stopped":
        victim.suspend()
        time.sleep(2)
        victim.resume()
        return
    victim.kill()


def reaches(found: Command, folder: Path, step: int) -> bool:
    """Wait until a run is at *step*, with both its ranks; False where it has ended before."""
    wait_until(lambda: step_of(folder) >= step or not found.running(), 120)
    return wait_until(lambda: len(ranks(found)) == 2 or not found.running()) and found.running()


def faults(seed: int, count: int) -> Iterator[tuple[str, random.Random]]:
    rng = random.Random(seed)
    for place in range(count):
        yield ("rank", "worker", "client", "stopped")[place % 4], rng


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_faults_leave_the_same_curve(tmp_path: Path, store: Path, undisturbed: Path) -> None:
    """Of a rank, a worker, a client; four of them in each run, at random steps."""
    expected = curve(undisturbed)
    struck = 0
    for turn in range(5):
        folder = tmp_path / f"run{turn}"
        words = command(store, folder)
        waiting = list(faults(turn, 4))
        ended = False
        while not ended:
            with start(*words, scratch=tmp_path) as found:
                while waiting:
                    what, rng = waiting[0]
                    if not reaches(found, folder, step_of(folder) + rng.randrange(2, 12)):
                        break
                    strike(found, what, rng)
                    waiting.pop(0)
                    struck += 1
                    if what == "client":
                        assert found.gone(90), "somebody was left behind"
                        break
                else:
                    assert found.wait(180) == 0, found.err
                    ended = True
                if not found.running() and found.process.returncode == 0:
                    ended = True
                assert found.gone(90), "somebody was left behind"
        assert curve(folder) == expected
    assert struck >= 18


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wgan", "{store}", "--objective", "wasserstein"], "invalid choice"),
        (["wgan", "{store}", "--image-size", "48"], "expected 8, 16, 32, 64"),
        (["wgan", "{store}", "--image-size", "64"], "holds pictures of 16 px"),
        (["wgan", "{store}", "--batch-size", "64"], "has 36 pictures: expected at least one batch"),
        (["wgan", "{store}", "--split", "no"], "no"),
        (["wgan", "{store}", "--held-out", "test"], "finished splits are train, val"),
        (["wgan", "{store}", "--steps", "0"], "--steps is 0: expected at least 1"),
        (["wgan", "{store}", "--beta1", "1"], "--beta1 is 1: expected 0 to 0.9999"),
        (["wgan", "{store}", "--ranks", "0"], "--ranks is 0"),
        (["wgan", "{store}", "--gpus", "99"], "this machine has"),
        (["wgan", "nowhere"], "nowhere"),
        (["dcgan", "{store}"], "invalid choice"),
        (["wgn", "{store}"], "(did you mean wgan?). See"),
        (["wgan", "{store}", "--order", "windwed"], "(did you mean windowed?). See"),
        (["wgan", "{store}", "--objective", "wgan-gp", "--compile"], "Leave one of them out"),
        (["wgan", "{store}", "--data", "nowhere"], "nowhere"),
        (["wgan", "{store}", "--cluster", "nowhere"], "--cluster"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_runs(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """In one sentence, naming it."""
    os.chdir(tmp_path)
    given = [word.format(store=store) for word in words]
    if "--image-size" not in given:
        given += ["--image-size", "16"]
    if "--batch-size" not in given:
        given += ["--batch-size", "8"]
    status = main(["train", *given, "--no-dashboard"])
    captured = capsys.readouterr()
    assert status == 1
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_two_ranks_say_is_what_one_says(
    tmp_path: Path, store: Path, undisturbed: Path
) -> None:
    """Of the first steps, within rounding: figures are means over all ranks."""
    words = [word if word != 2 else 1 for word in command(store, tmp_path / "run")[:7]]
    done = run(*words, "--steps", 6, *SMALL, "--tell-every", 5, scratch=tmp_path)
    assert (done.status, done.err) == (0, "")
    expected = curve(undisturbed)
    for step, one in curve(tmp_path / "run").items():
        assert one == pytest.approx(expected[step], rel=1e-3, abs=1e-5)


def test_a_folder_that_is_trained_in_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would work for nothing."""
    with held(RunFolder(tmp_path / "run")):
        assert main(["train", "wgan", str(store), "--run", str(tmp_path / "run")]) == 1
    assert (
        f"{tmp_path}/run is being trained in by process {os.getpid()} on" in capsys.readouterr().err
    )


def test_a_store_of_other_rows_is_another_run(
    tmp_path: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the size that was learned from stays."""
    asked = RunFolder(interrupted).asked()
    assert asked["options"]["stored_size"] == 16
    assert asked["data"]["held_out"] == "val"
    before = (interrupted / "options.json").read_bytes()
    other = small_store(tmp_path / "other", rows=40)
    words = [str(word) for word in (*command(other, interrupted), *BRIEF)]
    assert main(words) == 1
    assert "is a run on the rows" in capsys.readouterr().err
    assert (interrupted / "options.json").read_bytes() == before


def test_a_folder_of_another_run_is_left_alone(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What differs is named."""
    words = ["--image-size", "16", "--batch-size", "8", "--no-dashboard"]
    RunFolder(tmp_path / "run").begin({"stage": "other"}, {})
    status = main(["train", "wgan", str(store), "--run", str(tmp_path / "run"), *words])
    assert status == 1
    assert "is a run of the stage other, not of the stage wgan." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cifar_comes_nearer(tmp_path: Path, real_data: Path) -> None:
    """Real pictures, from their pickles to samples: nearer to held-out ones with every look."""
    done = run(
        *("train", "wgan", tmp_path / "store", "--data", real_data / "cifar-10-batches-py"),
        *("--run", tmp_path / "run", "--image-size", 32, "--objective", "hinge"),
        *("--critic-steps", 1, "--generator-width", 32, "--critic-width", 32, "--steps", 400),
        *("--look-every", 100, "--held-out", "none", "--no-dashboard"),
        scratch=tmp_path,
        seconds=600,
    )
    assert (done.status, done.err) == (0, "")
    looks = [line for line in RunFolder(tmp_path / "run").metrics() if line.get("what") == "look"]
    distances = [line["train_distance"] for line in looks]
    assert len(distances) == 4
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.6 * distances[0]
