"""The WebDataset shards: how tars are told apart, and how shards become samples.

A shard's members are grouped as WebDataset does: adjacent members with the same name up to the
first dot of the last part are one sample. Parts that are not adjacent are joined where that is
unambiguous, since WebDataset would lose the label. A sample has one image (`.jpg`, `.jpeg`,
`.png`, ...), whose full file name is used, and may have a `.cls` (number or name; or `.label`,
`.cls.txt`, ...) or a `.json` (with `wnid`, `label`, `cls` or the like) that tells its class, by the
rules of `pipeline.sources.classes.labeller`. Other members of a sample are counted.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.errors import SourceError
from pipeline.sources.archives.detection import container_of_file
from pipeline.sources.archives.folder_layout import TreeTar
from pipeline.sources.archives.layout import Layout, StoreMember
from pipeline.sources.archives.outline import (
    SHARD,
    TREE,
    all_splits,
    label_suffix,
    outline_of,
    sample_name,
)
from pipeline.sources.archives.tar import Member, Tar, stem_of
from pipeline.sources.archives.tar_source import TarPart, TarSource
from pipeline.sources.classes.class_names import abbreviate
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.classes.labeller import Labeller
from pipeline.sources.classes.number_tables import find_class_table, table_marks
from pipeline.sources.clutter import folder_skip_reason, name_skip_reason
from pipeline.sources.content import TAR, ZIP
from pipeline.sources.keys import LABEL_WORDS, is_wnid, looks_like_image
from pipeline.sources.listing import ListedSample, SkippedFiles, skipped_files
from pipeline.sources.location import Location
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions
from pipeline.sources.split_files import paths_by_split, without_split

_MAX_TABLE_BYTES = 16 << 20
_DIGIT = re.compile(r"[0-9]")
_NUMBER = re.compile(rb"(\xef\xbb\xbf)?\s*[+-]?[0-9]+(\.[0-9]*)?\s*", re.ASCII)
_MAX_NUMBER_BYTES = 64
_OTHER_PARTS = "parts of samples that are neither image nor label"
_NUMBER_TEXTS = "texts of a number alone, which are no labels unless --label-column txt says so"
_JSON_WORDS = ("wnid", "label", "cls")
"""The keys of a `.json` whose values must all agree; of other keys only the first is used."""


@dataclass
class _SampleMembers:
    """A group of members of one sample, while it is read."""

    name: str
    image: Member | None = None
    offset: int = 0
    texts: dict[str, str] = field(default_factory=dict)


class _ScatteredSamples:
    """The members of samples that are not adjacent in their shard, until its end is reached.

    In a tar that is sorted by suffix, all labels follow all images; WebDataset's grouping would
    yield images without labels and labels without images.

    Args:
        where: The full name of the shard, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._images: dict[str, list[_SampleMembers]] = {}
        self._texts: dict[str, dict[str, str]] = {}
        self._complete_names: set[str] = set()
        self.skipped = Evidence()
        self.has_labels = False
        """True if any sample of the shard tells its class."""
        self.texts = _TextMembers()

    def is_complete(self, sample: _SampleMembers, label_name: str) -> bool:
        """Return True if *sample* has its image and its label; else store the parts that it has.

        Args:
            sample: The adjacent members of one name.
            label_name: The name that `--label-column` gives; else empty.

        Raises:
            SourceError: The shard holds the same part of a sample twice.
        """
        if sample.image is not None and sample.texts and _says_class(sample.texts, label_name):
            self._complete_names.add(sample.name)
            return True
        if sample.image is not None:
            self._images.setdefault(sample.name, []).append(sample)
        elif sample.texts:
            texts = self._texts.setdefault(sample.name, {})
            if texts.keys() & sample.texts.keys():
                raise self._duplicate_error(sample.name, "a label")
            texts.update(sample.texts)
        elif sample.name:
            self.skipped.skip("samples without an image", sample.name)
        return False

    def rejoined(self) -> Iterator[_SampleMembers]:
        """Yield the samples whose images had no adjacent label, with labels from elsewhere.

        Raises:
            SourceError: A sample with an adjacent label has another one elsewhere.
        """
        for name, texts in self._texts.items():
            samples = self._images.get(name, [])
            if len(samples) > 1:
                raise self._duplicate_error(name, "an image")
            if name in self._complete_names:
                raise self._duplicate_error(name, "a label")
            if not samples:
                self.skipped.skip("samples without an image", name)
            for sample in samples:
                sample.texts |= texts
        for samples in self._images.values():
            yield from samples

    def skipped_files(self) -> Iterator[SkippedFiles]:
        """Yield counts of the members that are no part of a sample."""
        if self.texts.count:
            may_be_labels = self.texts.are_numbers and not self.has_labels
            reason = _NUMBER_TEXTS if may_be_labels else _OTHER_PARTS
            self.skipped.skip(reason, self.texts.first, self.texts.count)
        yield from skipped_files(self.skipped)

    def _duplicate_error(self, name: str, part: str) -> SourceError:
        return SourceError(
            f"{self._where}: the sample {name!r} has {part} in two separate places of the shard,"
            " so its members cannot be grouped. Create the shard again with sorted members (tar"
            " --sort=name), each sample once."
        )


