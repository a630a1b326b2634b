"""Every worker asked the same, without one that says nothing holding up the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed import Client

ANSWER_SECONDS = 60.0
"""A worker that is stopped or wedged keeps its connections, and never answers."""


def ask(
    client: Client,
    call: Callable[..., Any],
    *arguments: Any,
    nanny: bool = False,
    seconds: float = ANSWER_SECONDS,
) -> dict[str, Any]:
    """Run *call* in every worker that is there, outside of any task.

    Args:
        client: Of the cluster.
        call: What each runs.
        arguments: Its arguments.
        nanny: Whether nannies are asked instead.
        seconds: How long an answer may take.

    Returns:
        By worker, what it returned; or the exception that it raised, OSError if it does not answer.
    """
    workers = list(client.scheduler_info(n_workers=-1)["workers"])

    async def one(worker: str) -> Any:
        question = client._run(  # `run` of one worker waits for ever
            call, *arguments, workers=[worker], nanny=nanny, on_error="return"
        )
        try:
            answers = await asyncio.wait_for(question, seconds)
        except TimeoutError:
            return TimeoutError(f"no answer within {seconds:.0f} s")
        return answers.get(worker, OSError("it has just ended"))

    async def every() -> list[Any]:
        return await asyncio.gather(*map(one, workers), return_exceptions=True)

    return dict(zip(workers, client.sync(every), strict=True))
