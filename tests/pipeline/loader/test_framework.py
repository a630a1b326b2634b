"""Loaders of numpy's arrays yield what loaders of tensors do, and do without torch."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.loader import Batch, Loader, Reading, framework
from pipeline.loader.buffers import Buffers
from tests.commands import ROOT
from tests.encoded import prepare_encoded
from tests.images import make_folder

NUM_ROWS = 41
KINDS: list[dict[str, Any]] = [
    {"size": 8},
    {"sizes": (16, 8)},
    {"size": 8, "encoded": "jpeg:24@80", "crop": "resized", "boxes": True},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 41 images, 2 of them broken, as squares and as encoded rows."""
    folder = tmp_path_factory.mktemp("framework")
    source = make_folder(folder / "train", NUM_ROWS, bad=2)
    choices: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8, "chunk_rows": 4}
    prepare_encoded(source, str(folder / "store"), ["jpeg:24@80"], **choices)
    return folder / "store"


def parts(batch: Batch[Any]) -> list[Any]:
    """Return the arrays of a batch, images first."""
    images = batch.images if isinstance(batch.images, tuple) else (batch.images,)
    return [*images, batch.labels, batch.rows, *([] if batch.boxes is None else [batch.boxes])]


@settings(max_examples=min(40, settings().max_examples))
@given(
    kind=st.sampled_from(KINDS),
    batch_size=st.integers(3, 50),
    world=st.sampled_from([1, 3]),
    order=st.sampled_from(["random", "windowed", "sequential"]),
    seed=st.integers(0, 2**64 - 1),
    skipped=st.integers(0, 3),
)
def test_both_yield_the_same_values(
    store: Path,
    kind: dict[str, Any],
    batch_size: int,
    world: int,
    order: str,
    seed: int,
    skipped: int,
) -> None:
    """The images of numpy have their channels last; the state of either resumes the other."""
    words: dict[str, Any] = {**kind, "batch_size": batch_size, "order": order, "seed": seed}
    words |= {"rank": world - 1, "world": world, "drop_last": False}
    of_torch = Loader(store, **words)
    of_numpy = Loader(store, framework="numpy", **words)
    running = iter(of_torch)
    for _ in range(min(skipped, len(of_torch) - 1)):
        next(running)
    of_numpy.load_state_dict(of_torch.state_dict())

    tensors, arrays = [parts(batch) for batch in running], [parts(batch) for batch in of_numpy]

    assert len(tensors) == len(arrays) == len(of_torch) - min(skipped, len(of_torch) - 1)
    for expected, got in zip(tensors, arrays, strict=True):
        for tensor, array in zip(expected, got, strict=True):
            assert type(array) is np.ndarray
            values = tensor.numpy()
            if values.ndim == 4:
                values = values.transpose(0, 2, 3, 1)
                assert array.flags.c_contiguous
            assert array.dtype == values.dtype
            assert np.array_equal(array, values)
    assert of_numpy.state_dict() == of_torch.state_dict()


@given(
    row_bytes=st.integers(1, 300),
    starts=st.lists(st.integers(0, 700), max_size=20),
    name=st.sampled_from(framework.FRAMEWORKS),
)
def test_rows_are_copied_from_anywhere(row_bytes: int, starts: list[int], name: str) -> None:
    """Rows may overlap, be the same, and end with the last byte."""
    area = np.random.default_rng(row_bytes).integers(0, 256, 700 + row_bytes, np.uint8)
    out = np.zeros((len(starts), row_bytes), np.uint8)

    framework.open_framework(name).copy_rows(area, np.array(starts, np.int64), out)

    assert [row.tobytes() for row in out] == [
        area[start : start + row_bytes].tobytes() for start in starts
    ]


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails
import tesserae
for words in ({}, {"order": "windowed"}, {"encoded": "jpeg:24@80", "crop": "random"}):
    loader = tesserae.Loader(sys.argv[1], size=8, batch_size=10, framework="numpy", **words)
    for epoch in range(2):
        for images, labels, rows in loader:
            pass
    loader.load_state_dict(loader.state_dict())
    print(images.shape, images.dtype, labels.shape, rows.shape, loader.epoch)
print([name for name in ("torch.utils", "threadpoolctl", "dask") if name in sys.modules])
try:
    tesserae.Loader(sys.argv[1])
except ModuleNotFoundError as error:
    print(error)
"""


def test_a_loader_of_arrays_does_without_torch(store: Path) -> None:
    """One of tensors says what to install, or to ask for arrays."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, store],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )

    assert done.stderr == ""
    *batches, loaded, advice = done.stdout.splitlines()
    assert batches == ["(10, 8, 8, 3) uint8 (10,) (10,) 1"] * 3
    assert loaded == "[]"
    assert advice.startswith("a loader of torch's tensors needs torch: run `")
    assert advice.endswith("`, or pass framework='numpy'.")


VIEWS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "itself": lambda images: images,
    "slice": lambda images: images[1:],
    "slice of a slice": lambda images: images[1:][:2, ::2],
    "one image": lambda images: images[0],
    "other axes": lambda images: images.transpose(0, 3, 1, 2)[1],
    "other shape": lambda images: images.reshape(4, -1)[:1],
    "other type": lambda images: images.view(np.int8),
    "buffer": lambda images: memoryview(images)[1:],
    "tensor": lambda images: torch.from_numpy(images[2:]),
    "interface": lambda images: np.asarray(torch.from_numpy(images[2:])),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_memory_is_used_again_only_when_nothing_views_it(
    view: Callable[[np.ndarray[Any, Any]], Any],
) -> None:
    """A view of any kind is enough to keep it."""
    pool = Buffers((4, 8, 8, 3), max_free=2)
    first = pool.take()
    address = first.ctypes.data
    kept = view(first)
    del first
    gc.collect()
    others = [pool.take() for _ in range(3)]
    assert address not in {other.ctypes.data for other in others}
    del kept
    gc.collect()
    assert pool.take().ctypes.data == address


def test_batches_that_are_kept_do_not_change(store: Path) -> None:
    """Buffers are taken again while slices of some batches are kept, for several epochs."""
    reading = Reading(prefetch_bytes=1, threads=2)
    loader = Loader(store, size=8, batch_size=4, reading=reading, framework="numpy")
    kept, addresses = [], set()
    for _ in range(4):
        for number, batch in enumerate(loader):
            assert isinstance(batch.images, np.ndarray)
            addresses.add(batch.images.ctypes.data)
            if number % 3 == 0:
                kept.append((batch.images[1:3, 2:], batch.images[1:3, 2:].copy()))
            del batch
    assert all(np.array_equal(view, values) for view, values in kept)
    assert len(addresses) < 4 * len(loader)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"framework": "jax"}, "framework is 'jax': expected one of torch, numpy."),
        (
            {"framework": "numpy", "reading": Reading(pin_memory=True)},
            "pin_memory is True and framework is 'numpy'",
        ),
    ],
)
def test_a_framework_that_cannot_be_had_is_refused(
    store: Path, words: dict[str, Any], message: str
) -> None:
    """Before the store is opened."""
    with pytest.raises(ValueError, match=message):
        Loader(store, **words)
