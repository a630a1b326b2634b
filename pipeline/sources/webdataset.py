"""WebDataset shards and other tars: which tar is which, and how shards become samples.

A shard's members are grouped as WebDataset does: neighbours with the same name up to the first
dot of the last part are one sample. A sample has one image (`.jpg`, `.jpeg`, `.png`, ...), whose
file name is kept whole, and may have a `.cls` (number or name) or a `.json` (with `wnid`, `label`
or `cls`) that tells its class, as `pipeline.sources.naming` says.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.errors import SourceError
from pipeline.sources.archives import Part, TarSource, by_split, peek
from pipeline.sources.class_tables import find_class_table, table_marks
from pipeline.sources.classes import ClassTable, Labeller
from pipeline.sources.layouts import Layout, Take, TreeTar
from pipeline.sources.listing import Row
from pipeline.sources.naming import is_wnid, known_split, looks_like_image
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.sources.place import Place
from pipeline.sources.tarfiles import Member, Tar, is_tar, open_tar, stem_of

_MAX_TABLE_BYTES = 16 << 20
_JSON_WORDS = ("wnid", "label", "cls")


@dataclass
class _Sample:
    """One group of members while it is read."""

    name: str
    image: Member | None = None
    offset: int = 0
    texts: dict[str, str] = field(default_factory=dict)


def sample_name(path: str) -> tuple[str, str]:
    """Split a member's path at the first dot of its last part: (sample, suffix without dot)."""
    folder, slash, name = path.rpartition("/")
    base, _, suffix = name.partition(".")
    return folder + slash + base, suffix


