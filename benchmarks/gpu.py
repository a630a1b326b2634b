"""Measure Tesserae on one GPU, without a network, with data that the script makes itself.

    python benchmarks/gpu.py [--minutes 7.5] [--out gpu.json] [--only NAME ...]
    python benchmarks/gpu.py --rehearse

It prints a table and writes it as JSON, with what the machine is. Each measurement runs in a
process of its own: one that fails, or does not end within its time, is reported with the reason,
and the next one begins. What does not fit into --minutes is skipped. With --rehearse everything is
tiny and runs on the CPU, which shows that the script works and measures nothing.

    data      photographs of `tesserae sample`, prepared as squares and as encoded rows
    bus       copies of a large block to the GPU, from page-locked and from pageable memory
    loader    the loader's squares, copied to the GPU: images/s, and the share of the bus's rate in
              the same round
    augment   random crops, flips and normalisation on the GPU
    classify  the preset resnet50-90 as `tesserae train classify` runs it: images/s and the share
              of the time that a step waits for the loader, of squares and of encoded rows, beside
              the same step on one fixed batch
    wgan      a step of a WGAN beside the loop of the paper's code, in the same number format and
              memory layout, with its images on the GPU
    features  a ResNet-50 with random weights as `tesserae features` runs it, beside the network
              alone
    devise    a step of DeViSE's head on these features, beside a plain loop with features on the
              GPU
    search    the exact index on the GPU, beside `torch.topk` of a matrix product
    nccl      all-reduce in a world of one rank (gloo on the CPU)
    tests     the tests marked `gpu`
    compiled  classify with --compile

Figures are medians over the rounds of a measurement, with the GPU synchronised around each round.
Squares and encoded rows come from the page cache, in epochs of few batches: at the start of each,
a step waits for the first one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
MEASUREMENTS_SCRIPT = Path(__file__).with_name("gpu_measurements.py")
MIN_SECONDS = 10.0
"""The time that must be left for a measurement to begin, in seconds."""
MAX_REASON_LENGTH = 200
"""The largest number of characters of the reason of a failure."""
INTERRUPTED, TERMINATED = 130, 143
"""The exit statuses after Ctrl-C and after SIGTERM, by the convention of shells."""


@dataclass(frozen=True)
class GpuMeasurement:
    """A measurement, which is the function of its name in gpu_measurements.py."""

    name: str
    seconds: float
    """The time after which its process is ended, in seconds."""
    needs: tuple[str, ...] = ()
    """The measurements whose files it reads."""


MACHINE = GpuMeasurement("machine", 120)
"""The first process, which reports what the machine is."""
MEASUREMENTS = (
    GpuMeasurement("data", 120),
    GpuMeasurement("bus", 40),
    GpuMeasurement("loader", 60, ("data",)),
    GpuMeasurement("augment", 40),
    GpuMeasurement("classify", 100, ("data",)),
    GpuMeasurement("wgan", 60, ("data",)),
    GpuMeasurement("features", 90, ("data",)),
    GpuMeasurement("devise", 40, ("features",)),
    GpuMeasurement("search", 60),
    GpuMeasurement("nccl", 40),
    GpuMeasurement("tests", 120),
    GpuMeasurement("compiled", 150, ("data",)),
)
"""All measurements, in their order."""


@dataclass(frozen=True)
class Figure:
    """A figure that a measurement has reported."""

    name: str
    rounds: tuple[float, ...]
    """The value of each round."""
    unit: str
    detail: str = ""

    @property
    def value(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)


@dataclass
class Outcome:
    """The end of a measurement, with the figures that it has reported until then."""

    name: str
    status: str = "measured"
    """`measured`, `failed` or `skipped`."""
    reason: str = ""
    """The reason of a failure, or of skipping it; empty otherwise."""
    seconds: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """The facts about the machine; empty for all but the first process."""

    def add_reports(self, lines: Sequence[str]) -> None:
        """Add what the process has reported, as lines of JSON; the last one may be incomplete."""
        for line in lines:
            try:
                report = json.loads(line)
            except ValueError:
                continue
            if "error" in report:
                self.fail(report["error"])
            elif "facts" in report:
                self.facts = report["facts"]
            else:
                self.figures.append(Figure(**{**report, "rounds": tuple(report["rounds"])}))

    def fail(self, reason: str) -> None:
        """Set the reason of a failure, in one line."""
        text = " ".join(reason.split())
        shortened = len(text) > MAX_REASON_LENGTH
        self.status = "failed"
        self.reason = f"{text[: MAX_REASON_LENGTH - 3]}..." if shortened else text

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values, with the median of each figure."""
        return {
            "name": self.name,
            "status": self.status,
            "reason": self.reason,
            "seconds": round(self.seconds, 2),
            "figures": [{**asdict(figure), "value": figure.value} for figure in self.figures],
        }


