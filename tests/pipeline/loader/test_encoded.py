"""A loader over encoded rows: its images are crops of what zarr reads, and damage is an error."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.images import crop_decode
from pipeline.images.crop_decode import resize_crop
from pipeline.images.decode import decode
from pipeline.loader import Batch, Crop, Loader, Reading, Staging, encoded_reader, image_readers
from pipeline.loader import loader as loader_module
from pipeline.loader.shard_copies import ShardCopySet
from pipeline.store import layout, records
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from tests.commands import ROOT, wait_until
from tests.encoded import prepare_encoded, prepare_some_shards
from tests.images import jpeg, make_folder, prepare_inline
from tests.pipeline.loader.batches import check_same

NUM_ROWS = 61
CHOICES: dict[str, Any] = {"sizes": (8,), "shard_rows": 8, "chunk_rows": 4}
ENCODINGS = ("jpeg:24@80", "original")
JPEG = "images.zarr/train/jpeg24@80"


@pytest.fixture(scope="module")
def store(source: Path) -> Path:
    """Prepare a store of 61 images, 3 of them broken, as squares and as encoded rows."""
    folder = source.parent / "encoded"
    prepare_encoded(source, str(folder), ENCODINGS, **CHOICES)
    return folder


@pytest.fixture(scope="module")
def encoded_rows(store: Path) -> dict[str, list[bytes]]:
    """Return the bytes of all rows of each encoding, as zarr reads them."""
    rows = {}
    for encoding in ENCODINGS:
        group = store / "images.zarr/train" / encoding.replace(":", "")
        data = np.asarray(zarr.open_array(group / "bytes", mode="r")[:])
        offset = np.asarray(zarr.open_array(group / "offset", mode="r")[:])
        rows[encoding] = [data[start:stop].tobytes() for start, stop in offset]
    return rows


@pytest.fixture(scope="module")
def readable(store: Path) -> list[int]:
    """Return the rows of images that are not broken, as zarr reads them."""
    status = np.asarray(zarr.open_array(store / "images.zarr/train/status", mode="r")[:])
    return np.flatnonzero(status == 0).tolist()


def loader_of(store: Path | str, **words: Any) -> Loader:
    arguments = {"encoded": "jpeg:24@80", "size": 12, "batch_size": 9, "drop_last": False}
    return Loader(store, **{**arguments, **words})


def expected_crop(data: bytes, box: list[int], size: int) -> NDArray[np.uint8]:
    """Decode the whole picture, and cut out and resize its crop."""
    side = min(box[2] - box[0], box[3] - box[1])
    scale = max(scale for scale in (1, 2, 4, 8) if scale == 1 or side >= 2 * size * scale)
    decoded = decode(data, fit="squish", serves=2**30, exif=True)
    serves = min(decoded.width, decoded.height) // (2 * scale) if scale > 1 else 2**30
    decoded = decode(data, fit="squish", serves=serves, exif=True)
    assert decoded.scale == scale
    return resize_crop(np.asarray(decoded.pixels), box, scale, size)


def check_crops(batch: Batch, rows: list[bytes], *sizes: int) -> None:
    images = batch.images if isinstance(batch.images, tuple) else (batch.images,)
    assert batch.boxes is not None
    assert batch.boxes.dtype == torch.int64
    assert batch.boxes.shape == (len(batch.rows), 4)
    for size, tensor in zip(sizes, images, strict=True):
        assert tensor.shape == (len(batch.rows), 3, size, size)
        assert tensor.is_contiguous(memory_format=torch.channels_last) or not len(batch.rows)
        for image, row, box in zip(tensor, batch.rows.tolist(), batch.boxes.tolist(), strict=True):
            expected = expected_crop(rows[row], box, size)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


# --- the images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("where", ["rows", "waiting", "chunks", "memory"])
def test_images_are_the_crops_of_what_zarr_reads(
    store: Path,
    source: Path,
    encoded_rows: dict[str, list[bytes]],
    readable: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    where: str,
) -> None:
    """Each reader gives the same, of all rows, at several sizes with one box."""
    url = str(store)
    if where == "waiting":  # nothing is in the page cache
        monkeypatch.setattr(encoded_reader.ShardFile, "read_cached", lambda *_: False)
    elif where == "chunks":  # the store is larger than memory
        monkeypatch.setattr(loader_module, "free_bytes", lambda: 1000)
    elif where == "memory":
        url = f"memory://{tmp_path}/store"
        prepare_encoded(source, url, ENCODINGS, **CHOICES)
    order = "windowed" if where == "chunks" else "random"
    loader = loader_of(
        url, encoded=encoding, size=None, sizes=(12, 5), crop="resized", boxes=True, order=order,
        window_bytes=20_000,
    )  # fmt: skip
    batches = list(loader)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == readable
    for batch in batches:
        check_crops(batch, encoded_rows[encoding], 12, 5)
    assert set(loader.readers) == {"chunks" if where in ("chunks", "memory") else "preadv"}
    assert sum(loader.readers.values()) == len(batches)


def test_boxes_are_those_of_the_crop_and_of_the_epoch(store: Path) -> None:
    """They are drawn with the seed of the loader, for the sizes that the store states."""
    loader = loader_of(store, crop="resized", boxes=True, seed=5)
    shape = np.asarray(zarr.open_array(store / JPEG / "shape", mode="r")[:])
    for epoch in range(2):
        for batch in loader:
            rows = batch.rows.numpy()
            expected = Crop("resized").boxes(shape[rows], rows, seed=5, epoch=epoch)
            assert batch.boxes is not None
            assert np.array_equal(batch.boxes.numpy(), expected)
            images, labels, _ = batch
            assert isinstance(images, torch.Tensor)
            assert len(images) == len(labels)
    assert all(batch.boxes is None for batch in loader_of(store))


def test_squares_have_no_boxes(store: Path) -> None:
    """The attribute exists on every batch."""
    assert next(iter(Loader(store, size=8, batch_size=4))).boxes is None


@settings(max_examples=min(20, settings().max_examples))
@given(
    world=st.sampled_from([1, 2, 3]),
    batch_size=st.integers(8, 70),
    threads=st.integers(1, 4),
    at_once=st.integers(1, 40),
    epoch=st.integers(0, 1000),
    order=st.sampled_from(["random", "windowed", "sequential"]),
)
def test_a_row_has_one_image_in_an_epoch(
    store: Path,
    world: int,
    batch_size: int,
    threads: int,
    at_once: int,
    epoch: int,
    order: str,
) -> None:
    """Neither ranks nor batches nor threads change the pixels."""
    expected: dict[int, bytes] = {}
    plain = loader_of(store, crop="resized", seed=1, batch_size=NUM_ROWS)
    plain.set_epoch(epoch)
    for batch in plain:
        assert isinstance(batch.images, torch.Tensor)
        for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
            expected[row] = image.numpy().tobytes()
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_readers, "MAX_ROWS_AT_ONCE", at_once)
        for rank in range(world):
            loader = loader_of(
                store, crop="resized", seed=1, batch_size=batch_size, rank=rank, world=world,
                reading=Reading(threads=threads), order=order,
            )  # fmt: skip
            loader.set_epoch(epoch)
            for batch in loader:
                assert isinstance(batch.images, torch.Tensor)
                for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
                    assert image.numpy().tobytes() == expected[row]
                    seen.append(row)
    assert sorted(seen) == sorted(expected)


def test_a_store_of_encoded_rows_alone_is_read(source: Path, tmp_path: Path) -> None:
    """Stored squares are not needed."""
    folder = tmp_path / "store"
    prepare_encoded(source, str(folder), ["original"], **{**CHOICES, "sizes": ()})
    assert len(list(loader_of(folder, encoded="original"))) == 7


def test_labels_restrict_the_rows(store: Path) -> None:
    """Only rows of those classes are decoded."""
    loader = loader_of(store, include_labels=[1], boxes=True)
    batches = list(loader)
    assert {label for batch in batches for label in batch.labels.tolist()} == {1}
    assert sum(len(batch.rows) for batch in batches) == loader.num_rows < 58


def test_few_rows_are_in_memory_as_bytes(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large a batch is, a thread reads a few rows and decodes them before the next."""
    numbers: list[int] = []
    gather = encoded_reader.EncodedRowReader.gather

    def note(self: encoded_reader.EncodedRowReader, rows: Any, out: Any, disk: Any) -> str:
        numbers.append(len(rows))
        return gather(self, rows, out, disk)

    monkeypatch.setattr(encoded_reader.EncodedRowReader, "gather", note)
    monkeypatch.setattr(image_readers, "MAX_ROWS_AT_ONCE", 25)
    assert len(list(loader_of(store, batch_size=58))) == 1
    assert sorted(numbers) == [8, 25, 25]


