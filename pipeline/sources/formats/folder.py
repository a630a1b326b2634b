"""The class folders: `<class>/<file>`, and Tiny-ImageNet's `<class>/images/<file>`.

Every regular file of a class folder is a sample, whatever its suffix, except those that
`pipeline.sources.clutter` skips. Links are followed. Images in folders inside a class folder
are refused, except in one called `images`, unless `--recursive` decides which folder is the class.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import abbreviate, folder_class, split_nested_path
from pipeline.sources.classes.evidence import ClassBasis, Evidence
from pipeline.sources.clutter import BESIDE, NO_IMAGES
from pipeline.sources.imagenet_tables import is_val_image
from pipeline.sources.keys import (
    known_split,
    looks_like_image,
    may_be_image,
)
from pipeline.sources.listing import sort_listing, string_array
from pipeline.sources.location import FolderSizes, Location
from pipeline.sources.nearby_tables import label_table
from pipeline.sources.source import Source

REMOTE_THREADS = 16
_INNER = "images"
_SLASH = pa.scalar("/", pa.large_string())


class _ClassSamples(NamedTuple):
    """The samples of one class folder, or of one folder in it; keys that equal paths are sorted."""

    name: str
    key: pa.Array
    num_bytes: pa.Array
    path: pa.Array | None
    """The paths, or None if they equal the keys."""


def _samples_of(class_name: str, prefix: str, folder: str, sizes: FolderSizes) -> _ClassSamples:
    """Return the files of *folder* as samples of a class; *prefix* precedes names in keys."""
    names = string_array(sizes.files, f"in {folder}")
    order = pc.sort_indices(names)
    names = names.take(order)
    num_bytes = pa.array(sizes.num_bytes, pa.int64()).take(order)
    key_names = names
    if prefix:
        key_names = pc.binary_join_element_wise(_text_scalar(prefix), names, _text_scalar("__"))
    key = pc.binary_join_element_wise(_text_scalar(class_name), key_names, _SLASH)
    if folder == class_name and not prefix:
        return _ClassSamples(class_name, key, num_bytes, None)
    path = pc.binary_join_element_wise(_text_scalar(folder), names, _SLASH)
    return _ClassSamples(class_name, key, num_bytes, path)


def _text_scalar(text: str) -> pa.Scalar:
    return string_array([text], "of a class folder")[0]


@dataclass(frozen=True)
class FolderSource(Source):
    """A folder of class folders."""

    outside_splits: tuple[str, ...] = ()
    """The images and folders beside this split's folder that belong to no split."""

    def _classes(self) -> list[str]:
        # Keys sort 'a b/' before 'a/', since a space is less than the slash.
        return sorted(
            self.location.names().folders,
            key=lambda name: f"{name}/".encode("utf-8", "surrogateescape"),
        )

    def marks(self) -> Iterable[str]:
        """Return the times of the class folders, which change when files come and go.

        A file that is overwritten in place does not change them; reading it fails instead.
        """
        return folder_marks(self.location, self._folders())

    def _folders(self) -> Iterator[str]:
        """Yield the folder, its class folders, and those inside of them that hold samples."""
        classes = self._classes()
        yield ""
        if self.location.options.recursive:
            yield from (path for name in classes for path, _ in walk(self.location, name))
        else:
            yield from classes
            yield from filter(self.location.is_folder, (f"{name}/{_INNER}" for name in classes))

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """List every class folder with one scan.

        Args:
            progress: A function that is called several times with a number of samples, which may
                be 0; the numbers add up to all samples.

        Returns:
            The listing (`pipeline.sources.listing`), sorted by key: the columns `key`
            (large_string, `<class>/<file name>`), `num_bytes` (int64) and, if any path differs from
            its key, `path` (large_string).

        Raises:
            ReadError: A folder cannot be read.
            SourceError: There are no images, the class of some is ambiguous or unknown, or a link
                leads nowhere or back to a folder that it lies in.
        """
        evidence = self._check_top_folder()
        _check_links_to_classes(self.location, self._classes())
        samples: list[_ClassSamples] = []
        folder_of: dict[str, str] = {}
        for folder, classes, skipped in _list_classes(self.location, self._classes()):
            evidence.merge(skipped)
            for class_samples in classes:
                if not self.location.options.recursive:
                    _check_folder_spelling(folder_of, class_samples.name, folder)
                samples.append(class_samples)
                first = class_samples.key[0].as_py() if len(class_samples.key) else ""
                evidence.add_class(
                    class_samples.name, ClassBasis("folder"), len(class_samples.key), first
                )
                progress(len(class_samples.key))
        _check_one_split(self.location, samples)
        if not any(len(class_samples.key) for class_samples in samples):
            raise SourceError(
                f"no images found: {self.root} has no <class>/<file>. Pass the folder that holds "
                "the class folders (for ImageNet: the n######## folders), e.g. ILSVRC2012/train."
            )
        columns = {
            "key": pa.chunked_array(
                [class_samples.key for class_samples in samples], pa.large_string()
            ),
            "num_bytes": pa.chunked_array(
                [class_samples.num_bytes for class_samples in samples], pa.int64()
            ),
        }
        if any(class_samples.path is not None for class_samples in samples):
            paths = [
                class_samples.key if class_samples.path is None else class_samples.path
                for class_samples in samples
            ]
            columns["path"] = pa.chunked_array(paths, pa.large_string())
        return sort_listing(pa.table(columns).replace_schema_metadata(evidence.encode()))

    def _check_top_folder(self) -> Evidence:
        """Refuse images beside the class folders, and count what else lies there."""
        evidence = Evidence()
        if self.location.options.rules == 1:
            return evidence
        top = self.location.names()
        evidence.merge(top.skipped)
        for name in self.outside_splits:
            evidence.skip(BESIDE, name)
        images = [name for name in top.files if looks_like_image(name)]
        if images:
            raise SourceError(_unsorted_images_text(self.location, images))
        _check_metadata_table(self.location, top.files)
        for name in filter(may_be_image, top.files):
            evidence.skip("files beside the class folders", name)
        return evidence


