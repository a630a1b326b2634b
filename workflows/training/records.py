"""Readers of the small files in a run folder, which validate each file when it is read.

A run folder may come from somebody else. Types and bounds are therefore checked before anything
relies on them (`pipeline.store.schema`), and an invalid value is an error that names file and key.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pipeline.errors import TesseraeError
from pipeline.store import schema
from pipeline.store.schema import Count, EncodingName, SchemaError, Size, Split, pattern
from workflows.training.options import TrainingOptions
from workflows.training.stage_registry import STAGES, import_object, recorded_name

MAX_BYTES = 2**28
"""The maximum length of a JSON file that is read at once, in bytes."""

TRACKING = "tracking"
"""The folder of a run in which `workflows.tracking` keeps positions and outputs of trackers."""
TRACKERS = ("tensorboard", "wandb", "mlflow")
"""The names of trackers, which are those of their folders in that of a run, too."""

CheckpointName = Annotated[
    str, pattern(r"\d{6}-\d{12}", "a checkpoint, six digits, '-' and twelve")
]

OPTION_TYPES: dict[str, Any] = {
    "stage": str,
    "steps": Count,
    "image_size": Count,
    "stored_size": Size | None,
    "split": Split,
}
"""The types of options that readers of a run rely on; a stage checks its own."""

DATA_TYPES: dict[str, Any] = {
    "store": str,
    "split": Split,
    "size": Size,
    "encoded": EncodingName | None,
    "features": str | None,
    "held_out": Split | None,
    "classes": tuple[str, ...],
    "wnids": tuple[str, ...],
    "sizes": tuple[Size, ...],
    "held_out_size": Size | None,
}
"""The types of the `data` section of `options.json`."""

NUMERIC_KINDS = ("", "look", "speed")
"""The kinds of metrics lines whose values are numbers, or null for NaN and infinity: `""` for a
training step, `look` for an evaluation, `speed` for a measurement of the speed."""


class RunFileError(TesseraeError):
    """A file of a run folder has invalid content."""


@dataclass(frozen=True)
class Claim:
    """The content of `generations/<generation>.json`."""

    resumed: CheckpointName | None
    """The checkpoint that the generation resumed; None = it trains from scratch."""


@dataclass(frozen=True)
class Rendezvous:
    """The content of `meetings/<generation>.json`: the address of rank 0."""

    host: str
    """The address on which rank 0 listens."""
    port: Annotated[int, schema.Between(1, 65_535)]
    """Its TCP port."""


def read_recorded_options(file: Path) -> dict[str, Any]:
    """Return the content of `options.json`, with the present names of the stage and its options.

    Args:
        file: The path of `options.json`.

    Returns:
        A dictionary of its sections: `options`, the value of each option by name, with the name of
        the `stage` and the entries `split`, `stored_size`, `rows` (the digest of the
        readable rows and their pixels) and `features` on the data; `versions`, the version of each
        package by name at the first start; `data`, the recorded entries `store`, `split`, `size`,
        `encoded`, `features`, `held_out`, `classes` and `wnids` on the store and its classes; and
        `changed`, a list with an entry for each restart from an earlier step that changed options,
        `{"from_step": the step, "were": the replaced values by name}`. All but `options` may be
        missing.

    Raises:
        OSError: The file cannot be read.
        RunFileError: It is not JSON, is too long, or a value is invalid.
    """
    document = _load_json(file)
    try:
        schema.check(dict[str, Any], document, "it")
        schema.check(dict[str, Any], document.get("options"), "options")
        schema.check(dict[str, str], document.get("versions", {}), "versions")
        _check_known(document["options"], OPTION_TYPES, "options")
        if document.get("data") is not None:
            schema.check(dict[str, Any], document["data"], "data")
            _check_known(document["data"], DATA_TYPES, "data")
    except SchemaError as e:
        raise _invalid(file, e) from None
    options = document["options"]
    if "stage" in options:
        options["stage"] = recorded_name(options["stage"])
    return {**document, "options": _renamed(options)}


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    """Return options by their present names.

    A former name of one stage's option may be the present name of another's, so only the options of
    the run's own stage are renamed, or those that all stages have if it is not known.
    """
    stage = STAGES.get(options.get("stage", ""))
    kind: type[TrainingOptions] = TrainingOptions if stage is None else import_object(stage.options)
    present = {field.name for field in dataclasses.fields(kind)}
    names = {old: new for old, new in kind.FORMER_NAMES.items() if new in present}
    return {
        name if name in present else names.get(name, name): value for name, value in options.items()
    }


def read_data(file: Path) -> dict[str, Any]:
    """Return the `data` section of `options.json`, completed for runs of earlier versions.

    Args:
        file: The path of `options.json`.

    Returns:
        A dictionary with `store`, the recorded path or URL of the store; `split`, the training
        split; `held_out`, the split of evaluations, or None; `size`, the side of the images that
        were read, in pixels; `encoded`, the name of the encoded rows that they were decoded from,
        or None for stored squares; `features`, the name of stored features, or None; `classes` and
        `wnids`, lists by label of class names and of wnids, the latter empty in runs of earlier
        versions; `sizes`, the sides of the stored squares that the run chooses from, and
        `held_out_size`, the side of the images of evaluations, or None, both in pixels. Also
        `plan`, the digest of the plan of the training split, and `store_from_run`, the path of the
        store relative to the run folder (None for a URL), if they were recorded.

    Raises:
        OSError: The file cannot be read.
        RunFileError: It is not JSON, a value is invalid, or an entry or the section is missing.
    """
    section = read_recorded_options(file).get("data") or {}
    data = {
        "encoded": None, "features": None, "held_out": None, "wnids": [], "sizes": [],
        "held_out_size": None, **section,
    }  # fmt: skip
    missing = sorted(DATA_TYPES.keys() - data.keys())
    if missing:
        raise _invalid(file, SchemaError(f"data.{missing[0]} is missing"))
    return data


def read_claim(file: Path) -> str | None:
    """Return the name of the checkpoint that a generation resumed; None = it trains from scratch.

    Args:
        file: The path of `generations/<generation>.json`, such as `generations/000002.json`.

    Returns:
        The name, generation and updates, such as `000001-000000002000`; or None.

    Raises:
        OSError: The file cannot be read.
        RunFileError: Its content is invalid.
    """
    try:
        return schema.parse(Claim, _load_json(file)).resumed
    except SchemaError as e:
        raise _invalid(file, e) from None


def read_rendezvous(file: Path) -> Rendezvous:
    """Return the address at which the ranks of a generation connect.

    Args:
        file: The path of `meetings/<generation>.json`, such as `meetings/000002.json`.

    Returns:
        The `host`, the IP address or name on which rank 0 listens, and the TCP `port`, 1 to 65535.

    Raises:
        OSError: The file cannot be read.
        RunFileError: Its content is invalid.
    """
    try:
        return schema.parse(Rendezvous, _load_json(file))
    except SchemaError as e:
        raise _invalid(file, e) from None


def read_checkpoint(file: Path) -> tuple[str, int | None]:
    """Return the digest and the step of a checkpoint.

    Args:
        file: The path of `checkpoints/<generation>-<updates>.json`.

    Returns:
        The BLAKE2b digest of its state file, 32 hexadecimal digits; and its number of complete
        steps, or None if an earlier version saved it.

    Raises:
        OSError: The file cannot be read.
        RunFileError: Its content is invalid.
    """
    document = _load_json(file)
    try:
        schema.check(dict[str, Any], document, "it")
        digest: str = schema.check(schema.Digest, document.get("blake2b"), "blake2b")
        step: int | None = schema.check(Count | None, document.get("step"), "step")
    except SchemaError as e:
        raise _invalid(file, e) from None
    return digest, step


def read_metric_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of `metrics.jsonl` in their order, skipping lines that are not JSON.

    A killed rank may leave such an incomplete line. The whole file is read at the first item.

    Args:
        file: The path of the file; if it does not exist, nothing is yielded.

    Yields:
        A dictionary for each line, with the integers `step` and `generation`, and `what`, the kind
        of the line, which lines of training steps lack. Lines of training steps, of evaluations
        (`look`) and of the speed (`speed`) have metrics by name: numbers, or None for one that is
        not finite; earlier versions recorded NaN and infinity, which are yielded as floats. Lines
        of other kinds may have any values.

    Raises:
        OSError: The file exists and cannot be read.
        RunFileError: A line has invalid content; the lines before it have been yielded.
    """
    for number, text in enumerate(file.read_bytes().splitlines() if file.exists() else (), 1):
        try:
            line = parse_metric_line(text)
        except SchemaError as e:
            raise _invalid(file, SchemaError(f"line {number}: {e}")) from None
        if line is not None:
            yield line