@dataclass(frozen=True)
class Shard(Layout):
    """A WebDataset shard; the order of its classes' numbers is told by a table near *root*."""

    root: str
    options: SourceOptions = DEFAULT_OPTIONS

    def rows(self, tar: Tar, take: Take, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield one row for each sample that has an image."""
        sample = _Sample("")
        for member in tar.members(start, stop):
            name, suffix = sample_name(member.name)
            if not suffix or name.rpartition("/")[2] == "":
                continue  # WebDataset passes over names without a suffix and those in hiding
            if name != sample.name:
                yield from self._finished(sample, tar)
                sample = _Sample(name)
            self._read(sample, member, suffix, tar, take)
        yield from self._finished(sample, tar)

    def _read(self, sample: _Sample, member: Member, suffix: str, tar: Tar, take: Take) -> None:
        """Take in one member of *sample*."""
        if looks_like_image(member.name):
            if sample.image is not None:
                raise SourceError(
                    f"{tar.name}: the sample {sample.name!r} has two images, "
                    f"{sample.image.name!r} and {member.name!r}: expected one. "
                    "Rename one of them, or unpack the shard into class folders."
                )
            sample.image = member
            if member.target is None:
                sample.offset = take(member)
        elif suffix in ("cls", "json"):
            sample.texts[suffix] = _text_of(member, tar)

    def _finished(self, sample: _Sample, tar: Tar) -> Iterator[Row]:
        if sample.image is None:
            return
        path = sample.image.name
        if sample.image.target is not None:
            raise SourceError(
                f"{tar.name}: the member {path!r} is a link, which a shard cannot hold. "
                "Make the shard again with the files themselves (tar --hard-dereference -h)."
            )
        shown = f"{tar.name}: the sample {path!r}"
        said = _labels_said(sample, tar.name)
        labeller = Labeller(self.table if said else None, self.options)
        key, basis = labeller.key(path, said, shown)
        yield Row(key, sample.image.num_bytes, sample.offset, basis=basis)

    def class_table(self) -> ClassTable | None:
        """Return the classes that labels count."""
        return self.table

    def table_marks(self) -> list[str]:
        """Return marks of the tables beside the shards."""
        return table_marks(Place(self.root, "", self.options))

    @cached_property
    def table(self) -> ClassTable | None:
        """The classes that labels count."""
        return find_class_table(Place(self.root, "", self.options))


def _text_of(member: Member, tar: Tar) -> str:
    if member.num_bytes > _MAX_TABLE_BYTES:
        raise SourceError(
            f"{tar.name}: the member {member.name!r} has {member.num_bytes:,} bytes: expected a"
            f" label or a table of at most {_MAX_TABLE_BYTES:,}. Make the shard again without it."
        )
    try:
        return tar.read(member.offset, member.num_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise SourceError(
            f"{tar.name}: the member {member.name!r} is no UTF-8 ({e.reason} at byte {e.start})."
            " Make the shard again with the text in UTF-8."
        ) from e


def _labels_said(sample: _Sample, where: str) -> dict[str, Any]:
    """Where a sample says its class -> what it says: `.cls`; `wnid`, `label`, `cls` of `.json`."""
    said: dict[str, Any] = {}
    if "cls" in sample.texts:
        said[".cls"] = sample.texts["cls"]
    if "json" not in sample.texts:
        return said
    try:
        table = json.loads(sample.texts["json"])
    except ValueError as e:
        raise SourceError(
            f"{where}: the .json of the sample {sample.name!r} is no JSON: {e}"
        ) from e
    if isinstance(table, dict):
        said |= {word: table[word] for word in _JSON_WORDS if word in table}
    return said


def shape_of(members: list[Member]) -> str:
    """Tell from a tar's first members what it is: 'tars', 'shard', 'tree', or '' for neither."""
    images = [member.name for member in members if looks_like_image(member.name)]
    if any(member.name.endswith(".tar") for member in members):
        return "tars"
    samples = {sample_name(name)[0] for name in images}
    told = (sample_name(member.name) for member in members)
    if any(suffix in ("cls", "json", "txt") and name in samples for name, suffix in told):
        return "shard"
    if any("/" in name for name in images):
        return "tree"
    return "shard" if images else ""


def _fits(name: str) -> bool:
    stem = stem_of(name)
    return is_tar(name) and not is_wnid(stem) and not stem.startswith("ILSVRC2012_")


def _archives(place: Place, wanted: str, shape: str, named: bool) -> dict[str, list[str]]:
    """The tars of *place* by split, if the first one of each split has this shape."""
    found = by_split(place, is_tar if named else _fits, wanted)
    if place.only:  # one file holds what it holds, whatever it is called
        found = {"": next(iter(found.values()))} if found else {}
    if named:
        return found
    return {
        split: paths for split, paths in found.items() if shape_of(peek(place, paths[0])) == shape
    }


def find_shards(place: Place, wanted: str, named: bool) -> dict[str, TarSource]:
    """Find WebDataset shards in *place*, in folders named as splits, or told by their names."""
    return {
        split: _source("webdataset", place, paths, Shard(place.root, place.options))
        for split, paths in _archives(place, wanted, "shard", named).items()
    }


def _source(kind: str, place: Place, paths: list[str], layout: Layout) -> TarSource:
    return TarSource(kind, place, tuple(Part(path, layout) for path in paths))


def find_trees(place: Place, wanted: str, named: bool) -> dict[str, TarSource]:
    """Find tars that hold a tree of class folders, with or without folders for splits."""
    found: dict[str, TarSource] = {}
    for split, paths in _archives(place, wanted, "tree", named).items():
        if split:
            found[split] = _source("tar", place, paths, TreeTar(options=place.options))
            continue
        for inner in sorted(_splits_inside(place, paths[0], wanted)) or [""]:
            found[inner] = _source("tar", place, paths, TreeTar(inner, place.options))
    return found


def _splits_inside(place: Place, path: str, wanted: str) -> set[str]:
    """Splits that folders in a tar are named after.

    When one of the first members tells a split, all headers of a plain local tar are looked at.
    In one that must be streamed, the split that is *wanted* is taken to be there.
    """
    first = _splits_of(peek(place, path), wanted)
    if not first:
        return first
    with open_tar(place, path) as tar:
        if tar.seeks:
            return _splits_of(tar.members(), wanted)
    return first | ({wanted} if wanted else set())


def _splits_of(members: Iterator[Member] | list[Member], wanted: str) -> set[str]:
    found = set()
    for member in members:
        if looks_like_image(member.name):
            folders = member.name.split("/")[:-1]
            # <split>/<class>/<file>, <split>/images/<file>, <split>/<class>/images/<file>
            depth = 3 if folders[-1:] == ["images"] else 2
            found |= {known_split(name, wanted) for name in folders[-depth:-1]}
    return found - {""}
