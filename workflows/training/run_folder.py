"""The folder of a run that trains: what was asked for, how far it came, what it said.

    options.json                      what was asked for, of what, and with which versions
    generations/<generation>.json     each time the ranks began: from which checkpoint
    checkpoints/<generation>-<updates>.pt, .json
                                      the state; its digest and step, written last
    metrics.jsonl                     what ranks said, a line each
    samples/<name>-<step>.png         what was made then
    meetings/                         where the ranks of a generation met
    .tmp/                             the lock of the command that trains in it

A run goes on where its folder is given again. Who begins claims the next generation; from then on
what an older one still writes, being cut off from whoever could stop it, counts for nothing.
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
from pipeline.store.objects import open_objects
from workflows.training import records, writing
from workflows.training.errors import DivergedError
from workflows.training.finite import finite_or_none, first_not_finite, num_bytes
from workflows.training.stages import STAGES

KEPT = 3
"""Checkpoints of a run that stay."""

LEASE = "run"
"""The name of the lease that the command holds which trains in a folder."""

Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Gives options, by name, the values that they have where they are not said."""

_FACTS = {
    "stage": "of the stage {}",
    "split": "on the split {}",
    "stored_size": "on pictures that are stored at {} px",
    "rows": "on the rows {} of its split",
    "features": "on the features {}",
}
"""What is kept with the options of a run and is no option: how a sentence says its value."""

_CHECKPOINT = re.compile(r"\d{6}-\d{12}")
"""The name of a checkpoint's files, without the ending."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A state that was saved."""

    generation: int
    step: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.generation:06d}-{self.step:012d}"

    @classmethod
    def named(cls, name: str) -> Checkpoint:
        """The one whose files have that name."""
        generation, _, step = name.partition("-")
        return cls(int(generation), int(step))


def _typed(flag: str, value: Any) -> str:
    """Return an option as it is typed; *value* is not None."""
    if isinstance(value, bool):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    return f"{flag} {shlex.quote(str(value))}"


def _shown(value: Any) -> Any:
    """Return a value for a sentence: a stage by the name that the command has for it."""
    if value is None:
        return "none"
    return next((name for name, stage in STAGES.items() if stage.stage == value), value)


def _given(flag: str, value: Any) -> str:
    return f"without {flag}" if value is None else f"with {_typed(flag, value)}"


