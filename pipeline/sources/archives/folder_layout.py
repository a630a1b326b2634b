"""The folder trees in archives: which folder of a member is its split, and which its class.

A tree in an archive is read like the unpacked tree: one folder of class folders, or one for each
split. Images that lie deeper or elsewhere are refused, read by `--recursive`, or counted.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.errors import SourceError
from pipeline.sources.archives.layout import Layout, StoreMember, class_in, listed_sample
from pipeline.sources.archives.outline import (
    Outline,
    label_suffix,
    sample_name,
    split_folder,
)
from pipeline.sources.archives.tar import Member, Tar
from pipeline.sources.classes.class_names import (
    UNLABELLED,
    folder_class,
    named_class,
    split_nested_path,
)
from pipeline.sources.classes.evidence import ClassBasis, Evidence
from pipeline.sources.clutter import TEXTS, member_skip_reason
from pipeline.sources.imagenet_tables import find_ground_truth, is_val_image
from pipeline.sources.keys import folders_of, known_split, looks_like_image, may_be_image
from pipeline.sources.listing import ListedSample, SkippedFiles, skipped_files
from pipeline.sources.location import Location
from pipeline.sources.nearby_tables import ANNOTATIONS
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.sources.text_tables import decode_table, parse_annotations

_MAX_EXAMINED_JSONS = 16
_MAX_TEXT_BYTES = 1 << 20
_XML_CLASS = re.compile(rb"<name>\s*(n[0-9]{8})\s*</name>")


class _TreePath(NamedTuple):
    """The path of a member relative to its split."""

    below: list[str]
    """The folders under that of the split, or under the tree's prefix; the last is the class."""
    name: str


@dataclass(frozen=True)
class TreeTar(Layout):
    """The layout of a folder tree: `<...>/<class>/<file>`, or `<...>/<class>/images/<file>`.

    Where the tree has folders for splits, only `<...>/<split>/<class>/` counts. Images right in
    the folder of a split get their classes from `val_annotations.txt` in the same tar, as in
    Tiny-ImageNet, or are ILSVRC2012's val images; those of a test split have none.
    """

    split: str = ""
    """The split to read; empty: the tree has no folders for splits."""
    options: SourceOptions = DEFAULT_OPTIONS
    root: str = ""
    """The folder of the archive, which is searched for tables."""
    prefix: str = ""
    """The folders that all class folders lie in, where there are none for splits."""
    kaggle: bool = False
    """True if the tree is that of Kaggle's ILSVRC2012, with the classes of val in annotations."""

    def samples(
        self, tar: Tar, store_member: StoreMember, start: int = 0, stop: int | None = None
    ) -> Iterator[ListedSample | SkippedFiles]:
        """Yield every file of the split that may be an image as a sample.

        A file for which `member_skip_reason` has a reason is none: it is hidden, a system's,
        unfinished, ignored by the options, or by its name a text, table, archive or program.

        Args:
            tar: The open tar, which stays open.
            store_member: A function of a `Member` of *tar* (`name`, `offset`, `num_bytes`) that
                stores its bytes, or finds them, and returns their offset. It is called once for
                each sample that is no link.
            start: The offset in bytes of the first member's header (default: 0).
            stop: The offset in bytes at which to stop; None: the end of the tar (default).

        Yields:
            A `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`, `basis` of the class) for
            each sample, with the key `<class>/<file name>` and what *store_member* returned as its
            offset, in the order of the members; those right in the folder of the split follow
            behind all others. Of a link, `num_bytes` and `offset` are 0, and `same_as` is the key
            of its target, `?/<file name>` if that lies in no class folder; else it is ''. At the
            end, one `SkippedFiles` (`reason`, `name` of the first, `num_files`) for each reason for
            which members are no samples.

        Raises:
            ReadError: The tar could not be read now.
            SourceError: The tar is damaged, the class of an image is ambiguous or unknown, or a
                member gives a label, as in shards of WebDataset.
        """
        walk = _TreeWalk(self, tar, store_member)
        for member in tar.members(start, stop):
            sample = walk.sample_of(member)
            if sample is not None:
                yield sample
        yield from walk.waiting_samples()
        yield from skipped_files(walk.skipped)

    def check(self, outline: Callable[[], Outline]) -> None:
        """Refuse the val split of Kaggle's ILSVRC2012 without a table of its classes.

        Any other tree, and val images in class folders or with annotations beside them, are
        accepted without a look at tables.

        Args:
            outline: A function without arguments that returns the `Outline` of the archive, its
                first members, such as `lambda: outline_of(location, path)`. It is called only for
                the val split of such a tree.

        Raises:
            ReadError: A table, or the archive that *outline* reads, cannot be read now.
            SourceError: A table is missing, and the message names it, or it cannot be used.
        """
        if not self.kaggle or self.split != "val" or any(map(_is_val_xml, outline().names)):
            return
        flat = [name for name in outline().images if is_val_image(name.rpartition("/")[2])]
        if not flat or any(known_split(folders_of(name)[-1]) for name in flat):
            find_ground_truth(Location(self.root))