@dataclass
class _TextMembers:
    """The `.txt` members of a shard, which are captions, or else numbers that may be labels."""

    first: str = ""
    count: int = 0
    are_numbers: bool = True
    """True if each text that was read is a number alone; after one that is not, none is read."""

    def add(self, member: Member, tar: Tar) -> None:
        """Count one text, and read it as long as all texts are numbers."""
        self.first = self.first or member.name
        self.count += 1
        if self.are_numbers:
            short = member.target is None and member.num_bytes <= _MAX_NUMBER_BYTES
            data = tar.read(member.offset, member.num_bytes) if short else b""
            self.are_numbers = _NUMBER.fullmatch(data) is not None


def _says_class(texts: dict[str, str], label_name: str) -> bool:
    """Return True if *texts*, the labels and tables of a sample, tell its class."""
    if any(not suffix.endswith("json") or suffix == label_name for suffix in texts):
        return True
    label_words = (label_name,) if label_name else LABEL_WORDS
    return any(f'"{word}"' in text.lower() for text in texts.values() for word in label_words)


@dataclass(frozen=True)
class WebDatasetShard(Layout):
    """The layout of a WebDataset shard; a table near *root* numbers its classes."""

    root: str
    options: SourceOptions = DEFAULT_OPTIONS

    def __repr__(self) -> str:
        # A fingerprint holds this text: with another name, a spool would be streamed again.
        return f"Shard(root={self.root!r}, options={self.options!r})"

    def samples(
        self, tar: Tar, store_member: StoreMember, start: int = 0, stop: int | None = None
    ) -> Iterator[ListedSample | SkippedFiles]:
        """Yield one sample for each group of members that has an image.

        Args:
            tar: The open tar, in the `with` block of `open_tar(location, path)`; it stays open.
            store_member: A function of a `Member` of *tar* (`name`, `offset`, `num_bytes`) that
                stores its bytes, or finds them, and returns their offset. It is called once for
                each image, in the order of the members.
            start: The offset in bytes of the first member's header (default: 0).
            stop: The offset in bytes at which to stop; None: the end of the tar (default).

        Yields:
            A `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`, `basis` of the class) for
            each sample, with the key `<class>/<file name of the image>` and what *store_member*
            returned as its offset; those whose label is not beside the image, or that have none,
            follow behind all others. At the end, a `SkippedFiles` (`reason`, `name` of the first,
            `num_files`) for each reason for which members are no part of a sample.

        Raises:
            ReadError: The tar could not be read now.
            SourceError: The tar is damaged, an image is a link, a label cannot be used, a sample
                has two images or occurs twice, or no sample has the label that the option
                `label_column` names.
        """
        sample = _SampleMembers("")
        scattered = _ScatteredSamples(tar.name)
        for member in tar.members(start, stop):
            name, suffix = sample_name(member.name)
            reason = self._skip_reason(member.name)
            if reason:
                scattered.skipped.skip(reason, member.name)
                continue
            if name != sample.name:
                if self._is_complete(sample, scattered):
                    yield self._listed_sample(sample, tar, scattered)
                sample = _SampleMembers(name)
            if not self._read(sample, member, suffix.lower(), tar, store_member):
                self._count_other_part(member, suffix.lower(), tar, scattered)
        if self._is_complete(sample, scattered):
            yield self._listed_sample(sample, tar, scattered)
        # Parts that were not adjacent can only be joined once all members are known.
        for rejoined in scattered.rejoined():
            yield self._listed_sample(rejoined, tar, scattered)
        self._check_label_name(scattered, tar)
        yield from scattered.skipped_files()

    def _count_other_part(
        self, member: Member, suffix: str, tar: Tar, scattered: _ScatteredSamples
    ) -> None:
        """Count a part of a sample that is neither its image nor its label."""
        if suffix == "txt" and self.options.rules > 1:
            scattered.texts.add(member, tar)
        else:
            scattered.skipped.skip(_OTHER_PARTS, member.name)

    @property
    def _label_name(self) -> str:
        """The suffix, or the word of `.json`, that `--label-column` names; else empty."""
        return self.options.label_column.lower().removeprefix(".")

    def _check_label_name(self, scattered: _ScatteredSamples, tar: Tar) -> None:
        if self._label_name and not scattered.has_labels:
            raise SourceError(
                f"{tar.name}: no sample has a label under {self.options.label_column!r}, the"
                f" --label-column: expected a member that ends in .{self._label_name}, or that"
                " word in a .json. Pass a label that the samples have, or omit the option."
            )

    def _skip_reason(self, path: str) -> str:
        """Return the reason why a member is no part of a sample; empty if it may be one."""
        stem, suffix = sample_name(path)
        # WebDataset skips names without a suffix, and hidden names.
        unnamed = "" if suffix and stem[-1:] not in ("", "/") else "names without a suffix"
        if self.options.rules == 1:
            return unnamed
        *folders, name = path.split("/")
        reasons = (
            folder_skip_reason(part, self.options) for part in folders if part not in (".", "..")
        )
        return next(filter(None, reasons), "") or name_skip_reason(name, self.options) or unnamed

    def _is_complete(self, sample: _SampleMembers, scattered: _ScatteredSamples) -> bool:
        """Return True if *sample* is complete; else store it until the shard's end."""
        if self.options.rules == 1:
            return sample.image is not None
        return scattered.is_complete(sample, self._label_name)

    def _read(
        self,
        sample: _SampleMembers,
        member: Member,
        suffix: str,
        tar: Tar,
        store_member: StoreMember,
    ) -> bool:
        """Add one member to *sample*; return False if it is neither its image nor its label."""
        if looks_like_image(member.name):
            if sample.image is not None:
                raise SourceError(
                    f"{tar.name}: the sample {sample.name!r} has two images, "
                    f"{sample.image.name!r} and {member.name!r}: expected one. "
                    "Rename one of them, or unpack the shard into class folders."
                )
            sample.image = member
            if member.target is None:  # a link has no bytes; it is refused later
                sample.offset = store_member(member)
            return True
        is_label = bool(label_suffix(suffix)) if self.options.rules > 1 else suffix == "cls"
        if self._label_name:  # --label-column excludes all other labels
            is_label = suffix == self._label_name
        if is_label or suffix == "json":
            sample.texts[suffix] = _read_text_member(member, tar)
        return is_label or suffix == "json"

    def _listed_sample(
        self, sample: _SampleMembers, tar: Tar, scattered: _ScatteredSamples
    ) -> ListedSample:
        image = sample.image
        assert image is not None, sample.name
        path = image.name
        if image.target is not None:
            raise _link_error(image, tar)
        sample_text = f"{tar.name}: the sample {path!r}"
        labels = _labels_of(sample, tar.name, self.options.rules, self._label_name)
        scattered.has_labels |= bool(labels)
        labeller = Labeller(self.table if labels else None, self.options)
        key, basis = labeller.key(path, labels, sample_text)
        return ListedSample(key, image.num_bytes, sample.offset, basis=basis)

    def unique_name(self, path: str, number: int, name: str) -> str:
        """Return a name with that of the shard: each shard may count its samples from 0.

        Args:
            path: The path of the shard in the source.
            number: The number of the sample in the shard, from 0.
            name: The file name that repeats, whose suffix is kept: all behind its first dot.

        Returns:
            The name of the shard, the number with nine digits, and the suffix, such as
            `train-00000-000000012.jpg`.
        """
        suffix = name.partition(".")[2]
        return f"{stem_of(path)}-{number:09d}{'.' if suffix else ''}{suffix}"

    def class_table(self) -> ClassTable | None:
        """Return the classes that labels count."""
        return self.table

    def table_marks(self) -> list[str]:
        """Return marks of the tables beside the shards."""
        return table_marks(Location(self.root, "", self.options))

    @cached_property
    def table(self) -> ClassTable | None:
        """The classes that labels count."""
        return find_class_table(Location(self.root, "", self.options))