def test_ranks_on_one_machine_share_its_cores(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that is bound to its own cores uses these; a number that was chosen is kept."""
    for bound, cores, ranks, threads in ((16, 16, 4, 4), (4, 16, 4, 4), (16, 16, 64, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=bound: set(range(n)))
        monkeypatch.setattr(os, "cpu_count", lambda n=cores: n)
        assert Loader(store, size=8)._threads_of_rank(ranks) == 4
        assert loader_of(store)._threads_of_rank(ranks) == threads
        assert loader_of(store, reading=Reading(threads=3))._threads_of_rank(ranks) == 3


# --- state ----------------------------------------------------------------------------------------


def test_a_state_belongs_to_its_encoding_and_crop(store: Path) -> None:
    """A state of squares has neither, as before there were encoded rows."""
    state = loader_of(store, crop=Crop("centre", share=0.5)).state_dict()
    assert (state["encoded"], state["crop"]) == ("jpeg24@80", "centre 0.5 1")
    loader_of(store, encoded="jpeg24@80", crop=Crop("centre", share=0.5)).load_state_dict(state)
    for words, name in (
        ({"encoded": "original", "crop": Crop("centre", share=0.5)}, "encoded"),
        ({"crop": "resized"}, "crop"),
    ):
        with pytest.raises(StoreMismatchError, match=f"{name} is "):
            loader_of(store, **words).load_state_dict(state)
    squares = Loader(store, size=8, batch_size=9, drop_last=False).state_dict()
    assert set(state) - set(squares) == {"encoded", "crop"}
    with pytest.raises(StoreMismatchError, match="encoded is None in the state, 'jpeg24@80' here"):
        loader_of(store).load_state_dict(squares)
    with pytest.raises(StoreMismatchError, match="encoded is 'jpeg24@80' in the state, None here"):
        Loader(store, size=8, batch_size=9, drop_last=False).load_state_dict(state)


@pytest.mark.parametrize("order", ["random", "windowed"])
def test_a_resumed_epoch_has_the_same_crops(store: Path, order: str) -> None:
    """The state is restored by another number of ranks."""
    words = {"crop": "resized", "order": order, "window_bytes": 8000}
    loader = loader_of(store, **words)
    loader.set_epoch(4)
    expected = list(loader)
    loader.set_epoch(4)
    for _, _batch in zip(range(3), loader, strict=False):
        pass
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    parts = []
    for rank in range(2):
        again = loader_of(store, **words).for_rank(rank, 2)
        again.load_state_dict(state)
        parts.append(list(again))
    for whole, first, second in zip(expected[3:], *parts, strict=True):
        assert torch.equal(whole.rows, torch.cat([first.rows, second.rows]))
        assert torch.equal(whole.images, torch.cat([first.images, second.images]))  # type: ignore[arg-type, list-item]


def test_windows_have_as_many_chunks_as_their_bytes_allow(store: Path) -> None:
    """The number follows from the bytes of all rows, so every rank and run has the same."""
    offset = np.asarray(zarr.open_array(store / JPEG / "offset", mode="r")[:])
    mean_bytes = 4 * (offset[:, 1] - offset[:, 0]).sum() / NUM_ROWS
    for window_bytes in (1, 5000, 20_000):
        state = loader_of(store, order="windowed", window_bytes=window_bytes).state_dict()
        assert state["window_chunks"] == max(1, int(window_bytes // mean_bytes))


def test_repr_and_pickle_keep_the_crop(store: Path) -> None:
    """A repr does not open the store; a pickled loader is small."""
    loader = loader_of("/nowhere/store", crop=Crop("random", share=0.5), boxes=True)
    assert repr(loader).startswith(
        "Loader('/nowhere/store', 'train', size=12, encoded='jpeg:24@80', crop=Crop(kind='random',"
    )
    assert "share=0.5, pixels=None), boxes=True, batch_size=9" in repr(loader)
    loader = loader_of(store, crop="resized")
    list(loader)
    text = pickle.dumps(loader)
    assert len(text) < 3_000
    check_same(list(pickle.loads(text)), list(loader))


def run_alone(code: str) -> str:
    """Run a script in a process of its own, and return its output."""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    return ended.stdout


# --- staging --------------------------------------------------------------------------------------


def copies_of(loader: Loader) -> ShardCopySet:
    copies = loader._open().copies
    assert copies is not None
    return copies


def stage_all(loader: Loader) -> list[Batch]:
    """Run an epoch that lasts until all shards are copied, and return its batches."""
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == len(loader):
            assert wait_until(lambda: copies_of(loader).num_staged == 8)
    return batches


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_staged_batches_are_those_of_the_store(
    source: Path, store: Path, tmp_path: Path, where: str
) -> None:
    """Batches are equal while shards are copied, and after the store has lost them."""
    url = f"memory://{tmp_path}/store" if where == "memory" else str(tmp_path / "store")
    prepare_encoded(source, url, ["original"], **CHOICES)
    words: dict[str, Any] = {"encoded": "original", "crop": "resized"}
    plain = loader_of(store, **words)
    expected = [list(plain), list(plain)]
    loader = loader_of(url, staging=tmp_path / "stage", **words)
    check_same(stage_all(loader), expected[0])
    objects = open_objects(url)
    for shard in range(8):
        objects.remove(layout.encoded_shard("train", "original", shard))
    before = loader.staged_rows
    check_same(list(loader), expected[1])
    assert loader.staged_rows == before + 58


def test_batches_combine_rows_of_copies_and_store(
    store: Path, readable: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any subset of the shards may be copied."""
    monkeypatch.setattr(ShardCopySet, "_is_active", lambda self: False)
    loader = loader_of(store, staging=tmp_path / "stage", crop="resized")
    expected = list(loader)
    copies = copies_of(loader)
    for shard in (1, 4):
        name = layout.encoded_shard("train", "jpeg24@80", shard)
        (copies.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store / name, copies.root / name)
    copies._take_complete_copies()
    assert copies.num_staged == 2
    loader.set_epoch(0)
    check_same(list(loader), expected)
    assert loader.staged_rows == len({*readable} & {*range(8, 16), *range(32, 40)})


def test_copies_of_encoded_rows_are_evicted(store: Path, source: Path, tmp_path: Path) -> None:
    """The set is removed with all its folders; a foreign file in it stays."""
    area = tmp_path / "area"

    def stage(folder: Path, limit: int | None) -> Path:
        loader = loader_of(folder, staging=Staging(area, limit))
        stage_all(loader)
        return copies_of(loader).root

    root = stage(store, None)
    assert (root / JPEG / "bytes/c.0").exists()
    other = tmp_path / "other"
    prepare_encoded(source, str(other), ENCODINGS, **CHOICES, seed=1)
    num_bytes = sum(file.stat().st_size for file in root.rglob("c.*"))
    others = stage(other, num_bytes + 40_000)
    assert not root.exists()
    shutil.rmtree(others)
    root = stage(store, None)
    foreign = root / JPEG / "bytes/notes.txt"
    foreign.write_text("mine")
    stage(other, num_bytes + 40_004)
    assert [file for file in root.rglob("*") if file.is_file() and "c." in file.name] == []
    assert foreign.read_text() == "mine"


def test_squares_and_encoded_rows_have_copy_sets_of_their_own(store: Path, tmp_path: Path) -> None:
    """Two stores of one plan may have encoded other bytes; their squares are the same."""
    objects = open_objects(str(store))
    names = set()
    for sizes, encoded in (([8], []), ([], ["original"]), ([], ["jpeg:24@80"])):
        split = open_split(objects, "train", sizes, encoded=encoded)
        names.add(ShardCopySet(split, tmp_path, limit_bytes=None).root.name)
    rows = split.encoded["jpeg24@80"]
    other = replace(rows, plan=replace(rows.plan, encoder="1" * 64))
    split = replace(split, encoded={"jpeg24@80": other})
    names.add(ShardCopySet(split, tmp_path, limit_bytes=None).root.name)
    assert len(names) == 4


# --- stores that are not whole --------------------------------------------------------------------


def shard_of(folder: Path, number: int = 3) -> Path:
    return folder / layout.encoded_shard("train", "jpeg24@80", number)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing"),
        (lambda path: os.truncate(path, 700), "has 700 bytes: expected"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has .* bytes: expected"),
        (lambda path: flip(path, -9), "has a damaged index"),
        (lambda path: flip(path, 600), r"is damaged \(chunk 1\)"),
    ],
)
@pytest.mark.parametrize("is_cached", [True, False])
def test_a_damaged_shard_is_an_error_that_names_it(
    tmp_path: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    message: str,
    is_cached: bool,
) -> None:
    """No image is decoded from damaged bytes."""
    if not is_cached:
        monkeypatch.setattr(encoded_reader.ShardFile, "read_cached", lambda *_: False)
    copy = shutil.copytree(store, tmp_path / "copy")
    damage(shard_of(copy))
    expected = rf"jpeg24@80/bytes/c\.3 {message}.*tesserae repair"
    with pytest.raises(StoreDamagedError, match=expected):
        list(loader_of(copy))


