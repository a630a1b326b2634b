"""Class folders: `<class>/<file>`, and Tiny-ImageNet's `<class>/images/<file>`.

Every regular file of a class folder is a sample, whatever its name ends in, but for those that
begin with '.' and those that end as tables, texts and archives do. Links are followed. Folders
inside a class folder are not looked into, except one called `images`.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SourceError
from pipeline.sources.beside import find_words, is_val_image
from pipeline.sources.classes import ClassTable
from pipeline.sources.layouts import class_in
from pipeline.sources.listing import sort_listing, string_array
from pipeline.sources.naming import is_wnid, known_split, looks_like_image, may_be_image
from pipeline.sources.place import Place, Sizes, fingerprint_of
from pipeline.sources.spool import Blocks
from pipeline.sources.text_tables import parse_annotations

REMOTE_THREADS = 16
ANNOTATIONS = "val_annotations.txt"
_CLASSES_LOOKED_INTO = 20
_SLASH = pa.scalar("/", pa.large_string())


class _Class(NamedTuple):
    """The samples of one class, sorted by key."""

    key: pa.Array
    num_bytes: pa.Array
    path: pa.Array | None
    """None: the paths equal the keys."""


def _list_class(place: Place, folder: str) -> _Class:
    sizes = place.sizes(folder)
    direct = _class_of(folder, folder, sizes)
    if "images" not in sizes.folders:
        return direct
    inner = _class_of(folder, f"{folder}/images", place.sizes(f"{folder}/images"))
    if not len(direct.key):
        return inner
    return _Class(
        pa.concat_arrays([direct.key, inner.key]),
        pa.concat_arrays([direct.num_bytes, inner.num_bytes]),
        pa.concat_arrays([direct.key, inner.path]),
    )


def _class_of(class_name: str, folder: str, sizes: Sizes) -> _Class:
    names = string_array(sizes.files, f"in {folder}")
    order = pc.sort_indices(names)
    names = names.take(order)
    num_bytes = pa.array(sizes.num_bytes, pa.int64()).take(order)
    key = _join(class_name, names)
    return _Class(key, num_bytes, None if folder == class_name else _join(folder, names))


def _join(folder: str, names: pa.Array) -> pa.Array:
    prefix = string_array([folder], "of a class folder")[0]
    return pc.binary_join_element_wise(prefix, names, _SLASH)


@dataclass(frozen=True)
class FolderSource:
    """A folder of class folders."""

    kind: str
    place: Place
    access: Literal["random", "blocks"] = "random"

    @property
    def root(self) -> str:
        """The folder of class folders."""
        return self.place.root

    def _classes(self) -> list[str]:
        names = [name for name in self.place.names().folders if name != "__MACOSX"]
        # 'a b' stands before 'a' in keys, since a space is less than the slash
        return sorted(names, key=lambda name: f"{name}/".encode("utf-8", "surrogateescape"))

    def fingerprint(self) -> str:
        """Digest of the class folders' times, which change when files come and go.

        A file that is overwritten in place is not noticed here; reading it is what fails. Object
        stores keep no times of folders, so there the fingerprint matches nothing, not even itself.
        """
        if self.place.remote:
            return _unlike_any()
        folders = ["", *self._classes()]
        inner = [f"{name}/images" for name in folders[1:] if self.place.is_folder(f"{name}/images")]
        marks = [self.kind, self.root, *map(self.place.mark, folders + inner)]
        return fingerprint_of(marks, self.place.options)

    def class_table(self) -> ClassTable | None:
        """Return None: the samples have no numbers."""
        return None

    def words(self) -> dict[str, str]:
        """Class -> words, from a table beside the folders."""
        return find_words(self.place)

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """Look into every class folder once."""
        found: list[_Class] = []
        for one in _each_class(self.place, self._classes()):
            found.append(one)
            progress(len(one.key))
        if not any(len(one.key) for one in found):
            raise SourceError(
                f"no images found: {self.root} has no <class>/<file>. Pass the folder that holds "
                "the class folders (for ImageNet: the n######## folders), e.g. ILSVRC2012/train."
            )
        columns = {
            "key": pa.chunked_array([one.key for one in found], pa.large_string()),
            "num_bytes": pa.chunked_array([one.num_bytes for one in found], pa.int64()),
        }
        if any(one.path is not None for one in found):
            paths = [one.key if one.path is None else one.path for one in found]
            columns["path"] = pa.chunked_array(paths, pa.large_string())
        return sort_listing(pa.table(columns))

    def blocks(self) -> Blocks:
        """None: folders are read at random."""
        raise SourceError(f"{self.root} is read at random; it has no blocks")


def _unlike_any() -> str:
    from uuid import uuid4

    return uuid4().hex


def _each_class(place: Place, classes: list[str]) -> Iterator[_Class]:
    if not place.remote:
        # one thread: more of them are slower, as they fight for the interpreter
        yield from (_list_class(place, name) for name in classes)
        return
    with ThreadPoolExecutor(REMOTE_THREADS) as threads:
        yield from threads.map(lambda name: _list_class(place, name), classes)


@dataclass(frozen=True)
class AnnotatedFolder:
    """Tiny-ImageNet's val: `images/<file>`, with the classes in `val_annotations.txt`."""

    kind: str
    place: Place
    access: Literal["random", "blocks"] = "random"

    @property
    def root(self) -> str:
        """The folder that holds `images` and the table."""
        return self.place.root

    def fingerprint(self) -> str:
        """Digest of the times of the folder and its table."""
        if self.place.remote:
            return _unlike_any()
        marks = [self.kind, self.root, *map(self.place.mark, ("images", ANNOTATIONS))]
        return fingerprint_of(marks, self.place.options)

    def class_table(self) -> ClassTable | None:
        """Return None: the samples have no numbers."""
        return None

    def words(self) -> dict[str, str]:
        """Class -> words, from a table beside the folder."""
        return find_words(self.place)

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """Look into `images` once."""
        where = self.place.full(ANNOTATIONS)
        classes = parse_annotations(self.place.read_text(ANNOTATIONS), where)
        sizes = self.place.sizes("images")
        return flat_listing(
            self.place, "images/", sizes, lambda name: class_in(classes, name, self.root), progress
        )

    def blocks(self) -> Blocks:
        """None: folders are read at random."""
        raise SourceError(f"{self.root} is read at random; it has no blocks")