# --- processes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Session:
    """The folder, the device and the deadline of a run."""

    folder: Path
    """The folder of the data and of temporary files."""
    rehearse: bool
    deadline: float
    """The end of the time for all measurements, by `time.monotonic`."""
    device: str = "cpu"

    def run(self, measurement: GpuMeasurement) -> Outcome:
        """Run a measurement in a process of its own, and return how it ended."""
        outcome, started = Outcome(measurement.name), time.monotonic()
        limit = min(measurement.seconds, self.deadline - started)
        reports, log = (self.folder / f"{measurement.name}.{end}" for end in ("jsonl", "log"))
        settings = {
            "name": measurement.name,
            "device": self.device,
            "rehearse": self.rehearse,
            "folder": str(self.folder),
            "reports": str(reports),
            "seconds": limit,
        }
        command = [sys.executable, str(MEASUREMENTS_SCRIPT), json.dumps(settings)]
        with log.open("wb") as out:
            # In a session of its own, so that its own processes can be ended with it.
            process = subprocess.Popen(
                command, cwd=ROOT, env=child_environment(self.folder), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                outcome.fail(f"did not end within {limit:.0f} s")
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        outcome.seconds = time.monotonic() - started
        if reports.exists():
            outcome.add_reports(reports.read_text().splitlines())
        if outcome.status == "measured" and process.returncode:
            outcome.fail(failure_text(process.returncode, log))
        return outcome


def child_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a measurement.

    It finds this tree first, asks no network, and uses no kernels that were compiled earlier.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
    }


