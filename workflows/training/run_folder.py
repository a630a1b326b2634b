"""The folder of a training run: its options, checkpoints, metrics and samples.

    options.json                      the options, the data and the versions of packages
    generations/<generation>.json     each start of the ranks: the checkpoint that it resumed
    checkpoints/<generation>-<updates>.pt, .json
                                      the state; its digest and step, written last
    metrics.jsonl                     the metrics that ranks log, a JSON object in each line
    samples/<name>-<step>.png         the samples of an evaluation
    meetings/                         the address at which the ranks of a generation connect
    .tmp/                             the lock of the command that trains in the folder

A command that is given the folder of a run continues the run. Each start of the ranks claims the
next generation. Ranks of an older generation may still be writing, out of reach of the cluster;
whatever they write after the claim is ignored.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

import torch

from pipeline import confined
from pipeline.errors import TesseraeError
from pipeline.filesystem import name_exclusively, sync_folder
from pipeline.store import records as records_of_store
from pipeline.store.layout import TEMPORARY
from pipeline.store.open import open_objects
from workflows.training import records, writing
from workflows.training.errors import DivergedError
from workflows.training.finite import finite_or_none, first_not_finite, num_bytes

MAX_CHECKPOINTS = 3
"""The number of newest checkpoints that a run keeps."""

LEASE = "run"
"""The name of the lease that locks a run folder for one command."""

Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A function that adds the values of missing options to options by name."""

_FACTS = {
    "stage": "of the stage {}",
    "split": "on the split {}",
    "stored_size": "with images stored at {} px",
    "rows": "with the plan {} of its split",
    "features": "with the features {}",
}
"""The entries of `options` that are no flags, each with its phrase for an error message."""

