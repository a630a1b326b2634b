"""Every readable row once per epoch, the same batches for any world, and exact resumption."""

from __future__ import annotations

import errno
import fcntl
import gc
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.ingest.shard_task import prepare_shard
from pipeline.loader import (
    Batch,
    Loader,
    Reading,
    futures,
    mmap,
    row_reader,
    shard_files,
    torch_framework,
)
from pipeline.loader import loader as loader_module
from pipeline.loader.image_readers import SquareReader
from pipeline.store import arrays, layout
from pipeline.store.open import open_objects
from tests.commands import ROOT, wait_until
from tests.encoded import prepare_encoded
from tests.images import make_folder, plan_inline, prepare_inline

NUM_ROWS = 61
CHOICES: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8, "chunk_rows": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 61 images, 3 of them broken: 8 shards, the last with 5 rows."""
    folder = tmp_path_factory.mktemp("loader")
    source = make_folder(folder / "train", NUM_ROWS, bad=3)
    prepare_encoded(source, str(folder / "store"), ["jpeg:24@80"], **CHOICES)
    return folder / "store"


KINDS: list[dict[str, Any]] = [{}, {"encoded": "jpeg:24@80", "crop": "resized"}]
"""The arguments of loaders of squares and of encoded rows, which share most laws."""
of_each_kind = pytest.mark.parametrize("kind", KINDS, ids=["squares", "encoded"])


@pytest.fixture(scope="module")
def plain(store: Path) -> dict[Any, Any]:
    """Return the pixels by size, the labels and the readable rows, as zarr reads them."""
    objects = open_objects(str(store))
    contents: dict[Any, Any] = {
        size: arrays.read_pixel_rows(objects, "train", size, 0, NUM_ROWS) for size in (8, 16)
    }
    contents["label"] = arrays.read_small(objects, "train", "label")
    contents["readable"] = np.flatnonzero(
        arrays.read_small(objects, "train", "status") == 0
    ).tolist()
    assert len(contents["readable"]) == NUM_ROWS - 3
    return contents


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


def flat(lists: Iterable[list[Any]]) -> list[Any]:
    return [item for items in lists for item in items]


def check_pixels(batch: Batch, plain: dict[Any, Any], *sizes: int) -> None:
    images = batch.images if isinstance(batch.images, tuple) else (batch.images,)
    rows = batch.rows.numpy()
    for size, tensor in zip(sizes, images, strict=True):
        assert tensor.dtype == torch.uint8
        assert tensor.shape == (len(rows), 3, size, size)
        assert tensor.is_contiguous(memory_format=torch.channels_last) or len(rows) == 0
        assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), plain[size][rows])
    assert batch.labels.dtype == batch.rows.dtype == torch.int64
    assert np.array_equal(batch.labels.numpy(), plain["label"][rows])


# --- laws -----------------------------------------------------------------------------------------


@settings(max_examples=min(100, settings().max_examples))
@given(
    kind=st.sampled_from(KINDS),
    batch_size=st.integers(8, 70),
    world=st.sampled_from([1, 2, 3, 8]),
    order=st.sampled_from(["random", "windowed", "sequential"]),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 1000),
    drop_last=st.booleans(),
)
def test_ranks_share_each_global_batch(
    store: Path,
    plain: dict[Any, Any],
    kind: dict[str, Any],
    batch_size: int,
    world: int,
    order: str,
    seed: int,
    epoch: int,
    drop_last: bool,
) -> None:
    """The sequence of global batches is the same for any world; each readable row comes once."""
    batch_size = min(batch_size, NUM_ROWS - 3) if drop_last else batch_size

    def batch_rows(rank: int, world: int) -> list[list[int]]:
        loader = Loader(
            store,
            size=8,
            batch_size=batch_size,
            order=order,
            seed=seed,
            rank=rank,
            world=world,
            drop_last=drop_last,
            window_bytes=2 * 4 * 8 * 8 * 3,
            **kind,
        )
        loader.set_epoch(epoch)
        rows_of_batches = rows_of(list(loader))
        assert len(rows_of_batches) == len(loader)
        return rows_of_batches

    alone = batch_rows(0, 1)
    parts = [batch_rows(rank, world) for rank in range(world)]
    joined = [flat(batch) for batch in zip(*parts, strict=True)]
    assert joined == alone
    rows = flat(alone)
    if drop_last:
        assert len(set(rows)) == len(rows) == 58 // batch_size * batch_size
        assert set(rows) <= set(plain["readable"])
    else:
        assert sorted(rows) == plain["readable"]
    sizes = {len(part) for batch in zip(*parts, strict=True) for part in batch[:-1]}
    assert not sizes or max(sizes) - min(sizes) <= batch_size // world + 1


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """Create folders of images, some of them broken, by (number, number broken)."""
    folder = tmp_path_factory.mktemp("sources")
    numbers = ((1, 0), (2, 1), (7, 0), (16, 3), (23, 9), (40, 1))
    return {(n, bad): make_folder(folder / f"{n}-{bad}", n, bad=bad) for n, bad in numbers}


@settings(max_examples=min(100, settings().max_examples))
@given(data=st.data(), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**64 - 2))
def test_any_epoch_of_any_store_has_every_readable_row_once(
    sources: dict[tuple[int, int], Path], data: st.DataObject, seed: int, epoch: int
) -> None:
    """Rows, shards, chunks, codecs, broken images, batches and ranks are all arbitrary."""
    (num_rows, bad), source = data.draw(st.sampled_from(sorted(sources.items())))
    chunk_rows = data.draw(st.integers(1, 6))
    shape: dict[str, Any] = {
        "chunk_rows": chunk_rows,
        "shard_rows": chunk_rows * data.draw(st.integers(1, 5)),
        "codec": data.draw(st.sampled_from(["none", "none", "zstd:1", "blosc-lz4"])),
    }
    world = data.draw(st.sampled_from([1, 2, 3, 8]))
    world = min(world, num_rows - bad)
    words: dict[str, Any] = {
        "size": 8,
        "batch_size": data.draw(st.integers(world, min(20, num_rows - bad))),
        "order": data.draw(st.sampled_from(["random", "windowed", "sequential"])),
        "drop_last": data.draw(st.booleans()),
        "window_bytes": data.draw(st.integers(1, 4000)),
        "reading": Reading(checksum=data.draw(st.sampled_from(["never", "once"]))),
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        prepare_inline(source, folder, sizes=(8,), **shape)
        objects = open_objects(folder)
        pixels = arrays.read_pixel_rows(objects, "train", 8, 0, num_rows)
        readable = np.flatnonzero(arrays.read_small(objects, "train", "status") == 0).tolist()
        labels = arrays.read_small(objects, "train", "label")
        parts = []
        for rank in range(world):
            loader = Loader(folder, **words, rank=rank, world=world)
            loader.set_epoch(epoch)
            parts.append(list(loader))
        alone = Loader(folder, **words, rank=0, world=1)
        alone.set_epoch(epoch)
        num_batches = data.draw(st.integers(0, len(alone)))
        batches = [batch for _, batch in zip(range(num_batches), alone, strict=False)]
        again = Loader(folder, **words, rank=0, world=1)
        again.load_state_dict(alone.state_dict())
        batches += list(again) if num_batches < len(alone) else []
    assert rows_of(batches) == [flat(rows) for rows in zip(*map(rows_of, parts), strict=True)]
    assert len(readable) == num_rows - bad
    yielded_rows = flat(rows_of(batches))
    size = words["batch_size"]
    if words["drop_last"]:
        assert len(set(yielded_rows)) == len(yielded_rows) == len(readable) // size * size
        assert set(yielded_rows) <= set(readable)
    else:
        assert sorted(yielded_rows) == readable
    for batch in batches + flat(parts):
        rows = batch.rows.numpy()
        assert isinstance(batch.images, torch.Tensor)
        assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), pixels[rows])
        assert np.array_equal(batch.labels.numpy(), labels[rows])


@settings(max_examples=min(100, settings().max_examples))
@given(
    kind=st.sampled_from(KINDS),
    worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    order=st.sampled_from(["random", "windowed"]),
    position=st.integers(0, 14),
    drop_last=st.booleans(),
)
def test_a_resumed_epoch_yields_exactly_the_remaining_batches(
    store: Path,
    kind: dict[str, Any],
    worlds: tuple[int, int],
    order: str,
    position: int,
    drop_last: bool,
) -> None:
    """A loader resumes after any batch with any other world, and continues with the next epoch."""

    def loaders(world: int) -> list[Loader]:
        words: dict[str, Any] = {"size": 8, "batch_size": 7, "order": order, "drop_last": drop_last}
        return [Loader(store, rank=rank, world=world, **words, **kind) for rank in range(world)]

    def two_epochs(world: int, state: dict[str, Any] | None) -> list[list[int]]:
        parts = []
        for loader in loaders(world):
            if state is not None:
                loader.load_state_dict(state)
            last = (state or {"epoch": 0})["epoch"]
            epochs = [rows_of(list(loader))]
            if loader.epoch == last:
                epochs.append(rows_of(list(loader)))
            parts.append(flat(epochs))
        return [flat(batch) for batch in zip(*parts, strict=True)]

    all_rows = two_epochs(1, None)
    first = loaders(worlds[0])[0]
    num_batches = sum(1 for _ in zip(range(position), first, strict=False))
    assert num_batches == min(position, len(first))
    state = pickle.loads(pickle.dumps(first.state_dict()))
    assert (state["epoch"], state["batch"]) == (0, num_batches), "not what was gathered ahead"
    assert two_epochs(worlds[1], state)[: len(all_rows) - num_batches] == all_rows[num_batches:]


@pytest.mark.parametrize("reader", ["mapped", "preadv"])
def test_kept_batches_equal_what_zarr_reads(
    store: Path, plain: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """After several epochs no buffer was reused while a tensor viewed it."""
    monkeypatch.setattr(mmap.MappedShards, "resident", lambda *_: reader == "mapped")
    loader = Loader(
        store, sizes=(16, 8), batch_size=9, drop_last=False, reading=Reading(prefetch_bytes=1)
    )
    batches = [batch for _ in range(4) for batch in loader]
    assert set(loader.readers) == {reader}
    for batch in batches:
        check_pixels(batch, plain, 16, 8)
    assert len({tensor.data_ptr() for batch in batches for tensor in batch.images}) == 2 * len(
        batches
    )


@pytest.mark.parametrize("cached", [1.0, 0.0])
def test_partial_reads_are_completed(
    store: Path, plain: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, cached: float
) -> None:
    """The system may return fewer bytes than requested."""
    preadv = os.preadv

    def little(file: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(file, [buffers[0][: 512 if offset % 512 == 0 else 100]], offset)

    monkeypatch.setattr(mmap.MappedShards, "resident", lambda *_: False)
    monkeypatch.setattr(row_reader.os, "preadv", little)
    free_memory(monkeypatch, cached)
    for batch in Loader(store, size=8, batch_size=9):
        check_pixels(batch, plain, 8)


def free_memory(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Make the loader see memory for *share* of the store's two sizes."""
    free = share * NUM_ROWS * (8 * 8 + 16 * 16) * 3 / loader_module.CACHE_SHARE
    monkeypatch.setattr(loader_module, "free_bytes", lambda: free)


