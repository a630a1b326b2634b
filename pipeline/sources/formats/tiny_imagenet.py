"""Tiny-ImageNet as distributed: train in class folders, val flat with a table beside it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.sources.archives.layout import class_in
from pipeline.sources.formats.flat import flat_listing
from pipeline.sources.formats.folder import FolderSource, folder_marks
from pipeline.sources.location import Location
from pipeline.sources.nearby_tables import ANNOTATIONS
from pipeline.sources.source import Source
from pipeline.sources.text_tables import parse_annotations

_IMAGES = "images"


@dataclass(frozen=True)
class AnnotatedFolder(Source):
    """The val split of Tiny-ImageNet: `images/<file>`, with classes in `val_annotations.txt`."""

    def marks(self) -> Iterable[str]:
        """Return the times of the folder and its table."""
        return folder_marks(self.location, (_IMAGES, ANNOTATIONS))

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """List the folder `images` with one scan; the classes are those of the table beside it.

        Args:
            progress: A function that is called once, with the number of samples.

        Returns:
            The listing (`pipeline.sources.listing`), sorted by key: the columns `key`
            (large_string, `<class>/<file name>`), `num_bytes` (int64) and `path` (large_string,
            `images/<file name>`).

        Raises:
            ReadError: The folder or the table cannot be read.
            SourceError: There are no images, the table is damaged, it has no class for one of
                them, or a link leads nowhere.
        """
        where = self.location.full_path(ANNOTATIONS)
        classes = parse_annotations(self.location.read_text(ANNOTATIONS), where)
        sizes = self.location.sizes(_IMAGES)
        return flat_listing(
            self.location,
            "images/",
            sizes,
            lambda name: class_in(classes, name, self.root),
            progress,
        )


def find_tiny(
    location: Location, requested_split: str, explicit: bool
) -> dict[str, FolderSource | AnnotatedFolder]:
    """Find Tiny-ImageNet's tree at *location*, in its folder of that name, or its val alone.

    Args:
        location: The folder that the user named, as `Location.at` returns it.
        requested_split: Unused: the folders tell the splits.
        explicit: Unused: `val_annotations.txt` decides.

    Returns:
        The source of `val`, and of `train` if it has a folder; '' for the val split alone; empty if
        there is no such tree.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: Only a part of the val images was sorted into class folders, or a link leads
            back to itself.
    """
    if "tiny-imagenet-200" in location.names().folders:
        location = location.child("tiny-imagenet-200")
    top = location.names()
    if ANNOTATIONS in top.files and _IMAGES in top.folders:
        return {"": _val_source(location)}
    if "val" not in top.folders or ANNOTATIONS not in location.names("val").files:
        return {}
    sources: dict[str, FolderSource | AnnotatedFolder] = {"val": _val_source(location.child("val"))}
    if "train" in top.folders:
        sources["train"] = FolderSource("tiny-imagenet", location.child("train"))
    return sources


def _val_source(val: Location) -> FolderSource | AnnotatedFolder:
    """Return the val split: flat, or sorted into class folders beside its old table.

    Raises:
        SourceError: Only a part of the images was sorted.
    """
    folders = val.names().folders
    class_folders = [name for name in folders if name != _IMAGES]
    flat = val.names(_IMAGES).files if _IMAGES in folders else []
    if not class_folders or val.options.rules == 1:
        return AnnotatedFolder("tiny-imagenet", val)
    if flat:
        raise SourceError(
            f"{val.root} is only partly sorted: {len(flat):,} files are in {_IMAGES}, and there"
            f" are {len(class_folders):,} class folders. Complete the sorting, or move all files"
            f" back into {_IMAGES}."
        )
    return FolderSource("tiny-imagenet", val)