class RunFolder:
    """A run's folder, which all ranks see."""

    def __init__(self, path: Path) -> None:
        """Look at it, and write nothing."""
        self.path = path
        self._checkpoints = path / "checkpoints"
        self._generations = path / "generations"
        self._written: set[Path] = set()
        """Files that `begin` wrote, since there was no run before."""

    def check_links(self) -> None:
        """Refuse a folder of the run that is a link out of it: files are written and removed there.

        Raises:
            StoreError: There is one.
        """
        for name in (self._checkpoints.name, self._generations.name, "meetings", "samples"):
            confined.check_inside(self.path / name, self.path)

    def begun(self) -> bool:
        """Return True if it is a run's folder: one that `begin` wrote."""
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
        """Make it, or see that it is of a run with the same options, but for those that are *free*.

        Args:
            options: What was asked for.
            facts: What else is kept of it: `versions` of the beginning, `data` of the last time.
            free: Options that may be others when it goes on.
            complete: Gives options the values that they have where they are not said.
            changeable: Options that may be others where a run goes back to an earlier step.
            from_step: The step that it goes back to; None = it goes on.
            files: What else is written when it is made: name -> bytes.

        Raises:
            TesseraeError: It is of another, or holds other files.
        """
        file = self.path / "options.json"
        self.check_links()
        wanted = json.loads(json.dumps(dict(options)))
        if file.exists():
            kept = records.read_options(file)
            names = (kept["options"].keys() | wanted) - {*free}
            fixed = names - {*(() if from_step is None else changeable)}
            self._refuse_others(kept["options"], wanted, complete, fixed, changeable)
            found, now = complete(kept["options"]), complete(wanted)
            new = {**kept, "data": facts.get("data", kept.get("data")), "options": wanted}
            were = {n: found.get(n) for n in changeable if found.get(n) != now.get(n)}
            if were:
                new["changed"] = [*kept.get("changed", []), {"from_step": from_step, "were": were}]
            if new != kept:
                writing.write(file, json.dumps(new, indent=1).encode())
            return
        # A run that was killed as it began has left some of these.
        written = {file.name, *files}
        ours = {self._checkpoints.name, self._generations.name, TEMPORARY, *written}
        ours.add("lost+found")  # the run has a disk of its own
        ours |= {Path(name).with_suffix(".new").name for name in written}
        if self.path.is_dir() and any(one.name not in ours for one in self.path.iterdir()):
            raise TesseraeError(
                f"{self.path} holds other files: expected a new or an empty folder."
            )
        for folder in (self._checkpoints, self._generations):
            folder.mkdir(parents=True, exist_ok=True)
        self._written = {self.path / name for name in written}
        for name, data in files.items():
            writing.write(self.path / name, data)
        writing.write(file, json.dumps({**facts, "options": wanted}, indent=1).encode())

    def discard(self, made: Sequence[Path]) -> None:
        """Remove what a run wrote that never came to a step; where it did, leave all of it.

        Args:
            made: Folders that were made for it, which go too if nothing else is in them; the
                innermost first.
        """
        self.check_links()
        if self._saved() or (self.path / "metrics.jsonl").exists():
            return
        ours = [self.path / TEMPORARY / f"{LEASE}.lock", *self._written]
        if self._written:  # else it is somebody's folder, whatever lies in it
            ours += self._generations.glob("??????.json")
            ours += (self.path / "meetings").glob("??????.json")
        for file in ours:
            file.unlink(missing_ok=True)
        names = (self._generations.name, self._checkpoints.name, "meetings", TEMPORARY)
        folders = [self.path / name for name in names]
        for path in (*folders, *made):
            with suppress(OSError):  # it is not there, or somebody's file is in it
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
        """See, before anything is made for a run, whether it is one with other *options*.

        Args:
            options: As of `begin`.
            free: As of `begin`.
            complete: As of `begin`.
            changeable: As of `begin`.
            from_step: As of `begin`.

        Raises:
            TesseraeError: It is.
        """
        if (self.path / "options.json").exists():
            wanted = json.loads(json.dumps(dict(options)))
            fixed = wanted.keys() - {*free} - {*(() if from_step is None else changeable)}
            self._refuse_others(self.asked()["options"], wanted, complete, fixed, changeable)

    def _refuse_others(
        self,
        kept: Mapping[str, Any],
        wanted: Mapping[str, Any],
        complete: Complete,
        fixed: Collection[str],
        changeable: Collection[str],
    ) -> None:
        """Refuse another value of an option that is *fixed*, and name the one that was typed.

        An option that decides others, such as the objective, changes what is filled in for them.
        """
        found, now_complete = complete(kept), complete(wanted)
        other = [n for n in fixed if found.get(n) != now_complete.get(n)]
        if not other:
            return
        name = min(other, key=lambda n: (n not in _FACTS, kept.get(n) == wanted.get(n), n))
        was, now = found.get(name), now_complete.get(name)
        if name in _FACTS:
            says = _FACTS[name]
            raise TesseraeError(
                f"{self.path} is a run {says.format(_shown(was))}, not {says.format(_shown(now))}."
                " Name another folder with --run."
            )
        flag = f"--{name.replace('_', '-')}"
        back = f", or go back with --from-step, from where {flag} may be another"
        raise TesseraeError(
            f"{self.path} was begun {_given(flag, was)}, and cannot go on {_given(flag, now)}."
            f" {f'Leave {flag} out' if was is None else f'Pass {_typed(flag, was)}'}"
            f"{back if name in changeable else ''}, or name another folder with --run."
        )

    def asked(self) -> dict[str, Any]:
        """What was asked for: `options`, and the facts that were given with them.

        Raises:
            TesseraeError: It is no run's folder.
        """
        try:
            return records.read_options(self.path / "options.json")
        except OSError as e:
            missing = isinstance(e, FileNotFoundError | NotADirectoryError)
            why = "it has no options.json" if missing else f"options.json: {e.strerror or e}"
            raise TesseraeError(
                f"{self.path} is no folder of a run: {why}. Pass the folder that"
                " `tesserae train` wrote, its --run (runs/STAGE by default)."
            ) from None

    def data(self) -> dict[str, Any]:
        """What is said of the data that the run learned from.

        Raises:
            TesseraeError: It is no run's folder, or says nothing of its data.
        """
        self.asked()
        return records.read_data(self.path / "options.json")

    def store(self, named: str | None = None) -> str:
        """The store that the run learned from: where it was, or beside the run if both were moved.

        Args:
            named: Where the store is now, as a person says; None = look where it may be.

        Returns:
            Its folder or URL.

        Raises:
            TesseraeError: It is not there, or is another store.
        """
        data = self.data()
        places = [data["store"], *self._near(data)] if named is None else [named]
        for place in places:
            objects = open_objects(place)
            if records_of_store.splits(objects):
                plan = records_of_store.load_plan(objects, data["split"]).digest
                if data.get("plan") not in (None, plan):
                    if named is None:
                        continue
                    raise TesseraeError(
                        f"--store is {named}: its split {data['split']!r} has other rows than"
                        f" {self.path} learned from. Name the store of the run."
                    )
                return place
        raise TesseraeError(
            f"{self.path} learned from a store that is not at {' or '.join(places)}: name it with"
            " --store, where it is now."
        )

    def _near(self, data: Mapping[str, Any]) -> list[str]:
        near = data.get("store_from_run")
        return [] if near is None else [str((self.path / str(near)).resolve())]

    def claim(self, *, from_step: int | None = None) -> tuple[int, Checkpoint | None]:
        """Claim the next generation; returns its number, and what it goes on from.

        Args:
            from_step: The step to go back to; None = the newest checkpoint.

        Raises:
            TesseraeError: There is no checkpoint of that step.
        """
        self.check_links()
        while True:
            resumed = self.newest() if from_step is None else self.at(from_step)
            number = max(self._claimed(), default=0) + 1
            record = {"resumed": None if resumed is None else resumed.name}
            new = self._generations / f".{os.getpid()}-{number}"
            writing.write(new, json.dumps(record).encode())
            if not name_exclusively(
                new, self._generations / f"{number:06d}.json", self._generations
            ):
                continue  # another has claimed that one
            sync_folder(self._generations)
            # Ranks would go where a file of this number says that lies here already.
            (self.path / "meetings" / f"{number:06d}.json").unlink(missing_ok=True)
            self._sweep()
            return number, resumed

    def _sweep(self) -> None:
        """Remove what saving left behind that was broken off: it is as long as a checkpoint.

        An older generation may be saving still. What it saves counts for nothing by now.
        """
        for file in self._checkpoints.iterdir():
            torn = file.suffix == writing.NEW or (
                file.suffix == ".pt" and not file.with_suffix(".json").exists()
            )
            if torn and _CHECKPOINT.fullmatch(file.stem):
                file.unlink(missing_ok=True)

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, and in the line of the last generation."""
        return next(self._line(), None)

    def at(self, step: int) -> Checkpoint | None:
        """The newest checkpoint of a step, in the line of the last generation.

        Args:
            step: Number of complete steps.

        Returns:
            The checkpoint; None for step 0, before which there is none.

        Raises:
            TesseraeError: No checkpoint of the line is of that step.
        """
        if step == 0:
            return None
        steps = {self.step_of(one): one for one in reversed(list(self._line()))}
        if step not in steps:
            raise TesseraeError(
                f"--from-step is {step}: {self.path} has {_listed(steps)} to go back to, and 0 to"
                " begin anew."
            )
        return steps[step]

    def steps(self) -> list[int]:
        """The steps that `--from-step` can go back to, ascending, beside 0."""
        return sorted({self.step_of(one) for one in self._line()})

    def finite_steps(self) -> list[int]:
        """As `steps`, of checkpoints whose values are finite: all of them are read."""
        loaded = ((one, self.load(one)) for one in self._line())
        return sorted({self.step_of(one) for one, s in loaded if first_not_finite(s) is None})

    def step_of(self, checkpoint: Checkpoint) -> int:
        """How many steps were complete when *checkpoint* was saved."""
        _, step = records.read_checkpoint(self._checkpoints / f"{checkpoint.name}.json")
        # Earlier versions did not note it.
        return int(self.load(checkpoint)["stage"]["step"]) if step is None else step

    def _line(self) -> Iterator[Checkpoint]:
        """The whole checkpoints that led to the last generation, the newest first."""
        claimed = self._claimed()
        generation, most = max(claimed, default=0), math.inf
        while generation:
            for found in sorted(self._saved(generation), reverse=True):
                if found.step <= most and self._whole(found):
                    yield found
            resumed = claimed.get(generation)
            if resumed is None or resumed.generation >= generation:
                return
            generation, most = resumed.generation, resumed.step

    def save(self, checkpoint: Checkpoint, state: Mapping[str, Any], *, step: int) -> None:
        """Save a state durably, and let go of the oldest.

        Args:
            checkpoint: What it is called.
            state: Plain values and tensors.
            step: Number of complete steps.

        Raises:
            DiskFullError: There is no room for it. The checkpoints before it are as they were.
        """
        file = self._checkpoints / f"{checkpoint.name}.pt"
        with writing.replacing(file, num_bytes=num_bytes(state)) as out:
            torch.save(dict(state), cast(IO[bytes], out))
        record = {"blake2b": _digest(file), "step": step}
        writing.write(file.with_suffix(".json"), json.dumps(record).encode())
        if max(self._claimed(), default=0) == checkpoint.generation:  # else it is not ours to tidy
            whole = [found for found in sorted(self._saved()) if found <= checkpoint]
            for old in whole[:-KEPT]:
                for suffix in (".json", ".pt"):
                    (self._checkpoints / old.name).with_suffix(suffix).unlink(missing_ok=True)

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The state, on the CPU. Nothing that a file says is run."""
        file = self._checkpoints / f"{checkpoint.name}.pt"
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            intact = isinstance(state, dict) and isinstance(state.get("stage"), dict)
        except (OSError, MemoryError):
            raise
        except Exception:  # torch has many for what is none of its files  # noqa: BLE001
            intact = False
        if not intact:
            raise TesseraeError(f"{file} is no checkpoint of a run: remove it and its .json.")
        return cast("dict[str, Any]", state)

    def load_trained(self, checkpoint: Checkpoint, *parts: str) -> dict[str, Any]:
        """The state of the stage in *checkpoint*, for whoever uses or judges what it has learned.

        Args:
            checkpoint: Which.
            parts: The parts of the state whose values must be finite.

        Raises:
            DivergedError: A value of these parts is not finite, which earlier versions saved.
        """
        stage: dict[str, Any] = self.load(checkpoint)["stage"]
        bad = first_not_finite({name: stage[name] for name in parts})
        if bad is not None:
            steps = ", ".join(f"{step:,}" for step in [0, *self.finite_steps()])
            raise DivergedError(
                f"{self.path}: the checkpoint of step {stage['step']:,} holds weights that are not"
                f" finite ({bad}): training has diverged. Train it again with a lower rate and"
                f" --from-step, which can be one of {steps}."
            )
        return stage

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Keep a picture of what is made after *step*."""
        file = self.picture_file(name, step)
        file.parent.mkdir(exist_ok=True)
        writing.write(file, png)

    def picture_file(self, name: str, step: int) -> Path:
        """Where such a picture lies."""
        return self.path / "samples" / f"{name}-{step:09d}.png"

    def say(self, message: Mapping[str, Any]) -> None:
        """Add a line to the metrics; a number that is not finite is written as null."""
        line = json.dumps(finite_or_none(message), allow_nan=False)
        writing.append(self.path / "metrics.jsonl", line.encode() + b"\n")

    def diverged(self) -> DivergedError | None:
        """Why the run ended, where a value was not finite; None if that is not how it ended."""
        lines = [line for line in self.metrics() if line.get("what") == "diverged"]
        return DivergedError(str(lines[-1]["why"])) if lines else None

    def metrics(self) -> list[dict[str, Any]]:
        """What was said of each step by the generation that counts, by step.

        What an older one said of steps that a newer one has taken, or has not come to yet since it
        went on from before them, is left out.
        """
        lines = list(self._lines())
        limits: dict[int, float] = {}
        limit = math.inf
        for generation in sorted({line["generation"] for line in lines}, reverse=True):
            limits[generation] = limit
            steps = (line["step"] for line in lines if line["generation"] == generation)
            limit = min(limit, *steps)
        found = {
            (line["step"], line.get("what", "")): line
            for line in lines
            if line["step"] < limits[line["generation"]]
        }
        return [found[key] for key in sorted(found)]

    def _lines(self) -> Iterator[dict[str, Any]]:
        return records.read_lines(self.path / "metrics.jsonl")

    def _claimed(self) -> dict[int, Checkpoint | None]:
        found: dict[int, Checkpoint | None] = {}
        for file in self._generations.glob("??????.json"):
            if file.stem.isascii() and file.stem.isdecimal():
                resumed = records.read_claim(file)
                found[int(file.stem)] = None if resumed is None else Checkpoint.named(resumed)
        return found

    def _saved(self, generation: int | None = None) -> list[Checkpoint]:
        stems = (file.stem for file in self._checkpoints.glob("*.json"))
        every = [Checkpoint.named(stem) for stem in stems if _CHECKPOINT.fullmatch(stem)]
        return [found for found in every if generation in (None, found.generation)]

    def _whole(self, checkpoint: Checkpoint) -> bool:
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
