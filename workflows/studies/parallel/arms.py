"""The methods of decoding that the study compares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from workflows.studies.parallel.environments import Interpreter

SERIAL = "serial"
POOLS = ("threads", "processes", "processes-kept", "dask-threads", "dask-processes")
"""The methods with several threads or processes."""
WARM, COLD = "warm", "cold"
METHOD_NAMES = {
    "serial": "serial",
    "threads": "threads",
    "processes": "processes, pixels sent",
    "processes-kept": "processes, pixels kept",
    "dask-threads": "Dask, threads",
    "dask-processes": "Dask, processes",
}
"""The names of the methods in tables."""


@dataclass(frozen=True, kw_only=True)
class ParallelArm:
    """A method of decoding, with its interpreter and its library."""

    interpreter: Interpreter
    """The interpreter that runs it."""
    decoder: str
    """pillow or simplejpeg."""
    method: str = SERIAL
    """One of the methods of `workflows.studies.parallel.measured`."""
    workers: int = 1
    """The number of threads or processes."""
    cache: str = WARM
    """`warm` if the files are in memory, `cold` if they are read from the disk."""
    buffers: bool = False
    """True if each thread decodes into a buffer that it keeps."""

    @property
    def library(self) -> str:
        """The libraries that decode and resize."""
        resizer = self.interpreter.pillow
        return resizer if self.decoder == "pillow" else f"simplejpeg + {resizer}"

    @property
    def name(self) -> str:
        """The name of the arm, which is unique and the same in every run of the study."""
        return ", ".join([self.library, self.method_text, self.cache])

    @property
    def method_text(self) -> str:
        """The method with its number of threads or processes, as shown in tables."""
        text = METHOD_NAMES[self.method]
        if self.method != SERIAL:
            head, comma, tail = text.partition(",")
            text = (
                f"{self.workers} {head}{comma}{tail}"
                if head != "Dask"
                else f"{text} {self.workers}"
            )
        text += ", own buffers" if self.buffers else ""
        return text if self.interpreter.has_lock else f"{text}, no lock"


def worker_numbers(cores: int, *, quick: bool = False) -> list[int]:
    """Return the numbers of threads or processes that are tried: one to two for each core.

    Args:
        cores: The number of cores.
        quick: True to leave out those between the ends.
    """
    steps = (2, 4) if quick else (2, 3, 4)
    return sorted({max(1, cores * step // 2) for step in steps})


def arms_of(
    interpreters: list[Interpreter], *, cores: int, quick: bool = False
) -> Iterator[ParallelArm]:
    """Yield the arms of the study.

    Every library decodes serially; with the fastest library of the first interpreter, every method
    runs warm and cold with each number of threads or processes, and serially and in threads also
    with buffers. Interpreters without a lock run serially and in threads.

    Args:
        interpreters: The interpreters: first that of this process, then others.
        cores: The number of cores.
        quick: True for fewer numbers and fewer cold arms.
    """
    numbers = worker_numbers(cores, quick=quick)
    for interpreter in interpreters:
        for decoder in interpreter.decoders:
            yield ParallelArm(interpreter=interpreter, decoder=decoder)
    own = interpreters[0]
    serial = ParallelArm(interpreter=own, decoder=own.decoders[-1])
    yield replace(serial, buffers=True)
    yield replace(serial, buffers=True, method="threads", workers=cores)
    yield replace(serial, cache=COLD)
    for method, workers, cache in itertools.product(POOLS, numbers, (WARM, COLD)):
        if not quick or cache == WARM or method == "threads":
            yield replace(serial, method=method, workers=workers, cache=cache)
    for interpreter in interpreters[1:]:
        free = replace(serial, interpreter=interpreter, decoder=interpreter.decoders[-1])
        for workers in () if interpreter.has_lock else numbers:
            yield replace(free, method="threads", workers=workers)
