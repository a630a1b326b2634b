"""The sources that are tars: one walk over the members serves listing and streaming alike.

A layout (`pipeline.sources.archives.layout`) defines how members become samples. A plain local tar
is indexed once and read by byte range (access "random"). A compressed or remote tar is streamed
once, block by block (access "blocks"): a block is one tar, or one class of a remote tar of class
tars.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.errors import SourceError
from pipeline.sources.archives.folder_layout import TreeTar
from pipeline.sources.archives.layout import ClassTarLayout, InnerTars, Layout, TarOfTarsLayout
from pipeline.sources.archives.open import check_archive, is_streamed, open_tar
from pipeline.sources.archives.outline import outline_of
from pipeline.sources.archives.tar import Member, Tar, stem_of
from pipeline.sources.classes.class_names import folder_class
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.duplicates import rename_duplicates
from pipeline.sources.imagenet_tables import WORDS
from pipeline.sources.listing import ListedSample, ListingBuilder, SkippedFiles, sort_listing
from pipeline.sources.location import Location
from pipeline.sources.numbered_files import check_complete, missing_numbers
from pipeline.sources.source import Source
from pipeline.sources.split_files import left_out_text
from pipeline.sources.spool import Block, Blocks, WriteBytes
from pipeline.sources.text_tables import decode_table, parse_words

MAX_BLOCK_NAME_BYTES = 160
"""The maximum length of a block's name: of 255 bytes in a file name, the spool adds up to 60."""


@dataclass(frozen=True)
class TarPart:
    """A tar of a source, with its layout."""

    path: str
    """The path of the tar, relative to the location of the source."""
    layout: Layout
    """The way in which its members become samples."""


@dataclass(frozen=True)
class TarBlock(Block):
    """A block of a source: one tar, or one class of a tar, that is streamed once."""

    location: Location
    """The folder of the source."""
    path: str
    """The path of the tar in that folder."""
    layout: Layout
    """The way in which its members become samples."""
    start: int = 0
    """The offset in bytes of the first header of the block in the tar."""
    stop: int | None = None
    """The end of the block in the tar in bytes; None: that of the tar."""

    def samples(self, write: WriteBytes) -> Iterator[ListedSample | SkippedFiles]:
        """Read the block from front to back, and pass each sample's bytes to *write*.

        A block is a whole tar, or a part of a remote one.

        Args:
            write: A function of an iterable of bytes, the pieces of one sample, that appends them
                to the spool and returns their offset in bytes there.

        Yields:
            A `ListedSample` (`key`, `num_bytes`, `offset`, `same_as`, `basis` of the class) for
            each sample, with what *write* returned as its offset. Of a link, `num_bytes` and
            `offset` are 0, and `same_as` is the key of its target; else that is ''. Also
            `SkippedFiles` (`reason`, `name` of the first, `num_files`) that count the members that
            are none. The tar is open until the last of them is yielded.

        Raises:
            ReadError: The source could not be read now.
            SourceError: The tar is damaged, or its members do not fit its layout.
        """
        with open_tar(self.location, self.path, start=self.start, stop=self.stop) as tar:

            def store_member(member: Member) -> int:
                return write(tar.pieces(member.offset, member.num_bytes))

            yield from self.layout.samples(tar, store_member, self.start, self.stop)

    @property
    def where(self) -> str:
        """The full name of the tar."""
        return self.location.full_path(self.path)

    def unique_name(self, number: int, name: str) -> str:
        """Return a unique name for a sample whose own name repeats; empty: it is refused.

        Only WebDataset shards give one, such as `shard-000000012.jpg` of `shard.tar`.

        Args:
            number: The number of the sample in the block, from 0.
            name: The file name that repeats.
        """
        return self.layout.unique_name(self.path, number, name)


