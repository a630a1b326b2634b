"""The library whose arrays a loader yields: torch, or numpy for programs that do without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.installation import install_advice
from pipeline.loader.buffers import Buffers

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeVar

    Array = TypeVar("Array", default=torch.Tensor)
    """The type of the arrays of a batch."""
    Produced = TypeVar("Produced", covariant=True)
else:
    from typing import TypeVar

    Array = TypeVar("Array")
    Produced = TypeVar("Produced", covariant=True)

FRAMEWORKS = ("torch", "numpy")
"""The names of the libraries."""


CopyRows = Callable[[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]], None]
"""A function that copies rows of bytes that lie anywhere in an area, as `copy_rows` does."""


class Pool(Protocol[Produced]):
    """A source of memory for batches."""

    def take(self) -> Produced:
        """Return memory of the pool's shape that nothing else views, with arbitrary contents."""


class Framework(ABC, Generic[Array]):
    """The operations of an array library that a loader needs. They are safe for many threads."""

    @abstractmethod
    def pool(
        self, shape: tuple[int, ...], *, max_free: int, pin_memory: bool | None
    ) -> Pool[Array]:
        """Return a pool of uint8 memory for images.

        Args:
            shape: The shape of each buffer, (rows, size, size, 3).
            max_free: The maximum number of free buffers that the pool keeps.
            pin_memory: True for page-locked memory, which needs a GPU; False for pageable memory;
                None for page-locked memory if the library has a GPU.
        """

    @abstractmethod
    def memory(self, buffer: Array) -> NDArray[np.uint8]:
        """Return a *buffer* of a pool as an array of numpy, which is to be filled."""

    @abstractmethod
    def images(self, buffer: Array, count: int) -> Array:
        """Return the first *count* images of a *buffer* with the axes that the library expects."""

    @abstractmethod
    def from_numpy(self, values: NDArray[Any]) -> Array:
        """Return *values* as an array of the library, without a copy."""

    def copy_rows(
        self, area: NDArray[np.uint8], starts: NDArray[np.int64], out: NDArray[np.uint8]
    ) -> None:
        """Copy rows of bytes that lie anywhere in *area* to *out*.

        Args:
            area: (bytes,) uint8, of which only the named rows are read.
            starts: The position of the first byte of each row, (n,) int64.
            out: (n, bytes of a row) uint8, contiguous; it is overwritten with the rows.
        """
        copy_rows(area, starts, out)

    def prepare_thread(self) -> None:
        """Prepare a thread that gathers batches, before its first one; by default do nothing."""


class NumpyFramework(Framework[NDArray[Any]]):
    """The operations of numpy, whose images are (n, size, size, 3). Nothing imports torch."""

    def pool(
        self, shape: tuple[int, ...], *, max_free: int, pin_memory: bool | None
    ) -> Pool[NDArray[np.uint8]]:
        """Return a pool of pageable memory for images; *pin_memory* must not be True."""
        return Buffers(shape, max_free=max_free)

    def memory(self, buffer: NDArray[Any]) -> NDArray[np.uint8]:
        """Return *buffer*."""
        return buffer

    def images(self, buffer: NDArray[Any], count: int) -> NDArray[Any]:
        """Return the first *count* images of *buffer*, with the channels last, as in JAX."""
        return buffer[:count]

    def from_numpy(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return *values*."""
        return values


def check_framework(name: str, *, pin_memory: bool | None) -> str:
    """Return *name* if that framework is installed and has the memory that is asked for.

    Args:
        name: The name, `torch` or `numpy`.
        pin_memory: True if batches must be in page-locked memory.

    Raises:
        ValueError: There is no such framework, or numpy shall use page-locked memory.
        ModuleNotFoundError: Torch is not installed.
    """
    if name not in FRAMEWORKS:
        raise ValueError(f"framework is {name!r}: expected one of {', '.join(FRAMEWORKS)}.")
    if name == "numpy" and pin_memory:
        raise ValueError(
            "pin_memory is True and framework is 'numpy': only torch's memory can be page-locked."
            " Pass pin_memory=False or None."
        )
    open_framework(name)
    return name


def open_framework(name: str) -> Framework[Any]:
    """Return the operations of a framework, whose library is imported.

    Args:
        name: The name, `torch` or `numpy`.

    Raises:
        ModuleNotFoundError: Torch is not installed. The message says how to install it.
    """
    if name == "numpy":
        return NumpyFramework()
    try:
        from pipeline.loader.torch_framework import TorchFramework
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "threadpoolctl"):
            raise
        raise ModuleNotFoundError(
            f"a loader of torch's tensors needs {error.name}: {install_advice('train')}, or pass"
            " framework='numpy'.",
            name=error.name,
        ) from error
    return TorchFramework()


def copy_rows(area: NDArray[np.uint8], starts: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Copy rows of bytes that lie anywhere in *area* to *out*, as `Framework.copy_rows` does.

    The rows are named in one call, which releases the interpreter's lock for each of them.

    Args:
        area: (bytes,) uint8, of which only the named rows are read.
        starts: The position of the first byte of each row, (n,) int64.
        out: (n, bytes of a row) uint8, contiguous; it is overwritten with the rows.
    """
    if len(starts):
        row_bytes = out.shape[1]
        rows = [area[start : start + row_bytes] for start in starts.tolist()]
        np.concatenate(rows, out=out.reshape(-1))
