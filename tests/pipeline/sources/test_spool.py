"""The spool is complete or absent, can be resumed, and reads the source once."""

import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import google_crc32c
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import ReadError, SourceError
from pipeline.sources import open_source
from pipeline.sources.classes.evidence import Evidence
from pipeline.sources.listing import ListedSample
from pipeline.sources.reader import SourceReader
from pipeline.sources.spool import (
    WriteBytes,
    remaining_spool_text,
    remove_stale,
    spool_block,
    spool_bytes_needed,
    spool_listing,
)
from tests.pipeline.sources.layouts import LAYOUTS, Pictures, made_pictures


@dataclass
class MemoryBlock:
    """A block of images in memory; it may fail after some of them."""

    pictures: Pictures
    name: str = "made"
    fails_after: int = -1
    reads: int = 0

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.pictures.values()))

    @property
    def where(self) -> str:
        return f"/data/{self.name}.tar"

    def unique_name(self, number: int, name: str) -> str:
        return f"{self.name}-{number}" if name == "image.png" else ""

    def samples(self, put: WriteBytes) -> Iterator[ListedSample]:
        self.reads += 1
        for i, (key, data) in enumerate(self.pictures.items()):
            if i == self.fails_after:
                raise ReadError("cannot read x: Input/output error")
            yield ListedSample(key, len(data), put((data[:5], data[5:])))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_records_and_index_hold_the_samples(tmp_path):
    """The records hold the bytes one after the other; the index has offsets and crc32c."""
    pictures = made_pictures()
    block = MemoryBlock(pictures)
    spool_block(block, str(tmp_path))
    assert names(tmp_path) == ["made.index.arrow", "made.records"]
    assert (tmp_path / "made.records").read_bytes() == b"".join(pictures.values())
    reader = SourceReader(str(tmp_path))
    listing = spool_listing(str(tmp_path), [block]).to_pylist()
    assert [row["key"] for row in listing] == sorted(pictures)
    for row in listing:
        data = reader.read(row["path"], row["offset"], row["num_bytes"])
        assert data == pictures[row["key"]]
        assert row["crc32c"] == google_crc32c.value(data)
    reader.close()


def test_a_finished_block_is_not_streamed_again(tmp_path):
    """A pass over the source continues where it stopped."""
    block = MemoryBlock(made_pictures())
    spool_block(block, str(tmp_path))
    spool_block(block, str(tmp_path))
    assert block.reads == 1


def test_a_read_error_leaves_no_files(tmp_path):
    """A failed block leaves neither a record file nor a temporary one."""
    with pytest.raises(ReadError):
        spool_block(MemoryBlock(made_pictures(), fails_after=9), str(tmp_path))
    assert names(tmp_path) == []