def _unsorted_images_text(location: Location, images: list[str]) -> str:
    summary = f"{len(images):,} images of {location.root} lie in no class folder, but others do"
    if all(map(is_val_image, images)):
        return (
            f"{summary} ({abbreviate(images, 3)}): sorting them into class folders was"
            " interrupted. Complete it, or move all of them back into one flat folder."
        )
    return (
        f"{summary} ({abbreviate(images, 3)}): their class is unknown. Move them into class"
        " folders or elsewhere, or pass --ignore with a pattern of their names, such as"
        f" {images[0]!r}."
    )


def _check_folder_spelling(folder_of: dict[str, str], class_name: str, folder: str) -> None:
    first_folder = folder_of.setdefault(class_name, folder)
    if first_folder != folder:
        raise SourceError(
            f"the class folders {first_folder!a} and {folder!a} differ only in Unicode"
            " normalisation. Put their files into one folder."
        )


def _check_metadata_table(location: Location, files: list[str]) -> None:
    """Refuse the Hub's table of metadata if it has other classes than the folders."""
    names = [name for name in files if name.lower().startswith("metadata.")]
    table, column = label_table(location, names)
    if table:
        raise SourceError(
            f"{location.full_path(table)} lists classes of the images in its column {column!r}, but"
            f" they also lie in class folders. Pass --ignore {table!r} to use the folders as"
            " classes."
        )


