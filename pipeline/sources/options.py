"""The options of a source, and the version of the listing rules that reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

LISTING_RULES = 2
"""The version of the rules that decide which files count and which class each is of.

1: numbers are text, only hidden names are skipped, and labels such as -1 are classes.
2: the rules of `pipeline.sources.classes.labeller` and `pipeline.sources.clutter`.
"""

RECURSIVE = ("first", "last")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The options of a source; a small picklable value that travels with its `Location`."""

    rules: int = LISTING_RULES
    """The version of the listing rules; an existing store keeps its own."""
    recursive: str = ""
    """The nested folder that is the class: `first`, `last`; empty: nested folders are refused."""
    class_name: str = ""
    """The class of all images of a flat folder; `-`: they have none."""
    ignore: tuple[str, ...] = ()
    """The shell patterns of names of files and folders that are skipped."""
    image_column: str = ""
    """The column of a table that holds the bytes of images; empty: chosen by name and type."""
    label_column: str = ""
    """The column of labels, or the part of a WebDataset sample; empty: chosen by name."""
    name_column: str = ""
    """The column of the images' names; empty: chosen by name."""

    def __post_init__(self) -> None:
        """Refuse values and combinations without a meaning."""
        if self.recursive not in ("", *RECURSIVE):
            raise ValueError(f"--recursive is {self.recursive!r}: expected first or last.")
        if self.rules == 1 and (self.recursive or self.class_name or self.ignore):
            raise ValueError(
                "the store uses listing rules 1, which do not support --recursive, --class-name or"
                " --ignore: omit them, or prepare into a new store."
            )
        if "/" in self.class_name:
            raise ValueError(f"--class-name is {self.class_name!r}: expected a name without '/'.")

    def chosen(self) -> dict[str, Any]:
        """Return the options, except the rules, that differ from the defaults, as JSON values."""
        chosen = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in chosen.items()
            if name != "rules" and value != getattr(DEFAULT_OPTIONS, name)
        }

    @classmethod
    def of(cls, chosen: Mapping[str, Any], rules: int) -> "SourceOptions":
        """Return the options with these values, under one version of the listing rules.

        Args:
            chosen: The values by name of the option, as the method `chosen` returned them:
                `recursive` ('first' or 'last'), `class_name`, `ignore` (a list, which becomes a
                tuple), `image_column`, `label_column` and `name_column`; without `rules`. Options
                that are missing have their defaults.
            rules: The version of the listing rules, 1 or 2; it is not checked here.

        Raises:
            ValueError: There is no such option (`rules` is none), or a value or combination has no
                meaning, such as `recursive` under rules 1.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in chosen.items()
        }
        unknown = sorted(values.keys() - ({item.name for item in fields(cls)} - {"rules"}))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not an option of a source.")
        return cls(**values, rules=rules)


DEFAULT_OPTIONS = SourceOptions()
"""The defaults: the newest rules, no nested folders, classes as the source has them."""
