"""ILSVRC2012 as distributed: a train tar of class tars, a val tar or folder without classes.

The classes of val come from the devkit, whose ids 1..1000 are not in the order of the sorted
wnids, or from Kaggle's table (`pipeline.sources.imagenet_tables`).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.sources.archives.detection import container_of_file
from pipeline.sources.archives.layout import (
    ClassTarLayout,
    Layout,
    StoreMember,
    TarOfTarsLayout,
    listed_sample,
)
from pipeline.sources.archives.outline import TARS, VAL, Outline, outline_of
from pipeline.sources.archives.tar import Tar, stem_of
from pipeline.sources.archives.tar_source import TarPart, TarSource
from pipeline.sources.classes.class_names import abbreviate, folder_class
from pipeline.sources.classes.evidence import ClassBasis
from pipeline.sources.content import TAR, ZIP
from pipeline.sources.formats.flat import FlatFolder, flat_listing
from pipeline.sources.formats.folder import FolderSource
from pipeline.sources.imagenet_tables import (
    GroundTruth,
    GroundTruthMissingError,
    find_ground_truth,
    is_val_image,
)
from pipeline.sources.keys import is_wnid, looks_like_image
from pipeline.sources.listing import ListedSample, SkippedFiles
from pipeline.sources.location import FolderSizes, Location
from pipeline.sources.source import Source
from pipeline.sources.split_files import paths_by_split

TRAIN_STEM, VAL_STEM = "ILSVRC2012_img_train", "ILSVRC2012_img_val"
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


@dataclass(frozen=True)
class ValTar(Layout):
    """The layout of ILSVRC's val tar: flat, with its classes in a table near *root*."""

    root: str

    def check(self, outline: Callable[[], Outline]) -> None:
        """Refuse val images whose table of classes is missing.

        Args:
            outline: Unused, so anything will do: only the files beside the tar, and in up to four
                folders above, are examined.

        Raises:
            ReadError: The table cannot be read now.
            SourceError: There is no table, or it cannot be used.
        """
        find_ground_truth(Location(self.root))

    def samples(
        self, tar: Tar, store_member: StoreMember, start: int = 0, stop: int | None = None
    ) -> Iterator[ListedSample | SkippedFiles]:
        """Yield a sample for each `ILSVRC2012_val_########.JPEG`, with its class from the table.

        Args:
            tar: The open tar, in the `with` block of `open_tar(location, path)`; it stays open.
            store_member: A function of a `Member` of *tar* (`name`, `offset`, `num_bytes`) that
                stores its bytes, or finds them, and returns their offset. It is called once for
                each sample that is no link.
            start: The offset in bytes of the first member's header (default: 0).
            stop: The offset in bytes at which to stop; None: the end of the tar (default).

        Yields:
            A `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`, `basis` of the class) for
            each val image, with the key `<wnid>/<file name>` and what *store_member* returned as
            its offset, and a `SkippedFiles` (`reason`, `name`, `num_files` = 1) for each other
            member, in the order of the tar. Of a link, `num_bytes` and `offset` are 0, and
            `same_as` is the key of its target; else that is ''.

        Raises:
            ReadError: The tar or the table could not be read now.
            SourceError: The tar is damaged, there is no table, or it has no class for an image.
        """
        truth = find_ground_truth(Location(self.root))
        for member in tar.members(start, stop):
            name = member.name.rpartition("/")[2]
            if not is_val_image(name):
                yield SkippedFiles("files that are no images of ILSVRC2012's val", member.name)
                continue
            target = (member.target or "").rpartition("/")[2]
            prefix = f"{truth.wnid(target)}/" if target else ""
            sample = listed_sample(f"{truth.wnid(name)}/{name}", member, store_member, prefix)
            yield sample._replace(basis=ClassBasis("table"))


