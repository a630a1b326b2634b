"""The share of time in which the interpreter's lock is held, as a sampler sees it.

py-spy looks at a running program many times a second, and counts when a thread holds the lock. On a
busy machine it comes too late for some samples; the program therefore first holds the lock all the
time for a second, and what is counted then stands for 100 %.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.installation import install_advice
from workflows.studies.parallel.measured import CALIBRATION_SECONDS
from workflows.studies.parallel.programs import run_program

SAMPLES_PER_SECOND = 250
MIN_SAMPLES = 50
"""The number of samples of the calibration below which the sampler has not kept up."""
WORKING = re.compile(r"\b(measure|render) \([^)]*measured\.py|_worker \(concurrent/futures")
"""The functions in the stack while images are decoded."""
CALIBRATING = re.compile(r"\bcalibrate \([^)]*measured\.py")
"""The function in the stack while the program holds the lock all the time."""


def no_sampler_notice() -> str:
    """Return the sentence that is printed, also in the report, where there is no sampler."""
    return (
        "The share of the interpreter's lock is left out, as py-spy is not installed:"
        f" {install_advice('studies')}."
    )


def find_sampler() -> str | None:
    """Return the program py-spy of this environment or of the PATH; None if there is none."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def sampled(command: Sequence[str], sampler: str) -> tuple[str, list[str]]:
    """Run a program under the sampler.

    Args:
        command: The program and its arguments.
        sampler: The path of py-spy.

    Returns:
        The standard output of the program with lines of the sampler, and the stacks that were seen
        while a thread held the lock, each as a line that ends with their number; none if the
        sampler was not permitted to look at the program.

    Raises:
        subprocess.CalledProcessError: The program, or the sampler, failed.
    """
    with tempfile.TemporaryDirectory(prefix="tesserae-lock-") as folder:
        stacks = Path(folder) / "stacks"
        options = ("--gil", "--nonblocking", "--format", "raw", "--rate", str(SAMPLES_PER_SECOND))
        done = run_program([sampler, "record", *options, "-o", str(stacks), "--", *command])
        done.check_returncode()
        lines = stacks.read_text(errors="replace").splitlines() if stacks.exists() else []
    return done.stdout, lines


def held_share(stacks: Iterable[str], seconds: float) -> float | None:
    """Return the share of time in which a thread held the lock while images were decoded.

    Args:
        stacks: The stacks that the sampler saw, as `sampled` returns them.
        seconds: How long images were decoded.

    Returns:
        A number from 0 to 1; None if the calibration has too few samples.
    """
    working = calibrating = 0
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        if CALIBRATING.search(stack):
            calibrating += int(count)
        elif WORKING.search(stack):
            working += int(count)
    if calibrating < MIN_SAMPLES:
        return None
    # At least one sample, so that shares have ratios.
    return min(1.0, max(1, working) / seconds / (calibrating / CALIBRATION_SECONDS))
