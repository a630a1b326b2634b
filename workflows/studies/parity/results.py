"""What the folder of the study records: compared settings and finished runs.

bits.jsonl      a line for each compared setting
runs.jsonl      a line for each finished run of an arm
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pipeline.errors import TesseraeError
from workflows.studies.options import ParityRecipe
from workflows.studies.parity.arm_runs import ArmRun
from workflows.studies.parity.bits import Comparison
from workflows.studies.parity.data import ParityData
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import RUNS_FILE

BITS_FILE = "bits.jsonl"
_FREE = frozenset({"encoded", "loader_threads", "prefetch_bytes", "checksum"})
"""The options of the recipe that change no result, and the one that `images` stands for."""


def comparisons_of(results: ResultsFolder) -> dict[str, Comparison]:
    """Return the comparisons so far, by the name of their setting.

    Args:
        results: The folder of the study.

    Raises:
        TesseraeError: A line is damaged.
        OSError: The file cannot be read.
    """
    records = results.records(Comparison, BITS_FILE)
    return {comparison.setting: comparison for comparison in records}


def runs_of(results: ResultsFolder) -> dict[tuple[int, str], ArmRun]:
    """Return the finished runs so far, by seed and arm.

    Args:
        results: The folder of the study.

    Raises:
        TesseraeError: A line is damaged.
        OSError: The file cannot be read.
    """
    return {(run.seed, run.arm): run for run in results.records(ArmRun, RUNS_FILE)}


def add_run(results: ResultsFolder, run: ArmRun) -> None:
    """Append a finished run.

    Args:
        results: The folder of the study.
        run: The run.

    Raises:
        TesseraeError: Another run of its seed began with other weights.
        DiskFullError: The disk has no room for it.
        OSError: It cannot be written for another reason.
    """
    for earlier in runs_of(results).values():
        if earlier.seed == run.seed and earlier.initial_weights != run.initial_weights:
            raise TesseraeError(
                f"the runs of seed {run.seed} do not start from the same weights: {run.arm} has"
                f" {run.initial_weights}, and {earlier.arm} of {results.path} had"
                f" {earlier.initial_weights}. Another version of the software has trained it:"
                " pass another --out."
            )
    results.append(run, RUNS_FILE)


def settings_of(data: ParityData, *, threads: int) -> dict[str, Any]:
    """Return the settings of a study, by which its results may be compared.

    The numbers of seeds, arms and processes are none of them, so that a study can be extended.

    Args:
        data: The data of the study.
        threads: Number of torch's threads.
    """
    recipe = data.recipe.as_dict()
    for name in _FREE | ParityRecipe.OMITTED_FLAGS:
        del recipe[name]
    loader = data.loader(data.trained_form, seed=0)
    forms = {
        f"{form} images": [str(rows.size), *([rows.encoded] if rows.encoded else [])]
        for form, rows in data.rows.items()
    }
    return {
        "split": data.split,
        "rows": loader.state_dict()["split"],
        "trained images": data.trained_form,
        **forms,
        "held_out": data.held_out,
        "window_rows": data.window_rows,
        "threads": threads,
        "torch": version("torch"),
        **recipe,
    }