@dataclass(frozen=True)
class ValFolder(Source):
    """A flat folder of ILSVRC's val images."""

    def marks(self) -> Iterable[str]:
        """Return the time of the folder and the name of the table with the classes."""
        return self.location.mark(""), self._truth().where

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """List the val images of the folder, with their classes from the table near it.

        Args:
            progress: A function that is called once, with the number of samples.

        Returns:
            The listing (`pipeline.sources.listing`), sorted by key: the columns `key`
            (large_string, `<wnid>/<file name>`), `num_bytes` (int64) and `path` (large_string).

        Raises:
            ReadError: The folder or the table cannot be read.
            SourceError: There is no table of classes, it has none for an image, there are other
                images beside these, or folders with files, or a link leads nowhere.
        """
        truth = self._truth()
        return flat_listing(self.location, "", self._images(), truth.wnid, progress)

    def _truth(self) -> GroundTruth:
        try:
            return find_ground_truth(self.location)
        except GroundTruthMissingError as e:
            # --class-name is for flat images, not for a tree in which val is one of several splits.
            raise SourceError(
                f"{e} If all of them are of one class, pass {self.root} itself as the source,"
                " without --source-kind, and the name of the class with --class-name; - for none."
            ) from e

    def _images(self) -> FolderSizes:
        """Return the val images; refuse others, which have no class.

        Raises:
            SourceError: There are other images, or some were sorted into folders.
        """
        all_sizes = self.location.sizes("")
        if self.location.options.rules > 1:
            _refuse_partly_sorted_val(self.location, all_sizes)
        sizes = FolderSizes([], [], all_sizes.folders, all_sizes.skipped)
        other_images = []
        for name, num_bytes in zip(all_sizes.files, all_sizes.num_bytes, strict=True):
            if is_val_image(name):
                sizes.files.append(name)
                sizes.num_bytes.append(num_bytes)
            elif looks_like_image(name):
                other_images.append(name)
            else:
                sizes.skipped.skip("files that are no images of ILSVRC2012's val", name)
        if other_images and self.location.options.rules > 1:
            raise SourceError(
                f"{len(other_images):,} images of {self.root} are not of ILSVRC2012's val"
                f" ({abbreviate(sorted(other_images), 3)}): expected ILSVRC2012_val_00000001.JPEG"
                " and so on. Move them out of the folder, or pass --ignore with a pattern of their"
                " names."
            )
        return sizes


def _refuse_partly_sorted_val(location: Location, sizes: FolderSizes) -> None:
    """Refuse a folder of val images if some lie in its folders: those would be left out."""
    for folder in sizes.folders:
        inside = location.sizes(folder)
        if inside.files:
            raise SourceError(
                f"{location.root} is only partly sorted: {sum(map(is_val_image, sizes.files)):,}"
                f" val images lie in no class folder, and {folder!r} holds {len(inside.files):,}"
                f" files ({abbreviate(sorted(inside.files), 3)}). Complete the sorting, or move"
                " all of them back into the one folder."
            )


def _is_tar_or_zip(location: Location, path: str) -> bool:
    return container_of_file(location, path) in (TAR, ZIP)


def _tars_named(location: Location, stem: str) -> list[str]:
    files = location.names().files
    return [name for name in files if stem_of(name) == stem and _is_tar_or_zip(location, name)]


def find_train_tar(
    location: Location, requested_split: str, explicit: bool
) -> dict[str, TarSource]:
    """Find tars of class tars: by the name of ILSVRC2012's, or by what they hold.

    Args:
        location: The folder or file that the user named, as `Location.at` returns it.
        requested_split: A further split that a folder or a name may tell; '' for none.
        explicit: True if the user named the kind `ilsvrc-tar`: then tars are not examined.

    Returns:
        The source of each split, `train` for a tar of ILSVRC2012's name, '' for one without a name;
        empty if there are no such tars.

    Raises:
        ReadError: A folder or tar cannot be read.
        SourceError: A split has several folders, a tar is damaged, or a link leads back to itself.
    """
    tars = {"train": _tars_named(location, TRAIN_STEM)}
    if not tars["train"]:
        tars = paths_by_split(
            location, lambda path: _may_hold_tars(location, path), requested_split
        )
        if location.only_file:  # the name of a single file does not decide its split
            tars = {"": next(iter(tars.values()))} if tars else {}
        if not explicit:
            tars = {
                split: paths
                for split, paths in tars.items()
                if outline_of(location, paths[0]).shape == TARS
            }
    return {
        split: TarSource(
            "ilsvrc-tar",
            location,
            tuple(TarPart(path, TarOfTarsLayout(location.options)) for path in paths),
        )
        for split, paths in tars.items()
    }


def _may_hold_tars(location: Location, path: str) -> bool:
    stem = stem_of(path)
    has_own_kind = is_wnid(stem) or stem.startswith(("ILSVRC2012_img_val", "ILSVRC2012_devkit"))
    return (location.only_file != "" or not has_own_kind) and _is_tar_or_zip(location, path)


