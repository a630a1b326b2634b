"""What a person may say about a source, and which version of the listing rules reads it."""

from dataclasses import dataclass

LISTING_RULES = 2
"""Version of the rules that decide which files count and which class each is of.

1: numbers are text, hidden names alone are passed over, and a label that is none is a class.
2: `pipeline.sources.classes` and `pipeline.sources.clutter`.
"""

RECURSIVE = ("first", "last")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source is read. A small picklable value that travels with its `Place`."""

    rules: int = LISTING_RULES
    """The listing rules: those of the store, where it has some already."""
    recursive: str = ""
    """Which folder is the class where folders are nested: `first`, `last`; empty: none may be."""
    class_name: str = ""
    """The class of all images of a flat folder; `-`: they have none."""
    ignore: tuple[str, ...] = ()
    """Shell patterns of names of files and folders that are passed over."""
    image_column: str = ""
    """The column of a table that holds the bytes of images; empty: chosen by name and type."""
    label_column: str = ""
    """The column of labels; empty: chosen by name."""
    name_column: str = ""
    """The column of the images' names; empty: chosen by name."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.recursive not in ("", *RECURSIVE):
            raise ValueError(f"--recursive is {self.recursive!r}: expected first or last.")
        if "/" in self.class_name:
            raise ValueError(f"--class-name is {self.class_name!r}: expected a name without '/'.")


DEFAULT_OPTIONS = SourceOptions()
"""Nothing is said: the newest rules, no nested folders, classes as the source has them."""