def _is_val_xml(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith("ILSVRC2012_val_") and name.endswith(".xml")


@dataclass
class _TreeWalk:
    """A walk over the members of a tree."""

    layout: TreeTar
    tar: Tar
    store_member: StoreMember
    waiting: list[ListedSample] = field(default_factory=list)
    """The images right in the folder of the split, whose tables may come behind them."""
    classes: dict[str, str] = field(default_factory=dict)
    """The class of each file name, from `val_annotations.txt`."""
    annotated: dict[str, str] = field(default_factory=dict)
    """The wnid of each val image (name without suffix), from ILSVRC2012's annotations."""
    skipped: Evidence = field(default_factory=Evidence)
    """The members that are no samples, counted by reason."""
    num_jsons: int = 0
    base: str = ""
    """The folder of the split, with those above it."""
    class_of_folder: dict[str, tuple[str, ClassBasis]] = field(default_factory=dict)
    """The prefix of keys and the basis of the class, for each folder of images."""

    def sample_of(self, member: Member) -> ListedSample | None:
        """Return the sample of *member*, or None and store what the member says of others."""
        folder, _, name = member.name.rpartition("/")
        if folder in self.class_of_folder and member.target is None and self._is_plain(name):
            # The fast path for a million images in a thousand folders.
            prefix, basis = self.class_of_folder[folder]
            return ListedSample(
                prefix + name, member.num_bytes, self.store_member(member), "", basis
            )
        tree_path = self._locate(member.name, looks_like_image(name))
        if tree_path is None:
            return None
        if name == ANNOTATIONS:
            where = f"{self.tar.name}: {member.name}"
            text = decode_table(self.tar.read(member.offset, member.num_bytes), where)
            self.classes.update(parse_annotations(text, where))
            return None
        self._refuse_label(member)
        if not may_be_image(name):
            self._read_other(member, name)
            return None
        if not tree_path.below:
            # A stream cannot go back to the bytes, so they are stored now and get a key later.
            self.waiting.append(listed_sample(name, member, self.store_member, ""))
            return None
        class_name, file_name = self._class_of(tree_path, member.name)
        target = self._target(member) if member.target is not None else ""
        sample = listed_sample(f"{class_name}/{file_name}", member, self.store_member, "")
        # With --recursive the class is decided, so the depth of its folder is no evidence.
        above = "" if self.layout.options.recursive else "/".join(tree_path.below)
        basis = ClassBasis("folder", folder=above)
        if file_name == name and looks_like_image(name):
            self.class_of_folder[folder] = f"{class_name}/", basis
        return sample._replace(same_as=target, basis=basis)

    def _is_plain(self, name: str) -> bool:
        """Return True if the name alone decides that a file in a folder of images is an image."""
        return looks_like_image(name) and name[0] not in "~#" and not self.layout.options.ignore

    def _locate(self, path: str, image: bool) -> _TreePath | None:
        """Return the path of a member below its split; None if it is not in the split."""
        layout = self.layout
        folders, name = folders_of(path), path.rpartition("/")[2]
        reason = member_skip_reason(path, layout.options)
        if reason not in ("", TEXTS):  # texts may hold classes, so they are located, too
            self.skipped.skip(reason, path)
            return None
        split, below = split_folder(folders, layout.split)
        if layout.split:
            if split == layout.split:
                if not reason:
                    self._check_base("/".join(folders[: len(folders) - len(below)]))
                return _TreePath(below, name)
            if image and not split:
                self.skipped.skip("images outside of the splits' folders", path)
            return None
        if layout.options.rules == 1:
            return _TreePath(folders[-1:], name) if folders else None
        if image and split:
            self._refuse_split(path, split, below)
        return self._below_prefix(folders, path, image)

    def _refuse_split(self, path: str, split: str, below: list[str]) -> None:
        """Refuse an image below a split's name, in a tree without folders for splits.

        An image right in a folder of that name is accepted: the folder is a class.
        """
        *folders, name = path.split("/")
        if below or is_val_image(name):
            raise SourceError(
                f"{self.tar.name}: the member {path!r} lies in a folder of the split {split!r},"
                " but the first members lie in none. Unpack the archive, and pass the folder."
            )
        if folders[-1] == "images":
            raise SourceError(
                f"{self.tar.name}: the member {path!r} lies in a folder `images` of {split!r},"
                f" beside other folders of images: {split!r} may be a split, or a class. Unpack the"
                " archive, and pass the folder of the split, or rename the folder of the class."
            )

    def _check_base(self, base: str) -> None:
        """Refuse images of one split in two folders of its name."""
        self.base = self.base or base
        if base != self.base and self.layout.options.rules > 1:
            raise SourceError(
                f"{self.tar.name} has two folders of the split {self.layout.split!r}: {self.base!r}"
                f" and {base!r}. Unpack the archive, and pass the folder of one of them."
            )

    def _below_prefix(self, folders: list[str], path: str, image: bool) -> _TreePath | None:
        """Return the path of a member in a tree without folders for splits."""
        name = path.rpartition("/")[2]
        prefix = [part for part in self.layout.prefix.split("/") if part]
        above = folders[: len(prefix)] == prefix[: len(folders)]
        if above and len(folders) > len(prefix):
            return _TreePath(folders[len(prefix) :], name)
        if above:
            if image:
                self.skipped.skip("images outside of the class folders", path)
            return None
        if image and not self.layout.options.recursive:
            raise self._nested(folders, path)
        return _TreePath(folders, name)

    def _class_of(self, tree_path: _TreePath, path: str) -> tuple[str, str]:
        """Return the class and the file name in the key of a member in class folders."""
        below, options = tree_path.below, self.layout.options
        twice = path.split("/")[-3:-1] == ["images", "images"] and not options.recursive
        if (len(below) > 1 or twice) and options.rules > 1:
            if not options.recursive:
                raise self._nested(folders_of(path) if twice else below, path)
            return split_nested_path(below, tree_path.name, options.recursive)
        return folder_class(below[-1], options), tree_path.name

    def _nested(self, folders: list[str], path: str) -> SourceError:
        inside = f", and others in {self.layout.prefix!r}" if self.layout.prefix else ""
        return SourceError(
            f"{self.tar.name}: the member {path!r} lies in the folders {'/'.join(folders)!r}"
            f"{inside}: which folder is the class? Pass --recursive first or --recursive last, or "
            "unpack the archive and pass the folder of class folders."
        )

    def _target(self, member: Member) -> str:
        """Return the key of the member that a link stands for."""
        target = member.target or ""
        tree_path = self._locate(target, image=False)
        name = target.rpartition("/")[2]
        if tree_path is None or not tree_path.below:
            return f"?/{name}"
        return "/".join(self._class_of(tree_path, target))

    def _read_other(self, member: Member, name: str) -> None:
        """Read a member that is no image, which may be an annotation of ILSVRC2012."""
        if _is_val_xml(member.name):
            data = self.tar.read(member.offset, min(member.num_bytes, _MAX_TEXT_BYTES))
            wnids = set(_XML_CLASS.findall(data))
            # Several objects of different classes do not tell the image's class.
            if len(wnids) == 1:
                self.annotated[name.removesuffix(".xml")] = wnids.pop().decode()
        self.skipped.skip(TEXTS, member.name)

    def _refuse_label(self, member: Member) -> None:
        """Refuse a label of WebDataset: then labels, not folders, tell the classes.

        Raises:
            SourceError: The member is a label.
        """
        sample, suffix = sample_name(member.name)
        if self.layout.options.rules > 1 and self._is_label(suffix.lower(), member):
            raise SourceError(
                f"{self.tar.name}: the member {member.name!r} gives the class of the sample"
                f" {sample!r}, so the folders are not the classes. Pass --source-kind webdataset."
            )

    def _is_label(self, suffix: str, member: Member) -> bool:
        if label_suffix(suffix):
            return True
        # A tree may hold a JSON beside each image, so only the first few are read.
        if suffix != "json" or member.target is not None or self.num_jsons >= _MAX_EXAMINED_JSONS:
            return False
        self.num_jsons += 1
        data = self.tar.read(member.offset, min(member.num_bytes, _MAX_TEXT_BYTES))
        return any(b'"%s"' % word in data for word in (b"label", b"cls", b"wnid"))

    def waiting_samples(self) -> Iterator[ListedSample]:
        """Yield the samples of images right in the folder of the split, with their classes."""
        truth = None
        for sample in self.waiting:
            name = sample.same_as or sample.key
            by = "table"
            if self.classes or self.layout.options.rules == 1:
                class_name = class_in(self.classes, name, self.tar.name)
            elif self.layout.options.class_name:
                class_name, by = named_class(self.layout.options.class_name), "none"
            elif is_val_image(name):
                class_name = self.annotated.get(name.partition(".")[0], "")
                if not class_name:
                    truth = truth or find_ground_truth(Location(self.layout.root))
                    class_name = truth.wnid(name)
            elif self.layout.split == "test":
                class_name, by = UNLABELLED, "none"
            else:
                raise self._no_class(name)
            target = f"{class_name}/{sample.same_as}" if sample.same_as else ""
            yield sample._replace(
                key=f"{class_name}/{sample.key}", same_as=target, basis=ClassBasis(by)
            )

    def _no_class(self, name: str) -> SourceError:
        return SourceError(
            f"{self.tar.name}: the image {name!r} lies directly in the folder of the split"
            f" {self.layout.split!r}, not in a class folder, and there is no {ANNOTATIONS}. Move"
            " it into a class folder, or pass --class-name NAME (- for no class) to include all"
            " such images."
        )