def test_a_row_that_is_no_image_is_an_error_that_names_it(
    tmp_path: Path, store: Path, readable: list[int]
) -> None:
    """Without comparing checksums, the decoder notices it."""
    copy = shutil.copytree(store, tmp_path / "copy")
    offset = np.asarray(zarr.open_array(copy / JPEG / "offset", mode="r")[:])
    geometry = loader_of(copy)._open().split.encoded["jpeg24@80"].geometry
    row = min(row for row in readable if row // 8 == 3)
    at = geometry.object_offset(int(offset[row, 0]) - 3 * geometry.span_bytes)
    flip(shard_of(copy), at)
    loader = loader_of(copy, reading=Reading(checksum="never"))
    with pytest.raises(
        StoreDamagedError, match=rf"jpeg24@80/bytes/c\.3 is damaged \(row {row}: .*tesserae repair"
    ):
        list(loader)


def test_a_shard_truncated_during_reading_is_an_error(tmp_path: Path, store: Path) -> None:
    """The process is not killed."""
    copy = shutil.copytree(store, tmp_path / "copy")
    loader = loader_of(copy, reading=Reading(prefetch_bytes=1))
    list(loader)
    os.truncate(shard_of(copy), 100)
    with pytest.raises(StoreDamagedError, match=r"bytes/c\.3 has 100 bytes"):
        list(loader)


def note_checks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that records the chunks that are compared with their checksums."""
    seen: list[tuple[str, int]] = []
    check = encoded_reader.ShardFile.check_chunk

    def note(self: encoded_reader.ShardFile, chunk: int, data: Any) -> None:
        seen.append((self.name, chunk))
        check(self, chunk, data)

    monkeypatch.setattr(encoded_reader.ShardFile, "check_chunk", note)
    return seen


@pytest.mark.parametrize(
    ("checksum", "free", "is_checked"),
    [("auto", 1e9, True), ("auto", 1e3, False), ("once", 1e3, True), ("never", 1e9, False)],
)
def test_each_chunk_is_verified_once_as_the_options_say(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    checksum: str,
    free: float,
    is_checked: bool,
) -> None:
    """By default, chunks are verified if memory can hold the rows."""
    monkeypatch.setattr(loader_module, "free_bytes", lambda: free)
    seen = note_checks(monkeypatch)
    loader = loader_of(store, reading=Reading(checksum=checksum, threads=1, prefetch_bytes=1))
    assert len(list(loader)) == len(list(loader)) == 7
    rows = loader._open().split.encoded["jpeg24@80"]
    expected = rows.chunks(loader._open().split.readable_rows)
    assert len(seen) == len(set(seen)) == (len(expected) if is_checked else 0)


def test_a_replaced_shard_is_verified_again(tmp_path: Path, store: Path) -> None:
    """Shards are closed and opened again if few files may be open."""
    copy = shutil.copytree(store, tmp_path / "copy")
    loader = loader_of(copy)
    list(loader)
    reader = loader._open().reader.sources[0]
    assert isinstance(reader, encoded_reader.EncodedRowReader)
    reader._files.close_all()
    list(loader)
    flip(shard_of(copy), 600)
    os.utime(shard_of(copy), ns=(1, 1))
    reader._files.close_all()
    with pytest.raises(StoreDamagedError, match=r"c\.3 is damaged \(chunk 1\)"):
        list(loader)


@pytest.mark.slow
def test_a_low_limit_of_open_files_suffices(store: Path) -> None:
    """Shards are closed again, so that descriptors remain for other files."""
    code = f"""
import os, resource
from pipeline.loader import Loader, Reading, shard_files
loader = Loader({str(store)!r}, encoded="original", size=8, batch_size=2,
                reading=Reading(threads=1))
next(iter(loader))
loader._open().reader.sources[0]._files.close_all()
shard_files.MAX_OTHER_FILES = 8
limit = len(os.listdir("/proc/self/fd")) + 11
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
for _ in range(3):
    assert sum(len(batch.rows) for batch in loader) == len(loader) * 2
"""
    run_alone(code)


def test_partial_reads_are_completed(
    store: Path, encoded_rows: dict[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may return fewer bytes than requested, from the cache and from the disk."""
    preadv = os.preadv

    def little(file: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        return preadv(file, [buffers[0][:100]], offset, *flags)

    monkeypatch.setattr(os, "preadv", little)
    for batch in loader_of(store, boxes=True):
        check_crops(batch, encoded_rows["jpeg:24@80"], 12)


def test_an_unfinished_split_yields_its_committed_rows(
    source: Path, tmp_path: Path, encoded_rows: dict[str, list[bytes]], readable: list[int]
) -> None:
    """Their places come from the row tables of the shards."""
    folder = tmp_path / "store"
    prepare_inline(source, str(folder), **CHOICES)
    prepare_some_shards(source, str(folder), ["jpeg:24@80"], (1, 4, 7), **CHOICES)
    with pytest.raises(StoreError, match=r"no finished jpeg:24@80: it has 8 px\. Add .*--en"):
        list(loader_of(folder))
    loader = loader_of(folder, allow_partial=True, boxes=True, crop="resized")
    batches = list(loader)
    plan = records.load_plan(open_objects(str(folder)), "train")
    committed = {row for shard in (1, 4, 7) for row in plan.rows(shard)}
    rows = sorted(row for batch in batches for row in batch.rows.tolist())
    assert rows == sorted(committed & {*readable})
    for batch in batches:
        check_crops(batch, encoded_rows["jpeg:24@80"], 12)
    with pytest.raises(StoreError, match="no encoded rows original"):
        list(loader_of(folder, encoded="original", allow_partial=True))


def test_kept_batches_do_not_change(store: Path, encoded_rows: dict[str, list[bytes]]) -> None:
    """No buffer is reused while a tensor views it, and few are used if none is kept."""
    loader = loader_of(store, boxes=True, crop="resized", reading=Reading(prefetch_bytes=1))
    batches = [batch for _ in range(3) for batch in loader]
    for batch in batches:
        check_crops(batch, encoded_rows["jpeg:24@80"], 12)
    seen = set()
    for _ in range(5):
        for batch in loader:
            assert isinstance(batch.images, torch.Tensor)
            seen.add(batch.images.untyped_storage().data_ptr())
            del batch
    assert len(seen) <= 2 + loader.threads + 2


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"crop": "centre"}, "crop was given without encoded: .* Pass encoded='jpeg:256@90'"),
        ({"boxes": True}, "boxes was given without encoded"),
        ({"encoded": "png"}, "encoding is 'png': expected original, or jpeg:N@Q"),
        ({"encoded": "jpeg:24@80", "crop": "square"}, "crop is 'square': expected one of"),
        ({"encoded": "jpeg:24@80", "size": 4097}, r"sizes are \(4097,\): expected sides of 1 to"),
        ({"encoded": "jpeg:24@80", "size": 0}, r"sizes are \(0,\)"),
    ],
)
def test_invalid_arguments_are_refused(store: Path, words: dict[str, Any], message: str) -> None:
    """The error is raised before the store is opened."""
    with pytest.raises(ValueError, match=message):
        Loader(store, **words)


