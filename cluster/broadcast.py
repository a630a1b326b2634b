"""Runs a function on all workers, without waiting long for one that does not answer."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client

RESPONSE_TIMEOUT_SECONDS = 60.0
"""The default timeout; a suspended worker keeps its connections and never answers."""


class NoResponseError(OSError):
    """A worker did not answer: it is suspended, blocked, disconnected, or has just ended."""


def broadcast(
    client: Client,
    call: Callable[..., Any],
    *arguments: Any,
    workers: Sequence[str] | None = None,
    nanny: bool = False,
    timeout_seconds: float = RESPONSE_TIMEOUT_SECONDS,
) -> dict[str, Any]:
    """Run a function on all workers at once, outside of any task.

    Args:
        client: A client of the cluster.
        call: Plain function to run, not a coroutine function. It and its result must be picklable.
            It runs in the event loop of the worker, which does nothing else meanwhile. It gets
            *arguments*, and the worker (or with *nanny* the nanny) as the keyword argument
            `dask_worker` if it has a parameter of that name.
        arguments: Its positional arguments, which must be picklable.
        workers: Addresses of the workers, not of nannies (default: all connected ones).
        nanny: True to run it on the nannies of the workers instead (default: False).
        timeout_seconds: Timeout for each worker (default: 60 s).

    Returns:
        For each worker address, also with *nanny*, the result, the exception that the call raised,
        or a `cluster.broadcast.NoResponseError` (an OSError) if the worker did not answer in time
        or has ended. Exceptions are returned and not raised.

    Raises:
        TypeError: *call*, an argument or a result cannot be pickled.
    """
    if workers is None:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])

    async def ask_worker(worker: str) -> Any:
        """Return the result of one worker, its exception, or `NoResponseError`."""
        request = client._run(  # `Client.run` has no timeout for a single worker
            _call_on_worker, call, arguments, workers=[worker], nanny=nanny, on_error="return"
        )
        try:
            answers = await asyncio.wait_for(request, timeout_seconds)
        except TimeoutError:
            return NoResponseError(f"no answer within {timeout_seconds:.0f} s")
        except KeyError:  # the scheduler, which knows the nannies of connected workers only
            return NoResponseError("it has just ended")
        result = answers.get(worker, NoResponseError("it has just ended"))
        if isinstance(result, list):
            return result[0]
        # An exception outside the list comes from the connection, not from the call.
        return NoResponseError(str(result)) if isinstance(result, OSError) else result

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*map(ask_worker, workers))

    return dict(zip(workers, client.sync(ask_all), strict=True))


def _call_on_worker(
    call: Callable[..., Any], arguments: Sequence[Any], dask_worker: Any
) -> list[Any]:
    try:
        takes_worker = "dask_worker" in inspect.signature(call).parameters
    except ValueError:  # a builtin without a signature
        takes_worker = False
    try:
        return [call(*arguments, **({"dask_worker": dask_worker} if takes_worker else {}))]
    except Exception as e:  # noqa: BLE001 - in a list, it differs from errors of the connection
        return [e]