def test_a_full_disk_is_told_with_its_folder(tmp_path, monkeypatch):
    """A failed write does not name its file, and there may be several disks."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_):
        raise full

    monkeypatch.setattr("pipeline.sources.spool._write_record", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}'"):
        spool_block(MemoryBlock(made_pictures()), str(tmp_path))
    assert names(tmp_path) == []


def test_only_files_of_killed_tasks_are_removed(tmp_path):
    """The lock of a running task protects its files; that of a killed task is gone."""
    left, fresh, locked, of_another_block = (
        tmp_path / f".{name}.tmp.records" for name in ("made.1", "made.2", "made.3", "made2.1")
    )
    for path in (left, fresh, locked, of_another_block):
        path.write_bytes(b"half")
        if path is not fresh:
            os.utime(path, (0, 0))
    with locked.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        spool_block(MemoryBlock(made_pictures()), str(tmp_path))
    assert names(tmp_path) == sorted(
        [fresh.name, locked.name, of_another_block.name, "made.index.arrow", "made.records"]
    )


@pytest.mark.parametrize("harm", ["cut records", "cut index", "no records", "other index"])
def test_a_damaged_block_is_streamed_again(tmp_path, harm):
    """The length of the records is compared each time the index is read."""
    block = MemoryBlock(made_pictures())
    spool_block(block, str(tmp_path))
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if harm == "no records":
        (tmp_path / "made.records").unlink()
    else:
        name = "made.records" if harm == "cut records" else "made.index.arrow"
        data = b"not arrow" if harm == "other index" else contents[name][:-9]
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=r"made.*(Delete|not streamed)"):
        spool_listing(str(tmp_path), [block])
    spool_block(block, str(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert block.reads == 2


def test_a_missing_block_is_named(tmp_path):
    """A listing of a part of the source is refused."""
    done, missing = MemoryBlock(made_pictures()), MemoryBlock(made_pictures(), name="second")
    spool_block(done, str(tmp_path))
    with pytest.raises(SourceError, match="lacks the block 'second'"):
        spool_listing(str(tmp_path), [done, missing])


def test_one_key_in_two_blocks_is_refused_with_both_locations(tmp_path):
    """A key in two blocks is refused, as in one listing."""
    blocks = [MemoryBlock({"a/x": b"1"}, name="p"), MemoryBlock({"a/x": b"1"}, name="q")]
    for block in blocks:
        spool_block(block, str(tmp_path))
    with pytest.raises(SourceError, match=r"'a/x': '/data/p\.tar' and '/data/q\.tar'"):
        spool_listing(str(tmp_path), blocks)


def test_the_files_are_synced_before_they_are_renamed(tmp_path, monkeypatch):
    """Records, folder, index and folder are synced in this order, so no crash leaves a half."""
    events = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), sync(fd)))

    def watched(self: Path, target: Path) -> Path:
        events.append(target.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    spool_block(MemoryBlock(made_pictures()), str(tmp_path))
    assert events == ["sync", "sync", "made.records", "sync", "made.index.arrow", "sync"]


def test_the_estimated_size_is_enough(tmp_path):
    """The estimate covers the spool, and is below twice its size for images of usual sizes."""
    for name in ("ilsvrc-tar gz", "webdataset gz", "parquet hub", "parquet plain"):
        root = LAYOUTS[name](tmp_path / name, made_pictures(40, 20_000))
        spool = tmp_path / f"{name} spool"
        spool.mkdir()
        blocks = open_source(root, "train").blocks()
        for block in blocks:
            spool_block(block, str(spool))
        used = sum(path.stat().st_size for path in spool.iterdir())
        assert used <= spool_bytes_needed(blocks) <= 1.3 * used + 50_000


class CountingFileSystem(MemoryFileSystem):
    """A memory file system that counts the bytes that are read."""

    protocol = "counting"
    num_read = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("counting://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        data = super().cat_file(path, start, end, **kwargs)
        CountingFileSystem.num_read += len(data)
        return data

    def _open(self, *args, **kwargs):
        raise AssertionError("reads go through cat_file")


@pytest.mark.parametrize(
    "layout", ["ilsvrc-tar", "class-tars", "webdataset", "tar", "ilsvrc-tar gz", "parquet hub"]
)
def test_a_pass_reads_the_source_once(tmp_path, layout):
    """Detection, blocks and spooling fetch at most 1.1 times the source's bytes."""
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    filesystem = fsspec.filesystem("memory")  # both look at one store
    # large against the headers, as photographs are; two row groups and a footer in Parquet
    root = tmp_path / "x"
    write = LAYOUTS[layout]
    pictures = made_pictures(40, 60_000)
    if layout == "parquet hub":
        write(root, pictures, 20)
    else:
        write(root, pictures)
    total = 0
    for path in root.rglob("*"):
        if path.is_file():
            filesystem.pipe_file(f"{tmp_path}/{path.relative_to(root)}", path.read_bytes())
            total += path.stat().st_size
    CountingFileSystem.num_read = 0
    (tmp_path / "spool").mkdir()
    blocks = open_source(f"counting://{tmp_path}", "train").blocks()
    for block in blocks:
        spool_block(block, str(tmp_path / "spool"))
    assert len(spool_listing(str(tmp_path / "spool"), blocks)) == 40
    assert total * 0.9 < CountingFileSystem.num_read <= total * 1.1


def test_repeated_names_get_the_blocks_own_ones(tmp_path):
    """Repeated names get the block's own ones; where it has none, they are refused."""
    blocks = [
        MemoryBlock({"a/image.png": b"1", "b/x": b"2"}, name="p"),
        MemoryBlock({"a/image.png": b"3", "b/image.png": b"4"}, name="q"),
    ]
    for block in blocks:
        spool_block(block, str(tmp_path))
    listing = spool_listing(str(tmp_path), blocks)
    assert listing["key"].to_pylist() == ["a/p-0", "a/q-0", "b/image.png", "b/x"]
    reader = SourceReader(str(tmp_path))
    read = [reader.read(r["path"], r["offset"], r["num_bytes"]) for r in listing.to_pylist()]
    assert read == [b"1", b"3", b"4", b"2"]
    assert Evidence.decode(listing.schema.metadata).notes == [
        "2 names repeat, such as 'image.png': their images are named after file and number, such as"
        " 'p-0'"
    ]


def test_records_of_another_source_are_streamed_again(tmp_path):
    """A changed column, table or file changes the keys, so that old records are replaced."""
    block, stale = MemoryBlock({"a/x": b"1"}, name="p"), MemoryBlock({"a/y": b"2"}, name="q")
    for streamed in (block, stale):
        spool_block(streamed, str(tmp_path), "before")
    spool_block(block, str(tmp_path), "before")
    assert block.reads == 1
    block.pictures = {"b/x": b"1"}
    spool_block(block, str(tmp_path), "now")
    assert block.reads == 2
    assert spool_listing(str(tmp_path), [block])["key"].to_pylist() == ["b/x"]
    assert remove_stale(str(tmp_path), [block], "now") == 1
    assert names(tmp_path) == ["p.index.arrow", "p.records"]
    assert remove_stale(str(tmp_path), [block], "now") == 0
    assert remove_stale(str(tmp_path / "none"), [block], "now") == 0


def test_a_remaining_spool_is_reported_with_its_use(tmp_path):
    """The text has the size of the spool, how to continue, and that it may be deleted."""
    assert remaining_spool_text(str(tmp_path / "none")) == ""
    spool_block(MemoryBlock({"a/x": b"123"}, name="p"), str(tmp_path))
    assert remaining_spool_text(str(tmp_path)) == (
        f" The streamed data stay in {tmp_path} (3 bytes): the same command continues with them;"
        " delete that folder if you will not run it again."
    )
