"""The check of ILSVRC2012's val images in class folders against the table beside them.

Images that were sorted by another table, or by a list in another order, have wrong labels, which
no other check detects.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.imagenet_tables import PackageMissingError, find_optional_ground_truth
from pipeline.sources.keys import is_wnid
from pipeline.sources.location import Location


def check_sorted(location: Location, listing: pa.Table) -> pa.Table:
    """Refuse val images whose classes differ from Kaggle's table or the devkit near *location*.

    Images that the table lacks, and those whose class is no wnid, are accepted.

    Args:
        location: The folder of the images; up to four folders above it are searched, too.
        listing: The listing of the images, from any kind of source; it is not changed.

    Returns:
        The same listing, or one with a further note in its metadata if there is a table that cannot
        be read without a package that is missing. Where the options' `rules` is 1, nothing is
        checked.

    Raises:
        ReadError: The table could not be read now.
        SourceError: An image is of another class, or the table cannot be used.
    """
    if location.options.rules == 1:
        return listing
    keys = listing["key"].filter(pc.match_substring(listing["key"], "/ILSVRC2012_val_")).to_pylist()
    try:
        truth = find_optional_ground_truth(location) if keys else None
    except PackageMissingError as e:
        return _with_note(listing, f"the classes of val images are not compared with a table: {e}")
    if truth is None:
        return listing
    for key in keys:
        class_name, _, name = key.partition("/")
        wnid = truth.find(name) or class_name
        if wnid != class_name and is_wnid(class_name):
            raise SourceError(
                f"{location.display_name}: the image {name} is sorted into {class_name}, but"
                f" {truth.where} lists it as {wnid}. Sort the images again, or move that table"
                " away to use the folders as classes."
            )
    return listing


def _with_note(listing: pa.Table, note: str) -> pa.Table:
    evidence = Evidence.decode(listing.schema.metadata)
    evidence.notes.append(note)
    return listing.replace_schema_metadata(evidence.encode())
