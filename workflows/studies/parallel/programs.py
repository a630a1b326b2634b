"""Programs whose processes all end with the command that runs them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence


def run_program(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, and return its exit status and its output.

    If this function raises an error or is interrupted, it kills the program and all processes that
    the program has started, and waits for the program.

    Args:
        command: The program and its arguments.
        environment: The environment variables (default: those of this process).
        timeout: How many seconds it may take (default: any number).

    Raises:
        OSError: The program cannot be started.
        subprocess.TimeoutExpired: It took longer than *timeout*.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=environment,
        # A process group of its own. A signal to the program alone would leave its children: pip's
        # compiler, the workers of a pool, and the program under the sampler.
        start_new_session=True,
    )
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
