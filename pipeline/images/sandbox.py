"""Decode pictures one by one in a child process, with limits on time and memory.

A picture that makes the decoder crash, hang or fill the memory takes its process with it. A shard
that has lost two workers is done here, where that costs one child: a picture that fails twice is
no readable picture, and all others of the shard are as they would have been without it.

Parent and child talk through the child's standard input and output in frames: the length of a
JSON text (4 bytes, little-endian), the text, and as many bytes as its `payload` says.

    parent -> child   {"memory_limit": bytes}
    child -> parent   {}                         it is ready
    parent -> child   {"sizes", "filter", "decoding"}, the image file; "decoding" holds the
                      keyword arguments of `pipeline.images.decode.decode`
    child -> parent   {"width", "height", "mode", "format", "scale", "remark"}, the squares in
                      their order
                      or {"status", "reason"}
                      or it dies

The child ends at the end of its input; on Linux the kernel kills it when the thread ends that
started it.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from pipeline.errors import DecodeError, TesseraeError
from pipeline.images.decode import CRASHED, TIMEOUT, decode
from pipeline.images.resize import resize

_OUT_OF_MEMORY = 86
"""Exit status of a child that met its memory limit."""
_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Resized:
    """A picture at every size that was asked for."""

    width: int
    """As in `pipeline.images.decode.Decoded`, like the next five."""
    height: int
    mode: str
    format: str
    scale: int
    remark: str
    pixels: dict[int, bytes]
    """By size: (size, size, 3) uint8 RGB in C order."""


class IsolatedDecoder:
    """Decodes in a child process, and starts another when that one is lost.

    Belongs to the thread that opened it. Use it in a `with` block.

    Args:
        timeout_seconds: Time that one picture may take, all sizes together.
        memory_limit: Bytes of address space that the child may add to what it starts with
            (on Linux).
        command: Starts the child.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float = 60.0,
        memory_limit: int = 4 * 2**30,
        command: Sequence[str] = (sys.executable, "-P", "-m", "pipeline.images.sandbox"),
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.memory_limit = memory_limit
        self.command = list(command)
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child. Decoding again starts another."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def decode_resize(
        self, data: bytes, *, sizes: Sequence[int], filter: str, **decoding: Any
    ) -> Resized:
        """Decode the image file *data* and make its squares.

        Args:
            data: An image file.
            sizes: Sides of the squares in pixels.
            filter: The resampling filter, one of `pipeline.images.resize.FILTERS`.
            decoding: Keyword arguments of `pipeline.images.decode.decode`.

        Raises:
            DecodeError: It is no readable picture, or it took two children with it.
            TesseraeError: The child cannot be started at all.
        """
        head = {"sizes": [*sizes], "filter": filter, "decoding": decoding}
        failures = []
        for _ in range(2):
            child = self._child = self._child or _Child(self.command, self.memory_limit)
            answer = child.ask(head, data, self.timeout_seconds)
            if answer is None or child.timed_out:  # both: killed as it was about to answer
                failures.append(self._failure(child))
                self.close()
            if answer is not None:
                return _resized(*answer, sizes)
        (_, first), (status, last) = failures
        raise DecodeError(status, f"{last}, twice" if first == last else f"{first}, then {last}")

    def _failure(self, child: "_Child") -> tuple[int, str]:
        code = child.end()
        if child.timed_out:
            return TIMEOUT, "took too long"  # not how long: a table says the same in every run
        if code == _OUT_OF_MEMORY:
            return CRASHED, f"needed more than {self.memory_limit / 2**20:g} MiB"
        return CRASHED, f"made the decoder crash ({_ending(code)})"


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _resized(head: dict[str, Any], payload: bytes, sizes: Sequence[int]) -> Resized:
    if "status" in head:
        raise DecodeError(head["status"], head["reason"])
    pixels = {}
    at = 0
    for size in sizes:
        pixels[size] = payload[at : at + size * size * 3]
        at += len(pixels[size])
    return Resized(pixels=pixels, **{k: v for k, v in head.items() if k != "payload"})


class _Child:
    """One child process, from its start to its end."""

    def __init__(self, command: Sequence[str], memory_limit: int) -> None:
        self.timed_out = False
        root = str(Path(__file__).parents[2])  # where the child finds this very package
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the last words of C libraries: the table says it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is the parent's: here it would look like a crash
        )
        if self.ask({"memory_limit": memory_limit}, b"", _START_SECONDS) is None:
            code = self.end()
            self.close()
            raise TesseraeError(
                f"the decoding child does not start ({_ending(code)}): {' '.join(command)!r}."
                " Run it by hand to see why."
            )

    def ask(
        self, head: dict[str, Any], payload: bytes, seconds: float
    ) -> tuple[dict[str, Any], bytes] | None:
        """Send a frame and wait for the answer; None if the child is lost, or had to be killed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        # One that hangs is killed from beside: then both pipes end, and nobody waits on them.
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            _write_frame(process.stdin, head, payload)
            answer = _read_frame(process.stdout)
        except BrokenPipeError:
            answer = None
        finally:
            timer.cancel()
            timer.join()
        return answer

    def _expire(self) -> None:
        self.timed_out = True
        self._process.kill()

    def end(self) -> int:
        """Wait until a child that was lost is gone. Returns its exit status, -n for a signal."""
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:  # it has closed its output, and lives
            self._process.kill()
            return self._process.wait()

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # what a lost child was still to get
                pipe.close()
        self.end()


def _write_frame(stream: IO[bytes], head: dict[str, Any], payload: bytes | bytearray) -> None:
    text = json.dumps({**head, "payload": len(payload)}).encode()
    stream.write(len(text).to_bytes(4, "little") + text)
    stream.write(payload)
    stream.flush()


def _read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None at the end of the stream, and for a frame that was cut off."""
    length = stream.read(4)
    if len(length) < 4:
        return None
    text = stream.read(int.from_bytes(length, "little"))
    if len(text) < int.from_bytes(length, "little"):
        return None
    head = json.loads(text)
    payload = stream.read(head["payload"])
    return (head, payload) if len(payload) == head["payload"] else None


# --- the child ----------------------------------------------------------------------------------


def main() -> int:
    """Answer frames until there are no more. What `python -m pipeline.images.sandbox` runs."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whoever prints must not print into frames
    first = _read_frame(sys.stdin.buffer)
    if first is None:
        return 0
    _limit(first[0]["memory_limit"])
    _write_frame(answers, {}, b"")
    while (frame := _read_frame(sys.stdin.buffer)) is not None:
        try:
            _write_frame(answers, *_answer(*frame))
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)  # at once: unwinding would need memory
    return 0


def _limit(memory_limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    with Path("/proc/self/statm").open(encoding="ascii") as statm:
        held = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory_limit, held + memory_limit))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        decoded = decode(data, **head["decoding"])
    except DecodeError as e:
        return {"status": e.status, "reason": e.reason}, b""
    fit, filter = head["decoding"]["fit"], head["filter"]
    squares = [resize(decoded, size, fit=fit, filter=filter) for size in head["sizes"]]
    names = ("width", "height", "mode", "format", "scale", "remark")
    return {name: getattr(decoded, name) for name in names}, b"".join(squares)


if __name__ == "__main__":
    sys.exit(main())