def test_a_missing_encoding_is_reported_with_the_available_ones(store: Path) -> None:
    """The error also says how to add it."""
    expected = (
        r"no finished jpeg:99@80: it has 8 px, jpeg:24@80, original\. Add it with `tesserae"
        r" prepare --encoded`"
    )
    with pytest.raises(StoreError, match=expected):
        len(loader_of(store, encoded="jpeg:99@80"))


def test_the_orientation_of_original_rows_alone_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JPEG rows are upright, whatever the recipe says of their sources."""
    searched = []
    real = crop_decode.decode_crops

    def note(*arguments: Any, exif: bool, **options: Any) -> None:
        searched.append(exif)
        real(*arguments, exif=exif, **options)

    monkeypatch.setattr(crop_decode, "decode_crops", note)
    source = make_folder(tmp_path / "images", 5)
    encoded = ("jpeg:16@90", "original")
    for exif in (False, True):
        store = tmp_path / f"store-{exif}"
        prepare_inline(source, str(store), sizes=(), encoded=encoded, exif=exif)
        for name in encoded:
            assert len(list(Loader(store, encoded=name, size=8, batch_size=5))) == 1
    assert searched == [False, False, False, True]


def test_a_lost_plan_of_finished_rows_is_named(tmp_path: Path) -> None:
    """It is damage that repair mends, not an array that the store never had."""
    prepare_inline(
        make_folder(tmp_path / "images", 5),
        str(tmp_path / "store"),
        sizes=(),
        encoded=("original",),
    )
    loader = Loader(tmp_path / "store", encoded="original", size=8, batch_size=5)
    (tmp_path / "store" / layout.encoded_plan("train", "original")).unlink()
    with pytest.raises(StoreDamagedError, match=r"original\.json is missing\. Run `tesserae rep"):
        len(loader)


def test_fewer_rows_of_many_bytes_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread holds no more bytes than the limit, of rows of mean length, but one row at least."""
    source = make_folder(tmp_path / "images", 9)
    prepare_inline(source, str(tmp_path / "store"), sizes=(), encoded=("original",))
    split = open_split(open_objects(str(tmp_path / "store")), "train", [], encoded=["original"])
    mean = sum(file.stat().st_size for file in source.rglob("*.JPEG")) // 9
    for limit, rows in ((2**25, 64), (5 * mean, 5), (mean - 1, 1)):
        monkeypatch.setattr(image_readers, "MAX_BYTES_AT_ONCE", limit)
        reader = encoded_reader.open_encoded_reader(split, "original", cache_bytes=2**20)
        assert image_readers.CropReader(split, "original", reader, Crop(), 0).rows_at_once == rows


