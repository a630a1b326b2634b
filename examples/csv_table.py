"""The kind of source `csv`: a table `<split>.csv` with a line `file,class` for each image."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import class_id
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.formats.flat import flat_listing
from pipeline.sources.keys import known_split
from pipeline.sources.location import FolderSizes, Location
from pipeline.sources.source import Source


@dataclass(frozen=True)
class CsvTable(Source):
    """A split: its table, and the image files that the table names."""

    table: str

    def marks(self) -> Iterable[str]:
        """Return the size and the time of the table."""
        return [self.location.mark(self.table)]

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """Return the listing: key, size in bytes and path of each image, sorted by key."""
        lines = list(csv.reader(self.location.read_text(self.table).splitlines()))
        if any(len(line) != 2 for line in lines):
            table = self.location.full_path(self.table)
            raise SourceError(f"{table}: expected `file,class` in each line.")
        classes = {path: class_id(name) for path, name in lines}
        sizes = FolderSizes(list(classes), list(map(self.location.size, classes)), [], Evidence())
        return flat_listing(self.location, "", sizes, classes.__getitem__, progress)


def find_csv(location: Location, requested_split: str, explicit: bool) -> dict[str, CsvTable]:
    """Return the source of each split that has a table at *location*; empty if none has."""
    tables = {name.removesuffix(".csv"): name for name in location.names().files}
    return {
        split: CsvTable("csv", location, table)
        for word, table in tables.items()
        if table.endswith(".csv") and (split := known_split(word, requested_split))
    }
