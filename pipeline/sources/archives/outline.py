"""The outline of an archive: its first members, examined before any of them is read.

The walk goes on until there are images, however many annotations lie before them, and stops as
soon as the members decide the shape. A command opens its source several times, and a compressed
archive must be read for its outline, so outlines are cached until the archive changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from pipeline.sources.archives.open import is_streamed, open_tar
from pipeline.sources.archives.tar import PLAIN, Member, Tar
from pipeline.sources.keys import folders_of, is_wnid, known_split, looks_like_image
from pipeline.sources.location import Location
from pipeline.sources.options import SourceOptions

MAX_IMAGES = 64
"""The number of images after which an outline is complete enough."""
MAX_MEMBERS = 64
"""The number of members of any kind that are stored; later ones only if they decide the shape."""
MAX_REMOTE_MEMBERS = 64
"""The maximum number of members of a remote tar: each header is one request."""
MAX_OUTLINE_BYTES = 8 << 30
"""The position in a compressed archive, in bytes, at which the walk stops.

A compressed archive must be read to be examined; Kaggle's has 1 GB before the first image.
"""

TEXTS = ("json", "txt")
"""The suffixes, beside labels, that belong to an image of the same name in a WebDataset shard."""
_LABELS = frozenset(("cls", "label", "labels", "class", "target", "wnid"))

TARS, SHARD, TREE, VAL = "tars", "shard", "tree", "val"


@dataclass(frozen=True)
class Outline:
    """The first members of an archive, which decide its shape."""

    members: tuple[Member, ...]
    """The first members that are files or links, in the order of the archive."""
    is_complete: bool
    """True if the walk came to the end, so that the members include all images of the archive."""

    @property
    def names(self) -> list[str]:
        """The names of the members."""
        return [member.name for member in self.members]

    @property
    def images(self) -> list[str]:
        """The names of the images."""
        return [member.name for member in self.members if is_image(member.name)]

    @property
    def shape(self) -> str:
        """The shape: `TARS`, `SHARD`, `TREE`, `VAL` (flat val images of ILSVRC), or '' for none."""
        names = self.names
        if any(name.lower().endswith(PLAIN) for name in names):
            return TARS
        images = self.images
        if self.has_labels:
            return SHARD
        if images and all(map(_is_flat_val, images)):
            return VAL
        if any(map(folders_of, images)):
            return TREE
        return SHARD if images else ""

    @property
    def has_labels(self) -> bool:
        """True if an image has a label or a text of the same sample beside it."""
        samples = {sample_name(name)[0] for name in self.images}
        parts = map(sample_name, self.names)
        return any(
            _is_label_or_text(suffix.lower()) and sample in samples for sample, suffix in parts
        )

    def splits(self, requested_split: str = "") -> set[str]:
        """Return the splits that the folders of a tree are named after, among the first members.

        A folder named after a split counts if class folders lie in it. Where all these images lie
        right in folders called `train`, `val` or `test`, those are splits; beside other folders of
        images they are classes. In Kaggle's ILSVRC2012, `train` and `val` are returned unless the
        first members include all images.

        Args:
            requested_split: A further name of a folder that counts as a split (default: none).

        Returns:
            Names such as `train` and `val`; an empty set if the tree has no folders for splits.
        """
        split_folders = [split_folder(folders_of(name), requested_split) for name in self.images]
        splits = {split for split, below in split_folders if split and below}
        if not splits and not all(split for split, _ in split_folders):
            return set()
        if self.is_kaggle and not self.is_complete:
            splits |= {"train", "val"}  # the other split follows the first members
        return splits | {split for split, _ in split_folders if split}

    @property
    def is_kaggle(self) -> bool:
        """True if the archive is the tree of Kaggle's ILSVRC2012."""
        return any("/CLS-LOC/" in f"/{name}" for name in self.images)

    @property
    def prefix(self) -> str:
        """The folders that all class folders lie in, as far as the members show."""
        parents = [folders[:-1] for name in self.images if (folders := folders_of(name))]
        common = takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
        return "/".join(parts[0] for parts in common)


def is_image(path: str) -> bool:
    """Return True if a member's name ends as those of images do, and no part of it is hidden.

    Args:
        path: The path of the member in the archive. Its last suffix decides, such as `.jpg` or
            `.PNG` in any case; a part is hidden if it begins with a dot or is `__MACOSX`.
    """
    return looks_like_image(path.rpartition("/")[2]) and not is_hidden(path)


def is_hidden(path: str) -> bool:
    """Return True if a part of a path begins with a dot or is `__MACOSX`, macOS's metadata.

    Args:
        path: The path of the member in the archive; parts that are `.` or `..` do not count.
    """
    parts = path.split("/")
    return any(part[:1] == "." and part not in (".", "..") for part in parts) or (
        "__MACOSX" in parts
    )


def split_folder(folders: list[str], requested_split: str = "") -> tuple[str, list[str]]:
    """Return the split that one of the folders of a member is named after, and those below it.

    `<split>/<class>` takes precedence over `<split>` alone, since a class may be called `test`, and
    either over a split further up.

    Args:
        folders: The folders of the member, from the outermost to the innermost.
        requested_split: A further name that counts as a split (default: none).

    Returns:
        The split, such as `val` for a folder `validation`, and the list of the folders below it,
        which is empty if the innermost names the split; without a split, an empty text and all of
        *folders*.
    """
    for depth in (2, 1, *range(3, len(folders) + 1)):
        split = known_split(folders[-depth], requested_split) if len(folders) >= depth else ""
        if split:
            return split, folders[len(folders) - depth + 1 :]
    return "", folders


