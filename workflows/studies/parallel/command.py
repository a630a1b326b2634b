"""The implementation of `tesserae study parallel`: it measures methods and prints the results."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster.limits import cores
from pipeline.errors import TesseraeError
from workflows.studies.parallel import measured
from workflows.studies.parallel.arms import WARM, ParallelArm, arms_of
from workflows.studies.parallel.environments import (
    Interpreter,
    free_threaded,
    other_pillow,
    own_interpreter,
)
from workflows.studies.parallel.images import ImageFiles, open_images
from workflows.studies.parallel.lock import find_sampler, held_share, sampled
from workflows.studies.parallel.options import ParallelOptions
from workflows.studies.parallel.summary import report_of
from workflows.studies.report import machine_text, publish
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun, run_arms
from workflows.terminal.formatting import bytes_text, counted

PROGRAM = Path(measured.__file__)
"""The program that measures one method."""
SAMPLED_SECONDS = 2.0
"""How long a method is sampled at least, to find out how long the lock is held."""
CACHE = ".cache"
"""The name of the folder of environments and images in the folder of the study."""


def parallel(options: ParallelOptions) -> int:
    """Run the study, or continue it, and print its results.

    Args:
        options: The source of the images, their number and size, the number of rounds, and which
            interpreters take part.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The source or the folder cannot be used, a method fails, or two methods make
            other pixels with the same library.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    results = ResultsFolder(options.folder)
    rounds = options.seeds
    with results.locked():
        results.check_known_settings(_early_settings(options))
        cache = results.path / CACHE
        cache.mkdir(exist_ok=True)
        interpreters = _interpreters(options, cache)
        sampler = find_sampler()
        images = open_images(options, cache)
        settings = _settings_of(options, images, interpreters)
        results.check_settings(settings)
        print(f"results: {results.path}")
        print(f"{counted(len(images.paths), 'image')}, {bytes_text(images.num_bytes)}", flush=True)
        if sampler is None:
            print("py-spy is not installed: the share of the interpreter's lock is left out")
        arms = {arm.name: arm for arm in arms_of(interpreters, cores=cores(), quick=options.quick)}

        def run(name: str, seed: int) -> Mapping[str, float]:
            return _measured(arms[name], images, options.size, sampler)

        runs = run_arms(
            results, list(arms), range(rounds), run, title="decoding", line=_line, shuffle=True
        )
        _check_pixels(runs, arms)
        report = report_of(runs, list(arms.values()), settings)
        answers = [*options.cautions, *report.answers]
        publish(replace(report, answers=answers), results.path)
    return 0


def _interpreters(options: ParallelOptions, folder: Path) -> list[Interpreter]:
    def report(line: str) -> None:
        print(line, flush=True)

    own = own_interpreter()
    others = [other_pillow(own, folder, report)] if options.other_pillow else []
    others.append(free_threaded(options.free_threaded, folder, report))
    return [own, *(interpreter for interpreter in others if interpreter is not None)]


def _settings_of(
    options: ParallelOptions, images: ImageFiles, interpreters: list[Interpreter]
) -> dict[str, Any]:
    return {
        "images": len(images.paths),
        "image_bytes": images.num_bytes,
        "image_digest": images.digest,
        **_early_settings(options),
        "libraries": [f"{each.pillow} {each.version}" for each in interpreters],
    }


def _early_settings(options: ParallelOptions) -> dict[str, Any]:
    return {"size": options.size, "quick": options.quick, "machine": machine_text()}


def _measured(
    arm: ParallelArm, images: ImageFiles, size: int, sampler: str | None
) -> dict[str, float]:
    """Run the program of an arm, and return its metrics."""
    task = measured.Task(
        files=str(images.list_file.absolute()),
        method=arm.method,
        workers=arm.workers,
        decoder=arm.decoder,
        size=size,
        buffers=arm.buffers,
        cold=arm.cache != WARM,
    )
    result = _run(arm, asdict(task))
    number = result["images"]
    metrics = {
        "images_per_second": number / result["seconds"],
        "cpu_ms": 1000 * result["cpu_seconds"] / number,
        "decode_ms": 1000 * result["decode_seconds"] / number,
        "resize_ms": 1000 * result["resize_seconds"] / number,
        "memory_bytes": result["memory_bytes"],
        "checksum": result["checksum"],
    }
    if arm.cache != WARM and result["cached_share"] is not None:
        metrics["cached_share"] = result["cached_share"]
    in_threads = arm.method in ("serial", "threads") and arm.cache == WARM and not arm.buffers
    if sampler is not None and in_threads and arm.interpreter.has_lock:
        repeats = 1 + int(SAMPLED_SECONDS / result["seconds"])
        share = _lock_share(arm, {**asdict(task), "calibrate": True, "repeats": repeats}, sampler)
        if share is not None:
            metrics["lock_share"] = share
    return metrics


def _lock_share(arm: ParallelArm, task: dict[str, Any], sampler: str) -> float | None:
    try:
        output, stacks = sampled(_command(arm, task), sampler)
        return held_share(stacks, _result(output)["seconds"])
    except (subprocess.CalledProcessError, TesseraeError):  # it may look at no other process
        return None


def _run(arm: ParallelArm, task: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        _command(arm, task),
        capture_output=True,
        text=True,
        check=False,
        # Worker processes import the program by its name.
        env={**os.environ, "PYTHONPATH": str(PROGRAM.parent), "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise TesseraeError(f"{arm.name}: {arm.interpreter.python} failed: {lines[-1]}")
    return _result(done.stdout)


def _command(arm: ParallelArm, task: dict[str, Any]) -> list[str]:
    return [arm.interpreter.python, str(PROGRAM), json.dumps(task)]


def _result(output: str) -> dict[str, Any]:
    """Return the result in the output of the program, which may have lines of the sampler."""
    for line in output.splitlines():
        if line.startswith("{"):
            result: dict[str, Any] = json.loads(line)
            return result
    raise TesseraeError("the program that decodes has printed no result.")


def _check_pixels(runs: list[StudyRun], arms: Mapping[str, ParallelArm]) -> None:
    """Refuse runs with the same library that made other pixels: they did not do the same work."""
    seen: dict[str, tuple[float, str]] = {}
    for run in runs:
        library = arms[run.arm].library
        checksum, name = seen.setdefault(library, (run.metrics["checksum"], run.arm))
        if run.metrics["checksum"] != checksum:
            raise TesseraeError(
                f"{run.arm} of round {run.seed} made other pixels than {name}. The images have"
                " changed during the study: pass another --out."
            )


def _line(run: StudyRun) -> str:
    metrics = run.metrics
    lock = f", lock held {metrics['lock_share']:.0%}" if "lock_share" in metrics else ""
    return (
        f"round {run.seed:<3} {run.arm:<52} {metrics['images_per_second']:>7,.0f} images/s"
        f"  {metrics['cpu_ms']:>6.2f} CPU ms{lock}"
    )
