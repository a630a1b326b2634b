"""What a stage can be asked for: the fields of a frozen dataclass, each of them a flag.

    @dataclass(frozen=True, kw_only=True)
    class Options(Asked):
        width: int = option(64, "channels of the first layer", least=1)

is `--width 64` on the command line, a range that is checked wherever the options come from, a line
of the help text, and a value in the run folder.
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
    group: str = "how it is trained",
) -> Any:
    """A field of the options of a stage.

    Args:
        default: Its value if nothing is said; None = something that `what` says.
        what: What it is, for the help text.
        choices: What it may be.
        least: The least that it may be.
        most: The most.
        above: What it must exceed, where there is no least.
        before: Its value in runs of earlier versions, which do not name it (the default).
        metavar: Its value in the help text, such as DIR (None = N, X or WORD, by its type).
        group: The heading that it stands under.
    """
    metadata = {
        "what": what, "choices": choices, "least": least, "most": most, "above": above,
        "group": group,
        "before": default if before is None else before, "metavar": metavar,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The base of all options."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: A value is none that it may be.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _check(field, value)

    @classmethod
    def read(cls, args: argparse.Namespace) -> Self:
        """From a command line with the flags of `add_flags`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(args, name) for name in names})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From what `as_dict` gave, of this version or of an earlier one.

        Raises:
            ValueError: A value is of another type, as in a run's folder that somebody else made.
        """
        known = cls.before()
        kinds = typing.get_type_hints(cls)
        for name in known.keys() & values.keys():
            _check_kind(name, kinds[name], values[name])
        return cls(**{name: values.get(name, default) for name, default in known.items()})

    @classmethod
    def before(cls) -> dict[str, Any]:
        """The values of options in runs that do not name them, by name."""
        return {field.name: field.metadata["before"] for field in dataclasses.fields(cls)}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, by name."""
        return dataclasses.asdict(self)


def _check_kind(name: str, kind: Any, value: Any) -> None:
    kinds = typing.get_args(kind) or (kind,)
    whole = type(value) is int and abs(value) < 2**63
    if type(value) is int and not whole:
        raise ValueError(f"{_flag(name)} is a number of more than 63 bits.")
    if type(value) not in kinds and not (whole and float in kinds):
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


def add_flags(parser: argparse.ArgumentParser, options: type[Asked]) -> None:
    """Add a flag for each field."""
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
    what, choices = field.metadata["what"], field.metadata["choices"]
    if field.default is not None and plain is not bool:
        what = f"{what} ({field.default})"
    flag = _flag(field.name)
    if plain is bool:
        if field.default is not None:
            what = f"{what} ({'yes' if field.default else 'no'})"
        group.add_argument(
            flag, action=argparse.BooleanOptionalAction, default=field.default, help=what
        )
    elif choices:
        group.add_argument(flag, type=plain, choices=choices, default=field.default, help=what)
    else:
        metavar = field.metadata["metavar"] or {int: "N", float: "X"}.get(plain, "WORD")
        kind = _range(field, plain) if plain in (int, float) else plain
        group.add_argument(flag, type=kind, metavar=metavar, default=field.default, help=what)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


READING = "how pictures are read"


