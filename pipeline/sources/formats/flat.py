"""The flat folders: images without class folders, of no class or of one named class.

A GAN or super-resolution needs no class. `--class-name` names one class for all images; a folder
whose name is a wnid is one class; a wnid at the start of a file's name is its class; else the
label of every image is -1. A table of classes beside the images, which is not read, is refused.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import UNLABELLED, abbreviate, named_class
from pipeline.sources.classes.evidence import ClassBasis, Evidence
from pipeline.sources.formats.folder import folder_marks, walk
from pipeline.sources.formats.folder_detection import check_one_folder, find_folders, split_folders
from pipeline.sources.keys import is_wnid, leading_wnid, looks_like_image, may_be_image
from pipeline.sources.listing import sort_listing, string_array
from pipeline.sources.location import FolderSizes, Location
from pipeline.sources.nearby_tables import label_table
from pipeline.sources.source import Source


def flat_listing(
    location: Location,
    prefix: str,
    sizes: FolderSizes,
    class_of: Callable[[str], str],
    progress: Callable[[int], None],
    basis: ClassBasis = ClassBasis("table"),  # noqa: B008 - a value that never changes
) -> pa.Table:
    """Return the listing of one folder whose classes *class_of* tells.

    Args:
        location: The folder that the paths of the listing are relative to.
        prefix: The path of the folder, with a slash at its end; empty: the location itself.
        sizes: A `FolderSizes(files, num_bytes, folders, skipped)`: the names of `files` in the
            folder, their `num_bytes` in the same order, and `skipped`, an `Evidence` that counts
            the entries that were skipped; `folders` is unused. It is not changed. A slash in a
            file's name becomes `__` in its key.
        class_of: A function that returns the class of a file name of *sizes*, `-` for none.
        progress: A function that is called once, with the number of samples.
        basis: The basis of the classes, of which `kind` says what tells them (default: `table`); it
            is `unsaid` for samples without a class.

    Returns:
        The listing (`pipeline.sources.listing`), sorted by key: the columns `key` (large_string,
        `<class>/<file name>`), `num_bytes` (int64) and `path` (large_string), and the evidence in
        its metadata.

    Raises:
        SourceError: There are no files, or a key is invalid or occurs twice.
    """
    if not sizes.files:
        raise SourceError(f"no images found: {location.full_path(prefix)} holds no image file.")
    evidence = Evidence()
    evidence.merge(sizes.skipped)
    keys = [f"{class_of(name)}/{name.replace('/', '__')}" for name in sizes.files]
    for key in keys:
        unlabelled = key.startswith(f"{UNLABELLED}/")
        evidence.add(key, ClassBasis("unsaid") if unlabelled else basis)
    table = pa.table(
        {
            "key": string_array(keys, f"in {location.root}"),
            "num_bytes": pa.array(sizes.num_bytes, pa.int64()),
            "path": string_array([prefix + name for name in sizes.files], f"in {location.root}"),
        }
    )
    progress(len(table))
    return sort_listing(table.replace_schema_metadata(evidence.encode()))


@dataclass(frozen=True)
class FlatFolder(Source):
    """A folder of images without class folders."""

    needs_class_name: bool = False
    """True if `--class-name` must be given before the images are listed."""

    @property
    def class_name(self) -> str:
        """The class of all images."""
        option = self.location.options.class_name
        folder_name = self.root.rpartition("/")[2]
        if option:
            return named_class(option)
        return folder_name if is_wnid(folder_name) else UNLABELLED

    def _class_of(self, path: str) -> str:
        """Return the class of the file *path*: that of all, or the wnid that begins its name."""
        if self.class_name != UNLABELLED or self.location.options.class_name:
            return self.class_name
        return leading_wnid(path.rpartition("/")[2]) or UNLABELLED

    def marks(self) -> Iterable[str]:
        """Return the times of the folders, which change when files come and go."""
        return folder_marks(self.location, (path for path, _ in self._folders()))

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """List the images of the folder, and with `--recursive` those of the folders in it.

        Args:
            progress: A function that is called once, with the number of samples.

        Returns:
            The listing (`pipeline.sources.listing`), sorted by key: the columns `key`
            (large_string, `<class>/<file name>`), `num_bytes` (int64) and `path` (large_string).
            The class in the keys is that of the option `class_name`, else the name of the folder if
            it is a wnid, else the wnid that begins the file name, else `-` for none. The slashes in
            the path of a file in nested folders become `__` in its key.

        Raises:
            ReadError: A folder cannot be read.
            SourceError: There are no images; they lie in a folder named after a split, and neither
                the option `class_name` nor each name tells a class; a table beside them lists their
                classes; some lie in folders that would be skipped; or a link leads nowhere.
        """
        self._check_table()
        if self.needs_class_name and not all(map(leading_wnid, self.location.sizes("").files)):
            raise SourceError(
                f"the images of {self.root} lie in no class folder: expected <class>/<image>. If"
                " they have no class, pass --class-name - (their label is -1); if all are of one"
                " class, pass its name with --class-name."
            )
        all_sizes = FolderSizes([], [], [], Evidence())
        for path, sizes in self._folders():
            all_sizes.skipped.merge(sizes.skipped)
            all_sizes.files.extend(f"{path}/{name}" if path else name for name in sizes.files)
            all_sizes.num_bytes.extend(sizes.num_bytes)
            all_sizes.folders.extend(f"{path}/{name}" if path else name for name in sizes.folders)
        if not self.location.options.recursive:
            self._check_folders(all_sizes)
        basis = ClassBasis("file name" if self.class_name == UNLABELLED else "folder")
        return flat_listing(self.location, "", all_sizes, self._class_of, progress, basis)

    def _folders(self) -> Iterator[tuple[str, FolderSizes]]:
        if self.location.options.recursive:
            yield from walk(self.location, "")
        else:
            yield "", self.location.sizes("")

    def _check_table(self) -> None:
        """Refuse images without classes if a table beside them has their classes.

        Raises:
            SourceError: There is such a table; the message names it and its column.
        """
        if self.class_name != UNLABELLED or self.location.options.class_name:
            return
        table, column = label_table(self.location, self.location.names().files)
        if table:
            raise SourceError(
                f"{self.location.full_path(table)} lists the classes of the images next to it in"
                f" its column {column!r}, but is not read. Move the images into folders named after"
                " their classes, or pass --class-name - to prepare them without classes."
            )

    def _check_folders(self, all_sizes: FolderSizes) -> None:
        """Refuse images in folders beside those of the flat folder."""
        for name in all_sizes.folders:
            for path, sizes in walk(self.location, name):
                all_sizes.skipped.merge(sizes.skipped)
                if sizes.files:
                    raise SourceError(
                        f"{self.root} holds images, and {path!r} in it holds {len(sizes.files):,}"
                        f" files ({abbreviate(sorted(sizes.files), 3)}) that would be skipped."
                        f" Pass --recursive first to include all of them, or --ignore {name!r}."
                    )


def find_flat(location: Location, requested_split: str, explicit: bool) -> dict[str, FlatFolder]:
    """Find images directly in *location*, or in its folders named after splits.

    Args:
        location: The folder that the user named, with the options by which it is read, as
            `Location.at` returns it.
        requested_split: A split to find, also by a name of its own, or a test split that is opened
            only on request; '' for all.
        explicit: True if the user named the kind `flat`: then files without a suffix count, too.

    Returns:
        The source of each split, '' for one without a name; empty if there are no such images, for
        a single file, and where the options' `rules` is 1.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: A split has several folders, or a link leads back to itself.
    """
    if location.only_file or location.options.rules == 1:
        return {}
    fits = may_be_image if explicit else looks_like_image
    if any(map(fits, location.names().files)):
        return {"": FlatFolder("flat", location)}
    labelled = find_folders(location, requested_split, False)
    one_class = bool(location.options.class_name)
    sources = {}
    for split, names in split_folders(location, requested_split).items():
        flat = [name for name in names if _holds_loose_images(location.child(name))]
        if not flat or split in labelled:
            continue
        check_one_folder(location, split, flat)
        # An unlabelled test set beside a labelled train set is opened only on request.
        unlabelled = split == "test" == requested_split and bool(labelled)
        if one_class or unlabelled or not labelled or split == requested_split:
            needs_class_name = not one_class and not unlabelled
            sources[split] = FlatFolder("flat", location.child(flat[0]), needs_class_name)
    if not sources and (one_class and location.options.recursive):
        sources[""] = FlatFolder("flat", location)
    return sources


def _holds_loose_images(location: Location) -> bool:
    files = location.names().files
    return any(map(looks_like_image, files))
