"""A file that is no image by its first bytes, or exceeds the limit, is never read completely."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ReadError
from pipeline.images.formats import HEAD_BYTES, SMALL_BYTES
from pipeline.images.rejection import READABLE, UNIDENTIFIED, UNSUPPORTED
from pipeline.ingest.readahead import GROUP, GROUP_BYTES, Unread, _groups_of_samples, read_or_skip
from pipeline.ingest.recheck import recheck_rows
from pipeline.ingest.source_index import Sample
from pipeline.sources import spool
from pipeline.sources.listing import ListedSample
from pipeline.sources.reader import SourceReader
from pipeline.store import layout, table
from pipeline.store.open import open_objects
from tests.images import contents, jpeg, prepare_inline
from tests.inline import repair_inline, tesserae
from tests.odd_files import grey_tiff, netpbm

FILM = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
FILM_BYTES = 4 * 2**30
LIMIT = 2 * SMALL_BYTES
NOISE = np.random.default_rng(0).bytes(LIMIT + 10)
"""Bytes of no known format."""


def sparse(path: Path, head: bytes, num_bytes: int) -> None:
    """Write a sparse file of *num_bytes* that begins with *head*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head)
    os.truncate(path, num_bytes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a class with a photograph, a video of 4 GiB and an image beyond the limit."""
    root = tmp_path / "images"
    sparse(root / "n00000000" / "film.JPEG", FILM, FILM_BYTES)
    sparse(root / "n00000000" / "long.JPEG", jpeg(1), LIMIT + 1)
    (root / "n00000000" / "photograph.JPEG").write_bytes(jpeg(2))
    return root


def rows(store: Path) -> dict[str, dict[str, Any]]:
    lines = table.decode_part((store / layout.table("train")).read_bytes()).to_pylist()
    return {line["key"].partition("/")[2]: line for line in lines}


def test_a_video_in_a_class_folder_is_not_read(source: Path, tmp_path: Path) -> None:
    """The video costs neither time nor memory; its row states its format, length and the limit."""
    store = tmp_path / "store"
    tracemalloc.start()
    try:
        prepare_inline(source, str(store), max_image_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 128 * 2**20
    finally:
        tracemalloc.stop()
    rows_by_name = rows(store)
    assert rows_by_name["photograph.JPEG"]["status"] == READABLE
    film, long = rows_by_name["film.JPEG"], rows_by_name["long.JPEG"]
    assert film["status"] == UNIDENTIFIED
    assert film["reason"] == (
        "4,294,967,296 bytes, more than are read for an image (2,097,152, --max-image-bytes); it"
        " begins as an MP4 video"
    )
    assert long["status"] == UNSUPPORTED
    assert "2,097,153 bytes" in long["reason"]
    assert "a JPEG image" in long["reason"]
    for line in (film, long):
        assert (line["crc32c"], line["width"]) == (None, None)
    assert film["num_bytes"] == FILM_BYTES


def test_only_the_beginning_of_skipped_files_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file that is skipped is read beyond its first bytes."""
    lengths: list[int] = []

    def counting(read: Any) -> Any:
        def count(fd: int, length: int, *offset: int) -> bytes:
            data: bytes = read(fd, length, *offset)
            lengths.append(len(data))
            return data

        return count

    for name in ("read", "pread"):
        monkeypatch.setattr(f"pipeline.sources.reader.os.{name}", counting(getattr(os, name)))
    prepare_inline(source, str(tmp_path / "store"), max_image_bytes=LIMIT)
    assert 0 < sum(lengths) <= 2 * HEAD_BYTES + len(jpeg(2))


def test_rows_of_unread_files_are_extended_verified_and_repaired(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such rows are treated like other rows, and their files are still not read."""
    store = tmp_path / "store"
    prepare_inline(source, str(store), max_image_bytes=LIMIT)
    before = contents(store)
    prepare_inline(source, str(store), sizes=(8, 12, 16))
    assert {name: data for name, data in contents(store).items() if name in before} == before
    assert list(recheck_rows(open_objects(str(store)), "train", 3)) == []
    (store / layout.part("train", 0)).write_bytes(b"damaged")
    assert repair_inline(monkeypatch, str(store), data=str(source)) == 0
    assert {name: data for name, data in contents(store).items() if name in before} == before


def test_another_limit_is_refused_as_another_recipe(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The limit decides which rows are readable; without the option the store's limit applies."""
    options = ("--sizes", 8, "--max-bad", 1, "--workers", 1, "--no-dashboard")
    store = tmp_path / "store"
    first = (source, store, *options, "--max-image-bytes", LIMIT)
    assert tesserae(monkeypatch, "prepare", *first) == 0
    assert tesserae(monkeypatch, "prepare", source, store, *options) == 0
    capsys.readouterr()
    other_limit = (source, store, *options, "--max-image-bytes", LIMIT + 5)
    assert tesserae(monkeypatch, "prepare", *other_limit) == 1
    error_text = capsys.readouterr().err
    assert "max_image_bytes is 2097152 in the store, 2097157 was requested" in error_text
    assert tesserae(monkeypatch, "prepare", source, store, "--max-image-bytes", 0) == 1
    assert "expected at least 1" in capsys.readouterr().err


# --- one sample -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [None, 7], ids=["file", "range"])
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"RIFF\0\0\0\0AVI " + bytes(SMALL_BYTES), UNIDENTIFIED),
        (b"\0\0\0\x20ftypavif" + bytes(SMALL_BYTES), UNSUPPORTED),
        (NOISE[: SMALL_BYTES + 1], UNIDENTIFIED),
        (NOISE, UNIDENTIFIED),
        (netpbm(np.zeros((700, 900, 3), np.uint8), 255), None),
        (netpbm(np.zeros((700, 900, 3), np.uint8), 255) + bytes(LIMIT), UNSUPPORTED),
        (NOISE[:SMALL_BYTES], None),
        (b"RIFF\0\0\0\0AVI ", None),
    ],
    ids=["film", "avif", "noise", "long-noise", "ppm", "long-ppm", "small-noise", "small-film"],
)
def test_files_and_byte_ranges_are_judged_equally(
    tmp_path: Path, offset: int | None, data: bytes, status: int | None
) -> None:
    """Small samples are read completely, since a second request would cost more."""
    (tmp_path / "x").write_bytes(bytes(offset or 0) + data + (b"behind" if offset else b""))
    sample = Sample(0, "n/x", 0, len(data), "x", offset, None)
    result = read_or_skip(SourceReader(str(tmp_path)), sample, LIMIT)
    if status is None:
        assert result == data
    else:
        assert isinstance(result, Unread)
        assert result.status == status
    assert read_or_skip(SourceReader(str(tmp_path)), sample, None) == data