def _check_links_to_classes(location: Location, folders: list[str]) -> None:
    """Refuse a link to a class folder beside that folder: its images would be of two classes.

    Raises:
        SourceError: There is such a link, or one to the folder of the classes or above it.
    """
    if location.remote or location.options.rules == 1:
        return
    links = [name for name in folders if Path(location.full_path(name)).is_symlink()]
    folder_at = {
        os.path.realpath(location.full_path(name)): name for name in folders if name not in links
    }
    root_prefix = f"{os.path.realpath(location.root)}/"
    for name in links:
        real = os.path.realpath(location.full_path(name))
        if root_prefix.startswith(f"{real.rstrip('/')}/"):
            raise _link_cycle_error(location.full_path(name), real)
        class_folder = folder_at.setdefault(real, name)
        if class_folder != name:
            raise SourceError(
                f"{location.full_path(name)!r} is a link to the folder of the class"
                f" {class_folder!r}, whose images would be of two classes. Delete the link,"
                f" or pass --ignore {name!r}."
            )


def _check_one_split(location: Location, samples: list[_ClassSamples]) -> None:
    """Refuse a source whose class folders lie in folders of several splits.

    Raises:
        SourceError: There are several splits; the message names their folder.
    """
    splits: dict[str, str] = {}
    for class_samples in samples if location.options.recursive else ():
        paths = class_samples.key if class_samples.path is None else class_samples.path
        folders = paths[0].as_py().split("/")[:-1]
        first = location.options.recursive == "first"
        for depth in range(first, len(folders) - (not first)):
            if split := known_split(folders[depth]):
                splits.setdefault(split, "/".join(folders[: depth + 1]))
    if len(splits) > 1:
        parents = {path.rpartition("/")[0] for path in splits.values()}
        cure = "Pass one of them as the source, with --split"
        if len(parents) == 1:
            cure = f"Pass {location.full_path(parents.pop())!r}, which holds them, as the source"
        raise SourceError(
            f"{location.root} holds several splits ({abbreviate(map(repr, splits.values()))}),"
            f" which would become one. {cure}."
        )


def folder_marks(location: Location, folders: Iterable[str]) -> Iterable[str]:
    """Return texts that change when files are added to folders or removed from them.

    Object stores keep no times of folders, so for a remote source there is one random text, which
    differs at each call.

    Args:
        location: The folder of the source.
        folders: The paths of folders in it; '' is the source's own.

    Returns:
        The path, size and time of each folder, with tabs between them, to be iterated once; each is
        looked up when it is asked for, and a `ReadError` is raised then if the folder is missing.
    """
    return [uuid4().hex] if location.remote else map(location.mark, folders)


def _list_classes(
    location: Location, folders: list[str]
) -> Iterator[tuple[str, list[_ClassSamples], Evidence]]:
    """Yield (class folder, samples, evidence with the entries that were skipped)."""
    list_class = _list_nested_folders if location.options.recursive else _list_class_folder
    if not location.remote:
        # Local folders use one thread: several are slower, as they compete for the GIL.
        yield from (list_class(location, name) for name in folders)
        return
    # Listings of a remote server wait for its answers, so threads overlap them, in order.
    with ThreadPoolExecutor(REMOTE_THREADS) as threads:
        yield from threads.map(lambda name: list_class(location, name), folders)


def _list_class_folder(
    location: Location, folder: str
) -> tuple[str, list[_ClassSamples], Evidence]:
    class_name = folder_class(folder, location.options)
    sizes, evidence = location.sizes(folder), Evidence()
    evidence.merge(sizes.skipped)
    classes = [_samples_of(class_name, "", folder, sizes)]
    deeper = [f"{folder}/{name}" for name in sizes.folders if name != _INNER]
    if _INNER in sizes.folders:
        path = f"{folder}/{_INNER}"
        inner = location.sizes(path)
        evidence.merge(inner.skipped)
        classes.append(_samples_of(class_name, "", path, inner))
        deeper += [f"{path}/{name}" for name in inner.folders]
    if location.options.rules > 1:
        for path in deeper:
            _refuse_nested_images(location, folder, path, evidence)
    if any(len(class_samples.key) for class_samples in classes):
        return (
            folder,
            [class_samples for class_samples in classes if len(class_samples.key)],
            evidence,
        )
    # An empty class folder counts as a class: another split may have images of it.
    empty = not deeper and not evidence.skipped and folder != _INNER and location.options.rules > 1
    if not empty:
        evidence.skip(NO_IMAGES, folder)
    return folder, classes[:1] if empty else [], evidence


