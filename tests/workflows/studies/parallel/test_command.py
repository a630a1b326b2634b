"""`tesserae study parallel` as a command, and its answers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.commands import run, start, wait_until
from tests.images import make_folder
from workflows.studies.parallel.arms import arms_of
from workflows.studies.parallel.environments import SIMD, STOCK, Interpreter
from workflows.studies.parallel.summary import report_of
from workflows.studies.runs import StudyRun

OWN = Interpreter("python", SIMD, "12.1.1.post0")
OTHER = Interpreter("other", STOCK, "12.1.1")


def test_answers_follow_from_paired_rounds() -> None:
    """Rounds differ by a factor of ten, and ratios of the same round do not."""
    arms = list(arms_of([OWN, OTHER], cores=2))
    runs = []
    for seed, machine in enumerate((1.0, 10.0, 3.0)):
        for arm in arms:
            resize = 0.2 if arm.interpreter is OWN else 1.2
            rate = machine * 400 * (1.8 if arm.method == "threads" else 1.0)
            metrics = {
                "images_per_second": rate, "cpu_ms": 2.0, "memory_bytes": 1e8, "checksum": 1.0,
                "decode_ms": 2.0 / machine, "resize_ms": resize / machine,
            }  # fmt: skip
            if arm.method == "serial":
                metrics["lock_share"] = 0.05
            runs.append(StudyRun(arm=arm.name, seed=seed, metrics=metrics, seconds=1.0))
    report = report_of(runs, arms, {})
    answers = "\n".join(report.answers)
    assert "Resizing with Pillow-SIMD, beside Pillow: 6.00 (6.00 to 6.00) times as fast." in answers
    assert "Resizing that took no time at all would make Pillow 1.60 times as fast" in answers
    assert (
        "2 threads, from memory, beside 2 processes that keep pixels: 1.80 (1.80 to 1.80) times"
        in answers
    )
    assert "4 threads, from the disk, beside 2 of them: no difference seen" in answers
    assert "the lock alone would allow 20 threads to work at once" in answers
    assert set(report.figures) == {"methods-warm", "methods-cold"}
    assert report.tables[-1].rows[-1] == ["16 threads", "3.22", "621", "7.86"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_study_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Finished rounds are kept, other images are refused, and the report is written."""
    source = make_folder(tmp_path / "source", 48)
    words = ("study", "parallel", "--source", source, "--quick", "--no-other-pillow")
    out = tmp_path / "out"
    lines = out / "runs.jsonl"

    def recorded() -> list[str]:
        return lines.read_text().splitlines() if lines.exists() else []

    with start(*words, "--out", out, scratch=tmp_path / "scratch") as command:
        assert wait_until(lambda: len(recorded()) > 3, 300)
        command.signal_all(signal.SIGKILL)
        command.wait()
    before = recorded()
    done = run(*words, "--out", out, scratch=tmp_path / "scratch", seconds=500)
    assert done.status == 0, done.err
    assert recorded()[: len(before)] == before
    names = [(json.loads(line)["arm"], json.loads(line)["seed"]) for line in recorded()]
    assert len(names) == len(set(names))
    assert (out / "report.html").exists()
    assert "Libraries" in done.out
    (source / "n00000000").joinpath("more.JPEG").write_bytes(b"\xff\xd8\xff\xe0 no image")
    for file in (source / "n00000000").glob("*_0*"):
        file.unlink()
    other = run(*words, "--out", out, scratch=tmp_path / "scratch", seconds=500)
    assert other.status == 1
    assert "has results of other settings: image" in other.err