def parse_metric_line(text: bytes) -> dict[str, Any] | None:
    """Return a line of `metrics.jsonl` as `read_metric_lines` yields it; None if it is not JSON.

    Args:
        text: The bytes of the line.

    Raises:
        SchemaError: The line is JSON with invalid content.
    """
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    _check_line(line)
    checked: dict[str, Any] = line
    return checked


def _check_line(line: Any) -> None:
    if type(line) is not dict:
        raise SchemaError(f"it is {schema.describe_value(line)}: expected an object")
    kind = schema.check(str, line.get("what", ""), "what")
    for name in ("step", "generation"):
        schema.check(Count, line.get(name), name)
    for name, value in line.items():
        # Earlier versions wrote NaN and infinity, which `json.loads` reads as floats.
        is_integer = type(value) is int and abs(value) < 2**63
        figure = value is None or type(value) is float or is_integer
        if kind in NUMERIC_KINDS and name != "what" and not figure:
            raise SchemaError(
                f"{name} is {schema.describe_value(value)}: expected a number, or null"
            )


def _check_known(values: dict[str, Any], types: dict[str, Any], where: str) -> None:
    for name in values.keys() & types.keys():
        schema.check(types[name], values[name], f"{where}.{name}")


def _load_json(file: Path) -> Any:
    if file.stat().st_size > MAX_BYTES:
        raise _invalid(file, SchemaError(f"it is longer than {MAX_BYTES:,} bytes"))
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as e:
        raise _invalid(file, SchemaError(f"it is not JSON ({str(e)[:100]})")) from None


def _invalid(file: Path, error: SchemaError) -> RunFileError:
    return RunFileError(
        f"{file} is damaged: {error}. Restore it from a backup, or pass another folder."
    )