@dataclass(frozen=True)
class TarSource(Source):
    """A source of images in one or many tars."""

    parts: tuple[TarPart, ...]
    """The tars of the split, in order."""
    left_out: tuple[str, ...] = ()
    """The archives beside these whose names tell no split, and which are not read."""

    @property
    def access(self) -> Literal["random", "blocks"]:
        """The access: "random" for plain local tars, else "blocks"."""
        if self.location.remote or any(
            is_streamed(self.location, part.path) for part in self.parts
        ):
            return "blocks"
        return "random"

    def marks(self) -> Iterable[str]:
        """Yield the archives' names, sizes and times, and how they are read."""
        for part in self.parts:
            yield f"{self.location.mark(part.path)}\t{part.layout}"
        yield from self.parts[0].layout.table_marks()

    def class_table(self) -> ClassTable | None:
        """Return the table of numbered classes; only WebDataset shards have one."""
        return self.parts[0].layout.class_table()

    def words(self) -> dict[str, str]:
        """Return class -> words, from a table beside the archives or in the first of them."""
        words = super().words()
        if not words and self.access == "random" and isinstance(self.parts[0].layout, TreeTar):
            words = _read_words_in_tar(self.location, self.parts[0].path)
        return words

    def list(self, progress: Callable[[int], None]) -> pa.Table:
        """List the members of every archive that are samples; their bytes stay where they are.

        Args:
            progress: A function that is called again and again, each time with the number of
                samples since its last call; links are not counted.

        Returns:
            The listing (`pipeline.sources.listing`), sorted by key: the columns `key`
            (large_string, `<class>/<file name>`), `num_bytes` (int64), `path` of the tar (a
            dictionary of texts), and `offset` of the sample in it in bytes (int64). In WebDataset
            shards, samples whose names repeat are named after shard and number.

        Raises:
            ReadError: An archive could not be read now.
            SourceError: There are no images, two samples have one key, an archive is missing or
                damaged, or the source is streamed.
        """
        if self.access != "random":
            return super().list(progress)
        check_complete(self.location, [part.path for part in self.parts])
        builder = ListingBuilder()
        for part in self.parts:
            with open_tar(self.location, part.path) as tar:
                samples = part.layout.samples(tar, lambda member: member.offset)
                builder.collect(part.path, samples, progress)
        table = builder.finish()
        if not len(table):
            raise SourceError(
                f"no images found in {self.location.display_name} ({self.kind}): no member of "
                f"{len(self.parts)} tars is an image of the requested split."
            )
        layout = self.parts[0].layout
        return sort_listing(rename_duplicates(table, layout.unique_name))

    def blocks(self) -> Blocks:
        """Return one block for each tar, or for each class of a remote tar of class tars."""
        if self.access != "blocks":
            return super().blocks()
        self.check()
        return [block for part in self.parts for block in self._blocks_of(part)]

    def remarks(self) -> tuple[str, ...]:
        """Return a sentence for each archive that is left out and each gap in numbered shards."""
        is_numbered = self.kind in ("webdataset", "tar")  # in other kinds, numbers are wnids
        paths = [part.path for part in self.parts] if is_numbered else []
        return (*map(left_out_text, self.left_out), *missing_numbers(self.location, paths))

    def check(self) -> None:
        """Refuse a source that cannot be read to its end, before any of it is streamed.

        Raises:
            SourceError: A table is missing, or an archive is something else.
        """
        check_complete(self.location, [part.path for part in self.parts])
        # Remote archives are checked when they are opened: a look at each is a request.
        for part in self.parts if not self.location.remote else ():
            check_archive(self.location, part.path)
        part = self.parts[0]
        part.layout.check(lambda: outline_of(self.location, part.path))

    def _blocks_of(self, part: TarPart) -> Iterator[Block]:
        name = block_name(part.path)
        if not isinstance(part.layout, TarOfTarsLayout) or is_streamed(self.location, part.path):
            size = self.location.size(part.path)
            yield TarBlock(name, size, self.location, part.path, part.layout)
            return
        # A thousand requests of 512 bytes pay off: workers fetch the classes in parallel.
        raw = self.location.open(part.path)
        size = self.location.size(part.path)
        with Tar(raw, self.location.full_path(part.path), size, can_seek=True) as tar:
            for inner in InnerTars(tar).members():
                class_name = folder_class(stem_of(inner.name), self.location.options)
                yield TarBlock(
                    f"{name}-{class_name}",
                    inner.num_bytes,
                    self.location,
                    part.path,
                    ClassTarLayout(class_name, self.location.options),
                    inner.offset,
                    inner.offset + inner.num_bytes,
                )


def _read_words_in_tar(location: Location, path: str) -> dict[str, str]:
    with open_tar(location, path) as tar:
        for member in tar.members():
            if member.name.rpartition("/")[2] in WORDS:
                data = tar.read(member.offset, member.num_bytes)
                return parse_words(decode_table(data, f"{tar.name}: {member.name}", lenient=True))
    return {}


def block_name(path: str) -> str:
    """Return a file name for the block of an archive, short enough for the spool's additions.

    Args:
        path: The path of the archive in its source.

    Returns:
        The path with `%2F` for each slash and `%25` for each `%`; if that is longer than 160 bytes,
        its first 80 bytes, a `%` and a digest of 32 hexadecimal digits.
    """
    name = path.replace("%", "%25").replace("/", "%2F")
    encoded = os.fsencode(name)
    if len(encoded) <= MAX_BLOCK_NAME_BYTES:
        return name
    # A digest keeps long names with a common beginning apart.
    digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    return f"{encoded[:80].decode(errors='ignore')}%{digest}"