def flat_listing(
    place: Place,
    prefix: str,
    sizes: Sizes,
    class_of: Callable[[str], str],
    progress: Callable[[int], None],
) -> pa.Table:
    """List the files of one folder whose classes a table tells."""
    if not sizes.files:
        raise SourceError(f"no images found: {place.full(prefix)} holds no image file.")
    keys = [f"{class_of(name)}/{name}" for name in sizes.files]
    table = pa.table(
        {
            "key": string_array(keys, f"in {place.root}"),
            "num_bytes": pa.array(sizes.num_bytes, pa.int64()),
            "path": string_array([prefix + name for name in sizes.files], f"in {place.root}"),
        }
    )
    progress(len(table))
    return sort_listing(table)


def holds_classes(place: Place) -> bool:
    """Say whether the folders of *place* look like class folders; looks into a few."""
    return any(_is_class(place, name) for name in place.names().folders[:_CLASSES_LOOKED_INTO])


def _is_class(place: Place, name: str) -> bool:
    names = place.names(name)
    inner = place.names(f"{name}/images").files if "images" in names.folders else []
    fits = may_be_image if is_wnid(name) else looks_like_image
    some = [*names.files, *inner][:1000]
    # A flat val/ is no class; but a wnid's folder is one, even where val images were dealt into it.
    flat_val = not is_wnid(name) and any(map(is_val_image, some[:1]))
    return any(map(fits, some)) and not flat_val


def find_folders(place: Place, wanted: str, named: bool) -> dict[str, FolderSource]:
    """Find class folders at *place* or one level down, in folders named as splits."""
    found = {}
    for name in place.names().folders:
        inside = place.inside(name)
        split = known_split(name, wanted)
        if split and inside.names().folders and (named or holds_classes(inside)):
            found[split] = FolderSource("folder", inside)
    if not found and (named or holds_classes(place)):
        found[""] = FolderSource("folder", place)
    return found


def find_tiny(place: Place, wanted: str, named: bool) -> dict[str, FolderSource | AnnotatedFolder]:
    """Find Tiny-ImageNet's tree at *place*, in its folder of that name, or its val alone."""
    if "tiny-imagenet-200" in place.names().folders:
        place = place.inside("tiny-imagenet-200")
    top = place.names()
    if ANNOTATIONS in top.files and "images" in top.folders:
        return {"": AnnotatedFolder("tiny-imagenet", place)}
    if "val" not in top.folders or ANNOTATIONS not in place.names("val").files:
        return {}
    found: dict[str, FolderSource | AnnotatedFolder] = {
        "val": AnnotatedFolder("tiny-imagenet", place.inside("val"))
    }
    if "train" in top.folders:
        found["train"] = FolderSource("tiny-imagenet", place.inside("train"))
    return found
