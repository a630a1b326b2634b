"""Decode images one by one in a child process, with limits on time and memory.

An image that makes the decoder crash, hang or exhaust the memory kills its process. A shard that
has lost two workers is decoded here, where such an image costs one child: an image that fails twice
is unreadable, and all other images of the shard are decoded as they would be without it.

Parent and child exchange frames through the child's standard input and output: the length of a
JSON text (4 bytes, little-endian), the text, and as many bytes as its `payload` says.

    parent -> child   {"memory_limit": bytes}
    child -> parent   {}                         the child is ready
    parent -> child   {"formats", "filter", "decode_arguments"}, the image file: the arguments of
                      `pipeline.images.rows.make_rows`
    child -> parent   {"properties", "rows"}, the rows in their order; "properties" holds the fields
                      of `ImageProperties`, "rows" the length in bytes of each row and, for an
                      encoded one, its height and width
                      or {"status", "reason"}
                      or the child dies

The child exits at the end of its input. On Linux the kernel also kills it when the thread that
started it ends.
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
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

from pipeline.errors import DecodeError, TesseraeError
from pipeline.images.encode import EncodedRow
from pipeline.images.rejection import CRASHED, TIMEOUT
from pipeline.images.rows import ImageProperties, Row, RowFormat, make_rows

_OUT_OF_MEMORY = 86
"""The exit status of a child that reached its memory limit."""
_START_TIMEOUT_SECONDS = 120.0
_STOP_TIMEOUT_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


class IsolatedDecoder:
    """A decoder in a child process, which is replaced when it is lost.

    It belongs to the thread that created it. Use it in a `with` block.

    Args:
        timeout_seconds: The time in seconds that one image may take at all sizes together
            (default: 60).
        memory_limit: The bytes of address space that the child may add to its initial size,
            enforced on Linux (default: 4 GiB).
        command: The command that starts the child (default: this module).
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
        self._child: _DecoderProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the child. Decoding another image starts a new one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def make_rows(
        self,
        data: bytes,
        formats: Sequence[RowFormat],
        *,
        filter: str,
        decode_arguments: dict[str, Any],
    ) -> tuple[ImageProperties, list[Row]]:
        """Return what `pipeline.images.rows.make_rows` returns, computed in the child process.

        The child is started at the first image, and again after one that killed it. All calls must
        come from the thread that created this decoder.

        Args:
            data: All bytes of an image file.
            formats: The formats of the rows, of which `side` and `quality` are of type `int`.
            filter: The resampling filter: `nearest`, `box`, `bilinear`, `hamming`, `bicubic` or
                `lanczos`.
            decode_arguments: The keyword arguments of `pipeline.images.decode.decode`: `fit`,
                `serves` and `exif`, which must be given, `rules` and `missing_end`.

        Returns:
            The properties of the image, and its rows in the order of *formats*.

        Raises:
            DecodeError: The file is no readable image, with the `status` of `decode`; or two
                children have died of it, by a crash or by more memory (`status` 7) or time (8) than
                this decoder allows. An invalid or missing argument counts as a crash.
            TesseraeError: The child ended at its start.
            OSError: The child's command cannot be run.
        """
        head = {"formats": formats, "filter": filter, "decode_arguments": decode_arguments}
        failures = []
        # An image is blamed only if it kills two children: the first may have been killed by the
        # system, for lack of memory, for example.
        for _ in range(2):
            child = self._child = self._child or _DecoderProcess(self.command, self.memory_limit)
            answer = child.ask(head, data, self.timeout_seconds)
            # A child that is killed just as it answers has both an answer and a timeout: the answer
            # counts, but the child is gone.
            if answer is None or child.timed_out:
                failures.append(self._failure(child))
                self.close()
            if answer is not None:
                return _rows_of_answer(*answer)
        (_, first), (status, last) = failures
        raise DecodeError(status, f"{last}, twice" if first == last else f"{first}, then {last}")

    def _failure(self, child: "_DecoderProcess") -> tuple[int, str]:
        code = child.end()
        if child.timed_out:
            # The reason names no duration: tables of equal stores must be equal, on any machine.
            return TIMEOUT, "took too long"
        if code == _OUT_OF_MEMORY:
            return CRASHED, f"needed more than {self.memory_limit / 2**20:g} MiB"
        return CRASHED, f"made the decoder crash ({_exit_text(code)})"