def sample_name(path: str) -> tuple[str, str]:
    """Split a member's path at the first dot of its last part, as WebDataset does.

    Args:
        path: The path of the member in the archive, such as `a/0001.left.jpg`.

    Returns:
        The name of the sample and the suffix without its dot: `a/0001` and `left.jpg`. The suffix
        keeps its case, and is empty if the last part has no dot.
    """
    folder, slash, name = path.rpartition("/")
    base, _, suffix = name.partition(".")
    return folder + slash + base, suffix


def label_suffix(suffix: str) -> str:
    """Return the word in a member's suffix that marks it as a label; else ''.

    Args:
        suffix: The suffix behind the first dot, in lower case.

    Returns:
        One of `cls`, `label`, `labels`, `class`, `target` and `wnid`: `cls` for `cls`, `cls.txt`
        and `v1.cls`, and `label` for `label.json`. Empty for `txt`, `json` and any other suffix.
    """
    *before, last = suffix.split(".")
    if before and last in TEXTS:
        last = before[-1]
    return last if last in _LABELS else ""


def _is_label_or_text(suffix: str) -> bool:
    return suffix in TEXTS or label_suffix(suffix) != ""


def _is_flat_val(path: str) -> bool:
    folders = folders_of(path)
    flat = not folders or not (is_wnid(folders[-1]) or known_split(folders[-1]))
    name = path.rpartition("/")[2]
    return flat and name.startswith("ILSVRC2012_val_")


def outline_of(location: Location, path: str) -> Outline:
    """Return the outline of an archive, which is read; cached until the archive changes.

    The process keeps the last 64 outlines. The walk stops behind 64 images, at the first inner tar,
    or after 64 members of a remote plain tar; a compressed archive is decompressed up to there, or
    for 8 GiB at most.

    Args:
        location: The folder of the archive.
        path: The path of the archive in that folder.

    Returns:
        An `Outline`: `members`, the first ones as a tuple of `Member` in the order of the archive
        (later ones only if they decide its shape), and `is_complete`, which is True if the walk
        came to the end of the archive, so that they include all of its images.

    Raises:
        SourceError: The file is no archive, or is damaged.
        ReadError: The file cannot be read.
    """
    return _cached_outline(location.root, path, location.options, location.mark(path))


@lru_cache(maxsize=64)
def _cached_outline(root: str, path: str, options: SourceOptions, mark: str) -> Outline:
    # The mark is a part of the cache's key: an archive that changed is read again.
    location = Location(root, "", options)
    if location.remote and not is_streamed(location, path):
        # Random access fetches only headers: a stream would fetch the data between them, too.
        with Tar(
            location.open(path), location.full_path(path), location.size(path), can_seek=True
        ) as tar:
            return _read_outline(tar, MAX_REMOTE_MEMBERS)
    with open_tar(location, path) as tar:
        return _read_outline(tar, None)


def _read_outline(tar: Tar, max_members: int | None) -> Outline:
    members: list[Member] = []
    num_images = 0
    annotated = False
    for number, member in enumerate(tar.members()):
        decides = is_image(member.name)
        num_images += decides
        if not annotated and "/ILSVRC2012_val_" in member.name and not decides:
            decides = annotated = True  # it has the class of a val image, which may come last
        if decides or number < MAX_MEMBERS:
            members.append(member)
        enough = num_images >= MAX_IMAGES or member.name.lower().endswith(PLAIN)
        too_far = not tar.walks_quickly and member.offset > MAX_OUTLINE_BYTES
        if enough or too_far or number + 1 == max_members:
            return Outline(tuple(members), is_complete=False)
    return Outline(tuple(members), is_complete=True)


def all_splits(location: Location, path: str, requested_split: str) -> set[str]:
    """Return every split that folders of the tree in an archive are named after.

    If the first images (`outline_of`) tell a split and are not all images, all headers of an
    archive that can be walked quickly are examined, too; one that must be read to be walked is
    assumed to hold *requested_split*.

    Args:
        location: The folder of the archive.
        path: The path of the archive in that folder.
        requested_split: The split that the command asks for; '' if it names none.

    Returns:
        Names such as `train` and `val`; an empty set if the first images tell no split.

    Raises:
        SourceError: The file is no archive, or is damaged.
        ReadError: The file cannot be read.
    """
    outline = outline_of(location, path)
    splits = outline.splits(requested_split)
    if not splits or outline.is_complete:
        return splits
    walked = _splits_of_all_members(
        location.root, path, requested_split, location.options, location.mark(path)
    )
    if walked is not None:
        return splits | walked
    return splits | ({requested_split} if requested_split else set())


@lru_cache(maxsize=64)
def _splits_of_all_members(
    root: str, path: str, requested_split: str, options: SourceOptions, mark: str
) -> frozenset[str] | None:
    """Return the splits of all members; None where the archive must be read to be walked."""
    with open_tar(Location(root, "", options), path) as tar:
        return (
            frozenset(_splits_of_members(tar.members(), requested_split))
            if tar.walks_quickly
            else None
        )


def _splits_of_members(members: Iterable[Member], requested_split: str) -> set[str]:
    splits = {
        split_folder(folders_of(member.name), requested_split)[0]
        for member in members
        if is_image(member.name)
    }
    return splits - {""}
