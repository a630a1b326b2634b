"""The folder of a run that trains: what was asked for, how far it came, what it said.

    options.json                      what was asked for, of what, and with which versions
    generations/<generation>.json     each time the ranks began: from which checkpoint
    checkpoints/<generation>-<step>.pt, .json
                                      the state, and its digest, written last
    metrics.jsonl                     what ranks said, a line each
    samples/<name>-<step>.png         what was made then
    meetings/                         where the ranks of a generation met

A run goes on where its folder is given again. Who begins claims the next generation; from then on
what an older one still writes, being cut off from whoever could stop it, counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from pipeline.errors import TesseraeError
from pipeline.filesystem import name_exclusively, sync_folder

KEPT = 3
"""Checkpoints of a run that stay."""


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


class RunFolder:
    """A run's folder, which all ranks see."""

    def __init__(self, path: Path) -> None:
        """Look at it, and write nothing."""
        self.path = path
        self._checkpoints = path / "checkpoints"
        self._generations = path / "generations"

    def begin(
        self,
        options: Mapping[str, Any],
        facts: Mapping[str, Any],
        *,
        free: Collection[str] = (),
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Make it, or see that it is of a run with the same options, but for those that are *free*.

        Args:
            options: What was asked for.
            facts: What else is kept of it: `versions` of the beginning, `data` of the last time.
            free: Options that may be others when it goes on.
            files: What else is written when it is made: name -> bytes.

        Raises:
            TesseraeError: It is of another, or holds other files.
        """
        file = self.path / "options.json"
        wanted = json.loads(json.dumps(dict(options)))
        if file.exists():
            kept = json.loads(file.read_text())
            names = kept["options"].keys() | wanted
            self._refuse_others(kept["options"], wanted, names - {*free})
            new = {**kept, "data": facts.get("data", kept.get("data")), "options": wanted}
            if new != kept:
                _write(file, json.dumps(new, indent=1).encode())
            return
        # A run that was killed as it began has left some of these.
        written = {file.name, *files}
        ours = {self._checkpoints.name, self._generations.name, *written}
        ours |= {Path(name).with_suffix(".new").name for name in written}
        if self.path.is_dir() and any(one.name not in ours for one in self.path.iterdir()):
            raise TesseraeError(
                f"{self.path} holds other files: expected a new or an empty folder."
            )
        for folder in (self._checkpoints, self._generations):
            folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _write(self.path / name, data)
        _write(file, json.dumps({**facts, "options": wanted}, indent=1).encode())

    def check(self, options: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
        """See, before anything is made for a run, whether it is one with other *options*.

        Raises:
            TesseraeError: It is.
        """
        if (self.path / "options.json").exists():
            wanted = json.loads(json.dumps(dict(options)))
            self._refuse_others(self.asked()["options"], wanted, wanted.keys() - {*free})

    def _refuse_others(
        self, found: Mapping[str, Any], wanted: Mapping[str, Any], names: Collection[str]
    ) -> None:
        other = sorted(n for n in names if found.get(n) != wanted.get(n))
        if other:
            name = other[0]
            raise TesseraeError(
                f"{self.path} is of a run with {name} {found.get(name)!r}, not"
                f" {wanted.get(name)!r}. Name another folder, or give it the same options."
            )

    def asked(self) -> dict[str, Any]:
        """What was asked for: `options`, and the facts that were given with them.

        Raises:
            TesseraeError: It is no run's folder.
        """
        try:
            found: dict[str, Any] = json.loads((self.path / "options.json").read_text())
        except (OSError, ValueError) as e:
            raise TesseraeError(f"{self.path} is no folder of a run ({e}).") from None
        return found

    def claim(self) -> tuple[int, Checkpoint | None]:
        """Claim the next generation; returns its number, and what it goes on from."""
        while True:
            resumed = self.newest()
            number = max(self._claimed(), default=0) + 1
            record = {"resumed": None if resumed is None else resumed.name}
            new = self._generations / f".{os.getpid()}-{number}"
            with new.open("w") as out:
                out.write(json.dumps(record))
                out.flush()
                os.fsync(out.fileno())
            if not name_exclusively(
                new, self._generations / f"{number:06d}.json", self._generations
            ):
                continue  # another has claimed that one
            sync_folder(self._generations)
            return number, resumed

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, and in the line of the last generation."""
        claimed = self._claimed()
        generation, most = max(claimed, default=0), math.inf
        while generation:
            for found in sorted(self._saved(generation), reverse=True):
                if found.step <= most and self._whole(found):
                    return found
            resumed = claimed[generation]
            if resumed is None:
                return None
            generation, most = resumed.generation, resumed.step
        return None

    def save(self, checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
        """Save a state durably, and let go of the oldest."""
        file = self._checkpoints / f"{checkpoint.name}.pt"
        new = file.with_suffix(".new")
        with new.open("wb") as out:
            torch.save(dict(state), out)
            out.flush()
            os.fsync(out.fileno())
        digest = _digest(new)
        new.replace(file)
        _write(file.with_suffix(".json"), json.dumps({"blake2b": digest}).encode())
        if max(self._claimed(), default=0) == checkpoint.generation:  # else it is not ours to tidy
            whole = [found for found in sorted(self._saved()) if found <= checkpoint]
            for old in whole[:-KEPT]:
                for suffix in (".json", ".pt"):
                    (self._checkpoints / old.name).with_suffix(suffix).unlink(missing_ok=True)

    def load(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The state, on the CPU. Nothing that a file says is run."""
        file = self._checkpoints / f"{checkpoint.name}.pt"
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Keep a picture of what is made after *step*."""
        file = self.picture_file(name, step)
        file.parent.mkdir(exist_ok=True)
        _write(file, png)

    def picture_file(self, name: str, step: int) -> Path:
        """Where such a picture lies."""
        return self.path / "samples" / f"{name}-{step:09d}.png"

    def say(self, message: Mapping[str, Any]) -> None:
        """Add a line to the metrics."""
        with (self.path / "metrics.jsonl").open("ab") as out:
            out.write(json.dumps(dict(message)).encode() + b"\n")

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
        file = self.path / "metrics.jsonl"
        for line in file.read_bytes().splitlines() if file.exists() else ():
            with suppress(ValueError):  # the last may be torn
                yield json.loads(line)

    def _claimed(self) -> dict[int, Checkpoint | None]:
        found: dict[int, Checkpoint | None] = {}
        for file in self._generations.glob("??????.json"):
            resumed = json.loads(file.read_text())["resumed"]
            found[int(file.stem)] = None if resumed is None else Checkpoint.named(resumed)
        return found

    def _saved(self, generation: int | None = None) -> list[Checkpoint]:
        every = [Checkpoint.named(file.stem) for file in self._checkpoints.glob("*.json")]
        return [found for found in every if generation in (None, found.generation)]

    def _whole(self, checkpoint: Checkpoint) -> bool:
        file = self._checkpoints / f"{checkpoint.name}.json"
        try:
            return bool(json.loads(file.read_text())["blake2b"] == _digest(file.with_suffix(".pt")))
        except (OSError, ValueError, KeyError):
            return False


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _write(file: Path, data: bytes) -> None:
    new = file.with_suffix(".new")
    with new.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
    sync_folder(file.parent)