# --- squares of a number of pixels ----------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of encoded pictures of many sizes, some turned by EXIF, one unreadable."""
    folder = tmp_path_factory.mktemp("mixed")
    source = folder / "source" / "n00000000"
    source.mkdir(parents=True)
    sizes = [(1, 400), (400, 1), (15, 90), (90, 15), (16, 16), (16, 80), (60, 17), (40, 50)]
    for number in range(24):
        width, height = sizes[number % len(sizes)]
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8  # the orientation
        data = jpeg(number, width, height, exif=exif.tobytes())
        (source / f"{number:02d}.JPEG").write_bytes(data[:100] if number == 23 else data)
    prepare_inline(
        folder / "source", str(folder / "store"), sizes=(), encoded=("original",), exif=True,
        shard_rows=8, chunk_rows=4,
    )  # fmt: skip
    return folder / "store"


def squares_of(store: Path, **words: Any) -> Loader:
    """Return a loader of random squares of 16 px, of encoded pictures at their own scale."""
    crop = Crop("random", pixels=16)
    arguments = {"encoded": "original", "size": 16, "crop": crop, "batch_size": 4, "boxes": True}
    return Loader(store, **{**arguments, **words})


def test_a_square_has_the_pixels_of_its_picture(mixed: Path) -> None:
    """It is cut out of the upright picture without resizing, and no smaller picture is read."""
    group = mixed / "images.zarr/train/original"
    data = np.asarray(zarr.open_array(group / "bytes", mode="r")[:])
    offset = np.asarray(zarr.open_array(group / "offset", mode="r")[:])
    rows = []
    for batch in squares_of(mixed, drop_last=False):
        assert isinstance(batch.images, torch.Tensor)
        assert batch.boxes is not None
        for image, row, box in zip(
            batch.images, batch.rows.tolist(), batch.boxes.tolist(), strict=True
        ):
            start, stop = offset[row]
            picture = Image.open(io.BytesIO(data[start:stop].tobytes()))
            upright = np.asarray(ImageOps.exif_transpose(picture))
            left, top, right, bottom = box
            assert min(upright.shape[:2]) >= 16
            assert (right - left, bottom - top) == (16, 16)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), upright[top:bottom, left:right])
            rows.append(row)
    assert len(rows) == len({*rows}) == 11  # of 24, half are smaller, and one is unreadable
    assert squares_of(mixed).num_rows == 11


@pytest.mark.parametrize("world", [1, 2, 3])
def test_squares_are_the_same_for_any_rank_and_reader(mixed: Path, world: int) -> None:
    """Rows, boxes and pixels of all ranks together are those of a single one, in each epoch."""
    for epoch in range(2):
        single = squares_of(mixed, drop_last=False)
        single.set_epoch(epoch)
        expected = list(single)
        ranks = []
        for rank in range(world):
            loader = squares_of(
                mixed, drop_last=False, rank=rank, world=world,
                reading=Reading(threads=1 + rank, prefetch_bytes=1),
            )  # fmt: skip
            loader.set_epoch(epoch)
            ranks.append(list(loader))
        for batch, *parts in zip(expected, *ranks, strict=True):
            for name in ("rows", "images", "boxes"):
                together = torch.cat([getattr(part, name) for part in parts])
                assert torch.equal(together, getattr(batch, name))


def test_a_state_of_squares_of_another_side_is_refused(mixed: Path) -> None:
    """It would go on with other rows."""
    state = squares_of(mixed).state_dict()
    with pytest.raises(StoreMismatchError):
        squares_of(mixed, size=17, crop=Crop("random", pixels=17)).load_state_dict(state)
    squares_of(mixed).load_state_dict(state)
