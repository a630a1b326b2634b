"""The layouts of tars: how their members become samples, in class tars and tars of such tars."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import SourceError
from pipeline.sources.archives.outline import Outline
from pipeline.sources.archives.tar import PLAIN, Member, Tar, is_tar, stem_of
from pipeline.sources.classes.class_names import folder_class
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.clutter import member_skip_reason
from pipeline.sources.keys import known_split
from pipeline.sources.listing import ListedSample, SkippedFiles, skipped_files
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions

StoreMember = Callable[[Member], int]
"""A function that stores a member's bytes and returns the offset at which they can be read."""


class Layout(ABC):
    """The way in which the members of a tar become samples; a small picklable value."""

    @abstractmethod
    def samples(
        self, tar: Tar, store_member: StoreMember, start: int = 0, stop: int | None = None
    ) -> Iterator[ListedSample | SkippedFiles]:
        """Yield the samples among the members of a tar that lie in bytes [start, stop).

        Args:
            tar: The open tar, which stays open.
            store_member: A function of a `Member` of *tar* (`name`, `offset`, `num_bytes`) that
                stores its bytes, or finds them, and returns the offset at which they can be read
                afterwards. It is called once for each sample that is no link.
            start: The offset in bytes of the first member's header (default: 0).
            stop: The offset in bytes at which to stop; None: the end of the tar (default).

        Yields:
            A `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`, `basis` of the class) for
            each sample, with what *store_member* returned as its offset. Of a link, `num_bytes` and
            `offset` are 0, and `same_as` is the key of its target; else that is ''. Also
            `SkippedFiles` (`reason`, `name` of the first, `num_files`) that count the members that
            are none.

        Raises:
            ReadError: The tar could not be read now.
            SourceError: The tar is damaged, or its members do not fit this layout.
        """

    def check(self, outline: Callable[[], Outline]) -> None:  # noqa: B027 - most refuse nothing
        """Refuse an archive that cannot be read to its end, before it is streamed.

        Most layouts, and this default, refuse nothing.

        Args:
            outline: A function without arguments that returns the `Outline` of the archive, its
                first members, such as `lambda: outline_of(location, path)`. It may not be called.

        Raises:
            ReadError: A table, or the archive that *outline* reads, cannot be read now.
            SourceError: A table of classes is missing, or it cannot be used.
        """

    def unique_name(self, path: str, number: int, name: str) -> str:
        """Return a unique name for a sample whose own name repeats in the source.

        Args:
            path: The path of the tar in the source.
            number: The number of the sample in the tar, from 0.
            name: The file name that repeats.

        Returns:
            A file name, such as `shard-000000012.jpg` of `shard.tar`; an empty text where a
            repeated name is refused, as among files in folders. This default is empty for all.
        """
        return ""

    def class_table(self) -> ClassTable | None:
        """Return the classes that labels count; None where a sample has no label."""
        return None

    def table_marks(self) -> list[str]:
        """Return marks of the tables that decide classes, for a fingerprint."""
        return []


@dataclass(frozen=True)
class ClassTarLayout(Layout):
    """A tar of all images of one class: `<anything>/<file>` becomes `<class>/<file>`."""

    class_name: str
    """The class, as in keys."""
    options: SourceOptions = DEFAULT_OPTIONS
    """The options by which the source is read."""

    def samples(
        self, tar: Tar, store_member: StoreMember, start: int = 0, stop: int | None = None
    ) -> Iterator[ListedSample | SkippedFiles]:
        """Yield every member that may be an image, as a sample of the tar's class.

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
            offset, in the order of the members. Of a link, `num_bytes` and `offset` are 0, and
            `same_as` is the key of its target; else that is ''. At the end, one `SkippedFiles`
            (`reason`, `name` of the first, `num_files`) for each reason for which members are no
            samples.

        Raises:
            ReadError: The tar could not be read now.
            SourceError: The tar is damaged, or holds another tar; a zip in it is only counted.
        """
        prefix = f"{self.class_name}/"
        skipped = Evidence()
        for member in tar.members(start, stop):
            name = member.name.rpartition("/")[2]
            reason = member_skip_reason(member.name, self.options)
            if not reason:
                yield listed_sample(prefix + name, member, store_member, prefix)
                continue
            # Its images would be left out: an archive in a class tar is no sample.
            if is_tar(name) and self.options.rules > 1:
                raise SourceError(
                    f"{tar.name}: the member {member.name!r} is an archive inside that of the "
                    f"class {self.class_name!r}. Unpack the outer one, and pass the folder."
                )
            skipped.skip(reason, member.name)
        yield from skipped_files(skipped)


def listed_sample(key: str, member: Member, store_member: StoreMember, prefix: str) -> ListedSample:
    """Return the sample of a file in a tar, or of a link to one.

    Args:
        key: The key of the sample.
        member: The member that holds its bytes, or the link.
        store_member: The function of a `Member` that stores its bytes and returns their offset. It
            is called once for a file, and not for a link.
        prefix: The `<class>/` with which the key of a link's target begins.

    Returns:
        A `ListedSample`: for a file, its `key`, `num_bytes` and `offset`, with an empty `same_as`.
        For a link, `num_bytes` and `offset` are 0, and `same_as` is *prefix* and the file name of
        its target. The `basis` of the class is `ClassBasis("folder")`.
    """
    if member.target is None:
        return ListedSample(key, member.num_bytes, store_member(member))
    return ListedSample(key, 0, 0, prefix + member.target.rpartition("/")[2])


