"""How the members of a tar become samples: class tars, tars of them, trees of folders."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.errors import SourceError
from pipeline.sources.classes import Basis, ClassTable, folder_class
from pipeline.sources.listing import Row
from pipeline.sources.naming import known_split, may_be_image
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.sources.tarfiles import Member, Tar, stem_of
from pipeline.sources.text_tables import decode_table, parse_annotations

Take = Callable[[Member], int]
"""Keeps a member's bytes and says at which offset they can be found."""


class Layout:
    """How the members of a tar become samples. A small picklable value."""

    def rows(self, tar: Tar, take: Take, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the samples among the members in bytes [start, stop)."""
        raise NotImplementedError

    def class_table(self) -> ClassTable | None:
        """Return the classes that labels count; None where a sample has no label."""
        return None

    def table_marks(self) -> list[str]:
        """Return marks of the tables that decide classes, for a fingerprint."""
        return []


@dataclass(frozen=True)
class ClassTar(Layout):
    """All images of one class: `<anything>/<file>` becomes `<class>/<file>`."""

    class_name: str

    def rows(self, tar: Tar, take: Take, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield every member that may be an image."""
        prefix = f"{self.class_name}/"
        for member in tar.members(start, stop):
            name = member.name.rpartition("/")[2]
            if may_be_image(name):
                yield row_of(prefix + name, member, take, prefix)


def row_of(key: str, member: Member, take: Take, prefix: str) -> Row:
    """The sample *key*, of a file or of a link to one; *prefix* is what a target's key begins with.

    Args:
        key: The sample's own key.
        member: Where its bytes lie.
        take: Keeps them.
        prefix: `<class>/` of the target of a link.
    """
    if member.target is None:
        return Row(key, member.num_bytes, take(member))
    return Row(key, 0, 0, prefix + member.target.rpartition("/")[2])


@dataclass(frozen=True)
class TarOfTars(Layout):
    """ILSVRC's train tar: a tar that holds one `<class>.tar` for each class."""

    options: SourceOptions = DEFAULT_OPTIONS

    def rows(self, tar: Tar, take: Take, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield the members of each inner tar, which is never unpacked."""
        for inner in class_tars_in(tar, start, stop):
            layout = ClassTar(folder_class(stem_of(inner.name), self.options))
            yield from layout.rows(tar, take, inner.offset, inner.offset + inner.num_bytes)


def class_tars_in(tar: Tar, start: int = 0, stop: int | None = None) -> Iterator[Member]:
    """The plain tars among a tar's members."""
    for member in tar.members(start, stop):
        if member.name.endswith(".tar") and member.target is None:
            yield member


@dataclass(frozen=True)
class TreeTar(Layout):
    """A folder tree in a tar: `<...>/<class>/<file>`, or `<...>/<class>/images/<file>`.

    Where the tree has folders for splits, only `<...>/<split>/<class>/` counts; Tiny-ImageNet's
    `val/images/<file>` gets its classes from `val/val_annotations.txt` in the same tar.
    """

    split: str = ""
    """Empty: the tree has no folders for splits."""
    options: SourceOptions = DEFAULT_OPTIONS

    def rows(self, tar: Tar, take: Take, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield every file under a class folder of the split."""
        waiting: list[Row] = []  # of a flat split folder: named once its table has been read
        classes: dict[str, str] = {}
        for member in tar.members(start, stop):
            folders, name = self._inside(member.name)
            if folders and name == "val_annotations.txt":
                where = f"{tar.name}: {member.name}"
                data = tar.read(member.offset, member.num_bytes)
                classes.update(parse_annotations(decode_table(data, where), where))
            elif folders and may_be_image(name):
                if self.split and len(folders) == 1:
                    waiting.append(row_of(name, member, take, "")._replace(basis=Basis("table")))
                else:
                    key = f"{folder_class(folders[-1], self.options)}/{name}"
                    basis = Basis("folder", folder="/".join(folders))
                    row = row_of(key, member, take, self._target_class(member))
                    yield row._replace(basis=basis)
        for row in waiting:
            yield _with_class(row, classes, tar.name)

    def _inside(self, path: str) -> tuple[list[str], str]:
        """Folders of *path* from the split down (`[split, class]`), and the file's name.

        No folders: the file is no sample of this split.
        """
        *folders, name = path.split("/")
        if any(part.startswith(".") or part == "__MACOSX" for part in folders):
            return [], name
        if folders and folders[-1] == "images":
            folders.pop()
        if not self.split:
            return folders[-1:], name
        for depth in (2, 1):
            split = known_split(folders[-depth], self.split) if len(folders) >= depth else ""
            if split:
                return (folders[-depth:] if split == self.split else []), name
        return [], name

    def _target_class(self, member: Member) -> str:
        if member.target is None:
            return ""
        folders, _ = self._inside(member.target)
        return f"{folder_class(folders[-1], self.options)}/" if folders else "?/"


def _with_class(row: Row, classes: dict[str, str], where: str) -> Row:
    """Complete a row that has only file names as its keys so far."""
    key, target = (
        f"{class_in(classes, name, where)}/{name}" if name else ""
        for name in (row.key, row.same_as)
    )
    return row._replace(key=key, same_as=target)


def class_in(classes: dict[str, str], name: str, where: str) -> str:
    """Class of the file *name*.

    Raises:
        SourceError: The table has no line for it.
    """
    if name not in classes:
        raise SourceError(
            f"{where}: the image {name!r} has no class: val_annotations.txt (file, tab, class on "
            f"each line) has {len(classes):,} files and not this one. Put the table that belongs "
            "to the images beside their folder."
        )
    return classes[name]
