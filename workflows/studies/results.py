"""The folder of a study: its settings and what has been finished, line by line.

    settings.json   the name of the study, and the values that decide its results
    NAME.jsonl      a line for each finished piece of work, such as the run of an arm

A command that is killed loses the piece that it was working on, and no other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pipeline.errors import TesseraeError
from pipeline.store import schema
from pipeline.store.lease import lease
from pipeline.store.open import open_objects
from workflows.training import writing

SETTINGS_FILE = "settings.json"
LEASE_NAME = "study"
"""The name of the lock of a folder, the same for all studies: they would share its files."""

MAX_DIFFERENCES, MAX_VALUE_LENGTH = 3, 30
"""The number of settings that a message names at most, and the length of a value that it prints:
longer ones, such as digests and the fingerprints of a source, tell a reader nothing."""
_STUDY = "study"
"""The name of the setting that is the name of the study."""

R = TypeVar("R")


class ResultsFolder:
    """The folder of a study."""

    def __init__(self, path: Path, study: str | None = None) -> None:
        """Name the folder, which need not exist.

        Args:
            path: The folder.
            study: The name of the study, which is recorded with its settings, so that a folder of
                another study is refused by its name (default: none is recorded).
        """
        self.path = path
        self.study = study

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder inside the block, so that no other study runs in it.

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

    def check_known_settings(
        self, settings: Mapping[str, Any], *, own_entries: Collection[str] = ()
    ) -> None:
        """Compare settings with those of the folder before a study works in it; write nothing.

        Args:
            settings: Those settings that are known so far, as JSON values. A folder of another
                study is refused if it has other values of them, or none.
            own_entries: The same names as those that `check_settings` gets.

        Raises:
            TesseraeError: The folder has results of another study or of other settings, or other
                files, or its settings are damaged.
            OSError: They cannot be read.
        """
        recorded = self._recorded_settings(own_entries)
        if recorded is not None:
            self._compare({name: recorded.get(name) for name in settings}, settings)

    def check_settings(
        self, settings: Mapping[str, Any], *, own_entries: Collection[str] = ()
    ) -> None:
        """Write the settings of a new study, or compare them with those of the folder.

        Args:
            settings: The settings by name, as JSON values.
            own_entries: The names of files and folders that the study itself writes before it knows
                its settings, such as a store that it prepares (default: none).

        Raises:
            TesseraeError: The folder has results of another study or of other settings, or other
                files, or its settings are damaged.
            OSError: They cannot be read or written.
        """
        recorded = self._recorded_settings(own_entries)
        if recorded is None:
            named = {} if self.study is None else {_STUDY: self.study}
            text = json.dumps({**named, **settings}, indent=1)
            writing.write(self.path / SETTINGS_FILE, text.encode())
        else:
            self._compare(recorded, settings)

    def _recorded_settings(self, own_entries: Collection[str]) -> dict[str, Any] | None:
        """Return the settings of the folder; None if it has no results, nor other files."""
        file = self.path / SETTINGS_FILE
        if not file.exists():
            # A command that is killed while it writes the settings leaves the temporary file.
            own = {*own_entries, file.with_suffix(writing.TEMPORARY_SUFFIX).name}
            unknown = sorted(
                entry.name
                for entry in self.path.iterdir()
                if not entry.name.startswith(".") and entry.name not in own
            )
            if unknown:
                raise TesseraeError(
                    f"--out {self.path} is no folder of this study: it contains {unknown[0]!r}."
                    " Pass another folder."
                )
            return None
        try:
            recorded: dict[str, Any] = schema.check(
                dict[str, Any], json.loads(file.read_bytes()), "it"
            )
        except (ValueError, RecursionError) as e:
            raise TesseraeError(
                f"{file} is damaged: {str(e)[:200]}. It says which settings the results are of, so"
                " pass another --out."
            ) from None
        # A folder of an earlier version has no name: its settings alone tell it from others.
        name = recorded.pop(_STUDY, None)
        if None not in (name, self.study) and name != self.study:
            raise TesseraeError(
                f"--out {self.path} has results of the study {name}, and this is the study"
                f" {self.study}. Pass another --out."
            )
        return recorded

    def _compare(self, recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        current = json.loads(json.dumps(settings))
        different = [
            _difference_text(name, recorded, current)
            for name in {**recorded, **current}
            if recorded.get(name) != current.get(name)
        ]
        if different:
            num_more = len(different) - MAX_DIFFERENCES
            more = [f"and {num_more} more"] if num_more > 0 else []
            raise TesseraeError(
                f"--out {self.path} has results of other settings:"
                f" {'; '.join(different[:MAX_DIFFERENCES] + more)}. Pass the same ones, or another"
                " --out."
            )

    def records(self, kind: type[R], name: str) -> list[R]:
        """Return the finished pieces of work of one kind, in the order in which they were appended.

        Args:
            kind: The dataclass of a piece.
            name: The name of their file, such as `runs.jsonl`.

        Raises:
            TesseraeError: A line is damaged.
            OSError: The file cannot be read.
        """
        file = self.path / name
        data = file.read_bytes() if file.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        return [
            _record(kind, file, number, text)
            for number, text in enumerate(complete.splitlines(), start=1)
        ]

    def append(self, record: Any, name: str) -> None:
        """Append a finished piece of work, which a command that is killed later does not lose.

        Args:
            record: The piece, a value of a dataclass.
            name: The name of the file.

        Raises:
            DiskFullError: The disk has no room for it.
            OSError: It cannot be written for another reason.
        """
        file = self.path / name
        _drop_incomplete_line(file)
        writing.append(file, json.dumps(asdict(record)).encode() + b"\n")


def _difference_text(name: str, recorded: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    """Return how a setting differs, with both values if they are short enough to be read."""
    shown = name.replace("_", " ")
    both = recorded.get(name), current.get(name)
    if any(isinstance(value, dict | list) or len(str(value)) > MAX_VALUE_LENGTH for value in both):
        return f"{shown}: not the same"
    return f"{shown} is {both[0]!r} in the folder and {both[1]!r} here"


def _drop_incomplete_line(file: Path) -> None:
    """Remove the line that a killed command has left incomplete."""
    data = file.read_bytes() if file.exists() else b""
    if data and not data.endswith(b"\n"):
        writing.write(file, data[: data.rfind(b"\n") + 1])


def _record(kind: type[R], file: Path, number: int, text: bytes) -> R:
    try:
        line = schema.check(dict[str, Any], json.loads(text), "a line")
        return schema.parse(kind, dict(line))
    except (ValueError, RecursionError) as e:
        raise TesseraeError(
            f"{file} is damaged: line {number}: {str(e)[:200]}. Remove the line, whose piece of"
            " work is then done again, or pass another --out."
        ) from None
