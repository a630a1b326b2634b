"""The folder of a training run: its options, checkpoints, metrics and samples.

    options.json                      the options, the data and the versions of packages
    generations/<generation>.json     each start of the ranks: the checkpoint that it resumed
    checkpoints/<generation>-<updates>.pt, .json
                                      the state; its digest and step, written last
    metrics.jsonl                     the metrics that ranks log, a JSON object in each line
    samples/<name>-<step>.png         the samples of an evaluation
    tracking/                         how far trackers have come, and what their processes print
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
from workflows.training.finite import finite_or_none, first_non_finite, num_bytes

MAX_CHECKPOINTS = 3
"""The number of newest checkpoints that a run keeps."""

LEASE_NAME = "run"
"""The name of the lease that locks a run folder for one command."""

Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A function that adds the values of missing options to options by name."""

_DATA_ENTRIES = {
    "stage": "of the stage {}",
    "split": "on the split {}",
    "stored_size": "with images of {} px",
    "rows": "with the plan {} of its split",
    "features": "with the features {}",
}
"""The entries of `options` that are no flags, each with its phrase for an error message."""
_PRESET = "preset"
"""The option that sets others: if it has changed, they have too, and it is the one to name."""

_CHECKPOINT = re.compile(r"\d{6}-\d{12}")
"""The stem of the names of a checkpoint's files."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """The identity of a saved state, ordered by generation and updates."""

    generation: int
    """The start of the ranks that saved it, from 1."""
    updates: int
    """The number of complete updates when it was saved. A step may have several updates."""

    @property
    def name(self) -> str:
        """The stem of the names of its files."""
        return f"{self.generation:06d}-{self.updates:012d}"

    @classmethod
    def from_name(cls, name: str) -> Checkpoint:
        """Return the checkpoint whose files have the stem *name*.

        Args:
            name: The generation in six digits and the updates in twelve, such as
                `000002-000000001200`.

        Raises:
            ValueError: *name* is not two whole numbers with a hyphen between them.
        """
        generation, _, updates = name.partition("-")
        return cls(int(generation), int(updates))


def _as_typed(flag: str, value: Any) -> str:
    """Return an option as typed on a command line; *value* is not None."""
    if isinstance(value, bool):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    return f"{flag} {shlex.quote(str(value))}"


def _flag_phrase(flag: str, value: Any) -> str:
    return f"without {flag}" if value is None else f"with {_as_typed(flag, value)}"


class RunFolder:
    """The folder of a run, on a file system that all ranks share."""

    def __init__(self, path: Path) -> None:
        """Refer to the folder at *path*, which need not exist."""
        self.path = path
        self._checkpoints = path / "checkpoints"
        self._generations = path / "generations"
        self._written: set[Path] = set()
        """The files that `create_or_continue` wrote for a new run."""

    def check_links(self) -> None:
        """Refuse a subfolder that is a link out of the run folder, since files in it are removed.

        Raises:
            StoreError: A subfolder leads out of the run folder.
        """
        for name in (self._checkpoints.name, self._generations.name, "meetings", "samples"):
            confined.check_inside(self.path / name, self.path)

    def holds_run(self) -> bool:
        """Return True if the folder holds a run, that is, if it has an `options.json`."""
        return (self.path / "options.json").exists()

    def create_or_continue(
        self,
        options: Mapping[str, Any],
        sections: Mapping[str, Any],
        *,
        changeable_on_resume: Collection[str] = (),
        complete: Complete = dict,
        changeable_on_rewind: Collection[str] = (),
        from_step: int | None = None,
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Create the run, or check that the existing run has the same options.

        A new run gets its folder and, as the last file, `options.json`. In that of an existing run,
        *options* replace the recorded ones and `data` of *sections* the recorded section; if
        options have changed with *from_step*, their former values are added to its section
        `changed`. No generation is claimed.

        Args:
            options: The JSON values of all options by name, and the entries `stage`, `split`,
                `stored_size`, `rows` (the digest of the readable rows and their
                pixels) and `features` on the data.
            sections: Further sections of `options.json` by name: `versions`, which only a new run
                records, and `data`.
            changeable_on_resume: Names of options that may change whenever a run is continued.
            complete: A function that returns a copy of options by name with the values of missing
                ones added; recorded and new options are compared after it (default: add none).
            changeable_on_rewind: Names of options that may change when a run goes back to an
                earlier step.
            from_step: The step to go back to, 0 for the start (default None: continue from the
                newest checkpoint). It only permits the options of *changeable_on_rewind* to change.
            files: Further files of a new run, as name in the run folder, without a slash ->
                content; an existing run keeps its own.

        Raises:
            TesseraeError: The folder holds a run with other options, a damaged `options.json` or
                files of something else, a subfolder is a link out of it, or the disk is full.
            OSError: It cannot be created or written for another reason.
        """
        file = self.path / "options.json"
        self.check_links()
        # Through JSON, so that tuples compare equal to the lists that were read.
        requested = json.loads(json.dumps(dict(options)))
        if file.exists():
            stored = records.read_recorded_options(file)
            names = (stored["options"].keys() | requested) - {*changeable_on_resume}
            fixed = names - {*(() if from_step is None else changeable_on_rewind)}
            self._refuse_changed(
                stored["options"], requested, complete, fixed, changeable_on_rewind
            )
            old, new = complete(stored["options"]), complete(requested)
            data = sections.get("data", stored.get("data"))
            document = {**stored, "data": data, "options": requested}
            replaced = {n: old.get(n) for n in changeable_on_rewind if old.get(n) != new.get(n)}
            if replaced:
                document["changed"] = [
                    *stored.get("changed", []),
                    {"from_step": from_step, "were": replaced},
                ]
            if document != stored:
                writing.write(file, json.dumps(document, indent=1).encode())
            return
        # A command that was killed in `create_or_continue` may have left some of these files.
        written = {file.name, *files}
        own_names = {self._checkpoints.name, self._generations.name, TEMPORARY, *written}
        # A tracker may wait for this run to begin, or have seen one that was discarded.
        own_names |= {records.TRACKING, *records.TRACKERS}
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
        writing.write(file, json.dumps({**sections, "options": requested}, indent=1).encode())

    def discard(self, created: Sequence[Path]) -> None:
        """Remove the files of a run that never took a step; keep a run that did.

        A run that has a checkpoint or a file `metrics.jsonl` is kept as it is. Otherwise the lock
        file is removed and, if `create_or_continue` of this object has created the run, the files
        that it wrote, such as `options.json` and those of each start of the ranks. Subfolders that
        are empty then are removed; other files stay.

        Args:
            created: Folders that were created for the run, innermost first. They are removed too if
                they are empty.

        Raises:
            StoreError: A subfolder is a link out of the run folder.
        """
        self.check_links()
        if self._saved() or (self.path / "metrics.jsonl").exists():
            return
        own_files = [self.path / TEMPORARY / f"{LEASE_NAME}.lock", *self._written]
        if self._written:  # otherwise the folder held other files before this run
            own_files += self._generations.glob("??????.json")
            own_files += (self.path / "meetings").glob("??????.json")
        tracking = self.path / records.TRACKING
        for name in records.TRACKERS:
            own_files += (tracking / f"{name}.json", tracking / f"{name}.log")
        for file in own_files:
            file.unlink(missing_ok=True)
        names = (
            *(self._generations.name, self._checkpoints.name, "meetings"),
            *(records.TRACKING, TEMPORARY),
        )
        folders = [self.path / name for name in names]
        for path in (*folders, *created):
            with suppress(OSError):  # it is missing, or holds files that are not ours
                path.rmdir()

    def check_options(
        self,
        options: Mapping[str, Any],
        *,
        changeable_on_resume: Collection[str] = (),
        complete: Complete = dict,
        changeable_on_rewind: Collection[str] = (),
        from_step: int | None = None,
    ) -> None:
        """Refuse an existing run with other *options*, before anything is written.

        A folder without a run is accepted.

        Args:
            options: The JSON values of options by name, and the entries `stage`, `split`,
                `stored_size`, `rows` (the digest of the readable rows and their
                pixels) and `features` on the data; those that are left out are not compared.
            changeable_on_resume: Names of options that may change whenever a run is continued.
            complete: A function that returns a copy of options by name with the values of missing
                ones added; recorded and new options are compared after it (default: add none).
            changeable_on_rewind: Names of options that may change when a run goes back to an
                earlier step.
            from_step: The step to go back to, 0 for the start (default None: continue from the
                newest checkpoint, for which the options of *changeable_on_rewind* may not change).

        Raises:
            TesseraeError: The folder holds a run with other options, or a damaged `options.json`.
        """
        if (self.path / "options.json").exists():
            requested = json.loads(json.dumps(dict(options)))
            fixed = (
                requested.keys()
                - {*changeable_on_resume}
                - {*(() if from_step is None else changeable_on_rewind)}
            )
            self._refuse_changed(
                self.read_options()["options"], requested, complete, fixed, changeable_on_rewind
            )

    def _refuse_changed(
        self,
        stored: Mapping[str, Any],
        requested: Mapping[str, Any],
        complete: Complete,
        fixed: Collection[str],
        changeable_on_rewind: Collection[str],
    ) -> None:
        """Refuse a changed value of an option in *fixed*, and name the option that was typed.

        An option that decides others, such as the objective, also changes their completed values.
        """
        completed, requested_complete = complete(stored), complete(requested)
        changed = [n for n in fixed if completed.get(n) != requested_complete.get(n)]
        if not changed:
            return
        name = min(
            changed,
            key=lambda n: (
                n not in _DATA_ENTRIES,
                n != _PRESET,
                stored.get(n) == requested.get(n),
                n,
            ),
        )
        stored_value, value = completed.get(name), requested_complete.get(name)
        if name in _DATA_ENTRIES:
            phrase = _DATA_ENTRIES[name]
            raise TesseraeError(
                f"{self.path} holds a run"
                f" {phrase.format('none' if stored_value is None else stored_value)}, not"
                f" {phrase.format('none' if value is None else value)}. Pass another folder with"
                " --run."
            )
        flag = f"--{name.replace('_', '-')}"
        cure = f"Omit {flag}" if stored_value is None else f"Pass {_as_typed(flag, stored_value)}"
        rewind = f", or pass --from-step N to change {flag} from that step on"
        raise TesseraeError(
            f"{self.path} was started {_flag_phrase(flag, stored_value)} and cannot continue"
            f" {_flag_phrase(flag, value)}. {cure}"
            f"{rewind if name in changeable_on_rewind else ''}, or pass another folder with --run."
        )

    def read_options(self) -> dict[str, Any]:
        """Return the content of `options.json`, a dictionary of its sections.

        Returns:
            `options`, the value of each option by its present name, with the name of the `stage`
            and the entries `split`, `stored_size`, `rows` (the digest of the readable
            rows and their pixels) and `features` on the data; `versions`, the version of each
            package by name at the first start; `data` on the store, the splits and the classes; and
            `changed`, a list with an entry for each restart from an earlier step that changed
            options, `{"from_step": the step, "were": the replaced values by name}`. All but
            `options` may be missing.

        Raises:
            TesseraeError: The folder holds no run, or the file is invalid.
        """
        try:
            return records.read_recorded_options(self.path / "options.json")
        except OSError as e:
            missing = isinstance(e, FileNotFoundError | NotADirectoryError)
            why = "it has no options.json" if missing else f"options.json: {e.strerror or e}"
            raise TesseraeError(
                f"{self.path} is not a run folder: {why}. Pass the --run folder of `tesserae"
                " train` (default runs/STAGE)."
            ) from None

    def data(self) -> dict[str, Any]:
        """Return the `data` section of `options.json`.

        Returns:
            A dictionary with `store`, the recorded path or URL of the store; `split`, the training
            split; `held_out`, the split of evaluations, or None; `size`, the side of the images
            that were read, in pixels; `encoded`, the name of the encoded rows that they were
            decoded from, or None for stored squares; `features`, the name of stored features, or
            None; `classes` and `wnids`, lists by label, the latter empty in runs of earlier
            versions; `sizes`, the sides of the stored squares that the run chooses from, and
            `held_out_size`, the side of the images of evaluations, or None, both in pixels. Also
            `plan`, the digest of the plan of the training split, and `store_from_run`, the path of
            the store relative to the run folder (None for a URL), if they were recorded.

        Raises:
            TesseraeError: The folder holds no run, or its file lacks the section.
        """
        self.read_options()
        return records.read_data(self.path / "options.json")

    def store(self, location: str | None = None) -> str:
        """Return the location of the store that the run was trained on, after checking it.

        The plan of the training split must be the one that the run recorded; earlier versions
        recorded none.

        Args:
            location: The location that the user passed, the only one that is tried (default None:
                the recorded location, then the recorded path relative to the run, which holds if
                both were moved together).

        Returns:
            The folder or URL of the store.

        Raises:
            TesseraeError: No store is there, it has other rows, or the folder holds no run.
        """
        data = self.data()
        candidates = [data["store"], *self._relative(data)] if location is None else [location]
        for candidate in candidates:
            objects = open_objects(candidate)
            if records_of_store.stored_splits(objects):
                plan = records_of_store.load_plan(objects, data["split"]).digest
                if data.get("plan") not in (None, plan):
                    if location is None:
                        continue
                    raise TesseraeError(
                        f"--store is {location}: its split {data['split']!r} is not the one that"
                        f" {self.path} was trained on. Pass the store of the run."
                    )
                return candidate
        raise TesseraeError(
            f"the store that {self.path} was trained on is not at {' or '.join(candidates)}: pass"
            " its location with --store."
        )

    def was_trained_on(self, location: str) -> bool:
        """Return True if a store has the split that the run was trained on.

        Of a run of an earlier version, which has not recorded the plan of its split, it is a split
        of the same name.

        Args:
            location: The folder or URL of the store, which need not exist.

        Raises:
            TesseraeError: The folder holds no run, or the plan of the store is damaged.
        """
        data = self.data()
        objects = open_objects(location)
        if data["split"] not in records_of_store.stored_splits(objects):
            return False
        plan = records_of_store.load_plan(objects, data["split"]).digest
        return data.get("plan") in (None, plan)

    def _relative(self, data: Mapping[str, Any]) -> list[str]:
        path = data.get("store_from_run")
        return [] if path is None else [str((self.path / str(path)).resolve())]

    def claim(self, *, from_step: int | None = None) -> tuple[int, Checkpoint | None]:
        """Claim the next generation: one start of all ranks.

        Write `generations/<generation>.json`; remove what interrupted saves have left in
        `checkpoints/`, and the address of ranks that a former claim of the same number has left.
        From then on, whatever older generations write is ignored. Of two concurrent claims each
        gets another number. The run must have been created.

        Args:
            from_step: The step to go back to, 0 for the start (default None: the newest
                checkpoint).

        Returns:
            The number of the generation, from 1; and the checkpoint to resume, with its generation
            and updates, or None to train from scratch.

        Raises:
            TesseraeError: There is no checkpoint of *from_step*, the file of an earlier claim is
                damaged, or a subfolder is a link out of the run folder.
            OSError: The run has not been created, or the file cannot be written.
        """
        self.check_links()
        while True:
            resumed = (
                self.newest_checkpoint()
                if from_step is None
                else self.checkpoint_at_step(from_step)
            )
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
            is_torn = file.suffix == writing.TEMPORARY_SUFFIX or (
                file.suffix == ".pt" and not file.with_suffix(".json").exists()
            )
            if is_torn and _CHECKPOINT.fullmatch(file.stem):
                file.unlink(missing_ok=True)

    def newest_checkpoint(self) -> Checkpoint | None:
        """Return the newest intact checkpoint that led to the present state, or None.

        Checkpoints after one that the latest generation, or one before it, has gone back to do not
        count.
        """
        return next(self._history(), None)

    def checkpoint_at_step(self, step: int) -> Checkpoint | None:
        """Return the newest checkpoint of a step in the history of the latest generation.

        The history is what led to the present state: checkpoints after one that was resumed do not
        belong to it, and neither do those of a generation that was not claimed. Each of its
        checkpoints is read to check that it is intact; a damaged one is skipped.

        Args:
            step: Number of complete steps, at least 0.

        Returns:
            The checkpoint; None for step 0, which has none: training starts from scratch.

        Raises:
            TesseraeError: The history has no checkpoint of that step, in which case the message
                names `--from-step`, or the file of a claim is damaged.
        """
        if step == 0:
            return None
        oldest_first = reversed(list(self._history()))
        steps = {self.step_of(checkpoint): checkpoint for checkpoint in oldest_first}
        if step not in steps:
            raise TesseraeError(
                f"--from-step is {step}: {self.path} has {_listed_steps(steps)}; 0 restarts"
                " from scratch."
            )
        return steps[step]

    def checkpoint_steps(self) -> list[int]:
        """Return the steps that `--from-step` accepts besides 0, ascending."""
        return sorted({self.step_of(checkpoint) for checkpoint in self._history()})

    def finite_checkpoint_steps(self) -> list[int]:
        """Return the steps of checkpoints without NaN or infinity, ascending.

        It loads every intact checkpoint that led to the present state of the run; those after one
        that was gone back to do not count.
        """
        loaded = ((checkpoint, self.load(checkpoint)) for checkpoint in self._history())
        return sorted({self.step_of(c) for c, state in loaded if first_non_finite(state) is None})

    def step_of(self, checkpoint: Checkpoint) -> int:
        """Return the number of steps that were complete when a checkpoint was saved.

        Args:
            checkpoint: A checkpoint of this run. Its state is loaded only if an earlier version
                saved it.

        Raises:
            OSError: A file of the checkpoint cannot be read.
            TesseraeError: A file of the checkpoint has invalid content.
        """
        _, step = records.read_checkpoint(self._checkpoints / f"{checkpoint.name}.json")
        # Earlier versions did not record the step beside the state.
        return int(self.load(checkpoint)["stage"]["step"]) if step is None else step

    def _history(self) -> Iterator[Checkpoint]:
        """Yield the intact checkpoints that led to the latest generation, newest first."""
        claimed = self._claimed()
        generation, max_updates = max(claimed, default=0), math.inf
        while generation:
            for saved in sorted(self._saved(generation), reverse=True):
                if saved.updates <= max_updates and self._is_intact(saved):
                    yield saved
            resumed = claimed.get(generation)
            # A generation resumes an older one; anything else is a damaged claim, and would loop.
            if resumed is None or resumed.generation >= generation:
                return
            generation, max_updates = resumed.generation, resumed.updates

    def save(self, checkpoint: Checkpoint, state: Mapping[str, Any], *, step: int) -> None:
        """Save a state durably, and remove the oldest checkpoints.

        Write `checkpoints/<generation>-<updates>.pt` and then the `.json` that makes it count, and
        keep the three newest checkpoints of the run. Nothing is removed if the newest claimed
        generation is another one. The run must have been created, and its checkpoint counts as one
        of the run only if its generation has been claimed.

        Args:
            checkpoint: The identity of the checkpoint: the number that `claim` returned, and the
                number of complete updates.
            state: A dictionary with `stage`, the result of the stage's `state_dict`, and `updates`,
                the number of complete updates: nested dictionaries, lists and tuples of plain
                values and tensors on any device. `load` refuses any other content.
            step: Number of complete steps.

        Raises:
            DiskFullError: The disk is full. Earlier checkpoints are unchanged.
            OSError: A file cannot be written for another reason.
        """
        file = self._checkpoints / f"{checkpoint.name}.pt"
        with writing.replacing_run_file(file, num_bytes=num_bytes(state)) as out:
            torch.save(dict(state), cast(IO[bytes], out))
        # The digest is written last: only a checkpoint that has one counts as intact.
        record = {"blake2b": _checkpoint_digest(file), "step": step}
        writing.write(file.with_suffix(".json"), json.dumps(record).encode())
        # A generation that was superseded must not remove checkpoints of its successor.
        if max(self._claimed(), default=0) == checkpoint.generation:
            intact = [saved for saved in sorted(self._saved()) if saved <= checkpoint]
            for old in intact[:-MAX_CHECKPOINTS]:
                for suffix in (".json", ".pt"):
                    (self._checkpoints / old.name).with_suffix(suffix).unlink(missing_ok=True)

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return a saved state. Loading executes no code from the file.

        Args:
            checkpoint: The checkpoint to load.

        Returns:
            A dictionary with `stage`, which the stage's `state_dict` returned, with tensors on the
            CPU, and `updates`, the number of complete updates.

        Raises:
            OSError: The file cannot be read.
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
        """Return the state of the stage in a checkpoint, to use the trained weights.

        Args:
            checkpoint: The checkpoint to load.
            parts: Names of entries of the stage's state that must be finite, such as `head`.
                Without any, nothing is checked.

        Returns:
            The whole dictionary that the stage's `state_dict` returned, with tensors on the CPU.

        Raises:
            DivergedError: A part holds NaN or infinity, which earlier versions could save.
            KeyError: The state has no such part; or one holds NaN or infinity and the state has no
                `step`, which the message of the error needs.
            OSError: The file cannot be read.
            TesseraeError: The file is no checkpoint.
        """
        stage: dict[str, Any] = self.load(checkpoint)["stage"]
        bad_name = first_non_finite({name: stage[name] for name in parts})
        if bad_name is not None:
            steps = ", ".join(f"{step:,}" for step in [0, *self.finite_checkpoint_steps()])
            raise DivergedError(
                f"{self.path}: the checkpoint of step {stage['step']:,} contains NaN or infinity"
                f" ({bad_name}): training has diverged. Train again with a lower --learning-rate"
                f" from an earlier step: --from-step is one of {steps}."
            )
        return stage

    def save_samples(self, name: str, step: int, png: bytes) -> None:
        """Save a grid of samples as `samples/<name>-<step>.png`, durably.

        The folder `samples` is created if it is missing; a file of that name is replaced. The run
        folder must exist.

        Args:
            name: Name of the grid, which precedes the step in the name of the file, such as
                `samples`.
            step: Number of complete steps at the evaluation, written in nine digits.
            png: Content of the file.

        Raises:
            DiskFullError: The disk is full.
            OSError: The file cannot be written for another reason, such as a missing run folder.
        """
        file = self.samples_file(name, step)
        file.parent.mkdir(exist_ok=True)
        writing.write(file, png)

    def samples_file(self, name: str, step: int) -> Path:
        """Return the path of a grid of samples, whether or not the file exists.

        Args:
            name: Name of the grid.
            step: Number of complete steps at the evaluation, written in nine digits.

        Returns:
            The path in the run folder, such as `runs/wgan/samples/samples-000000500.png`.
        """
        return self.path / "samples" / f"{name}-{step:09d}.png"

    def log(self, message: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`, which is created if it is missing.

        The run folder must exist. The entries of the line are not checked.

        Args:
            message: The JSON values of the line by name: the integers `step` and `generation`,
                which every line needs; `what`, its kind, unless it is of a training step; and
                metrics, as Python numbers. NaN and infinity are written as null.

        Raises:
            DiskFullError: The disk is full. The file has its former length.
            TesseraeError: The file is a symbolic link.
            OSError: The file cannot be written for another reason.
            TypeError: A value, such as a tensor, is no JSON value.
        """
        line = json.dumps(finite_or_none(message), allow_nan=False)
        writing.append(self.path / "metrics.jsonl", line.encode() + b"\n")

    def diverged(self) -> DivergedError | None:
        """Return the error of the last time that the run diverged; None if it never did.

        The error is returned, not raised. Divergences do not count once the run has gone back to an
        earlier step and been continued.

        Raises:
            RunFileError: A line of `metrics.jsonl` has invalid content.
        """
        lines = [line for line in self.metrics() if line.get("what") == "diverged"]
        return DivergedError(str(lines[-1]["why"])) if lines else None

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl` that count, ordered by step and kind.

        A newer generation repeats the steps after the checkpoint that it resumed. Lines of older
        generations about those steps are left out, even if they are not repeated yet.

        Returns:
            Dictionaries with `step`, `generation`, for lines other than those of training steps
            `what` (`look` for an evaluation, `speed`, `diverged`), and metrics by name, or `why`, a
            text, in a line `diverged`; a metric is None if it was not finite.

        Raises:
            RunFileError: A line has invalid content.
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
        return records.read_metric_lines(self.path / "metrics.jsonl")

    def _claimed(self) -> dict[int, Checkpoint | None]:
        claims: dict[int, Checkpoint | None] = {}
        for file in self._generations.glob("??????.json"):
            if file.stem.isascii() and file.stem.isdecimal():
                resumed = records.read_claim(file)
                claims[int(file.stem)] = None if resumed is None else Checkpoint.from_name(resumed)
        return claims

    def _saved(self, generation: int | None = None) -> list[Checkpoint]:
        stems = (file.stem for file in self._checkpoints.glob("*.json"))
        every = [Checkpoint.from_name(stem) for stem in stems if _CHECKPOINT.fullmatch(stem)]
        return [checkpoint for checkpoint in every if generation in (None, checkpoint.generation)]

    def _is_intact(self, checkpoint: Checkpoint) -> bool:
        file = self._checkpoints / f"{checkpoint.name}.json"
        try:
            digest, _ = records.read_checkpoint(file)
            return digest == _checkpoint_digest(file.with_suffix(".pt"))
        except (OSError, records.RunFileError):
            return False


def _checkpoint_digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _listed_steps(steps: Collection[int]) -> str:
    if not steps:
        return "no checkpoint"
    return f"checkpoints of steps {', '.join(f'{step:,}' for step in sorted(steps))}"
