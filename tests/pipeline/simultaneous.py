"""Processes that begin a step at the same moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.commands import ROOT


@contextmanager
def several(code: str, count: int, *words: object) -> Iterator[list[subprocess.Popen[str]]]:
    """Start *count* processes that run *code* with a number and *words*; kill them at the end."""
    command = [sys.executable, "-c", f"import sys\n{code}"]
    started = [
        subprocess.Popen(
            [*command, str(number), *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


def together(started: Sequence[subprocess.Popen[str]]) -> list[str]:
    """Release all processes at once; return the output of each."""
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = []
    for process in started:
        assert process.stdout is not None
        outputs.append(process.stdout.read().strip())
        assert process.wait(60) == 0
    return outputs