@pytest.mark.parametrize("num_bytes", [LIMIT - 1, LIMIT + 1])
def test_a_file_of_another_length_than_listed_is_an_error(tmp_path: Path, num_bytes: int) -> None:
    """The row must not mix the properties of two files."""
    sparse(tmp_path / "x", FILM, LIMIT)
    sample = Sample(0, "n/x", 0, num_bytes, "x", None, None)
    with pytest.raises(ReadError, match="the source changed"):
        read_or_skip(SourceReader(str(tmp_path)), sample, LIMIT)


def test_a_remote_video_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single request fetches the first bytes."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    files = fsspec.filesystem("memory")
    files.pipe("/films/x.jpg", FILM + bytes(LIMIT))
    fetched: list[int] = []
    fetch = MemoryFileSystem.cat_file

    def counting(self: Any, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        data: bytes = fetch(self, path, start, end, **options)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counting)
    sample = Sample(0, "n/x.jpg", 0, len(FILM) + LIMIT, "x.jpg", None, None)
    assert isinstance(read_or_skip(SourceReader("memory://films"), sample, LIMIT), Unread)
    assert fetched == [HEAD_BYTES]


@given(st.lists(st.integers(0, 3 * GROUP_BYTES), max_size=80), st.sampled_from([None, 2**20]))
def test_groups_contain_every_sample_once_and_are_limited_in_bytes(
    sizes: list[int], limit: int | None
) -> None:
    """All but the last sample of a group have fewer bytes than the limit of a group."""
    samples = [Sample(n, "", 0, size, "", None, None) for n, size in enumerate(sizes)]
    groups = list(_groups_of_samples(samples, limit, GROUP))
    assert [sample for group in groups for sample in group] == samples
    for group in groups:
        assert 1 <= len(group) <= GROUP
        read = [s.num_bytes for s in group[:-1] if limit is None or s.num_bytes <= limit]
        assert sum(read) < GROUP_BYTES


