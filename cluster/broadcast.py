"""Every worker asked the same, without one that says nothing holding up the others."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client

ANSWER_SECONDS = 60.0
"""A worker that is stopped or wedged keeps its connections, and never answers."""


class Silent(OSError):
    """A worker that does not answer: it is stopped or wedged, cut off, or has just ended."""


def ask(
    client: Client,
    call: Callable[..., Any],
    *arguments: Any,
    workers: Sequence[str] | None = None,
    nanny: bool = False,
    seconds: float = ANSWER_SECONDS,
) -> dict[str, Any]:
    """Run *call* in every worker that is there, outside of any task.

    Args:
        client: Of the cluster.
        call: What each runs.
        arguments: Its arguments.
        workers: Which are asked; None = all that are there.
        nanny: Whether nannies are asked instead.
        seconds: How long an answer may take.

    Returns:
        By worker, what it returned; or the exception that it raised; `Silent` without an answer.
    """
    if workers is None:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])

    async def one(worker: str) -> Any:
        """What one worker answers, or `Silent`."""
        question = client._run(  # `run` of one worker waits for ever
            _answer, call, arguments, workers=[worker], nanny=nanny, on_error="return"
        )
        try:
            answers = await asyncio.wait_for(question, seconds)
        except TimeoutError:
            return Silent(f"no answer within {seconds:.0f} s")
        answer = answers.get(worker, Silent("it has just ended"))
        if isinstance(answer, list):
            return answer[0]
        # Not of the call, but of the way to it.
        return Silent(str(answer)) if isinstance(answer, OSError) else answer

    async def every() -> list[Any]:
        return await asyncio.gather(*map(one, workers))

    return dict(zip(workers, client.sync(every), strict=True))


def _answer(call: Callable[..., Any], arguments: Sequence[Any], dask_worker: Any) -> list[Any]:
    knows = "dask_worker" in inspect.signature(call).parameters
    try:
        return [call(*arguments, **({"dask_worker": dask_worker} if knows else {}))]
    except Exception as e:  # noqa: BLE001 - told apart from what goes wrong on the way
        return [e]