_CHECKPOINT = re.compile(r"\d{6}-\d{12}")
"""The stem of the names of a checkpoint's files."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """The identity of a saved state, ordered by generation and updates."""

    generation: int
    step: int
    """The number of updates at which it was saved."""

    @property
    def name(self) -> str:
        """The stem of the names of its files."""
        return f"{self.generation:06d}-{self.step:012d}"

    @classmethod
    def named(cls, name: str) -> Checkpoint:
        """Return the checkpoint whose files have the stem *name*."""
        generation, _, step = name.partition("-")
        return cls(int(generation), int(step))


def _typed(flag: str, value: Any) -> str:
    """Return an option as typed on a command line; *value* is not None."""
    if isinstance(value, bool):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    return f"{flag} {shlex.quote(str(value))}"


def _flag_phrase(flag: str, value: Any) -> str:
    return f"without {flag}" if value is None else f"with {_typed(flag, value)}"


class RunFolder:
    """The folder of a run, on a file system that all ranks share."""

    def __init__(self, path: Path) -> None:
        """Refer to the folder at *path*, which need not exist."""
        self.path = path
        self._checkpoints = path / "checkpoints"
        self._generations = path / "generations"
        self._written: set[Path] = set()
        """The files that `begin` wrote for a new run."""

    def check_links(self) -> None:
        """Refuse a subfolder that is a link out of the run folder, since files in it are removed.

        Raises:
            StoreError: A subfolder leads out of the run folder.
        """
        for name in (self._checkpoints.name, self._generations.name, "meetings", "samples"):
            confined.check_inside(self.path / name, self.path)

    def begun(self) -> bool:
        """Return True if the folder holds a run, that is, the options that `begin` writes."""
        return (self.path / "options.json").exists()

    def begin(
        self,
        options: Mapping[str, Any],
        facts: Mapping[str, Any],
        *,
        free: Collection[str] = (),
        complete: Complete = dict,
        changeable: Collection[str] = (),
        from_step: int | None = None,
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Create the run, or check that the existing run has the same options.

        Args:
            options: The options by name, and the entries of `_FACTS`.
            facts: Further sections: `versions` of the first start, `data` of the latest one.
            free: Names of options that may change when a run is continued.
            complete: Adds the values of missing options.
            changeable: Names of options that may change when a run goes back to an earlier step.
            from_step: The step to go back to (default None: continue from the newest checkpoint).
            files: Further files of a new run, as name -> content.

        Raises:
            TesseraeError: The folder holds a run with other options, or files of something else.
        """
        file = self.path / "options.json"
        self.check_links()
        requested = json.loads(json.dumps(dict(options)))
        if file.exists():
            stored = records.read_options(file)
            names = (stored["options"].keys() | requested) - {*free}
            fixed = names - {*(() if from_step is None else changeable)}
            self._refuse_changed(stored["options"], requested, complete, fixed, changeable)
            before, now = complete(stored["options"]), complete(requested)
            new = {**stored, "data": facts.get("data", stored.get("data")), "options": requested}
            were = {n: before.get(n) for n in changeable if before.get(n) != now.get(n)}
            if were:
                new["changed"] = [
                    *stored.get("changed", []),
                    {"from_step": from_step, "were": were},
                ]
            if new != stored:
                writing.write(file, json.dumps(new, indent=1).encode())
            return
        # A command that was killed in `begin` may have left some of these files.
        written = {file.name, *files}
        own_names = {self._checkpoints.name, self._generations.name, TEMPORARY, *written}
        own_names.add("lost+found")  # the folder may be the root of a disk
        own_names |= {Path(name).with_suffix(".new").name for name in written}
        if self.path.is_dir() and any(path.name not in own_names for path in self.path.iterdir()):
            raise TesseraeError(
                f"{self.path} holds other files: expected a new or an empty folder. Pass another"
                " --run."
            )
        for folder in (self._checkpoints, self._generations):
            folder.mkdir(parents=True, exist_ok=True)
        self._written = {self.path / name for name in written}
        for name, data in files.items():
            writing.write(self.path / name, data)
        # The options come last: they make the folder a run, so its other files must be there.
        writing.write(file, json.dumps({**facts, "options": requested}, indent=1).encode())

    def discard(self, created: Sequence[Path]) -> None:
        """Remove the files of a run that never took a step; keep a run that did.

        Args:
            created: Folders that were created for the run, innermost first. They are removed too if
                they are empty.
        """
        self.check_links()
        if self._saved() or (self.path / "metrics.jsonl").exists():
            return
        own_files = [self.path / TEMPORARY / f"{LEASE}.lock", *self._written]
        if self._written:  # otherwise the folder held other files before this run
            own_files += self._generations.glob("??????.json")
            own_files += (self.path / "meetings").glob("??????.json")
        for file in own_files:
            file.unlink(missing_ok=True)
        names = (self._generations.name, self._checkpoints.name, "meetings", TEMPORARY)
        folders = [self.path / name for name in names]
        for path in (*folders, *created):
            with suppress(OSError):  # it is missing, or holds files that are not ours
                path.rmdir()

    def check(
        self,
        options: Mapping[str, Any],
        *,
        free: Collection[str] = (),
        complete: Complete = dict,
        changeable: Collection[str] = (),
        from_step: int | None = None,
    ) -> None:
        """Refuse an existing run with other *options*, before anything is written.

        The arguments are those of `begin`.

        Raises:
            TesseraeError: The folder holds a run with other options.
        """
        if (self.path / "options.json").exists():
            requested = json.loads(json.dumps(dict(options)))
            fixed = requested.keys() - {*free} - {*(() if from_step is None else changeable)}
            self._refuse_changed(self.asked()["options"], requested, complete, fixed, changeable)

    def _refuse_changed(
        self,
        stored: Mapping[str, Any],
        requested: Mapping[str, Any],
        complete: Complete,
        fixed: Collection[str],
        changeable: Collection[str],
    ) -> None:
        """Refuse a changed value of an option in *fixed*, and name the option that was typed.

        An option that decides others, such as the objective, also changes their completed values.
        """
        completed, requested_complete = complete(stored), complete(requested)
        changed = [n for n in fixed if completed.get(n) != requested_complete.get(n)]
        if not changed:
            return
        name = min(changed, key=lambda n: (n not in _FACTS, stored.get(n) == requested.get(n), n))
        was, now = completed.get(name), requested_complete.get(name)
        if name in _FACTS:
            phrase = _FACTS[name]
            raise TesseraeError(
                f"{self.path} holds a run {phrase.format('none' if was is None else was)}, not"
                f" {phrase.format('none' if now is None else now)}. Pass another folder with --run."
            )
        flag = f"--{name.replace('_', '-')}"
        back = f", or pass --from-step N to change {flag} from that step on"
        raise TesseraeError(
            f"{self.path} was started {_flag_phrase(flag, was)} and cannot continue"
            f" {_flag_phrase(flag, now)}."
            f" {f'Omit {flag}' if was is None else f'Pass {_typed(flag, was)}'}"
            f"{back if name in changeable else ''}, or pass another folder with --run."
        )

    def asked(self) -> dict[str, Any]:
        """Return the content of `options.json`: `options`, `versions`, `data` and `changed`.

        Raises:
            TesseraeError: The folder holds no run, or the file is invalid.
        """
        try:
            return records.read_options(self.path / "options.json")
        except OSError as e:
            missing = isinstance(e, FileNotFoundError | NotADirectoryError)
            why = "it has no options.json" if missing else f"options.json: {e.strerror or e}"
            raise TesseraeError(
                f"{self.path} is not a run folder: {why}. Pass the --run folder of `tesserae"
                " train` (default runs/STAGE)."
            ) from None

    def data(self) -> dict[str, Any]:
        """Return the `data` section of `options.json`.

        Raises:
            TesseraeError: The folder holds no run, or its file lacks the section.
        """
        self.asked()
        return records.read_data(self.path / "options.json")

    def store(self, named: str | None = None) -> str:
        """Return the location of the store that the run learned from.

        Args:
            named: The location that the user names (default None: the recorded location, then the
                recorded path relative to the run, which holds if both were moved together).

        Returns:
            The folder or URL of the store.

        Raises:
            TesseraeError: No store is there, or it has other rows.
        """
        data = self.data()
        locations = [data["store"], *self._near(data)] if named is None else [named]
        for location in locations:
            objects = open_objects(location)
            if records_of_store.splits(objects):
                plan = records_of_store.load_plan(objects, data["split"]).digest
                if data.get("plan") not in (None, plan):
                    if named is None:
                        continue
                    raise TesseraeError(
                        f"--store is {named}: its split {data['split']!r} is not the one that"
                        f" {self.path} was trained on. Pass the store of the run."
                    )
                return location
        raise TesseraeError(
            f"the store that {self.path} was trained on is not at {' or '.join(locations)}: pass"
            " its location with --store."
        )

    def _near(self, data: Mapping[str, Any]) -> list[str]:
        near = data.get("store_from_run")
        return [] if near is None else [str((self.path / str(near)).resolve())]

    def claim(self, *, from_step: int | None = None) -> tuple[int, Checkpoint | None]:
        """Claim the next generation.

        Args:
            from_step: The step to go back to (default None: the newest checkpoint).

        Returns:
            The number of the generation, and the checkpoint to resume; None = the beginning.

        Raises:
            TesseraeError: There is no checkpoint of that step.
        """
        self.check_links()
        while True:
            resumed = self.newest() if from_step is None else self.at(from_step)
            number = max(self._claimed(), default=0) + 1
            record = {"resumed": None if resumed is None else resumed.name}
            # A rename that fails if the name exists: of two concurrent claims one wins.
            new = self._generations / f".{os.getpid()}-{number}"
            writing.write(new, json.dumps(record).encode())
            if not name_exclusively(
                new, self._generations / f"{number:06d}.json", self._generations
            ):
                continue  # another command has claimed that number
            sync_folder(self._generations)
            # A leftover file of this number would send the ranks to a wrong address.
            (self.path / "meetings" / f"{number:06d}.json").unlink(missing_ok=True)
            self._sweep()
            return number, resumed

    def _sweep(self) -> None:
        """Remove the files of interrupted saves, each of which is as long as a checkpoint.

        An older generation may still be saving, but its checkpoints no longer count.
        """
        for file in self._checkpoints.iterdir():
            is_torn = file.suffix == writing.NEW or (
                file.suffix == ".pt" and not file.with_suffix(".json").exists()
            )
            if is_torn and _CHECKPOINT.fullmatch(file.stem):
                file.unlink(missing_ok=True)

    def newest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint in the history of the latest generation, or None."""
        return next(self._history(), None)

    def at(self, step: int) -> Checkpoint | None:
        """Return the newest checkpoint of a step in the history of the latest generation.

        Args:
            step: Number of complete steps.

        Returns:
            The checkpoint; None for step 0, the beginning.

        Raises:
            TesseraeError: The history has no checkpoint of that step.
        """
        if step == 0:
            return None
        oldest_first = reversed(list(self._history()))
        steps = {self.step_of(checkpoint): checkpoint for checkpoint in oldest_first}
        if step not in steps:
            raise TesseraeError(
                f"--from-step is {step}: {self.path} has {_listed(steps)}; 0 restarts from scratch."
            )
        return steps[step]

    def steps(self) -> list[int]:
        """Return the steps that `--from-step` accepts besides 0, ascending."""
        return sorted({self.step_of(checkpoint) for checkpoint in self._history()})

    def finite_steps(self) -> list[int]:
        """Return the steps of checkpoints without NaN or infinity, ascending; reads all of them."""
        loaded = ((checkpoint, self.load(checkpoint)) for checkpoint in self._history())
        return sorted({self.step_of(c) for c, state in loaded if first_not_finite(state) is None})

    def step_of(self, checkpoint: Checkpoint) -> int:
        """Return the number of steps that were complete when *checkpoint* was saved."""
        _, step = records.read_checkpoint(self._checkpoints / f"{checkpoint.name}.json")
        # Earlier versions did not record the step beside the state.
        return int(self.load(checkpoint)["stage"]["step"]) if step is None else step

    def _history(self) -> Iterator[Checkpoint]:
        """Yield the intact checkpoints that led to the latest generation, newest first."""
        claimed = self._claimed()
        generation, max_step = max(claimed, default=0), math.inf
        while generation:
            for saved in sorted(self._saved(generation), reverse=True):
                if saved.step <= max_step and self._is_intact(saved):
                    yield saved
            resumed = claimed.get(generation)
            # A generation resumes an older one; anything else is a damaged claim, and would loop.
            if resumed is None or resumed.generation >= generation:
                return
            generation, max_step = resumed.generation, resumed.step

    def save(self, checkpoint: Checkpoint, state: Mapping[str, Any], *, step: int) -> None:
        """Save a state durably, and remove the oldest checkpoints.

        Args:
            checkpoint: The identity of the checkpoint.
            state: Nested plain values and tensors.
            step: Number of complete steps.

        Raises:
            DiskFullError: The disk is full. Earlier checkpoints are unchanged.
        """
        file = self._checkpoints / f"{checkpoint.name}.pt"
        with writing.replacing(file, num_bytes=num_bytes(state)) as out:
            torch.save(dict(state), cast(IO[bytes], out))
        # The digest is written last: only a checkpoint that has one counts as intact.
        record = {"blake2b": _digest(file), "step": step}
        writing.write(file.with_suffix(".json"), json.dumps(record).encode())
        # A generation that was superseded must not remove checkpoints of its successor.
        if max(self._claimed(), default=0) == checkpoint.generation:
            intact = [saved for saved in sorted(self._saved()) if saved <= checkpoint]
            for old in intact[:-MAX_CHECKPOINTS]:
                for suffix in (".json", ".pt"):
                    (self._checkpoints / old.name).with_suffix(suffix).unlink(missing_ok=True)

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the saved state, on the CPU. Loading executes no code from the file.

        Raises:
            TesseraeError: The file is no checkpoint.
        """
        file = self._checkpoints / f"{checkpoint.name}.pt"
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            intact = isinstance(state, dict) and isinstance(state.get("stage"), dict)
        except (OSError, MemoryError):
            raise
        except Exception:  # torch raises many kinds for a foreign file  # noqa: BLE001
            intact = False
        if not intact:
            raise TesseraeError(f"{file} is not a checkpoint of a run: remove it and its .json.")
        return cast("dict[str, Any]", state)

    def load_trained(self, checkpoint: Checkpoint, *parts: str) -> dict[str, Any]:
        """Return the state of the stage in *checkpoint*, to use or evaluate the trained weights.

        Args:
            checkpoint: The checkpoint to load.
            parts: Names of the parts of the state whose values must be finite.

        Raises:
            DivergedError: A part holds NaN or infinity, which earlier versions could save.
        """
        stage: dict[str, Any] = self.load(checkpoint)["stage"]
        bad_name = first_not_finite({name: stage[name] for name in parts})
        if bad_name is not None:
            steps = ", ".join(f"{step:,}" for step in [0, *self.finite_steps()])
            raise DivergedError(
                f"{self.path}: the checkpoint of step {stage['step']:,} contains NaN or infinity"
                f" ({bad_name}): training has diverged. Train again with a lower --learning-rate"
                f" from an earlier step: --from-step is one of {steps}."
            )
        return stage

    def save_samples(self, name: str, step: int, png: bytes) -> None:
        """Save the samples of an evaluation after *step* steps, as a PNG file."""
        file = self.samples_file(name, step)
        file.parent.mkdir(exist_ok=True)
        writing.write(file, png)

    def samples_file(self, name: str, step: int) -> Path:
        """Return the path of the samples *name* of an evaluation after *step* steps."""
        return self.path / "samples" / f"{name}-{step:09d}.png"

    def log(self, message: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`; NaN and infinity are written as null."""
        line = json.dumps(finite_or_none(message), allow_nan=False)
        writing.append(self.path / "metrics.jsonl", line.encode() + b"\n")

    def diverged(self) -> DivergedError | None:
        """Return the error with which the run diverged; None if it did not."""
        lines = [line for line in self.metrics() if line.get("what") == "diverged"]
        return DivergedError(str(lines[-1]["why"])) if lines else None

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl` that count, ordered by step and kind.

        A newer generation repeats the steps after the checkpoint that it resumed. Lines of older
        generations about those steps are left out, even if they are not repeated yet.
        """
        lines = list(self._lines())
        limits: dict[int, float] = {}
        limit = math.inf
        for generation in sorted({line["generation"] for line in lines}, reverse=True):
            limits[generation] = limit
            steps = (line["step"] for line in lines if line["generation"] == generation)
            limit = min(limit, *steps)
        counted = {
            (line["step"], line.get("what", "")): line
            for line in lines
            if line["step"] < limits[line["generation"]]
        }
        return [counted[key] for key in sorted(counted)]

    def _lines(self) -> Iterator[dict[str, Any]]:
        return records.read_lines(self.path / "metrics.jsonl")

    def _claimed(self) -> dict[int, Checkpoint | None]:
        claims: dict[int, Checkpoint | None] = {}
        for file in self._generations.glob("??????.json"):
            if file.stem.isascii() and file.stem.isdecimal():
                resumed = records.read_claim(file)
                claims[int(file.stem)] = None if resumed is None else Checkpoint.named(resumed)
        return claims

    def _saved(self, generation: int | None = None) -> list[Checkpoint]:
        stems = (file.stem for file in self._checkpoints.glob("*.json"))
        every = [Checkpoint.named(stem) for stem in stems if _CHECKPOINT.fullmatch(stem)]
        return [checkpoint for checkpoint in every if generation in (None, checkpoint.generation)]

    def _is_intact(self, checkpoint: Checkpoint) -> bool:
        file = self._checkpoints / f"{checkpoint.name}.json"
        try:
            digest, _ = records.read_checkpoint(file)
            return digest == _digest(file.with_suffix(".pt"))
        except (OSError, records.RunFileError):
            return False


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _listed(steps: Collection[int]) -> str:
    if not steps:
        return "no checkpoint"
    return f"checkpoints of steps {', '.join(f'{step:,}' for step in sorted(steps))}"