def failure_text(status: int, log: Path) -> str:
    """Return a description of the end of a process that reported no error of its own."""
    lines = log.read_text(errors="replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}{last}"
    return f"ended with exit status {status}{last}"


def obstacle(
    measurement: GpuMeasurement, earlier: Sequence[Outcome], seconds_left: float
) -> str | None:
    """Return the reason for which a measurement is skipped; None if it can begin.

    Args:
        measurement: The measurement.
        earlier: The outcomes so far.
        seconds_left: The time that is left for all measurements, in seconds.
    """
    for outcome in earlier:
        if outcome.name in measurement.needs and outcome.status != "measured":
            return f"it needs {outcome.name}, which was not measured"
    if seconds_left < MIN_SECONDS:
        return "no time was left: pass more --minutes"
    return None


def selected(names: Sequence[str] | None) -> list[GpuMeasurement]:
    """Return the measurements of some names, and those that they need, in their order."""
    if names is None:
        return list(MEASUREMENTS)
    chosen = set(names)
    for measurement in reversed(MEASUREMENTS):  # what one needs comes before it
        if measurement.name in chosen:
            chosen |= {*measurement.needs}
    return [measurement for measurement in MEASUREMENTS if measurement.name in chosen]


# --- results --------------------------------------------------------------------------------------


def figure_text(value: float) -> str:
    """Return a number with three digits or more, and commas between thousands."""
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def table_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the lines of the table: a row for each figure, and for each failure."""
    rows = [("measurement", "figure", "unit", "detail")]
    for outcome in outcomes:
        for figure in outcome.figures:
            name = f"{outcome.name}: {figure.name}"
            rows.append((name, figure_text(figure.value), figure.unit, figure.detail))
        if outcome.status != "measured":
            rows.append((outcome.name, outcome.status, "", outcome.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {unit:<{widths[2]}}  {detail}".rstrip()
        for name, value, unit, detail in rows
    ]


def machine_lines(facts: dict[str, Any], device: str) -> list[str]:
    """Return two lines that describe the machine and the versions of what computes."""
    gpu = f"{facts['gpu']}, {facts['gpu_memory_gib']:.0f} GiB, driver {facts['driver']}"
    software = f"torch {facts['torch']}"
    if device == "cuda":
        software += f", CUDA {facts['cuda']}, cuDNN {facts['cudnn']}, NCCL {facts['nccl']}"
    return [
        f"{gpu if device == 'cuda' else 'no GPU is used'}; {facts['cores']} cores,"
        f" {facts['memory_gib']:.0f} GiB of memory",
        f"{software}, transformers {facts['transformers']}, Python {facts['python']}",
    ]


def write_json(
    file: Path, facts: dict[str, Any], session: Session, outcomes: Sequence[Outcome], started: float
) -> None:
    """Replace the file of results, which is complete at any time."""
    content = {
        "machine": facts,
        "device": session.device,
        "rehearsal": session.rehearse,
        "seconds": round(time.monotonic() - started, 1),
        "measurements": [outcome.as_json() for outcome in outcomes],
    }
    temporary = file.with_name(f".{file.name}.half")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)


# --- the run --------------------------------------------------------------------------------------


def choose_device(requested: str | None, facts: dict[str, Any], *, rehearse: bool) -> str | None:
    """Return `cuda` or `cpu`; None if a GPU is needed and torch can use none."""
    device = requested or ("cpu" if rehearse else "cuda")
    return device if device == "cpu" or facts["gpu"] else None


def main() -> int:
    """Run the measurements, and print the table; return 1 if one has failed."""
    args = parse_arguments()
    if not args.out.absolute().parent.is_dir():
        return refuse(f"--out is {args.out}: expected a file in an existing folder.")
    signal.signal(signal.SIGTERM, end_on_signal)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(
        prefix="tesserae-gpu-", dir=args.scratch, ignore_cleanup_errors=True
    ) as scratch:
        session = Session(Path(scratch), args.rehearse, started + 60 * args.minutes)
        machine = session.run(MACHINE)
        if machine.status != "measured":
            return refuse(f"this machine cannot be examined: {machine.reason}")
        device = choose_device(args.device, machine.facts, rehearse=args.rehearse)
        if device is None:
            return refuse(
                f"torch {machine.facts['torch']} can use no GPU on this machine. Run the script on"
                " a machine with one, or pass --rehearse to run everything tiny on the CPU."
            )
        session = replace(session, device=device)
        outcomes: list[Outcome] = []
        print("\n".join(machine_lines(machine.facts, device)), flush=True)
        try:
            for measurement in selected(args.only):
                outcomes.append(next_outcome(session, measurement, outcomes))
                write_json(args.out, machine.facts, session, outcomes, started)
        except KeyboardInterrupt:
            report(outcomes, args.out, started)
            return INTERRUPTED
    report(outcomes, args.out, started)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def next_outcome(
    session: Session, measurement: GpuMeasurement, earlier: Sequence[Outcome]
) -> Outcome:
    """Run a measurement, or skip it, and print a line about it."""
    reason = obstacle(measurement, earlier, session.deadline - time.monotonic())
    if reason is None:
        outcome = session.run(measurement)
    else:
        outcome = Outcome(measurement.name, "skipped", reason)
    reason = f" ({outcome.reason})" if outcome.reason else ""
    print(f"{outcome.name:<10} {outcome.status} in {outcome.seconds:.1f} s{reason}", flush=True)
    return outcome


def report(outcomes: Sequence[Outcome], out: Path, started: float) -> None:
    """Print the table and a summary."""
    print("\n" + "\n".join(table_lines(outcomes)))
    counts = [
        f"{len(names)} {status} ({', '.join(names)})" if status != "measured" else
        f"{len(names)} {status}"
        for status in ("measured", "failed", "skipped")
        if (names := [outcome.name for outcome in outcomes if outcome.status == status])
    ]  # fmt: skip
    minutes = (time.monotonic() - started) / 60
    print(f"\n{', '.join(counts) or 'nothing measured'}; {minutes:.1f} min; {out}", flush=True)


def refuse(reason: str) -> int:
    """Print an error, and return the exit status."""
    print(f"error: {reason}", file=sys.stderr)
    return 1


def end_on_signal(*_: object) -> NoReturn:
    """End the program, with the process of the measurement that runs."""
    sys.exit(TERMINATED)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=minutes_of, default=7.5, metavar="MINUTES",
        help="time for all measurements; the rest is skipped (default 7.5)")  # fmt: skip
    add("--out", type=Path, default=Path("gpu.json"), metavar="FILE",
        help="file for the results as JSON (default gpu.json)")  # fmt: skip
    add("--only", nargs="+", choices=[m.name for m in MEASUREMENTS], metavar="NAME",
        help="measurements to run, with those that they need (default: all)")  # fmt: skip
    add("--device", choices=("cuda", "cpu"),
        help="device to measure (default: cuda; with --rehearse cpu)")  # fmt: skip
    add("--rehearse", action="store_true",
        help="run everything tiny, in about a minute, to see that the script works")  # fmt: skip
    add("--scratch", type=Path, metavar="FOLDER",
        help="folder for 3 GB of temporary files (default: TMPDIR)")  # fmt: skip
    return parser.parse_args(arguments)


def minutes_of(text: str) -> float:
    """Return a positive number of minutes."""
    minutes = float(text)
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"expected more than 0 minutes, and it is {text}")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