def _refuse_nested_images(location: Location, folder: str, path: str, evidence: Evidence) -> None:
    """Refuse images in a folder inside a class folder: either folder may be the class."""
    count, first = 0, ""
    for inner, sizes in walk(location, path):
        evidence.merge(sizes.skipped)
        count += len(sizes.files)
        first = first or next((f"{inner}/{name}" for name in sorted(sizes.files)), "")
    if count:
        name = path.rpartition("/")[2]
        # --ignore matches names at any depth, so it must not match a class folder, too.
        cure = f", or --ignore {name!r} to skip it" if name not in location.names().folders else ""
        raise SourceError(
            f"{location.full_path(path)} holds {count:,} files that lie deeper than"
            f" <class>/<image>, such as {first!r}: the class folder is ambiguous."
            f" Pass --recursive first (it is"
            f" {folder.partition('/')[0]!r}) or --recursive last"
            f" (it is {first.split('/')[-2]!r}){cure}."
        )
    evidence.skip(NO_IMAGES, path)


def _list_nested_folders(
    location: Location, folder: str
) -> tuple[str, list[_ClassSamples], Evidence]:
    evidence, classes = Evidence(), []
    for path, sizes in walk(location, folder):
        evidence.merge(sizes.skipped)
        if not sizes.files:
            continue
        folders = path.split("/")
        if len(folders) > 1 and folders[-1] == _INNER:
            folders.pop()
        class_name, prefix = split_nested_path(folders, "", location.options.recursive)
        classes.append(_samples_of(class_name, prefix.removesuffix("__"), path, sizes))
    if not classes:
        evidence.skip(NO_IMAGES, folder)
    return folder, classes, evidence


def walk(location: Location, folder: str) -> Iterator[tuple[str, FolderSizes]]:
    """Yield a folder and every folder in it, at any depth, with their files.

    Args:
        location: The folder of the source, with the options by which it is read.
        folder: The path in it of the folder to begin with; '' is the source's own.

    Yields:
        The path of the folder in the source, and a `FolderSizes`: the names of `files` in it that
        may be images, unsorted, their `num_bytes` in the same order, the names of its `folders`,
        and `skipped`, which counts the entries that were skipped. A folder comes before those in
        it, which are in the order of their names.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: A link leads nowhere, or back to a folder that it lies in.
    """
    pending = [(folder, _real_parents(location, folder))]
    while pending:
        path, real_parents = pending.pop()
        if not location.remote:  # object stores have no links, so no cycles
            real = os.path.realpath(location.full_path(path))
            if real in real_parents:
                raise _link_cycle_error(location.full_path(path), real)
            real_parents |= {real}
        sizes = location.sizes(path)
        yield path, sizes
        inner = (f"{path}/{name}" if path else name for name in sorted(sizes.folders, reverse=True))
        pending += [(name, real_parents) for name in inner]


def _link_cycle_error(path: str, real: str) -> SourceError:
    """Return the error for the link *path*, which leads to *real*, a folder that it lies in."""
    return SourceError(
        f"{path!r} is a link that leads back to a folder above it, {real!r}. Delete the link, or"
        f" pass --ignore {path.rpartition('/')[2]!r}."
    )


def _real_parents(location: Location, folder: str) -> frozenset[str]:
    """Return the real paths of *location* and of the folders between it and *folder*."""
    if location.remote or not folder:
        return frozenset()
    names = folder.split("/")[:-1]
    paths = ("/".join(names[:count]) for count in range(len(names) + 1))
    return frozenset(os.path.realpath(location.full_path(path)) for path in paths)