def _exit_text(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _rows_of_answer(head: dict[str, Any], payload: bytes) -> tuple[ImageProperties, list[Row]]:
    if "status" in head:
        raise DecodeError(head["status"], head["reason"])
    rows: list[Row] = []
    start = 0
    for num_bytes, *shape in head["rows"]:
        data = payload[start : start + num_bytes]
        rows.append(EncodedRow(data, *shape) if shape else data)
        start += num_bytes
    return ImageProperties(**head["properties"]), rows


class _DecoderProcess:
    """A child process, from its start to its end."""

    def __init__(self, command: Sequence[str], memory_limit: int) -> None:
        self.timed_out = False
        # The child must import this very copy of the package, not an installed one.
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # messages of C libraries; the table holds the reason
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
            # Ctrl-C interrupts the parent alone: in the child it would look like a crash.
            start_new_session=True,
        )
        if self.ask({"memory_limit": memory_limit}, b"", _START_TIMEOUT_SECONDS) is None:
            code = self.end()
            self.close()
            raise TesseraeError(
                f"the decoding process does not start ({_exit_text(code)}): {' '.join(command)!r}."
                " Run it by hand to see why."
            )

    def ask(
        self, head: dict[str, Any], payload: bytes, seconds: float
    ) -> tuple[dict[str, Any], bytes] | None:
        """Send a frame and return the answer; None if the child died or was killed.

        A child that does not answer within *seconds* is killed, and `timed_out` is set.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        # A timer thread kills a child that hangs. That ends both pipes, and with them the blocking
        # write or read below.
        timer = threading.Timer(seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            _write_frame(process.stdin, head, payload)
            answer = _read_frame(process.stdout)
        except BrokenPipeError:  # the child died before it had read the whole frame
            answer = None
        finally:
            timer.cancel()
            # Without this, a timer that has just fired could set `timed_out` after it was checked.
            timer.join()
        return answer

    def _expire(self) -> None:
        self.timed_out = True
        self._process.kill()

    def end(self) -> int:
        """Wait until a lost child has ended; return its exit status, -n for signal n."""
        try:
            return self._process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:  # the child has closed its output but is still running
            self._process.kill()
            return self._process.wait()

    def close(self) -> None:
        # The end of its input tells the child to exit.
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # bytes that a lost child has not read
                pipe.close()
        self.end()


def _write_frame(stream: IO[bytes], head: dict[str, Any], payload: bytes | bytearray) -> None:
    text = json.dumps({**head, "payload": len(payload)}).encode()
    stream.write(len(text).to_bytes(4, "little") + text)
    stream.write(payload)
    stream.flush()


def _read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Return the next frame; None at the end of the stream or for an incomplete frame."""
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
    """Answer requests on standard input until it ends, in a child process; return 0.

    This is `python -m pipeline.images.sandbox`, which an `IsolatedDecoder` starts.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # A library that prints to standard output must not write into the frames.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    first = _read_frame(sys.stdin.buffer)
    if first is None:
        return 0
    _limit_resources(first[0]["memory_limit"])
    _write_frame(answers, {}, b"")
    while (frame := _read_frame(sys.stdin.buffer)) is not None:
        try:
            _write_frame(answers, *_answer_request(*frame))
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)  # without unwinding, which would need memory
    return 0


def _limit_resources(memory_limit: int) -> None:
    # A crash is expected here: core files would fill the worker's disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    with Path("/proc/self/statm").open(encoding="ascii") as statm:
        initial = int(statm.read().split()[0]) * resource.getpagesize()
    # The interpreter and its libraries already occupy address space, which differs by machine.
    resource.setrlimit(resource.RLIMIT_AS, (initial + memory_limit, initial + memory_limit))
    # A worker that is killed cannot stop its child: the kernel does.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer_request(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    formats = [RowFormat(*each) for each in head["formats"]]
    try:
        properties, rows = make_rows(
            data, formats, filter=head["filter"], decode_arguments=head["decode_arguments"]
        )
    except DecodeError as e:
        return {"status": e.status, "reason": e.reason}, b""
    encoded = [row if isinstance(row, EncodedRow) else (row,) for row in rows]
    lengths = [[len(data), *shape] for data, *shape in encoded]
    payload = b"".join(row[0] for row in encoded)
    return {"properties": asdict(properties), "rows": lengths}, payload


if __name__ == "__main__":
    sys.exit(main())