# --- streamed sources -----------------------------------------------------------------------------


@dataclass
class Streamed:
    """A block of samples in memory that counts the bytes that were read of it."""

    samples_: dict[str, bytes]
    piece: int
    name: str = "made"
    bytes_read: int = 0

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.samples_.values()))

    def samples(self, put: spool.WriteBytes) -> Iterator[ListedSample]:
        for key, data in self.samples_.items():
            yield ListedSample(key, len(data), put(self._pieces(data)))

    def _pieces(self, data: bytes) -> Iterable[bytes]:
        for at in range(0, len(data), self.piece):
            self.bytes_read += len(data[at : at + self.piece])
            yield data[at : at + self.piece]


@pytest.mark.parametrize("piece", [1000, HEAD_BYTES, SMALL_BYTES, 10**9])
def test_a_spool_contains_only_the_beginning_of_unread_files(tmp_path: Path, piece: int) -> None:
    """The index has no checksum of these files; later samples are where the index says."""
    long = jpeg(1) + bytes(3 * LIMIT)
    samples = {"n/a": jpeg(2), "n/film": FILM + bytes(3 * LIMIT), "n/long": long, "n/z": jpeg(3)}
    block = Streamed(samples, piece)
    spool.spool_block(block, str(tmp_path), limit=LIMIT)
    size = (tmp_path / "made.records").stat().st_size
    assert size == len(jpeg(2)) + len(jpeg(3)) + 2 * HEAD_BYTES
    if piece < SMALL_BYTES:
        assert block.bytes_read < block.num_bytes - 3 * LIMIT
    listing = {row["key"]: row for row in spool.spool_listing(str(tmp_path), [block]).to_pylist()}
    assert {key: row["num_bytes"] for key, row in listing.items()} == {
        key: len(data) for key, data in samples.items()
    }
    reader = SourceReader(str(tmp_path))
    for key, row in listing.items():
        sample = Sample(0, key, 0, row["num_bytes"], row["path"], row["offset"], row["crc32c"])
        result = read_or_skip(reader, sample, LIMIT)
        if key in ("n/film", "n/long"):
            assert isinstance(result, Unread)
            assert sample.crc32c is None
        else:
            assert result == samples[key]
            assert sample.crc32c is not None


def test_a_spool_of_another_limit_is_streamed_again(tmp_path: Path) -> None:
    """A run that was interrupted before it had a recipe may have left the spool."""
    samples = {"n/a": jpeg(2), "n/long": jpeg(1) + bytes(LIMIT)}
    sizes = {}
    for limit in (LIMIT, 2 * LIMIT, None):
        spool.spool_block(Streamed(samples, 1000), str(tmp_path), limit=limit)
        sizes[limit] = (tmp_path / "made.records").stat().st_size
    assert sizes[LIMIT] < sizes[2 * LIMIT] == sizes[None]
    again = Streamed(samples, 1000)
    spool.spool_block(again, str(tmp_path))
    assert again.bytes_read == 0


def test_a_folder_and_a_compressed_tar_give_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that are not read completely have the same rows, too."""
    files = {
        "n00000000/a.JPEG": jpeg(1),
        "n00000000/film.JPEG": FILM + bytes(LIMIT),
        "n00000001/long.JPEG": jpeg(2) + bytes(LIMIT),
        "n00000001/noise.JPEG": NOISE[: SMALL_BYTES + 9],
        "n00000001/raw.JPEG": grey_tiff(np.zeros((4, 4), np.uint8), tags={50706: (1, b"\1\4\0\0")})
        + bytes(SMALL_BYTES),
        "n00000001/z.JPEG": jpeg(3),
    }
    for key, data in files.items():
        (tmp_path / "images" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / key).write_bytes(data)
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz", compresslevel=1) as tar:
        for key, data in files.items():
            member = tarfile.TarInfo(key)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    options = ("--sizes", 8, "--max-bad", 1, "--workers", 1, "--max-image-bytes", LIMIT)
    for source, store in (("images", "one"), ("images.tar.gz", "two")):
        arguments = (tmp_path / source, tmp_path / store, *options, "--no-dashboard")
        assert tesserae(monkeypatch, "prepare", *arguments) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    for name in ("noise.JPEG", "raw.JPEG"):
        assert rows(tmp_path / "two")[name]["crc32c"] is None
