"""What the small files of a run's folder may say: each is checked when it is read.

A run's folder may be another person's. So types and bounds are compared before anything relies on
them (`pipeline.store.schema`), and a value that cannot be is a sentence that names file and key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pipeline.errors import TesseraeError
from pipeline.store import schema
from pipeline.store.schema import Count, SchemaError, Size, Split, pattern

MAX_BYTES = 2**28
"""Length of the longest file of these that is read at once: options, a claim, a checkpoint's."""

Name = Annotated[str, pattern(r"\d{6}-\d{12}", "a checkpoint, six digits, '-' and twelve")]

OPTIONS: dict[str, Any] = {
    "stage": str,
    "steps": Count,
    "image_size": Count,
    "stored_size": Size | None,
    "split": Split,
}
"""Options that readers of a run rely on, beside those that a stage checks itself."""

DATA: dict[str, Any] = {
    "store": str,
    "split": Split,
    "size": Size,
    "features": str | None,
    "held_out": Split | None,
    "classes": tuple[str, ...],
    "wnids": tuple[str, ...],
}
"""What is said of the data that a run learned from."""

FIGURES = ("", "look", "speed")
"""Kinds of lines of the metrics whose values are numbers, or null for what is not finite."""


class RunFileError(TesseraeError):
    """A file of a run's folder says what it cannot say."""


@dataclass(frozen=True)
class Claim:
    """What `generations/<generation>.json` says."""

    resumed: Name | None


@dataclass(frozen=True)
class Meeting:
    """What `meetings/<generation>.json` says."""

    host: str
    port: Annotated[int, schema.Between(1, 65_535)]


def read_options(file: Path) -> dict[str, Any]:
    """Return what `options.json` says.

    Raises:
        OSError: It cannot be read.
        RunFileError: It is no JSON, or a value is not what it can be.
    """
    found = _load(file)
    try:
        schema.check(dict[str, Any], found, "it")
        schema.check(dict[str, Any], found.get("options"), "options")
        schema.check(dict[str, str], found.get("versions", {}), "versions")
        _check_known(found["options"], OPTIONS, "options")
        if found.get("data") is not None:
            schema.check(dict[str, Any], found["data"], "data")
            _check_known(found["data"], DATA, "data")
    except SchemaError as e:
        raise _wrong(file, e) from None
    return dict(found)


def read_data(file: Path) -> dict[str, Any]:
    """Return what `options.json` says of the data; runs of before may not say all of it.

    Raises:
        OSError: It cannot be read.
        RunFileError: As `read_options`, or nothing is said of the data.
    """
    said = read_options(file).get("data") or {}
    data = {"features": None, "held_out": None, "wnids": [], **said}
    missing = sorted(DATA.keys() - data.keys())
    if missing:
        raise _wrong(file, SchemaError(f"data.{missing[0]} is missing"))
    return data


def read_claim(file: Path) -> str | None:
    """Return the checkpoint that a generation went on from, None for the beginning.

    Raises:
        OSError: It cannot be read.
        RunFileError: It says something else.
    """
    try:
        return schema.read(Claim, _load(file)).resumed
    except SchemaError as e:
        raise _wrong(file, e) from None


def read_meeting(file: Path) -> Meeting:
    """Return where the ranks of a generation meet.

    Raises:
        OSError: It cannot be read.
        RunFileError: It says something else.
    """
    try:
        return schema.read(Meeting, _load(file))
    except SchemaError as e:
        raise _wrong(file, e) from None


def read_checkpoint(file: Path) -> tuple[str, int | None]:
    """Return a checkpoint's digest, and its step, which earlier versions did not note.

    Raises:
        OSError: It cannot be read.
        RunFileError: It says something else.
    """
    found = _load(file)
    try:
        schema.check(dict[str, Any], found, "it")
        digest: str = schema.check(schema.Digest, found.get("blake2b"), "blake2b")
        step: int | None = schema.check(Count | None, found.get("step"), "step")
    except SchemaError as e:
        raise _wrong(file, e) from None
    return digest, step


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of `metrics.jsonl`, but for one that a killed rank did not finish.

    Raises:
        RunFileError: A line says what it cannot say.
    """
    for number, text in enumerate(file.read_bytes().splitlines() if file.exists() else (), 1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        try:
            _check_line(line)
        except SchemaError as e:
            raise _wrong(file, SchemaError(f"line {number}: {e}")) from None
        yield line


def _check_line(line: Any) -> None:
    if type(line) is not dict:
        raise SchemaError(f"it is {schema.shown(line)}: expected an object")
    what = schema.check(str, line.get("what", ""), "what")
    for name in ("step", "generation"):
        schema.check(Count, line.get(name), name)
    for name, value in line.items():
        # Runs of before wrote NaN and infinity for what was not finite.
        whole = type(value) is int and abs(value) < 2**63
        figure = value is None or type(value) is float or whole
        if what in FIGURES and name != "what" and not figure:
            raise SchemaError(f"{name} is {schema.shown(value)}: expected a number, or null")


def _check_known(values: dict[str, Any], known: dict[str, Any], where: str) -> None:
    for name in values.keys() & known.keys():
        schema.check(known[name], values[name], f"{where}.{name}")


def _load(file: Path) -> Any:
    if file.stat().st_size > MAX_BYTES:
        raise _wrong(file, SchemaError(f"it is longer than {MAX_BYTES:,} bytes"))
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as e:
        raise _wrong(file, SchemaError(f"it is no JSON ({str(e)[:100]})")) from None


def _wrong(file: Path, error: SchemaError) -> RunFileError:
    return RunFileError(
        f"{file} cannot be of a run: {error}. Bring it back from a copy, or name another folder."
    )
