"""The options of a stage: the fields of a frozen dataclass, each of them a command-line flag.

    @dataclass(frozen=True, kw_only=True)
    class Options(OptionsBase):
        width: int = option(64, "channels of the first layer", least=1)

gives the flag `--width` with default 64, a check of its range wherever the options come from, a
line of the help text, and a value in the run folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from workflows.commands.ranges import Range


def option(
    default: Any,
    what: str,
    *,
    choices: Sequence[str] | Sequence[int] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    before: Any = None,
    metavar: str | None = None,
    group: str = "training",
) -> Any:
    """Return a dataclass field for an option of a stage.

    Args:
        default: The default value; None = a default that *what* describes.
        what: The help text.
        choices: The allowed values (default: any).
        least: The smallest allowed value (default None: no limit).
        most: The largest allowed value (default None: no limit).
        above: An exclusive lower bound, used without *least* (default None: no limit).
        before: The value in runs of earlier versions, which lack the option (default: *default*).
        metavar: The placeholder in the help text, such as DIR (default: N, X or WORD, by type).
        group: The heading of the help text under which the flag is listed.
    """
    metadata = {
        "what": what, "choices": choices, "least": least, "most": most, "above": above,
        "group": group,
        "before": default if before is None else before, "metavar": metavar,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class OptionsBase:
    """The base class of all options: reading, checking and storing them."""

    def __post_init__(self) -> None:
        """Check every value against its choices and its range.

        Raises:
            ValueError: A value is not allowed.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _check(field, value)

    @classmethod
    def read(cls, args: argparse.Namespace) -> Self:
        """Return the options from parsed arguments with the flags of `add_flags`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(args, name) for name in names})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the options from the result of `as_dict`, of this version or an earlier one.

        Raises:
            ValueError: A value has a wrong type, as in a damaged or foreign run folder.
        """
        earlier = cls.before()
        kinds = typing.get_type_hints(cls)
        for name in earlier.keys() & values.keys():
            _check_kind(name, kinds[name], values[name])
        return cls(**{name: values.get(name, default) for name, default in earlier.items()})

    @classmethod
    def before(cls) -> dict[str, Any]:
        """Return the values, by name, that hold for runs that lack an option."""
        return {field.name: field.metadata["before"] for field in dataclasses.fields(cls)}

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, as JSON can hold them."""
        return dataclasses.asdict(self)


def _check_kind(name: str, kind: Any, value: Any) -> None:
    kinds = typing.get_args(kind) or (kind,)
    is_integer = type(value) is int and abs(value) < 2**63
    if type(value) is int and not is_integer:
        raise ValueError(f"{_flag(name)} is a number of more than 63 bits.")
    if type(value) not in kinds and not (is_integer and float in kinds):
        expected = " or ".join(each.__name__ for each in kinds)
        raise ValueError(f"{_flag(name)} is {str(value)[:60]!r}: expected {expected}.")


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    flag, choices = _flag(field.name), field.metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"{flag} is {value!r}: expected one of {', '.join(map(str, choices))}.")
    if type(value) in (int, float) and (expected := _range(field, type(value)).expected(value)):
        raise ValueError(f"{flag} is {value}: expected {expected}.")


def _range(field: dataclasses.Field[Any], kind: type[int] | type[float]) -> Range:
    least, most, above = (field.metadata[name] for name in ("least", "most", "above"))
    return Range(kind=kind, least=least, most=most, above=above)


def add_flags(parser: argparse.ArgumentParser, options: type[OptionsBase]) -> None:
    """Add a flag to *parser* for each field of *options*, grouped by heading."""
    kinds = typing.get_type_hints(options)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        name = field.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add(groups[name], field, kinds[field.name])


def _add(group: Any, field: dataclasses.Field[Any], kind: Any) -> None:
    words = [kind] if not isinstance(kind, types.UnionType) else list(typing.get_args(kind))
    plain = next(word for word in words if word is not type(None))
    help_text, choices = field.metadata["what"], field.metadata["choices"]
    if field.default is not None and plain is not bool:
        help_text = f"{help_text} ({field.default})"
    flag = _flag(field.name)
    if plain is bool:
        if field.default is not None:
            help_text = f"{help_text} ({'yes' if field.default else 'no'})"
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=field.default, help=help_text
        )
    elif choices:
        group.add_argument(flag, type=plain, choices=choices, default=field.default, help=help_text)
    else:
        metavar = field.metadata["metavar"] or {int: "N", float: "X"}.get(plain, "WORD")
        kind = _range(field, plain) if plain in (int, float) else plain
        group.add_argument(flag, type=kind, metavar=metavar, default=field.default, help=help_text)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


READING = "reading of pictures"
"""The heading of the options of the loader in the help text."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(OptionsBase):
    """The options of every training stage."""

    steps: int = option(10_000, "steps to train", least=1)
    batch_size: int = option(64, "rows in a batch, over all ranks", least=1)
    micro_batch: int | None = option(
        None, "maximum rows that a rank computes at once, to bound its memory; the gradients of"
        " the batch stay the same, but batch norm covers only these rows (all)", least=2,
    )  # fmt: skip
    seed: int = option(0, "seed of everything that is drawn at random", least=0, most=2**63 - 1)
    rank_threads: int | None = option(
        None, "CPU threads per rank; changing it changes floating-point summation order (cores /"
        " ranks on the machine)",
        least=1,
    )  # fmt: skip
    order: str = option(
        "random", "order of rows: random = shuffle the whole split; windowed = shuffle windows of"
        " 1 GiB, for disks with slow random reads",
        choices=("random", "windowed"), group=READING,
    )  # fmt: skip
    staging_dir: str | None = option(
        None, metavar="DIR",
        what="folder on a local disk of each machine to which shards are copied once, for all its"
        " ranks and later runs (none)", group=READING,
    )  # fmt: skip
    staging_bytes: int | None = option(
        None, "maximum bytes in --staging-dir (nine tenths of the free space)", least=1,
        group=READING,
    )  # fmt: skip
    checksum: str | None = option(
        None, "when to verify the checksums of an uncompressed store on a disk: once = before the"
        " first use; never; auto = once, if the pixels fit in memory (auto)",
        choices=("auto", "once", "never"), group=READING,
    )  # fmt: skip
    loader_threads: int | None = option(
        None, "threads per rank that gather batches (cores, at most 4)", least=1, group=READING
    )
    prefetch: int | None = option(
        None, "maximum bytes of batches that a rank gathers ahead (512 MiB)", least=1, group=READING
    )
    tell_every: int = option(
        10, "steps between two reports of losses", least=1, group="what is seen of it"
    )
    look_every: int = option(
        500,
        "steps between two evaluations, which also save samples if the stage makes any",
        least=1,
        group="what is seen of it",
    )
    save_every: int = option(
        2_000, "maximum steps between two checkpoints", least=1, group="what is seen of it"
    )
    minutes: float | None = option(
        None, "minutes after which training saves and stops, as after Ctrl-C (no limit)", above=0
    )
    save_minutes: float = option(
        5.0,
        "maximum minutes between two checkpoints; 0 = a checkpoint after each update",
        least=0,
        group="what is seen of it",
    )

    @property
    def prepared_size(self) -> int | None:
        """The side of the pictures to prepare, in pixels; None = the side used in training."""
        return None

    def located(self) -> Self:
        """Return a copy in which paths of this machine are absolute."""
        if self.staging_dir is None:
            return self
        staging_dir = str(Path(self.staging_dir).expanduser().absolute())
        return dataclasses.replace(self, staging_dir=staging_dir)

    def loading(self, *, learns: bool = True) -> dict[str, Any]:
        """Return the order, reading and staging of a `pipeline.loader.Loader`, as its arguments.

        Args:
            learns: True for the training split (the default). Other splits are read in the order
                of their rows, a few batches at a time, and are not staged.
        """
        from pipeline.loader import Reading, Staging  # imported late: --help must not load torch

        reading: dict[str, Any] = {
            "threads": self.loader_threads,
            "prefetch_bytes": self.prefetch,
            "checksum": self.checksum,
        }
        staging = None
        if learns and self.staging_dir is not None:
            staging = Staging(self.staging_dir, self.staging_bytes)
        return {
            "order": self.order if learns else "sequential",
            "reading": Reading(**{k: v for k, v in reading.items() if v is not None}),
            "staging": staging,
        }

    def shrunk_side(self, stored: int) -> int | None:
        """Return the side to which the device resizes pictures; None = it does not resize them.

        Args:
            stored: Side of the stored pictures, in pixels.
        """
        return None

    def check_labels(self, classes: int, unlabelled: int) -> None:
        """Refuse a split whose labels do not suffice for these options.

        Args:
            classes: Number of classes in the split.
            unlabelled: Number of rows without a label.

        Raises:
            ValueError: The options require labels that the split lacks.
        """

    def as_before(self, known: Mapping[str, Any]) -> Self:
        """Return a copy in which options that a run lacks have the value of its version.

        An option that was set to something else than its default keeps that value.

        Args:
            known: Options by name, of a run that may be of an earlier version.
        """
        before = {
            field.name: field.metadata["before"]
            for field in dataclasses.fields(self)
            if field.name not in known and getattr(self, field.name) == field.default
        }
        return dataclasses.replace(self, **before)

    def filled(self) -> Self:
        """Return a copy in which None is replaced by the value that other options imply."""
        return self

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a run, with the values of those that it lacks.

        A run may lack an option because an earlier version started it, or because the option
        follows from others. Naming the same value later then changes nothing.

        Args:
            values: Options by name; names that are no options are kept.
        """
        completed = {**cls.before(), **values}
        try:
            return {**completed, **cls.of(completed).filled().as_dict()}
        except ValueError:  # a damaged or foreign run folder
            return completed

    @property
    def usual_updates(self) -> int:
        """The number of updates in a step, outside of a warm-up."""
        return 1

    def updates_to(self, step: int) -> int:
        """Return the number of updates that complete the first *step* steps."""
        return step

    def warming(self, step: int) -> str:
        """Return a short description of the warm-up after *step* steps; empty outside of one."""
        return ""

    def quicker(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        return "a smaller --batch-size"

    def changeable(self) -> tuple[str, ...]:
        """Return the options that may change when a run goes back to an earlier step."""
        return ()

    def to_lower(self) -> str:
        """Return the option to lower, with its value, after training has diverged."""
        return "the learning rate"


SHRINK_FROM = 1.25
"""The ratio of stored to trained side from which pictures are resized instead of cropped."""
MARGIN = 9 / 8
"""The ratio of a resized picture's side to that of its random crop, such as 72 px to 64."""


def shrunk_side(stored: int, size: int, *, crop: str) -> int | None:
    """Return the side to which pictures are resized before cropping; None = no resizing needed.

    Args:
        stored: Side of the stored pictures, in pixels.
        size: Side of the crop, in pixels.
        crop: `none` = a crop of the centre; `random` = a crop at a random position.
    """
    if stored < SHRINK_FROM * size:
        return None
    return size if crop == "none" else min(stored, round(MARGIN * size))


FREE = (
    "steps", "minutes", "micro_batch", "tell_every", "look_every", "save_every", "save_minutes",
    "staging_dir", "staging_bytes", "checksum", "loader_threads", "prefetch",
)  # fmt: skip
"""The options that may change when a run is continued."""
