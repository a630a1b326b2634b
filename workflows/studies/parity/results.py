"""The folder of a study: its settings and what has been finished, line by line.

    settings.json   the values that decide the results
    bits.jsonl      a line for each compared setting
    runs.jsonl      a line for each finished run of an arm

A command that is killed loses the run that it was in, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import TesseraeError
from pipeline.store import schema
from pipeline.store.lease import lease
from pipeline.store.open import open_objects
from pipeline.store.schema import SchemaError
from workflows.studies.options import ParityRecipe
from workflows.studies.parity.arm_runs import ArmRun
from workflows.studies.parity.bits import Comparison
from workflows.studies.parity.data import ParityData
from workflows.training import writing

SETTINGS_FILE, BITS_FILE, RUNS_FILE = "settings.json", "bits.jsonl", "runs.jsonl"
LEASE_NAME = "parity"
"""The name of the lock file in the folder."""
_FREE = frozenset({"encoded", "loader_threads", "prefetch_bytes", "checksum"})
"""The options of the recipe that change no result, and the one that `images` stands for."""


class ResultsFolder:
    """The folder of a study."""

    def __init__(self, path: Path) -> None:
        """Name the folder, which need not exist."""
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder inside the block, so that no other command runs the study in it.

        The folder is created if it is missing.

        Raises:
            TesseraeError: Another command uses it, or it cannot be written.
        """

        def refuse(holder: str) -> NoReturn:
            raise TesseraeError(
                f"{self.path} is in use by {holder}. Wait for it to end, or pass another --out."
            )

        with lease(open_objects(str(self.path)), LEASE_NAME, wait=True, on_wait=refuse):
            yield

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings of a new study, or compare them with those of the folder.

        Args:
            settings: The settings by name, as JSON values.

        Raises:
            TesseraeError: The folder has results of other settings, or other files, or its settings
                are damaged.
            OSError: They cannot be read or written.
        """
        file = self.path / SETTINGS_FILE
        text = json.dumps(settings, indent=1)
        if not file.exists():
            present = sorted(
                entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")
            )
            if present:
                raise TesseraeError(
                    f"--out {self.path} is no folder of this study: it contains {present[0]!r}."
                    " Pass another folder."
                )
            writing.write(file, text.encode())
            return
        try:
            recorded = schema.check(dict[str, Any], json.loads(file.read_bytes()), "it")
        except (ValueError, RecursionError) as e:
            raise _damaged(file, str(e)) from None
        current = json.loads(text)
        different = [
            f"{name} is {recorded.get(name)!r} in the folder and {current.get(name)!r} here"
            for name in {**recorded, **current}
            if recorded.get(name) != current.get(name)
        ]
        if different:
            raise TesseraeError(
                f"--out {self.path} has results of other settings: {'; '.join(different)}. Pass the"
                " same ones, or another --out."
            )

    def comparisons(self) -> dict[str, Comparison]:
        """Return the comparisons so far, by the name of their setting.

        Raises:
            TesseraeError: A line is damaged.
            OSError: The file cannot be read.
        """
        lines = self._lines(BITS_FILE)
        comparisons = [self._record(Comparison, line, BITS_FILE) for line in lines]
        return {comparison.setting: comparison for comparison in comparisons}

    def add_comparison(self, comparison: Comparison) -> None:
        """Append a comparison.

        Args:
            comparison: The comparison.

        Raises:
            DiskFullError: The disk has no room for it.
            OSError: It cannot be written for another reason.
        """
        self._append(BITS_FILE, asdict(comparison))

    def runs(self) -> dict[tuple[int, str], ArmRun]:
        """Return the finished runs so far, by seed and arm.

        Raises:
            TesseraeError: A line is damaged.
            OSError: The file cannot be read.
        """
        runs = [self._record(ArmRun, line, RUNS_FILE) for line in self._lines(RUNS_FILE)]
        return {(run.seed, run.arm): run for run in runs}

    def add_run(self, run: ArmRun) -> None:
        """Append a finished run.

        Args:
            run: The run.

        Raises:
            TesseraeError: Another run of its seed began with other weights.
            DiskFullError: The disk has no room for it.
            OSError: It cannot be written for another reason.
        """
        for earlier in self.runs().values():
            if earlier.seed == run.seed and earlier.initial_weights != run.initial_weights:
                raise TesseraeError(
                    f"the runs of seed {run.seed} do not start from the same weights: {run.arm} has"
                    f" {run.initial_weights}, and {earlier.arm} of {self.path} had"
                    f" {earlier.initial_weights}. Another version of the software has trained it:"
                    " pass another --out."
                )
        self._append(RUNS_FILE, asdict(run))

    # --- lines ----------------------------------------------------------------------------------

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        file = self.path / name
        self._drop_incomplete_line(file)
        writing.append(file, json.dumps(line).encode() + b"\n")

    def _drop_incomplete_line(self, file: Path) -> None:
        """Remove the line that a killed command has left incomplete."""
        data = file.read_bytes() if file.exists() else b""
        if data and not data.endswith(b"\n"):
            writing.write(file, data[: data.rfind(b"\n") + 1])

    def _lines(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        data = file.read_bytes() if file.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        return [self._line(file, text) for text in complete.splitlines()]

    def _line(self, file: Path, text: bytes) -> dict[str, Any]:
        try:
            line: dict[str, Any] = schema.check(dict[str, Any], json.loads(text), "a line")
        except (ValueError, RecursionError) as e:
            raise _damaged(file, str(e)) from None
        return line

    def _record(self, kind: type[Any], line: Mapping[str, Any], name: str) -> Any:
        try:
            return schema.parse(kind, dict(line))
        except SchemaError as e:
            raise _damaged(self.path / name, str(e)) from None


def _damaged(file: Path, fault: str) -> TesseraeError:
    return TesseraeError(
        f"{file} is damaged: {fault[:200]}. Remove the line, or pass another --out."
    )


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
