"""The base of all kinds of sources, which are in `pipeline.sources.formats`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.errors import SourceError
from pipeline.sources.imagenet_tables import find_words
from pipeline.sources.location import Location, fingerprint_of

if TYPE_CHECKING:  # only a process that lists needs Arrow
    import pyarrow as pa

    from pipeline.sources.classes.class_table import ClassTable
    from pipeline.sources.classes.evidence import Evidence
    from pipeline.sources.spool import Blocks


@dataclass(frozen=True)
class Source(ABC):
    """The images of one split.

    A kind of source defines `marks`, and either `list`, if the bytes of each sample lie in one
    piece in a file that can be read anywhere, or `blocks`, if its files must be read in one pass.
    It overrides what else differs.
    """

    kind: str
    """The kind: one of `pipeline.sources.SOURCE_KINDS`."""
    location: Location
    """The folder of the images, with the options by which they are read."""

    @abstractmethod
    def marks(self) -> Iterable[str]:
        """Return texts, cheap to obtain, that change when files are added or removed."""

    def list(self, progress: Callable[[int], None]) -> "pa.Table":
        """Return the listing of all samples; only if the property `access` is "random".

        Args:
            progress: A function that is called again and again, each time with the number of
                samples since its last call.

        Returns:
            The Arrow table that `pipeline.sources.listing` describes, sorted by key: the columns
            `key` (large_string, `<class>/<file name>`), `num_bytes` (int64) and, unless they equal
            the keys, `path` relative to the property `root`; for archives also `offset` in bytes
            (int64). The metadata of its schema tell the basis of the classes, and what was skipped.

        Raises:
            ReadError: A file or folder cannot be read now.
            SourceError: There are no images, or they cannot be read as this kind of source; or
                `access` is "blocks".
        """
        raise SourceError(
            f"{self.location.display_name} is read in blocks; spool it, then list the spool"
        )

    def blocks(self) -> "Blocks":
        """Return the parts to stream into a spool; only if the access is "blocks".

        Raises:
            SourceError: A part is missing, or is no file of this kind of source.
        """
        raise SourceError(f"{self.location.display_name} is read at random; it has no blocks")

    @property
    def access(self) -> Literal["random", "blocks"]:
        """The way samples are read: "random" in place, "blocks" through a spool."""
        return "blocks" if type(self).list is Source.list else "random"

    @property
    def root(self) -> str:
        """The local folder or fsspec URL that the listing's paths are relative to."""
        return self.location.root

    def fingerprint(self) -> str:
        """Return a digest of the marks, and of the kind, folder and options of the source."""
        return fingerprint_of([self.kind, self.root, *self.marks()], self.location.options)

    def words(self) -> dict[str, str]:
        """Return the words of each class that a table beside the images describes."""
        return find_words(self.location)

    def class_table(self) -> "ClassTable | None":
        """Return the classes that the source numbers, if it has such a table."""
        return None

    def check(self) -> None:  # noqa: B027 - most sources refuse nothing before they are listed
        """Refuse a source that cannot be read to its end, before it is listed.

        Raises:
            SourceError: A table is missing, or a file is something else than its name says.
        """

    def preview(self) -> "Evidence | None":
        """Read the labels and names of all images without the images, if the source can.

        Raises:
            SourceError: A label or a name cannot be used.
        """
        return None

    def remarks(self) -> tuple[str, ...]:
        """Return one sentence for each thing beside the source that is left out, or is missing."""
        return ()