@dataclass(frozen=True, kw_only=True)
class Training(Asked):
    """What every stage that trains can be asked for."""

    steps: int = option(10_000, "steps to train", least=1)
    batch_size: int = option(64, "rows of a batch, of all ranks together", least=1)
    micro_batch: int | None = option(
        None, "most rows that a rank computes at once, to bound its memory; the batch and its"
        " gradients stay what they are, but batch norm looks at these rows (all)", least=2,
    )  # fmt: skip
    seed: int = option(0, "seed of everything that is drawn at random", least=0, most=2**63 - 1)
    rank_threads: int | None = option(
        None, "CPU threads of a rank; another number sums in another order (cores / ranks there)",
        least=1,
    )  # fmt: skip
    order: str = option(
        "random", "in which rows come: random = all of the split is shuffled; windowed = windows of"
        " 1 GiB are, for disks that are slow to read at random",
        choices=("random", "windowed"), group=READING,
    )  # fmt: skip
    staging_dir: str | None = option(
        None, metavar="DIR",
        what="folder on a disk of each machine to which shards are copied once, for all ranks"
        " there and later runs (none)", group=READING,
    )  # fmt: skip
    staging_bytes: int | None = option(
        None, "most bytes of all that is in it (nine tenths of what is free)", least=1,
        group=READING,
    )  # fmt: skip
    checksum: str | None = option(
        None, "when pixels of an uncompressed store on a disk are compared with their checksums:"
        " once = before the first use; never; auto = once, where memory can hold them (auto)",
        choices=("auto", "once", "never"), group=READING,
    )  # fmt: skip
    loader_threads: int | None = option(
        None, "threads of a rank that gather batches (cores, at most 4)", least=1, group=READING
    )
    prefetch: int | None = option(
        None, "most bytes of batches that a rank gathers ahead (512 MiB)", least=1, group=READING
    )
    tell_every: int = option(
        10, "steps between two reports of losses", least=1, group="what is seen of it"
    )
    look_every: int = option(
        500,
        "steps between two evaluations, with samples where there are such",
        least=1,
        group="what is seen of it",
    )
    save_every: int = option(
        2_000, "steps between two checkpoints, at most", least=1, group="what is seen of it"
    )
    minutes: float | None = option(
        None, "minutes after which it saves and stops, as after Ctrl-C (no limit)", above=0
    )
    save_minutes: float = option(
        5.0,
        "minutes between two checkpoints, at most; 0 = one after each update",
        least=0,
        group="what is seen of it",
    )

    @property
    def prepared_size(self) -> int | None:
        """Side of the pictures, in pixels, that are prepared for it; None = as it looks at them."""
        return None

    def located(self) -> Self:
        """The same, with files and folders of this machine named in full."""
        if self.staging_dir is None:
            return self
        staging_dir = str(Path(self.staging_dir).expanduser().absolute())
        return dataclasses.replace(self, staging_dir=staging_dir)

    def loading(self, *, learns: bool = True) -> dict[str, Any]:
        """Arguments of a `pipeline.loader.Loader`, by name: those that differ from its defaults.

        Args:
            learns: Whether it is of the split that is learned from. Another is read in the order
                of its rows, a few batches at a time: nothing of it is staged.
        """
        found: dict[str, Any] = {
            "checksum": self.checksum,
            "threads": self.loader_threads,
            "prefetch_bytes": self.prefetch,
            "order": self.order if learns else "sequential",
            "staging_dir": self.staging_dir if learns else None,
            "staging_bytes": self.staging_bytes if learns else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def shrunk_side(self, stored: int) -> int | None:
        """Side to which stored pictures are resized on the device; None = they are not.

        Args:
            stored: Side of the stored pictures, in pixels.
        """
        return None

    def check_labels(self, classes: int, unlabelled: int) -> None:
        """Refuse a split whose labels are not enough.

        Args:
            classes: How many there are.
            unlabelled: Rows without one.

        Raises:
            ValueError: What is asked for needs others.
        """

    def as_before(self, known: Mapping[str, Any]) -> Self:
        """The same, but as earlier versions had it where they did not name an option.

        Args:
            known: Options of a run that may be of an earlier version, by name.
        """
        before = {
            field.name: field.metadata["before"]
            for field in dataclasses.fields(self)
            if field.name not in known and getattr(self, field.name) == field.default
        }
        return dataclasses.replace(self, **before)

    def filled(self) -> Self:
        """The same, with what follows from other options in place of None."""
        return self

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a run, with the values of those that it does not name.

        A run may have been begun by an earlier version, which did not know of an option, or without
        an option that follows from others: to name its value later is to name the same.

        Args:
            values: Options by name; others stay as they are.
        """
        known = {**cls.before(), **values}
        try:
            return {**known, **cls.of(known).filled().as_dict()}
        except ValueError:  # a folder that somebody else made
            return known

    @property
    def usual_updates(self) -> int:
        """How many updates complete a step, but for those that warm up."""
        return 1

    def updates_to(self, step: int) -> int:
        """How many updates complete the first *step* steps."""
        return step

    def warming(self, step: int) -> str:
        """What is different about the step after *step* steps, in a few words, or nothing."""
        return ""

    def quicker(self) -> str:
        """Options that make a step quicker, for people who find it slow."""
        return "a smaller --batch-size"

    def changeable(self) -> tuple[str, ...]:
        """Options that may be others where a run goes back to an earlier step."""
        return ()

    def to_lower(self) -> str:
        """What a person lowers, with its value, where a loss or a weight is not finite any more."""
        return "the learning rate"


SHRINK_FROM = 1.25
"""How many times larger pictures are that are resized, and not cut."""
MARGIN = 9 / 8
"""How much larger than its crop a picture is that is cut at random, as 72 px are than 64."""


def shrunk_side(stored: int, size: int, *, crop: str) -> int | None:
    """Side to which pictures are resized before they are cut; None = they are near enough.

    Args:
        stored: Side of the stored pictures, in pixels.
        size: Side of what is cut out of them.
        crop: `none` = out of the middle; `random`.
    """
    if stored < SHRINK_FROM * size:
        return None
    return size if crop == "none" else min(stored, round(MARGIN * size))


FREE = (
    "steps", "minutes", "micro_batch", "tell_every", "look_every", "save_every", "save_minutes",
    "staging_dir", "staging_bytes", "checksum", "loader_threads", "prefetch",
)  # fmt: skip
"""What may be another in a run that goes on."""