@dataclass(frozen=True)
class TarOfTarsLayout(Layout):
    """The layout of ILSVRC's train tar: a tar that holds one `<class>.tar` for each class."""

    options: SourceOptions = DEFAULT_OPTIONS

    def samples(
        self, tar: Tar, store_member: StoreMember, start: int = 0, stop: int | None = None
    ) -> Iterator[ListedSample | SkippedFiles]:
        """Yield the members of each inner tar as samples of its class; nothing is unpacked.

        Args:
            tar: The open outer tar, which stays open.
            store_member: A function of a `Member` of *tar* (`name`, `offset`, `num_bytes`) that
                stores its bytes, or finds them, and returns their offset. It is called once for
                each sample that is no link.
            start: The offset in bytes of the first inner tar's header (default: 0).
            stop: The offset in bytes at which to stop; None: the end of the outer tar (default).

        Yields:
            A `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`, `basis` of the class) for
            each sample, with the key `<class>/<file name>` and what *store_member* returned as its
            offset, in the order of the members, where the name of the inner tar is the class. Of a
            link, `num_bytes` and `offset` are 0, and `same_as` is the key of its target; else that
            is ''. Behind those of each inner tar, a `SkippedFiles` (`reason`, `name` of the first,
            `num_files`) for each reason for which its members are no samples; at the end one for
            the members of the outer tar that are no tars.

        Raises:
            ReadError: The tar could not be read now.
            SourceError: A tar is damaged; or an inner one is compressed, holds another tar, is
                named after a split or `-`, or lies in a folder of one of several splits.
        """
        inner_tars = InnerTars(tar)
        for inner in inner_tars.members(start, stop):
            layout = ClassTarLayout(folder_class(stem_of(inner.name), self.options), self.options)
            yield from layout.samples(
                tar, store_member, inner.offset, inner.offset + inner.num_bytes
            )
        yield from inner_tars.skipped_files()


class InnerTars:
    """The class tars among the members of a tar, and a count of its other members.

    Args:
        tar: The outer tar.
    """

    def __init__(self, tar: Tar) -> None:
        self._tar = tar
        self._other_names: list[str] = []
        self._splits: set[str] = set()

    def members(self, start: int = 0, stop: int | None = None) -> Iterator[Member]:
        """Yield the class tars among the members of the outer tar; count the others.

        `skipped_files` yields the count afterwards. Links to tars are among the others.

        Args:
            start: The offset in bytes of the first member's header (default: 0).
            stop: The offset in bytes at which to stop; None: the end of the outer tar (default).

        Yields:
            The member of each class tar, in the order of the outer tar. Its `offset` is where the
            inner tar begins, behind the outer header, and `num_bytes` is the length of the inner
            tar.

        Raises:
            ReadError: The outer tar could not be read now.
            SourceError: The outer tar is damaged; or an inner one is compressed, has the name of a
                split, or lies in a folder of one of several splits.
        """
        for member in self._tar.members(start, stop):
            if member.target is None and is_tar(member.name):
                self._check(member)
                yield member
            else:
                self._other_names.append(member.name)

    def skipped_files(self) -> Iterator[SkippedFiles]:
        """Yield a count of the members that are not class tars."""
        if self._other_names:
            why = "members that are no class tars"
            yield SkippedFiles(why, self._other_names[0], len(self._other_names))

    def _check(self, member: Member) -> None:
        folder, _, name = member.name.rpartition("/")
        stem = stem_of(name)
        # Equal class names in two splits would merge, so the splits of all members are collected.
        self._splits |= {split for part in folder.split("/") if (split := known_split(part))}
        if not name.lower().endswith(PLAIN):
            why = "is compressed, and cannot be read in place"
        elif known_split(stem) or stem.startswith("ILSVRC2012_"):
            why = "has the name of a split, not of a class"
        elif len(self._splits) > 1:
            why = f"lies in a folder of one of several splits ({', '.join(sorted(self._splits))})"
        else:
            return
        raise SourceError(
            f"{self._tar.name}: the inner tar {member.name!r} {why}. Unpack the outer one, and "
            "pass the folder."
        )


def class_in(classes: dict[str, str], name: str, where: str) -> str:
    """Return the class of a file in a table of Tiny-ImageNet.

    Args:
        classes: The class of each file name, from `val_annotations.txt`.
        name: The file name, without folders.
        where: The source, for a message.

    Returns:
        The class, as in the table.

    Raises:
        SourceError: The table has no line for the file.
    """
    if name not in classes:
        raise SourceError(
            f"{where}: the image {name!r} has no class: val_annotations.txt (file, tab, class on"
            f" each line) has {len(classes):,} files, but not this one. Put the table of these"
            " images next to their folder."
        )
    return classes[name]