def _read_text_member(member: Member, tar: Tar) -> str:
    if member.target is not None:
        raise _link_error(member, tar)
    if member.num_bytes > _MAX_TABLE_BYTES:
        raise SourceError(
            f"{tar.name}: the member {member.name!r} has {member.num_bytes:,} bytes: expected a"
            f" label or a table of at most {_MAX_TABLE_BYTES:,}. Create the shard again without"
            " it."
        )
    try:
        return tar.read(member.offset, member.num_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise SourceError(
            f"{tar.name}: the member {member.name!r} is not UTF-8 ({e.reason} at byte {e.start})."
            " Create the shard again with the text in UTF-8."
        ) from e


def _link_error(member: Member, tar: Tar) -> SourceError:
    return SourceError(
        f"{tar.name}: the member {member.name!r} is a link, which a shard cannot hold. Create the"
        " shard again with the files themselves (tar --hard-dereference -h)."
    )


def _labels_of(sample: _SampleMembers, where: str, rules: int, label_name: str) -> dict[str, Any]:
    """Return the labels of a sample by origin: `.cls`, or `wnid`, `label`, `cls` of its `.json`."""
    labels: dict[str, Any] = {}
    texts = sorted(sample.texts.items(), key=lambda part: part[0].endswith("json"))
    for suffix, text in texts:
        if not suffix.endswith("json") or suffix == label_name != "json":
            labels[f".{suffix}"] = text
            continue
        try:
            table = json.loads(text)
        except ValueError as e:
            raise SourceError(
                f"{where}: the .{suffix} of the sample {sample.name!r} is not JSON: {e}"
            ) from e
        labels |= _labels_in_json(table, suffix, rules, label_name)
    return labels


def _labels_in_json(table: Any, suffix: str, rules: int, label_name: str) -> dict[str, Any]:
    """Return the labels in the JSON *table* of a sample, by key."""
    if not isinstance(table, dict):
        # A `.label.json`, or a `.json` that --label-column names, may hold just a number.
        is_label = rules > 1 and (suffix != "json" or label_name == "json")
        return {f".{suffix}": table} if is_label else {}
    labels = {} if label_name else {word: table[word] for word in _JSON_WORDS if word in table}
    if labels or rules == 1:
        return labels
    word_of = {word.lower(): word for word in reversed(table)}
    if label_name:
        return {word_of[label_name]: table[word_of[label_name]]} if label_name in word_of else {}
    label_word = next((word_of[word] for word in LABEL_WORDS if word in word_of), None)
    return {} if label_word is None else {label_word: table[label_word]}


def _may_be_shard(location: Location, path: str, explicit: bool) -> bool:
    stem = stem_of(path)
    has_own_kind = is_wnid(stem) or stem.startswith("ILSVRC2012_")
    return (explicit or location.only_file != "" or not has_own_kind) and container_of_file(
        location, path
    ) in (TAR, ZIP)


def _shards_of_shape(
    location: Location, requested_split: str, shape: str, explicit: bool
) -> dict[str, list[str]]:
    """Return split -> tars of *location*, of the splits whose first tar has this shape."""
    paths_of_split = paths_by_split(
        location, lambda path: _may_be_shard(location, path, explicit), requested_split
    )
    if location.only_file:  # the name of a single file does not decide its split
        paths_of_split = {"": next(iter(paths_of_split.values()))} if paths_of_split else {}
    if explicit:
        return paths_of_split
    return {
        split: paths
        for split, paths in paths_of_split.items()
        if outline_of(location, paths[0]).shape == shape
    }


def find_shards(location: Location, requested_split: str, explicit: bool) -> dict[str, TarSource]:
    """Find WebDataset shards in *location*, by split of their folders or names.

    Unless the user named the kind, the first tar of each split is examined.

    Args:
        location: The folder or file that the user named, as `Location.at` returns it.
        requested_split: A further split that a folder or a name may tell; '' for none.
        explicit: True if the user named the kind `webdataset`: then tars are not examined.

    Returns:
        The source of the tars of each split, '' for one without a name; empty if there are no
        shards. A single file is always ''.

    Raises:
        ReadError: A folder or tar cannot be read.
        SourceError: It is ambiguous whether the tars are shards or classes, a tar is damaged, a
            split has several folders, or a link leads back to itself.
    """
    left_out = without_split(
        location, lambda path: _may_be_shard(location, path, explicit), requested_split
    )
    paths_of_split = _shards_of_shape(location, requested_split, SHARD, explicit)
    if not explicit:
        _check_shard_names(location, paths_of_split.get("", []))
    return {
        split: TarSource(
            "webdataset",
            location,
            _tar_parts(paths, WebDatasetShard(location.root, location.options)),
            left_out,
        )
        for split, paths in paths_of_split.items()
    }


def _check_shard_names(location: Location, paths: list[str]) -> None:
    """Refuse tars of images without labels that may be classes: they are not numbered as shards.

    Raises:
        SourceError: The tars are ambiguous; the message says how to read them either way.
    """
    stems = [stem_of(path) for path in paths]
    if location.options.rules == 1 or len(stems) < 2 or any(map(_DIGIT.search, stems)):
        return
    if outline_of(location, paths[0]).has_labels:
        return
    raise SourceError(
        f"{location.root} has {len(stems)} tars of images without labels"
        f" ({abbreviate(sorted(stems), 3)}): if each is a class, pass --source-kind class-tars; if"
        " their images are of no class, pass --source-kind webdataset."
    )


def _tar_parts(paths: list[str], layout: Layout) -> tuple[TarPart, ...]:
    return tuple(TarPart(path, layout) for path in paths)


def find_trees(location: Location, requested_split: str, explicit: bool) -> dict[str, TarSource]:
    """Find tars that hold a tree of class folders, with or without folders for splits.

    The first tar of each split is examined.

    Args:
        location: The folder or file that the user named, as `Location.at` returns it.
        requested_split: A further split that a folder or a name may tell; '' for none.
        explicit: True if the user named the kind `tar`: then any tar counts as a tree.

    Returns:
        The source of each split, '' for one without a name; empty if there are no such tars.
        Folders of splits in a tree take precedence over a split in the tar's name.

    Raises:
        ReadError: A folder or tar cannot be read.
        SourceError: A tar is damaged, a split has several folders, or a link leads back to itself.
    """
    sources: dict[str, TarSource] = {}
    left_out = without_split(
        location, lambda path: _may_be_shard(location, path, explicit), requested_split
    )
    for split, paths in _shards_of_shape(location, requested_split, TREE, explicit).items():
        outline = outline_of(location, paths[0])
        for inner in sorted(all_splits(location, paths[0], requested_split)) or [""]:
            layout = TreeTar(
                inner,
                location.options,
                location.root,
                "" if inner else outline.prefix,
                outline.is_kaggle,
            )
            # Folders in the tree take precedence over a split in the tar's name (`test-data`).
            sources[inner or split] = TarSource(
                "tar", location, _tar_parts(paths, layout), left_out
            )
    return sources
