"""The sentences of errors in other processes, which torch passes on with their tracebacks."""

from __future__ import annotations

import re

_RAISED = re.compile(r"^(?:[A-Za-z_][\w.]*): (.+)$")


def sentence_of_child(error: BaseException) -> str:
    """Return the message of an error in a child process, without the traceback around it.

    Args:
        error: The error that `torch.multiprocessing` or a `torch.utils.data.DataLoader` has raised,
            whose message ends with the traceback of the child.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    match = _RAISED.match(lines[-1])
    return lines[-1] if match is None else match[1]
