"""Profiles of accelerators in training: how many rows they take, and how long they compute on them.

They are the workloads of MLPerf Storage, and those of a user's own file of the same form:

    resnet50-h100: {batch_size: 400, step_seconds: 0.224, utilisation: 0.90}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import TesseraeError

BUILT_IN = Path(__file__).with_name("profiles.yaml")


@dataclass(frozen=True)
class AcceleratorProfile:
    """An accelerator that trains a network."""

    batch_size: int
    """The rows of a batch of one accelerator."""
    step_seconds: float
    """The seconds that it computes on a batch."""
    utilisation: float = 0.9
    """The least share of its time in which it computes, 0 to 1, with which it counts as fed."""

    def __post_init__(self) -> None:
        """Refuse values that no accelerator has.

        Raises:
            ValueError: A value is of another type, or out of its range.
        """
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size!r}: expected a whole number above 0")
        for name, maximum in (("step_seconds", 3_600), ("utilisation", 1)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= maximum:
                raise ValueError(f"{name} is {value!r}: expected a number above 0, to {maximum:,}")

    @property
    def images_per_second(self) -> float:
        """The rows that the accelerator takes in a second if it never waits."""
        return self.batch_size / self.step_seconds


def load_profiles(file: Path | None = None) -> dict[str, AcceleratorProfile]:
    """Return the profiles by name: the built-in ones, and those of a file, which take precedence.

    Args:
        file: A YAML file with a mapping of `batch_size`, `step_seconds` and, if it is not 0.9,
            `utilisation` for each name (default: the built-in profiles alone).

    Raises:
        TesseraeError: The file cannot be read, or holds something else.
    """
    profiles = _profiles_of(BUILT_IN)
    return profiles if file is None else profiles | _profiles_of(file)


def _profiles_of(file: Path) -> dict[str, AcceleratorProfile]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        reason = " ".join(str(e).split())  # yaml explains itself in several lines
        raise TesseraeError(f"cannot read profiles from {file}: {reason}") from e
    if not isinstance(content, Mapping):
        raise TesseraeError(f"{file} holds no profiles: expected a mapping by name.")
    return {str(name): _profile(file, str(name), values) for name, values in content.items()}


def _profile(file: Path, name: str, values: Any) -> AcceleratorProfile:
    names = [field.name for field in fields(AcceleratorProfile)]
    if not isinstance(values, Mapping) or not {"batch_size", "step_seconds"} <= {*values} <= {
        *names
    }:
        raise TesseraeError(
            f"{file}: profile {name!r} needs batch_size and step_seconds, and may have utilisation."
        )
    try:
        return AcceleratorProfile(**values)
    except ValueError as e:
        raise TesseraeError(f"{file}: profile {name!r}: {e}.") from None
