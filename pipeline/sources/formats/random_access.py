"""The base of sources whose images are files in folders, read where they lie."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import SourceError
from pipeline.sources.classes.decision import ClassTable
from pipeline.sources.location import Location
from pipeline.sources.metadata import find_words
from pipeline.sources.spool import Blocks


@dataclass(frozen=True)
class RandomAccessSource:
    """A folder of image files without numbered classes; a base of the kinds of such folders."""

    kind: str
    """The kind of the source: one of `pipeline.sources.SOURCE_KINDS`."""
    location: Location
    access: Literal["random", "blocks"] = field(default="random", init=False)

    @property
    def root(self) -> str:
        """The folder that the listing's paths are relative to."""
        return self.location.root

    def class_table(self) -> ClassTable | None:
        """Return None: the samples have no numbers."""
        return None

    def words(self) -> dict[str, str]:
        """Return the words of classes, from a table in the folder or above it."""
        return find_words(self.location)

    def blocks(self) -> Blocks:
        """Raise an error: files are read where they lie, not streamed.

        Raises:
            SourceError: Always.
        """
        raise SourceError(f"{self.root} is read at random; it has no blocks")