def find_class_tars(
    location: Location, requested_split: str, explicit: bool
) -> dict[str, TarSource]:
    """Find tars of one class each: `n########.tar`.

    Args:
        location: The folder that the user named, or one such tar, as `Location.at` returns it.
        requested_split: A further split that a folder or a name may tell; '' for none.
        explicit: True if the user named the kind `class-tars`: then any `<class>.tar` counts.

    Returns:
        The source of each split, '' for one without a name; empty if there are no such tars.

    Raises:
        ReadError: A folder or tar cannot be read.
        SourceError: A split has several folders, a tar is called `-`, or a link leads back to
            itself.
    """

    def fits(path: str) -> bool:
        return (explicit or is_wnid(stem_of(path))) and _is_tar_or_zip(location, path)

    return {
        split: TarSource(
            "class-tars",
            location,
            tuple(TarPart(path, _class_tar_layout(location, path)) for path in paths),
        )
        for split, paths in paths_by_split(location, fits, requested_split).items()
    }


def _class_tar_layout(location: Location, path: str) -> ClassTarLayout:
    return ClassTarLayout(folder_class(stem_of(path), location.options), location.options)


def find_val(
    location: Location, requested_split: str, explicit: bool
) -> dict[str, TarSource | ValFolder]:
    """Find ILSVRC2012's val images: flat in *location* or its `val` folder, or in their tar.

    Their table of classes is not looked for yet.

    Args:
        location: The folder or file that the user named, as `Location.at` returns it.
        requested_split: A further split that a folder or a name may tell; '' for none.
        explicit: True if the user named the kind `ilsvrc-val`: then a single tar is not examined.
            False: nothing is found where `--class-name` or the folder's name gives their class.

    Returns:
        The source of the split `val`, or of '' for a folder of the images alone; else empty.

    Raises:
        ReadError: A folder or tar cannot be read.
        SourceError: A split has several folders, a tar is damaged, or a link leads back to itself.
    """
    one_class = location.options.class_name or is_wnid(location.root.rpartition("/")[2])
    if one_class and not explicit and location.options.rules > 1:
        return {}  # --class-name or the folder's name gives their class
    if not location.only_file and any(map(is_val_image, location.names().files)):
        return {"": ValFolder("ilsvrc-val", location)}
    if "val" in location.names().folders and any(map(is_val_image, location.names("val").files)):
        return {"val": ValFolder("ilsvrc-val", location.child("val"))}
    tars = _tars_named(location, VAL_STEM)
    if not tars and location.only_file and _is_tar_or_zip(location, location.only_file):
        fits = explicit or outline_of(location, location.only_file).shape == VAL
        tars = [location.only_file] if fits else []
    elif not tars and location.options.rules > 1:
        candidates = paths_by_split(
            location, lambda path: _may_hold_tars(location, path), requested_split
        ).get("val", [])
        tars = [path for path in candidates[:1] if outline_of(location, path).shape == VAL]
    if not tars:
        return {}
    return {"val": TarSource("ilsvrc-val", location, (TarPart(tars[0], ValTar(location.root)),))}


def find_kaggle(
    location: Location, requested_split: str, explicit: bool
) -> dict[str, FolderSource | ValFolder | FlatFolder]:
    """Find Kaggle's tree of ILSVRC2012: `[ILSVRC/][Data/]CLS-LOC/{train/<wnid>, val}`.

    Args:
        location: The folder that the user named, as `Location.at` returns it: the one that holds
            `ILSVRC`, `Data` or `CLS-LOC`, or `CLS-LOC` itself.
        requested_split: `test` opens the test images, which have no class, too; any other is
            unused.
        explicit: Unused: the names of the folders decide.

    Returns:
        The source of each split that has a folder: `train`, `val`, and `test` on request; empty if
        there is no such tree.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: A link in a folder leads back to itself.
    """
    if location.only_file:  # its folder may hold a tree, which the user did not name
        return {}
    inside = next((location.child(path) for path in _KAGGLE if location.is_folder(path)), None)
    if inside is None:
        if not location.root.endswith("/CLS-LOC"):
            return {}
        inside = location
    sources: dict[str, FolderSource | ValFolder | FlatFolder] = {}
    folders = inside.names().folders
    if "train" in folders:
        sources["train"] = FolderSource("kaggle", inside.child("train"))
    if "val" in folders:
        # Many users sort val into class folders, as most training scripts expect.
        val = inside.child("val")
        sorted_out = bool(val.names().folders)
        sources["val"] = (FolderSource if sorted_out else ValFolder)("kaggle", val)
    # The 100,000 test images have no class, so they are opened only on request.
    if "test" in folders and requested_split == "test":
        sources["test"] = FlatFolder("kaggle", inside.child("test"))
    return sources
