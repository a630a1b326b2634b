"""The implementation of `tesserae study parallel`: it measures methods and prints the results."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster.limits import cores
from pipeline.errors import TesseraeError
from workflows.studies.parallel import measured
from workflows.studies.parallel.arms import WARM, ParallelArm, arms_of
from workflows.studies.parallel.environments import (
    EnvironmentPlan,
    EnvironmentUnavailableError,
    Interpreter,
    environments_folder,
    free_threaded,
    open_environment,
    other_pillow,
    own_interpreter,
)
from workflows.studies.parallel.images import ImageFiles, draw_images
from workflows.studies.parallel.lock import find_sampler, held_share, no_sampler_notice, sampled
from workflows.studies.parallel.options import ParallelOptions
from workflows.studies.parallel.programs import run_program
from workflows.studies.parallel.summary import report_of
from workflows.studies.report import machine_text, publish
from workflows.studies.results import SETTINGS_FILE, ResultsFolder
from workflows.studies.runs import StudyRun, run_arms
from workflows.terminal.formatting import bytes_text, counted

PROGRAM = Path(measured.__file__)
"""The program that measures one method."""
SAMPLED_SECONDS = 2.0
"""How long a method is sampled at least, to find out how long the lock is held."""
CACHE = ".cache"
"""The name of the folder of copied images and of their list in the folder of the study."""


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
    results = ResultsFolder(options.folder, options.STUDY)
    own = own_interpreter()
    plans = _plans(options, own)
    with draw_images(options) as drawn, results.locked():
        results.check_known_settings(_early_settings(options))
        plans, left_out = _plans_of_folder(results.path, plans)
        cache = results.path / CACHE
        cache.mkdir(exist_ok=True)
        images = drawn.write(cache)
        # Before minutes are spent on environments for settings that the folder refuses.
        results.check_known_settings(_settings_of(options, images, [own, *plans]))
        interpreters = _open_environments(plans, results.path, left_out)
        settings = _settings_of(options, images, [own, *interpreters])
        results.check_settings(settings)
        print(f"results: {results.path}")
        print(f"{counted(len(images.paths), 'image')}, {bytes_text(images.num_bytes)}", flush=True)
        sampler = find_sampler()
        if sampler is None:
            left_out.append(no_sampler_notice())
        for sentence in left_out:
            print(sentence, flush=True)
        arms = {
            arm.name: arm
            for arm in arms_of([own, *interpreters.values()], cores=cores(), quick=options.quick)
        }

        def run(name: str, seed: int) -> Mapping[str, float]:
            return _measured(arms[name], images, options.size, sampler)

        width = max(map(len, arms))
        runs = run_arms(
            results, list(arms), range(options.seeds), run, title="decoding",
            line=lambda finished: _line(finished, width), shuffle=True,
        )  # fmt: skip
        _check_pixels(runs, arms)
        report = report_of(runs, list(arms.values()), settings)
        answers = [*options.answers(report.answers), *left_out]
        publish(replace(report, answers=answers), results.path)
    return 0


def _plans(options: ParallelOptions, own: Interpreter) -> list[EnvironmentPlan]:
    """Return the environments with other interpreters that the options select."""
    plans = [other_pillow(own)] if options.other_pillow else []
    free = free_threaded(options.free_threaded)
    return plans if free is None else [*plans, free]


def _plans_of_folder(
    folder: Path, plans: list[EnvironmentPlan]
) -> tuple[list[EnvironmentPlan], list[str]]:
    """Return the environments that the study in a folder began with, and sentences on the others.

    A study that began without a package index continues without what it could not install.
    """
    file = folder / SETTINGS_FILE
    if not file.exists():
        return plans, []
    recorded = json.loads(file.read_bytes()).get("libraries", [])
    return [plan for plan in plans if plan.pillow_text in recorded], [
        f"{plan.name} is left out, as it was when the study in {folder} began."
        for plan in plans
        if plan.pillow_text not in recorded
    ]


def _open_environments(
    plans: list[EnvironmentPlan], folder: Path, left_out: list[str]
) -> dict[EnvironmentPlan, Interpreter]:
    """Return the interpreters of environments, and append sentences on those that are left out.

    Those that earlier runs of the folder used are not left out: a method would be lost.
    """
    has_settings = (folder / SETTINGS_FILE).exists()
    interpreters = {}
    for plan in plans:
        try:
            interpreters[plan] = open_environment(plan, environments_folder(), _print)
        except EnvironmentUnavailableError as e:
            if has_settings:
                raise TesseraeError(
                    f"the study in {folder} has {plan.name}, which cannot be measured now: {e}. Run"
                    " the same command again when that is mended, or pass another --out."
                ) from e
            left_out.append(f"{plan.name} is left out: {e}.")
    return interpreters


def _print(line: str) -> None:
    print(line, flush=True)


def _settings_of(
    options: ParallelOptions,
    images: ImageFiles,
    interpreters: Iterable[Interpreter | EnvironmentPlan],
) -> dict[str, Any]:
    return {
        "images": len(images.paths),
        "image_bytes": images.num_bytes,
        "image_digest": images.digest,
        **_early_settings(options),
        "libraries": [each.pillow_text for each in interpreters],
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
    done = run_program(
        _command(arm, task),
        # Worker processes import the program by its name.
        environment={**os.environ, "PYTHONPATH": str(PROGRAM.parent), "OMP_NUM_THREADS": "1"},
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


def _line(run: StudyRun, width: int) -> str:
    """Return the line of a finished run, with the name of its arm in a column of some width."""
    metrics = run.metrics
    lock = f", lock held {metrics['lock_share']:.0%}" if "lock_share" in metrics else ""
    return (
        f"round {run.seed:<3} {run.arm:<{width}} {metrics['images_per_second']:>7,.0f} images/s"
        f"  {metrics['cpu_ms']:>6.2f} CPU ms{lock}"
    )