def watch_direct(monkeypatch: pytest.MonkeyPatch, refused: str | None) -> set[str]:
    """Record the files that are read around the page cache; optionally refuse such reads."""
    opened, preadv = os.open, os.preadv
    past: set[str] = set()

    def open_(path: Any, flags: int, *words: Any) -> int:
        if flags & os.O_DIRECT and refused == "open":
            raise OSError(errno.EINVAL, "no")
        return opened(path, flags, *words)

    def read(file: int, buffers: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            assert offset % row_reader.ALIGNMENT == len(buffers[0]) % row_reader.ALIGNMENT == 0
            if refused == "read":
                raise OSError(errno.EINVAL, "no")
            past.add(str(Path(f"/proc/self/fd/{file}").readlink()))
        return preadv(file, buffers, offset)

    monkeypatch.setattr(row_reader.os, "open", open_)
    monkeypatch.setattr(row_reader.os, "preadv", read)
    return past


@pytest.mark.parametrize("refused", [None, "open", "read"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_shards_beyond_memory_bypass_the_page_cache(
    store: Path,
    plain: dict[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    refused: str | None,
) -> None:
    """The same shards are chosen in every epoch; without support all are read as usual."""
    past = watch_direct(monkeypatch, refused)
    monkeypatch.setattr(mmap.MappedShards, "resident", lambda *_: False)
    free_memory(monkeypatch, share)
    words: dict[str, Any] = {"sizes": (16, 8), "batch_size": 9, "drop_last": False}
    seen = []
    loader = Loader(store, **words)
    for _ in range(2):
        past.clear()
        for batch in loader:
            check_pixels(batch, plain, 16, 8)
        seen.append(set(past))
    assert seen[0] == seen[1]
    direct = 0 if refused else 16 - round(16 * share)
    assert len(seen[0]) == direct or (share == 0.5 and abs(len(seen[0]) - direct) <= 2)
    past.clear()
    for order in ("windowed", "sequential"):  # by whole chunks then
        for batch in Loader(store, **words, order=order, window_bytes=2 * 4 * 16 * 16 * 3):
            check_pixels(batch, plain, 16, 8)
    assert len(past) == (0 if refused or share == 1 else 16)


def test_no_thread_writes_after_a_failed_gather() -> None:
    """The buffer is reused, so all threads must have finished with it."""
    going = threading.Event()
    left: list[bool] = []

    def fail() -> None:
        going.wait(5)
        raise StoreError("the disk is gone")

    def write() -> None:
        going.set()
        time.sleep(0.2)
        left.append(True)

    with ThreadPoolExecutor(2) as disk:
        with pytest.raises(StoreError, match="the disk is gone"):
            futures.finish_all([disk.submit(fail), disk.submit(write)])
        assert left == [True]


@pytest.mark.parametrize(
    ("limit", "file", "more", "raised"),
    [
        ((1024, 4096), 100, True, None),
        ((1024, 4096), 600, True, (2048, 4096)),
        ((3000, 4096), 2900, True, (4096, 4096)),
        ((1024, -1), 600, True, (2048, -1)),
        ((1024, 1024), 600, False, None),
        ((1024, 1024), 500, True, None),
        ((-1, -1), 100_000, True, None),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_allowed(
    monkeypatch: pytest.MonkeyPatch,
    limit: tuple[int, int],
    file: int,
    more: bool,
    raised: tuple[int, int] | None,
) -> None:
    """512 descriptors are reserved for other files; -1 means no limit."""
    assert resource.RLIM_INFINITY == -1
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert shard_files._may_keep_files_open(file) is more
    assert limits == ([raised] if raised else [])


def run_alone(code: str, *command: str) -> None:
    """Run a script in a process of its own."""
    ended = subprocess.run(
        [*command, sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_a_low_limit_of_open_files_suffices(store: Path) -> None:
    """Shards are closed again, so that descriptors remain for other files."""
    code = f"""
import os, resource
from pipeline.loader import Loader, Reading, shard_files
loader = Loader({str(store)!r}, sizes=(8, 16), batch_size=2, reading=Reading(threads=1))
loader.num_rows
shard_files.MAX_OTHER_FILES = 8
limit = len(os.listdir("/proc/self/fd")) + 13
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
for _ in range(3):
    assert sum(len(batch.rows) for batch in loader) == len(loader) * 2
"""
    run_alone(code)


@pytest.mark.parametrize("num_mappings", [0, 2])
def test_shards_beyond_the_limit_of_mappings_are_read(
    store: Path, plain: dict[Any, Any], monkeypatch: pytest.MonkeyPatch, num_mappings: int
) -> None:
    """Shards that cannot be mapped are read with system calls."""
    monkeypatch.setattr(mmap, "_mappings_limit", lambda: 4 * num_mappings)
    loader = Loader(store, size=8, batch_size=1)
    for batch in loader:
        check_pixels(batch, plain, 8)
    assert set(loader.readers) == ({"mapped", "preadv"} if num_mappings else {"preadv"})


@pytest.mark.slow
def test_shards_are_read_if_mapping_fails(store: Path) -> None:
    """A limit of memory may be a limit of addresses."""
    code = f"""
import resource
from pipeline.loader import Loader, mmap
loader = Loader({str(store)!r}, size=8, batch_size=4)
loader.num_rows
def refuse(*_):
    raise OSError("no")
mmap._map_memory = refuse
loader = Loader({str(store)!r}, size=8, batch_size=4)
for batch in loader:
    pass
assert set(loader.readers) == {{"preadv"}}, loader.readers
"""
    run_alone(code)


def test_gathering_threads_use_one_openmp_thread(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch in other threads keeps its number of threads."""
    seen: set[int] = set()
    copy = mmap.MappedShards.copy

    def note(self: mmap.MappedShards, *words: Any) -> None:
        seen.add(torch.get_num_threads())
        copy(self, *words)

    monkeypatch.setattr(mmap.MappedShards, "copy", note)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        list(Loader(store, size=8, batch_size=4))
        fresh: list[int] = []
        thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (seen, torch.get_num_threads(), fresh) == ({1}, 3, [3])
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_another_default_device_changes_nothing(store: Path) -> None:
    """Batches stay in the memory of the CPU."""
    code = f"""
import torch
from pipeline.loader import Loader
torch.set_default_device("meta")
for batch in Loader({str(store)!r}, size=8, batch_size=4):
    assert batch.images.device.type == batch.labels.device.type == "cpu"
"""
    run_alone(code)


@given(parts=st.integers(1, 64), odd=st.integers(1, 700))
def test_rows_of_any_size_are_copied_in_equal_pieces(parts: int, odd: int) -> None:
    """Each piece is short enough for memcpy."""
    row_bytes = parts * odd * 3
    piece = torch_framework._copy_piece_bytes(row_bytes)
    assert row_bytes % piece == 0
    assert 0 < piece < torch_framework.MAX_PIECE_BYTES
    assert all(
        row_bytes % n or row_bytes // n >= torch_framework.MAX_PIECE_BYTES
        for n in range(1, row_bytes // piece)
    )


def test_buffers_are_reused_when_no_tensor_views_them(store: Path) -> None:
    """Views of a batch keep its memory, also after the batch is gone."""
    loader = Loader(store, size=16, batch_size=4, reading=Reading(prefetch_bytes=1, threads=1))
    view = None
    seen = set()
    for _ in range(5):
        for batch in loader:
            seen.add(batch.images.untyped_storage().data_ptr())
            if view is None:
                view = batch.images[1, 0]
                before = view.clone()
            del batch
    assert torch.equal(view, before)
    assert len(seen) <= 2 + 1 + 1 + 1 + 1


def test_iterating_again_yields_the_next_epoch(store: Path) -> None:
    """An interrupted epoch counts like a complete one."""
    loader = Loader(store, size=8, batch_size=10)
    orders = []
    for epoch in range(3):
        batches = iter(loader)
        orders.append(tuple(next(batches).rows.tolist()))
        assert loader.epoch == epoch
        if epoch == 1:
            list(batches)
    assert len(set(orders)) == 3
    loader.set_epoch(0)
    assert tuple(next(iter(loader)).rows.tolist()) == orders[0]


@settings(max_examples=min(100, settings().max_examples))
@given(
    kind=st.sampled_from(KINDS),
    batch_size=st.integers(1, 29),
    order=st.sampled_from(["random", "windowed", "sequential"]),
    drop_last=st.booleans(),
    world=st.integers(1, 3),
    start=st.integers(0, 9),
    seed=st.integers(0, 2**64 - 1),
)
def test_an_endless_iteration_yields_one_epoch_after_the_other(
    store: Path,
    kind: dict[str, Any],
    batch_size: int,
    order: str,
    drop_last: bool,
    world: int,
    start: int,
    seed: int,
) -> None:
    """From any batch on, batches and position are those of separate iterations, on each rank."""
    batch_size = max(batch_size, world)
    for rank in range(world):
        separate, endless = (
            Loader(
                store,
                size=8,
                batch_size=batch_size,
                order=order,
                drop_last=drop_last,
                window_bytes=2 * 4 * 8 * 8 * 3,
                seed=seed,
                rank=rank,
                world=world,
                **kind,
            )
            for _ in range(2)
        )
        state = {**separate.state_dict(), "epoch": 3, "batch": min(start, len(separate))}
        separate.load_state_dict(state)
        endless.load_state_dict(state)
        iterator = endless.endless()
        for _ in range(3):
            for expected in separate:
                batch = next(iterator)
                assert torch.equal(batch.rows, expected.rows)
                assert torch.equal(batch.images, expected.images)  # type: ignore[arg-type]
                assert batch.row_weight == expected.row_weight
                assert endless.state_dict() == separate.state_dict()
        iterator.close()  # type: ignore[attr-defined]  # it is a generator


@settings(max_examples=min(60, settings().max_examples))
@given(
    batch_size=st.integers(5, 60),
    drop_last=st.booleans(),
    num_epochs=st.integers(0, 4),
    breaks=st.lists(st.integers(0, 30), max_size=5),
)
def test_the_remaining_epochs_are_yielded_whole_however_often_broken_off(
    store: Path, batch_size: int, drop_last: bool, num_epochs: int, breaks: list[int]
) -> None:
    """Each part begins with the state of the part before it, in a new loader."""

    def new() -> Loader:
        return Loader(store, size=8, batch_size=batch_size, drop_last=drop_last, seed=5)

    if not len(new()):
        return
    separate = new()
    expected = rows_of([batch for _ in range(num_epochs) for batch in separate])
    yielded: list[list[int]] = []
    state = new().state_dict()
    for stop in [*breaks, None]:
        loader = new()
        loader.load_state_dict(state)
        yielded += rows_of(list(islice(loader.remaining(num_epochs), stop)))
        state = loader.state_dict()
    assert yielded == expected

    assert list(loader.remaining(num_epochs)) == []
    assert loader.state_dict() == state


def test_a_loader_that_was_broken_off_begins_the_next_epoch_of_those_remaining(
    store: Path,
) -> None:
    """As any other iteration does; a restored state that lies behind them is kept."""
    loader = Loader(store, size=8, batch_size=20)
    next(iter(loader))
    assert rows_of(list(loader.remaining(2))) == rows_of(epoch_of(store, 1))
    late = Loader(store, size=8, batch_size=20)
    late.load_state_dict({**loader.state_dict(), "epoch": 6, "batch": 1})
    assert list(late.remaining(6)) == []
    assert rows_of(list(late)) == rows_of(epoch_of(store, 6))[1:]


def epoch_of(store: Path, epoch: int) -> list[Batch]:
    """Return the batches of 20 rows of an epoch."""
    loader = Loader(store, size=8, batch_size=20)
    loader.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("order", ["random", "windowed"])
def test_an_endless_iteration_reads_ahead_across_epochs(
    store: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last batch of an epoch is used, the first ones of the next are being gathered."""
    loader = Loader(store, size=8, batch_size=10, order=order)
    gathered: set[int] = set()
    gather = SquareReader.gather

    def record(self: SquareReader, rows: Any, epoch: int, *arguments: Any) -> Any:
        gathered.add(epoch)
        return gather(self, rows, epoch, *arguments)

    monkeypatch.setattr(SquareReader, "gather", record)
    list(loader)
    assert gathered == {0}
    gathered.clear()
    loader.set_epoch(4)
    iterator = loader.endless()
    for _ in range(len(loader)):
        next(iterator)
    assert loader.state_dict()["epoch"] == 4
    assert wait_until(lambda: gathered == {4, 5})
    iterator.close()  # type: ignore[attr-defined]  # it is a generator


def test_an_epoch_without_batches_is_an_error_that_names_the_numbers(store: Path) -> None:
    """Training would otherwise end at once, or loop forever."""
    loader = Loader(store, size=8)
    assert len(loader) == 0
    message = r"has 58 usable rows, batch_size is 256 and drop_last is True: .* no batch"
    for _ in range(2):
        with pytest.raises(StoreError, match=message):
            list(loader)
    assert (loader.epoch, loader.state_dict()["batch"]) == (0, 0)
    assert len(list(Loader(store, size=8, drop_last=False))) == 1


def resumed_at(store: Path, batch: int, **words: Any) -> tuple[Loader, list[list[int]]]:
    """Return a loader restored in epoch 2 after *batch* batches, and the rows of that epoch."""
    first = Loader(store, size=8, batch_size=10, drop_last=False, **words)
    first.set_epoch(2)
    rows = rows_of(list(first))
    first.set_epoch(2)
    for _, _batch in zip(range(batch), first, strict=False):
        pass
    state = first.state_dict()
    assert (state["epoch"], state["batch"]) == (2, batch)
    loader = Loader(store, size=8, batch_size=10, drop_last=False, **words)
    loader.load_state_dict(state)
    return loader, rows


@of_each_kind
@pytest.mark.parametrize("batch", [0, 1, 4, 5, 6])
def test_set_epoch_with_the_restored_epoch_keeps_the_position(
    store: Path, batch: int, kind: dict[str, Any]
) -> None:
    """A training loop sets each of its epochs, also the one that it resumes."""
    loader, rows = resumed_at(store, batch, **kind)
    seen = []
    for epoch in (2, 3, 4):
        loader.set_epoch(epoch)
        loader.set_epoch(epoch)
        seen.append(rows_of(list(loader)))
        assert loader.epoch == epoch
    plain = Loader(store, size=8, batch_size=10, drop_last=False)
    plain.set_epoch(3)
    assert seen == [rows[batch:], rows_of(list(plain)), rows_of(list(plain))]


def test_an_epoch_other_than_the_restored_one_begins_at_its_start(store: Path) -> None:
    """The restored epoch does so, too, once one of its batches was yielded."""
    loader, rows = resumed_at(store, 4)
    loader.set_epoch(3)
    loader.set_epoch(2)
    assert rows_of(list(loader)) == rows
    loader, rows = resumed_at(store, 4)
    next(iter(loader))
    loader.set_epoch(2)
    assert rows_of(list(loader)) == rows


def test_a_state_from_the_end_of_an_epoch_continues_with_the_next(store: Path) -> None:
    """No epoch is empty, and none is skipped."""
    loader, _ = resumed_at(store, 6)
    plain = Loader(store, size=8, batch_size=10, drop_last=False)
    plain.set_epoch(3)
    assert rows_of(list(loader)) == rows_of(list(plain))
    assert (loader.epoch, loader.state_dict()["epoch"]) == (3, 3)


@pytest.mark.parametrize("batch", [0, 4, 6])
def test_a_loop_that_names_each_epoch_from_the_current_one_resumes_exactly(
    store: Path, batch: int
) -> None:
    """No batch is repeated or left out, also after a state from the end of an epoch."""
    loader, rows = resumed_at(store, batch)
    assert loader.epoch == 2
    seen = []
    for epoch in range(loader.epoch, 4):
        loader.set_epoch(epoch)
        for parts in loader:
            assert loader.epoch == epoch
            seen.append(parts.rows.tolist())
        assert loader.epoch == loader.state_dict()["epoch"] == epoch
    plain = Loader(store, size=8, batch_size=10, drop_last=False)
    assert plain.epoch == 0
    plain.set_epoch(3)
    assert seen == rows[batch:] + rows_of(list(plain))


def test_an_unused_iterator_does_not_advance_the_loader(store: Path) -> None:
    """Frameworks create iterators early, and may restore a state after that."""
    loader = Loader(store, size=8, batch_size=10, drop_last=False)
    plain = rows_of(list(Loader(store, size=8, batch_size=10, drop_last=False)))
    iter(loader), iter(loader)
    assert rows_of(list(loader)) == plain
    _, rows = resumed_at(store, 4)
    iterator = iter(loader)
    loader.load_state_dict(resumed_at(store, 4)[0].state_dict())
    assert rows_of(list(iterator)) == rows[4:]


@pytest.mark.parametrize("change", ["next epoch", "same epoch", "set_epoch", "load_state_dict"])
def test_only_the_newest_iterator_advances_the_state(store: Path, change: str) -> None:
    """An older one may run to its end without changing the state."""
    loader = Loader(store, size=8, batch_size=10)
    old = iter(loader)
    state = loader.state_dict()
    next(old)
    expected = (0, 0)
    if change in ("next epoch", "same epoch"):
        if change == "same epoch":
            loader.set_epoch(0)
        newest = iter(loader)
        next(newest)
        expected = (0 if change == "same epoch" else 1, 1)
    elif change == "set_epoch":
        loader.set_epoch(0)
    else:
        loader.load_state_dict(state)
    assert len(list(old)) == 4
    assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == expected


def test_integers_of_numpy_and_torch_are_plain_in_the_state(store: Path) -> None:
    """`torch.load(weights_only=True)` and JSON accept only plain values."""
    loader = Loader(
        store,
        size=np.int64(8),  # type: ignore[arg-type]
        batch_size=np.int32(10),  # type: ignore[arg-type]
        seed=np.uint64(7),  # type: ignore[arg-type]
        rank=np.int64(1),  # type: ignore[arg-type]
        world=torch.tensor(2),  # type: ignore[arg-type]
        drop_last=np.bool_(False),  # type: ignore[arg-type]
        include_labels=np.array([0, 1, 2]),  # type: ignore[arg-type]
        window_bytes=np.int64(2**20),  # type: ignore[arg-type]
        reading=Reading(threads=np.int8(1)),  # type: ignore[arg-type]
    )
    loader.set_epoch(np.int64(3))  # type: ignore[arg-type]
    next(iter(loader))
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert json.loads(json.dumps(state)) == loader.state_dict()
    assert (state["epoch"], state["batch"], state["batch_size"], state["seed"]) == (3, 1, 10, 7)
    again = Loader(store, size=8, batch_size=10, seed=7, drop_last=False, include_labels=(0, 1, 2))
    again.load_state_dict(state)


def test_repr_shows_arguments_and_position(store: Path) -> None:
    """A repr does not open the store."""
    loader = Loader("/nowhere/store", "val", size=8, batch_size=10, rank=1, world=2)
    assert repr(loader) == (
        "Loader('/nowhere/store', 'val', size=8, batch_size=10, order='random', seed=0,"
        " drop_last=True, rank=1, world=2; epoch 0, batch 0)"
    )
    assert "sizes=(8, 16)" in repr(Loader(store, sizes=(8, 16), batch_size=10))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_data_loader_around_a_loader_is_an_error_with_a_cure(store: Path, workers: int) -> None:
    """A dataset that iterates a loader in each of several workers is an error, too."""

    class Stream(torch.utils.data.IterableDataset[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            return iter(Loader(store, size=8, batch_size=10))

    expected = r"yields whole batches\. Iterate it directly: .* tesserae.SplitDataset"
    around: Any = Loader(store, size=8, batch_size=10)
    with pytest.raises(TypeError, match=r"loader\['x'\] is not supported: a Loader yields"):
        around["x"]
    with pytest.raises(TypeError, match=expected):
        next(iter(torch.utils.data.DataLoader(around, num_workers=workers)))
    stream = torch.utils.data.DataLoader(Stream(), batch_size=None, num_workers=workers)
    if workers:
        with pytest.raises(TypeError, match=expected):
            next(iter(stream))
    else:
        assert len(next(iter(stream)).rows) == 10


# --- what is left behind --------------------------------------------------------------------------


@of_each_kind
def test_an_interrupted_epoch_leaves_no_resources(store: Path, kind: dict[str, Any]) -> None:
    """No thread, file or mapping remains."""
    process = psutil.Process()
    list(Loader(store, size=8, batch_size=10, **kind))
    gc.collect()
    threads, files = set(threading.enumerate()), process.num_fds()
    for _ in range(5):
        loader = Loader(store, size=8, batch_size=10, **kind)
        for _ in loader:
            break
        endless = loader.endless()
        for _ in range(8):
            next(endless)
        del loader, endless
    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert process.num_fds() == files
    assert not [m for m in process.memory_maps(grouped=False) if str(store) in m.path]


def test_a_loader_is_small_when_pickled(store: Path, plain: dict[Any, Any]) -> None:
    """Training tasks receive a pickled loader, before or after it was iterated."""
    loader = Loader(store, size=8, batch_size=10)
    list(loader)
    text = pickle.dumps(loader)
    assert len(text) < 2_000
    again = pickle.loads(text)
    assert rows_of(list(again)) == rows_of(list(loader))


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param("spawn", KINDS[0], id="spawn-squares", marks=pytest.mark.slow),
        pytest.param("spawn", KINDS[1], id="spawn-encoded", marks=pytest.mark.slow),
        pytest.param("fork", KINDS[0], id="fork-squares"),
        pytest.param("fork", KINDS[1], id="fork-encoded", marks=pytest.mark.slow),
    ],
)
def test_a_loader_works_in_a_child_process(store: Path, method: str, kind: dict[str, Any]) -> None:
    """The parent has iterated it, and is in the middle of an epoch.

    Neither process imports Dask, Pillow or zarr; of encoded rows, other files need Pillow.
    """
    code = f"""
import multiprocessing, sys
from pipeline.loader import Loader

def child(loader, queue):
    queue.put([batch.rows.tolist() for batch in loader])
    queue.put(imported())

def imported():
    return sorted({{"dask", "distributed", "PIL", "zarr", "pyarrow"}} & set(sys.modules))

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    loader = Loader({str(store)!r}, size=8, batch_size=10, **{kind})
    list(loader)
    running = iter(loader)
    next(running)
    queue = context.Queue()
    process = context.Process(target=child, args=(loader, queue))
    process.start()
    theirs = queue.get(timeout=60)
    print(queue.get(timeout=60), imported())
    process.join(60)
    list(running)
    print(theirs == [batch.rows.tolist() for batch in loader])
"""
    script = store.parent / f"{method}.py"
    script.write_text(code)
    ended = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("[] []\nTrue\n", "", 0)


# --- stores that are not whole --------------------------------------------------------------------


def broken(tmp_path: Path, store: Path, damage: Callable[[Path], None]) -> Path:
    """Copy the store with one shard damaged, and return the copy."""
    import shutil

    copy = shutil.copytree(store, tmp_path / "broken")
    damage(copy / layout.shard("train", 8, 3))
    return copy


def flip_index(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing"),
        (lambda path: os.truncate(path, 700), "has 700 bytes: expected"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes: expected"),
        (flip_index, "has a damaged index"),
    ],
)
def test_a_damaged_shard_is_an_error_that_names_it(
    tmp_path: Path, store: Path, damage: Callable[[Path], None], message: str
) -> None:
    """Zeros are never returned in place of damaged rows."""
    copy = broken(tmp_path, store, damage)
    with pytest.raises(
        StoreDamagedError, match=rf"8/c\.3\.0\.0\.0 .*{message}|index of .*c\.3.* {message}"
    ):
        list(Loader(copy, size=8, batch_size=10))


def flip_pixel(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def note_checks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that records the chunks that are compared with their checksums."""
    seen: list[tuple[str, int]] = []
    check = row_reader.ShardFile.check_chunk

    def note(self: row_reader.ShardFile, chunk: int, data: Any) -> None:
        seen.append((self.name, chunk))
        check(self, chunk, data)

    monkeypatch.setattr(row_reader.ShardFile, "check_chunk", note)
    return seen


@pytest.mark.parametrize("reader", ["mapped", "preadv"])
@pytest.mark.parametrize("checksum", ["default", "once", "auto"])
def test_a_flipped_bit_is_an_error(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, reader: str, checksum: str
) -> None:
    """Each chunk is verified when it is first read, and never again."""
    monkeypatch.setattr(mmap.MappedShards, "resident", lambda *_: reader == "mapped")
    if reader == "preadv":
        monkeypatch.setattr(mmap.MappedShards, "chunk", lambda *_: None)
    words: dict[str, Any] = {"size": 8, "batch_size": 5, "drop_last": False}
    chosen: dict[str, Any] = {} if checksum == "default" else {"checksum": checksum}
    copy = broken(tmp_path, store, flip_pixel)
    with pytest.raises(StoreDamagedError, match=r"8/c\.3\.0\.0\.0 is damaged \(chunk 1\)"):
        list(Loader(copy, **words, reading=Reading(**chosen)))
    seen = note_checks(monkeypatch)
    assert len(list(Loader(copy, **words, reading=Reading(checksum="never")))) == 12
    assert not seen
    loader = Loader(store, **words, reading=Reading(**chosen, threads=1, prefetch_bytes=1))
    assert len(list(loader)) == len(list(loader))
    assert len(seen) == len(set(seen)) == 16


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_chunks_beyond_memory_are_not_verified_by_default(
    store: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Shards in the page cache are verified by default; `once` verifies all."""
    free_memory(monkeypatch, share)
    seen = note_checks(monkeypatch)
    words: dict[str, Any] = {"sizes": (8, 16), "batch_size": 9, "drop_last": False}
    list(Loader(store, **words))
    assert (len(seen) == 0) == (share == 0)
    assert len(seen) < 32
    seen.clear()
    list(Loader(store, **words, reading=Reading(checksum="once")))
    assert len(set(seen)) == 32


def test_unverified_chunks_are_not_looked_up_for_each_batch(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `auto`, chunks of shards that memory cannot hold never count as unchecked."""
    free_memory(monkeypatch, 0.5)
    loader = Loader(store, sizes=(16,), batch_size=9)
    reader = loader._open().reader.sources[0]
    assert isinstance(reader, row_reader.RowReader)
    chunks = np.arange(len(reader._checked))
    assert set(reader._unchecked(chunks)) == set(
        chunks[reader._is_cached.repeat(reader._chunks_per_shard)]
    )
    assert 0 < len(reader._unchecked(chunks)) < len(chunks)
    list(loader)
    assert reader._unchecked(chunks) == []
    compared = reader._checked.reshape(-1, reader._chunks_per_shard).any(1)
    assert (compared == reader._is_cached).all()


def test_a_replaced_shard_is_verified_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are closed and opened again if few files may be open."""
    copy = broken(tmp_path, store, lambda path: None)
    shard = copy / layout.shard("train", 8, 3)
    loader = Loader(copy, size=8, batch_size=5, drop_last=False)
    list(loader)
    reader = loader._open().reader.sources[0]
    assert isinstance(reader, row_reader.RowReader)
    reader._files.close_all()
    list(loader)
    flip_pixel(shard)
    os.utime(shard, ns=(1, 1))
    reader._files.close_all()
    with pytest.raises(StoreDamagedError, match=r"c\.3\.0\.0\.0 is damaged \(chunk 1\)"):
        list(loader)


@pytest.mark.parametrize("reader", ["mapped", "preadv"])
def test_a_shard_truncated_during_reading_is_an_error(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """The process is not killed, although the file is mapped."""
    monkeypatch.setattr(mmap.MappedShards, "resident", lambda *_: reader == "mapped")
    copy = broken(tmp_path, store, lambda path: None)
    loader = Loader(copy, size=8, batch_size=10, reading=Reading(prefetch_bytes=1))
    list(loader)
    os.truncate(copy / layout.shard("train", 8, 3), 100)
    with pytest.raises(StoreDamagedError, match=r"8/c\.3\.0\.0\.0 "):
        list(loader)


@pytest.mark.parametrize("name", ["label", "status"])
def test_damaged_labels_are_an_error(tmp_path: Path, store: Path, name: str) -> None:
    """Labels have a checksum like images."""

    def damage(path: Path) -> None:
        small = path.parents[1] / name / "c.0"
        data = bytearray(small.read_bytes())
        data[5] ^= 1
        small.write_bytes(data)

    with pytest.raises(StoreDamagedError, match=f"{name}/c.0 is damaged"):
        len(Loader(broken(tmp_path, store, damage), size=8))


def test_an_unfinished_split_is_refused_unless_partial(
    tmp_path: Path, plain: dict[Any, Any]
) -> None:
    """With allow_partial=True only committed rows are yielded."""
    source = make_folder(tmp_path / "train", NUM_ROWS, bad=3)
    _, plan, work = plan_inline(source, str(tmp_path / "store"), **CHOICES)
    for shard in (1, 4, 7):
        prepare_shard(work, shard)
    with pytest.raises(StoreError, match="'train' is not finished"):
        list(Loader(tmp_path / "store", size=8))
    loader = Loader(tmp_path / "store", size=8, batch_size=5, drop_last=False, allow_partial=True)
    batches = list(loader)
    committed = {row for shard in (1, 4, 7) for row in plan.rows(shard)}
    assert sorted(flat(rows_of(batches))) == sorted(committed & set(plain["readable"]))
    for batch in batches:
        check_pixels(batch, plain, 8)


# --- wrong words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"size": 8, "sizes": (8,)}, "size and sizes were both given"),
        ({"sizes": ()}, "expected one or more"),
        ({"sizes": (8, 8)}, "none of them twice"),
        ({"order": "shuffled"}, "order is 'shuffled'"),
        ({"batch_size": 2, "rank": 0, "world": 3}, "batch_size is 2: expected at least one row"),
        ({"rank": 0}, "pass both or neither"),
        ({"rank": 3, "world": 3}, "rank is 3 of a world of 3: expected 0 to 2"),
        ({"window_bytes": 0}, "window_bytes is 0"),
        ({"size": 0}, r"sizes are \(0,\)"),
        ({"size": (224, 224)}, r"size is \(224, 224\): expected the side of a square in pixels"),
        ({"size": "224"}, "size is '224': expected the side of a square in pixels, a whole"),
        ({"size": 224.0}, "size is 224.0: expected the side"),
        ({"sizes": 224}, "sizes is 224: expected several sides in pixels"),
        ({"sizes": "224"}, "sizes is '224': expected several sides in pixels"),
        ({"sizes": (8, "16")}, "sizes is '16': expected the side"),
        ({"batch_size": 2.5}, "batch_size is 2.5: expected a whole number"),
        ({"batch_size": None}, "batch_size is None: expected a whole number"),
        ({"batch_size": 0}, "batch_size is 0: expected at least one row"),
        ({"seed": "7"}, "seed is '7': expected a whole number"),
        ({"rank": "0", "world": 1}, "rank is '0': expected a whole number"),
        ({"include_labels": ["dog"]}, "include_labels is 'dog': expected a whole number"),
    ],
)
def test_invalid_arguments_are_refused(store: Path, words: dict[str, Any], message: str) -> None:
    """The error is raised before the store is opened."""
    with pytest.raises(ValueError, match=message):
        Loader(store, **words)


def test_the_order_of_an_epoch_that_is_no_whole_number_is_refused(store: Path) -> None:
    """It would be the order of some other epoch."""
    with pytest.raises(ValueError, match=r"epoch is 1.5: expected a whole number"):
        Loader(store, size=8).epoch_order(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"prefetch_bytes": 0}, "prefetch_bytes is 0: expected at least 1"),
        ({"cache_bytes": 0}, "cache_bytes is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 1.5}, "threads is 1.5: expected a whole number"),
        ({"checksum": "always"}, "checksum is 'always': expected one of auto, never, once"),
    ],
)
def test_invalid_reading_options_are_refused(words: dict[str, Any], message: str) -> None:
    """The error is raised when the options are created, before there is a loader."""
    with pytest.raises(ValueError, match=message):
        Reading(**words)


def test_a_missing_size_is_reported_with_the_available_ones(store: Path) -> None:
    """The error also lists the available sizes."""
    with pytest.raises(StoreError, match="no finished 24 px: it has 8, 16"):
        len(Loader(store, size=24))


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"batch_size": 11}, {"order": "windowed"}, {"drop_last": False}]
)
def test_a_state_of_another_loader_is_refused(store: Path, changes: dict[str, Any]) -> None:
    """The error names the values that differ."""
    state = Loader(store, size=8, batch_size=10).state_dict()
    with pytest.raises(StoreMismatchError, match=f"{next(iter(changes))} is "):
        Loader(store, **{"size": 8, "batch_size": 10, **changes}).load_state_dict(state)


@pytest.mark.parametrize("name", ["epoch", "batch"])
def test_a_state_without_its_position_is_refused(store: Path, name: str) -> None:
    """A state that was written by hand or cut short is no KeyError."""
    loader = Loader(store, size=8, batch_size=10)
    state = loader.state_dict()
    del state[name]
    with pytest.raises(StoreMismatchError, match=f"the state has no '{name}'"):
        loader.load_state_dict(state)
