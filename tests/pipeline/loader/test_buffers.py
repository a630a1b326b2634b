"""Batch buffers are reused only when no tensor and no copy to a device needs them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from pipeline.loader import Loader, Reading, torch_framework
from tests.images import make_folder, prepare_inline


class HostAllocator:
    """A replacement of torch's allocator of page-locked memory that records what CUDA would do.

    A copy records an event of its stream with the storage that it reads. A freed storage is reused
    when all its events have passed.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, torch.Tensor] = {}
        self.pending: dict[int, set[str]] = {}
        self.free: list[int] = []
        self.num_requests = 0

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        self.num_requests += 1
        ready = [block for block in self.free if not self.pending[block]]
        if ready:
            self.free.remove(ready[0])
            memory = self.blocks[ready[0]]
        else:
            memory = torch.empty(shape, dtype=torch.uint8)
            self.blocks[memory.data_ptr()] = memory
            self.pending[memory.data_ptr()] = set()
        view = memory.numpy()[:]
        weakref.finalize(view, self.free.append, memory.data_ptr())
        return torch.from_numpy(view)

    def copy(self, images: torch.Tensor, stream: str) -> None:
        """Begin a copy to a device; torch finds the memory by its storage, for any view."""
        self.pending[images.untyped_storage().data_ptr()].add(stream)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 40 images."""
    folder = tmp_path_factory.mktemp("buffers")
    prepare_inline(make_folder(folder / "train", 40), str(folder / "store"), sizes=(8,))
    return folder / "store"


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> HostAllocator:
    """Replace torch's allocator of page-locked memory."""
    host_allocator = HostAllocator()
    monkeypatch.setattr(torch_framework, "pinned_memory", host_allocator)
    return host_allocator


def test_memory_that_a_stream_still_reads_is_not_written(
    store: Path, allocator: HostAllocator
) -> None:
    """The memory is protected for copies on any stream, also after the batch is gone."""
    loader = Loader(
        store, size=8, batch_size=4, reading=Reading(pin_memory=True, threads=1, prefetch_bytes=1)
    )
    reading: dict[int, torch.Tensor] = {}
    for _ in range(3):
        for index, batch in enumerate(loader):
            assert isinstance(batch.images, torch.Tensor)
            memory = batch.images.untyped_storage().data_ptr()
            assert memory not in reading, "it is overwritten while it is copied"
            if index in (2, 5):
                allocator.copy(batch.images[1:], "side")
                reading[memory] = batch.images.clone()
            if index in (3, 6):
                allocator.copy(batch.images, "default")
                allocator.pending[memory].clear()  # that one has ended
            del batch
    gc.collect()
    for memory, before in reading.items():
        block = allocator.blocks[memory][:4].permute(0, 3, 1, 2)
        assert torch.equal(block, before)
    assert allocator.num_requests == 3 * 10
    assert len(allocator.blocks) < 3 * 10  # memory is used again where it may be


def test_batches_are_views_of_the_storage_that_was_allocated(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch tracks copies by storage, so a wrapper of the memory would be unprotected."""
    storages: set[int] = set()

    def note(shape: tuple[int, ...]) -> torch.Tensor:
        memory = torch.empty(shape, dtype=torch.uint8)
        storages.add(memory.untyped_storage()._cdata)
        return memory

    monkeypatch.setattr(torch_framework, "pinned_memory", note)
    loader = Loader(store, size=8, batch_size=4, reading=Reading(pin_memory=True))
    batches = list(loader)
    batch_storages = {batch.images.untyped_storage()._cdata for batch in batches}  # type: ignore[union-attr]
    assert batch_storages == storages
    assert len(batch_storages) == len(batches)


def test_page_locked_memory_comes_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each buffer is a new request to torch's own allocator."""
    requests: list[dict[str, object]] = []

    def empty(shape: tuple[int, ...], **words: object) -> torch.Tensor:
        requests.append(words)
        return torch.zeros(shape, dtype=torch.uint8)

    monkeypatch.setattr(torch_framework.torch, "empty", empty)
    pinned = torch_framework.PinnedBuffers((4, 8, 8, 3))
    assert pinned.take().shape == (4, 8, 8, 3)
    pinned.take()
    assert requests == [{"dtype": torch.uint8, "device": "cpu", "pin_memory": True}] * 2


def test_pageable_memory_is_used_again_when_no_tensor_views_it() -> None:
    """A view of part of the buffer is enough to keep it."""
    pool = torch_framework.TensorBuffers((4, 8), max_free=2)
    first = pool.take()
    view, memory = first[1:], first.data_ptr()
    del first
    assert pool.take().data_ptr() != memory
    del view
    assert pool.take().data_ptr() == memory


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_on_another_stream_reads_the_returned_batch(tmp_path: Path) -> None:
    """The stream is slow, and the batch is dropped as soon as the copy is requested."""
    prepare_inline(make_folder(tmp_path / "train", 64), str(tmp_path / "store"), sizes=(64,))
    plain = Loader(tmp_path / "store", size=64, batch_size=8, reading=Reading(pin_memory=False))
    expected = [batch.images.clone() for batch in plain]  # type: ignore[union-attr]
    loader = Loader(
        tmp_path / "store",
        size=64,
        batch_size=8,
        reading=Reading(pin_memory=True, prefetch_bytes=1),
    )
    side = torch.cuda.Stream()
    copies = []
    with torch.cuda.stream(side):
        for batch in loader:
            torch.cuda._sleep(20_000_000)
            copies.append(batch.images.to("cuda", non_blocking=True))  # type: ignore[union-attr]
            with torch.cuda.stream(torch.cuda.default_stream()):
                del batch
    torch.cuda.synchronize()
    for copy, images in zip(copies, expected, strict=True):
        assert torch.equal(copy.cpu(), images)
